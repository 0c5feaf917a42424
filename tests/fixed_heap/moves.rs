//! When a block that becomes shorter or longer stays where it stands in a long range, and when it moves.

use crate::block::{Ram, layout};
use allocator_api2::alloc::Allocator;
use democratising::{FixedHeap, SpinLock};
use std::alloc::GlobalAlloc;
use std::ptr::NonNull;

const LONG: usize = 5 << 20;

fn heap(ram: &Ram) -> FixedHeap<SpinLock, 1> {
    let heap = FixedHeap::empty();
    ram.give(&heap, 0, LONG).unwrap();
    heap
}

/// Resizes a block as programs do. Whether it moved.
fn moves(heap: &FixedHeap<SpinLock, 1>, at: *mut u8, old: usize, new: usize) -> bool {
    // SAFETY: 1. The block is used under its new address only.
    let to = unsafe { heap.realloc(at, layout(old, 8), new) };
    assert!(!to.is_null());
    to != at
}

#[test]
#[cfg_attr(miri, ignore = "a table of 80 KiB to clear, again and again")]
fn a_block_that_becomes_shorter_leaves_its_span_for_a_slot_where_half_of_the_span_would_be_wasted() {
    let ram = Ram::new(LONG);
    let heap = heap(&ram);
    for (old, new, moved) in [(3000, 400, true), (3000, 512, true), (3000, 600, false), (3840, 1920, false)] {
        // SAFETY: 1. The layout is not empty.
        let block = unsafe { heap.alloc(layout(old, 8)) };
        assert_eq!(moves(&heap, block, old, new), moved, "{old} -> {new}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "a table of 80 KiB to clear, again and again")]
fn a_block_in_a_long_range_moves_to_a_hole_that_it_fills_better_only_while_memory_is_scarce() {
    const KIB: usize = 1 << 10;
    for scarce in [true, false] {
        let ram = Ram::new(LONG);
        let heap = heap(&ram);
        // SAFETY: 1. No layout is empty. 2. What is given back is used by nobody.
        unsafe {
            let take = |bytes| heap.alloc(layout(bytes, 8));
            let [hole, _one, block, _two, other, behind, _three] =
                [20, 12, 60, 12, 20, 64, 12].map(|kib| take(kib * KIB));
            if scarce {
                assert!(!take(3600 * KIB).is_null());
            }
            heap.dealloc(hole, layout(20 * KIB, 8));
            heap.dealloc(behind, layout(64 * KIB, 8));
            // What has as many granules as before stays, even if there is a hole that it would fill.
            assert!(!moves(&heap, other, 20 * KIB, 20 * KIB - 50));
            // Shorter than the hole, and than what it leaves behind.
            assert_eq!(moves(&heap, block, 60 * KIB, 19 * KIB), scarce);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a table of 80 KiB to clear, again and again")]
fn a_span_that_was_set_aside_serves_no_stricter_alignment() {
    let ram = Ram::new(LONG);
    let heap = heap(&ram);
    for align in [128, 1024, 4096] {
        let blocks = [(); 5].map(|()| heap.allocate(layout(2112, 8)).unwrap().addr);
        for block in blocks {
            // SAFETY: 1. Nobody uses the block.
            unsafe { heap.free(block, layout(2112, 8)) }.unwrap();
        }
        let aligned = [(); 3].map(|()| heap.allocate(layout(2112, align)).unwrap().addr);
        for block in aligned {
            assert!(block.addr().get().is_multiple_of(align), "{block:?} is to be aligned to {align}");
            // SAFETY: 1. Nobody uses the block.
            unsafe { heap.free(block, layout(2112, align)) }.unwrap();
        }
    }
}

/// What is kept for requests to come, a span that was set aside or an empty slab, is free when a request would fail.
#[test]
#[cfg_attr(miri, ignore = "a table of 80 KiB to clear, again and again")]
fn a_block_grows_in_full_memory_into_what_was_kept_behind_it() {
    // Where code is dear nothing is set aside.
    let kept_bytes: &[usize] = if cfg!(target_pointer_width = "64") { &[3000, 100] } else { &[100] };
    for &kept in kept_bytes {
        for align in [8, 1] {
            let ram = Ram::new(LONG);
            let heap = heap(&ram);
            // SAFETY: 1. No layout is empty. 2. What is given back is used by nobody.
            unsafe {
                let block = heap.alloc(layout(3008, 8));
                let behind = heap.alloc(layout(kept, 8));
                let rest = heap.stats().largest_free_bytes as usize;
                heap.dealloc(behind, layout(kept, 8));
                assert!(!heap.alloc(layout(rest, 8)).is_null());
                block.write_bytes(7, 3008);
                let grown = layout(4000, align);
                let at = NonNull::new(block).unwrap();
                let to = heap.grow(at, layout(3008, 8), grown).expect("there is room behind it").cast();
                assert_eq!(to, at);
                assert!((0..3008).all(|byte| block.add(byte).read() == 7));
                heap.free(to, grown).unwrap();
            }
            assert_eq!(heap.stats().failures, 0);
        }
    }
}

/// The hole begins a granule behind a multiple of the alignment, and would hold the block there if it were a granule longer; some that are
/// shorter are looked at before.
#[test]
fn a_hole_that_is_a_granule_too_short_from_its_aligned_place_on_serves_nobody() {
    let ram = Ram::new(516 << 10);
    let heap = FixedHeap::<SpinLock, 1>::empty();
    ram.give(&heap, ram.at(0).align_offset(4096), 512 << 10).unwrap();
    let half = layout(2048, 1);
    let blocks: Vec<_> = std::iter::from_fn(|| heap.allocate(half).ok()).map(|block| block.addr).collect();
    assert!(blocks.windows(2).all(|two| two[1].as_ptr() as usize - two[0].as_ptr() as usize == 2048));
    // Of what is left behind them nothing is to hold what is asked for in the end.
    while heap.allocate(layout(17 * 64, 1)).is_ok() {}
    let at = (1..).find(|&at| (blocks[at].as_ptr() as usize).is_multiple_of(4096)).unwrap();
    for which in (at..at + 4).chain((at + 5..at + 15).step_by(2)) {
        // SAFETY: 1. Nobody uses the block.
        assert_eq!(unsafe { heap.free(blocks[which], half) }, Ok(()));
    }
    let [long, rest] = [83, 45].map(|granules| layout(64 * granules, 1));
    let before = heap.allocate(long).unwrap();
    assert!(before.addr == blocks[at] && heap.allocate(rest).is_ok());
    // SAFETY: 1. Nobody uses the block; the one before it is as long as its layout, and has a granule more then.
    unsafe {
        assert_eq!(heap.free(before.addr, long), Ok(()));
        assert_eq!(heap.resize(blocks[at - 1], half, 2048 + 64), Ok(true));
    }
    assert_eq!(heap.stats().largest_free_bytes, 82 * 64);
    assert!(heap.allocate(layout(20 * 64, 4096)).is_err(), "83 granules would hold it");
    assert!(heap.allocate(layout(19 * 64, 4096)).is_ok());
}

#[test]
fn a_block_grows_into_all_that_lies_free_behind_it() {
    for bytes in [16 << 10, 512 << 10] {
        let ram = Ram::new(bytes);
        let heap = FixedHeap::<SpinLock, 1>::empty();
        ram.give(&heap, 0, bytes).unwrap();
        let part = layout(4096, 1);
        let [first, second, _third] = [(); 3].map(|()| heap.allocate(part).unwrap().addr);
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 4096);
        // SAFETY: 1. Nobody uses the blocks.
        unsafe {
            assert_eq!(heap.free(second, part), Ok(()));
            assert_eq!(heap.resize(first, part, 8193), Ok(false), "behind that lies a block");
            assert_eq!(heap.resize(first, part, 8192), Ok(true), "{bytes}");
            assert_eq!(heap.free(first, layout(8192, 1)), Ok(()));
        }
    }
}
