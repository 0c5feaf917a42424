//! Small blocks: how much of the memory they can have, and that a shrink never fails.

use crate::block::{Live, Ram, layout};
use allocator_api2::alloc::Allocator;
use democratising::error::BadFree;
use democratising::heap::OnMisuse;
use democratising::{FixedHeap, SpinLock};
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

/// A range that has slabs.
const LARGE: usize = if cfg!(miri) { 512 << 10 } else { 5 << 20 };

fn heap(ram: &Ram, bytes: usize) -> FixedHeap<SpinLock, 1> {
    let heap = FixedHeap::empty();
    ram.give(&heap, 0, bytes).unwrap();
    heap
}

/// Blocks of one layout until there is no memory.
fn fill(heap: &FixedHeap<SpinLock, 1>, layout: Layout) -> Vec<NonNull<u8>> {
    // SAFETY: 1. No layout here is empty.
    std::iter::from_fn(|| NonNull::new(unsafe { heap.alloc(layout) })).collect()
}

fn give_all(heap: &FixedHeap<SpinLock, 1>, blocks: impl IntoIterator<Item = NonNull<u8>>, layout: Layout) {
    for block in blocks {
        // SAFETY: 1. It was allocated so and is used by nobody.
        unsafe { heap.free(block, layout) }.unwrap();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn blocks_of_any_small_size_can_have_95_percent_of_the_memory() {
    const BYTES: usize = 4 << 20;
    let ram = Ram::new(BYTES + 4096);
    let heap = FixedHeap::<SpinLock, 1>::empty();
    ram.give(&heap, ram.at(0).align_offset(4096), BYTES).unwrap();
    let multiples = (2..=512).map(|eights| layout(8 * eights, 8));
    for layout in multiples.chain((4..=12).map(|shift| layout(1 << shift, 1 << shift))) {
        let blocks = fill(&heap, layout);
        let percent = (blocks.len() * layout.size()) as f64 * 100.0 / BYTES as f64;
        assert!(percent >= 95.0, "{layout:?}: {percent:.1} %");
        assert!(
            blocks.iter().all(|block| (block.as_ptr() as usize).is_multiple_of(layout.align())),
            "{layout:?}"
        );
        give_all(&heap, blocks, layout);
        assert_eq!(heap.stats().in_use_bytes, 0);
    }
}

/// A size, and one that is less.
const RESIZES: [(usize, usize); 7] =
    [(2048, 100), (512, 24), (5000, 3000), (40_000, 10), (100, 99), (240, 0), (2048, 0)];

#[test]
fn a_shrink_that_finds_no_other_place_stays_where_it_is() {
    for &bytes in &[100 << 10, 1 << 20, 5 << 20][..if cfg!(miri) { 1 } else { 3 }] {
        let ram = Ram::new(bytes);
        let heap = heap(&ram, bytes);
        heap.on_misuse(OnMisuse::Stop);
        for (old, new) in RESIZES.into_iter().take(if cfg!(miri) { 1 } else { 7 }) {
            let (old, new) = (layout(old, 8), layout(new, 8));
            let blocks = fill(&heap, old);
            let failures = heap.stats().failures;
            for (pattern, &at) in blocks.iter().enumerate() {
                Live { at, layout: old, pattern: pattern as u8 }.fill();
            }
            let mut smaller = Vec::new();
            for (pattern, at) in blocks.into_iter().enumerate() {
                // SAFETY: 1. The block is used under its new address only.
                let to = unsafe { heap.realloc(at.as_ptr(), old, new.size()) };
                let at = NonNull::new(to).expect("a shrink needs no memory");
                assert!(Live { at, layout: new, pattern: 0 }.holds(new.size(), pattern as u8));
                smaller.push(at);
            }
            assert_eq!(heap.stats().failures, failures, "nothing was asked for in vain");
            give_all(&heap, smaller, new);
            let stats = heap.stats();
            assert_eq!((stats.blocks, stats.in_use_bytes), (0, 0));
        }
    }
}

#[test]
fn a_slab_that_was_full_waits_for_its_turn_while_memory_is_plenty_and_serves_at_once_where_it_is_scarce() {
    for scarce in [false, true] {
        let ram = Ram::new(5 << 20);
        let heap = heap(&ram, 5 << 20);
        let large = scarce.then(|| heap.allocate(layout(4 << 20, 8)).unwrap());
        let small = layout(100, 8);
        let take = || heap.allocate(small).unwrap().addr;
        // Several slabs, of which the last has slots left; the first is the lowest.
        let blocks: Vec<_> = (0..200).map(|_| take()).collect();
        // SAFETY: 1. It is used by nobody.
        unsafe { heap.free(blocks[0], small) }.unwrap();
        let next = take();
        // Where code is dear there is one rule for both.
        let waits = !scarce && cfg!(target_pointer_width = "64");
        assert_eq!(next != blocks[0], waits, "scarce: {scarce}");
        let more: Vec<_> = (0..100).map(|_| take()).collect();
        assert_eq!(more.contains(&blocks[0]), waits, "it serves before a slab is opened");
        assert_eq!(large.is_some(), scarce);
    }
}

/// One block of `old` bytes in memory that is full otherwise, after it was made to hold `new` only.
fn shrunk_in_full_memory(heap: &FixedHeap<SpinLock, 1>, old: usize, new: usize) -> NonNull<u8> {
    let blocks = fill(heap, layout(old, 1));
    for bytes in [old, 1216, 1024, 512, 64, 8] {
        fill(heap, layout(bytes, 1));
    }
    // SAFETY: 1. The block is used under its new address only.
    let to = unsafe { heap.realloc(blocks[0].as_ptr(), layout(old, 1), new) };
    NonNull::new(to).expect("a shrink needs no memory")
}

#[test]
fn a_block_that_shrank_in_full_memory_is_given_back_with_its_new_size_whether_slots_serve_that_or_not() {
    for (old, new) in [(1290, 1209), (1290, 1280), (2040, 1216), (1290, 1024), (2040, 1), (1290, 0)] {
        let ram = Ram::new(512 << 10);
        let heap = heap(&ram, 512 << 10);
        heap.on_misuse(OnMisuse::Stop);
        let at = shrunk_in_full_memory(&heap, old, new);
        let before = heap.stats();
        // SAFETY: 1. It is used by nobody.
        unsafe { heap.dealloc(at.as_ptr(), layout(new, 1)) };
        assert_eq!(heap.stats().blocks, before.blocks - 1, "{old} -> {new}");
    }
}

#[test]
fn a_block_that_shrinks_to_a_lesser_alignment_stays_in_full_memory_if_it_cannot_move() {
    for &bytes in &[4 << 10, 512 << 10][..if cfg!(miri) { 1 } else { 2 }] {
        for (old, new) in [
            (layout(64, 64), layout(64, 8)),
            (layout(64, 64), layout(32, 1)),
            (layout(40, 64), layout(40, 8)),
            (layout(1500, 256), layout(1490, 2)),
        ] {
            let ram = Ram::new(bytes);
            let heap = heap(&ram, bytes);
            heap.on_misuse(OnMisuse::Stop);
            let block = fill(&heap, old)[0];
            for filler in [1500, 64, 8] {
                fill(&heap, layout(filler, 1));
            }
            let before = heap.stats().blocks;
            // SAFETY: 1. The block is used under its new address and layout only, and then by nobody.
            unsafe {
                let block = Allocator::shrink(&heap, block, old, new).expect("a shrink needs no memory");
                Allocator::deallocate(&heap, block.cast(), new);
            }
            assert_eq!(heap.stats().blocks, before - 1, "{old:?} -> {new:?}");
        }
    }
}

/// It has the bytes: what serves its new size better need not be there.
#[test]
fn a_block_grows_in_full_memory_as_far_as_what_it_is_in() {
    // In a slot that it shrank in, and in a span, which a slot would do for.
    let cases = [(1290, 100, 1000, 1), (1290, 1, 1209, 1), (1024, 10, 500, 1), (1024, 10, 900, 8)];
    for (held, shrunk, grown, align) in cases.into_iter().step_by(if cfg!(miri) { 2 } else { 1 }) {
        let ram = Ram::new(512 << 10);
        let heap = heap(&ram, 512 << 10);
        heap.on_misuse(OnMisuse::Stop);
        let at = shrunk_in_full_memory(&heap, held, shrunk);
        let small = Live { at, layout: layout(shrunk, 1), pattern: 7 };
        small.fill();
        while heap.allocate(layout(8, 1)).is_ok() {}
        let (usable, failures) = (heap.usable_bytes(at).unwrap() as usize, heap.stats().failures);
        assert!(usable >= grown, "{usable}");
        // SAFETY: 1. The block is used under its new address and layout only, and then by nobody.
        unsafe {
            let to = heap.grow(at, small.layout, layout(grown, align)).expect("it has the bytes").cast();
            assert!(Live { at: to, ..small }.holds(shrunk, 7));
            assert!(heap.grow(to, layout(grown, align), layout(usable + 4096, align)).is_err());
            heap.free(to, layout(grown, align)).unwrap();
        }
        assert_eq!(heap.stats().failures, failures + 1);
    }
}

/// Slots of 48 bytes: every second of them starts at a multiple of 32, for which slots of 64 would serve.
#[test]
fn a_block_that_stays_in_full_memory_with_all_of_its_slot_for_a_stricter_alignment_is_given_back_so() {
    let ram = Ram::new(512 << 10);
    let heap = heap(&ram, 512 << 10);
    heap.on_misuse(OnMisuse::Stop);
    let (old, new) = (layout(48, 8), layout(48, 32));
    let blocks = fill(&heap, old);
    let at = *blocks.iter().find(|block| (block.as_ptr() as usize).is_multiple_of(32)).unwrap();
    assert_eq!(heap.usable_bytes(at), Ok(48));
    // SAFETY: 1. The block is used under its new layout only, and then by nobody.
    unsafe {
        assert_eq!(heap.grow(at, old, new).expect("it lies there already").cast(), at);
        assert_eq!(heap.free(at, new), Ok(()));
    }
    assert_eq!(heap.stats().blocks as usize, blocks.len() - 1);
}

#[test]
fn a_block_that_stayed_in_full_memory_lets_no_others_be_freed_with_a_wrong_size() {
    let ram = Ram::new(512 << 10);
    let heap = heap(&ram, 512 << 10);
    let other = heap.allocate(layout(500, 1)).unwrap();
    let stayed = shrunk_in_full_memory(&heap, 1290, 1000);
    // SAFETY: 1. It is refused.
    let refused = unsafe { heap.free(other.addr, layout(100, 1)) };
    assert!(matches!(refused, Err(BadFree::WrongSize { .. })), "{refused:?}");
    // SAFETY: 1. It is refused.
    let refused = unsafe { heap.free(stayed, layout(1500, 1)) };
    assert!(matches!(refused, Err(BadFree::WrongSize { .. })), "{refused:?}");
    // SAFETY: 1. They are used by nobody.
    let freed = unsafe { (heap.free(other.addr, layout(500, 1)), heap.free(stayed, layout(1000, 1))) };
    assert_eq!(freed, (Ok(()), Ok(())));
}

#[test]
fn a_block_is_not_taken_for_one_of_another_size_and_a_second_free_is_refused() {
    let ram = Ram::new(LARGE);
    let heap = heap(&ram, LARGE);
    const SIZES: &[usize] = match cfg!(miri) {
        true => &[8, 500, 513, 3000],
        false => &[8, 16, 24, 40, 100, 500, 513, 700, 1024, 1025, 2048, 2049, 3000],
    };
    for &bytes in SIZES {
        let held = layout(bytes, 8);
        let [first, second] = [(); 2].map(|()| heap.allocate(held).unwrap());
        for other in SIZES.iter().map(|&bytes| layout(bytes, 8)).filter(|other| {
            // Both serve as the same block.
            heap.allocate(*other).is_ok_and(|block| {
                // SAFETY: 1. It is used by nobody.
                unsafe { heap.free(block.addr, *other) }.unwrap();
                block.bytes != first.bytes
            })
        }) {
            // SAFETY: 1. It is refused.
            let refused = unsafe { heap.free(first.addr, other) };
            assert!(matches!(refused, Err(BadFree::WrongSize { .. })), "{held:?} as {other:?}: {refused:?}");
        }
        // SAFETY: 1. It is used by nobody; the second free is refused.
        let (freed, again) = unsafe { (heap.free(first.addr, held), heap.free(first.addr, held)) };
        assert_eq!(freed, Ok(()));
        assert!(matches!(again, Err(BadFree::AlreadyFree { .. } | BadFree::Interior { .. })), "{again:?}");
        give_all(&heap, [second.addr], held);
    }
    assert_eq!(heap.live_spans().count(), 0);
}

#[test]
fn blocks_of_any_size_are_given_back_without_their_size() {
    let ram = Ram::new(LARGE);
    let heap = heap(&ram, LARGE);
    for bytes in (1..=2100).step_by(if cfg!(miri) { 150 } else { 1 }) {
        let layout = layout(bytes, 8);
        let at = heap.allocate(layout).unwrap().addr;
        // SAFETY: 1. It is used by nobody; the second free is refused.
        let (freed, again) = unsafe { (heap.free_unsized(at), heap.free_unsized(at)) };
        assert!(freed.is_ok() && again.is_err(), "{bytes}: {freed:?}, {again:?}");
        assert_eq!(heap.stats().in_use_bytes, 0);
    }
}

#[test]
fn what_a_slab_has_left_behind_its_last_slot_is_no_block() {
    const LEAST: usize = if cfg!(miri) { 496 } else { 16 };
    let ram = Ram::new(LARGE);
    let heap = heap(&ram, LARGE);
    for bytes in (LEAST..2048).step_by(if cfg!(miri) { 720 } else { 24 }) {
        let layout = layout(bytes, 8);
        let blocks = fill(&heap, layout);
        let starts: std::collections::HashSet<usize> =
            blocks.iter().map(|block| block.as_ptr() as usize).collect();
        let stride = heap.usable_bytes(blocks[0]).unwrap() as usize;
        for block in &blocks {
            let behind = block.as_ptr().wrapping_add(stride);
            if let Some(at) = NonNull::new(behind).filter(|at| !starts.contains(&(at.as_ptr() as usize))) {
                // SAFETY: 1. It is refused.
                assert!(unsafe { heap.free(at, layout) }.is_err(), "{layout:?}");
            }
        }
        give_all(&heap, blocks, layout);
        assert_eq!(heap.stats().in_use_bytes, 0);
    }
}

#[test]
fn empty_slabs_that_are_kept_are_there_for_a_large_request() {
    let ram = Ram::new(1 << 20);
    let heap = heap(&ram, 1 << 20);
    let largest = heap.stats().largest_free_bytes as usize;
    let blocks: Vec<_> = (1..100)
        .map(|eights| (heap.allocate(layout(16 * eights, 8)).unwrap().addr, layout(16 * eights, 8)))
        .collect();
    for (block, layout) in blocks {
        give_all(&heap, [block], layout);
    }
    // Not asked for its numbers first, which would close them.
    let all = heap.allocate(layout(largest, 8)).unwrap();
    give_all(&heap, [all.addr], layout(largest, 8));
}

#[test]
fn slabs_that_ran_empty_are_not_in_the_way_of_a_long_block_in_a_short_range() {
    let ram = Ram::new(1 << 20);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 1 << 20).unwrap();
    let blocks: Vec<_> = (1..=40)
        .map(|size| layout(16 * size, 8))
        .map(|layout| (heap.allocate(layout).unwrap().addr, layout))
        .collect();
    // Each of its own size, so of a slab of its own. The one of the last to go may stay, and lies first.
    for (at, layout) in blocks.iter().rev() {
        // SAFETY: 1. Nobody uses the block.
        unsafe { heap.free(*at, *layout) }.unwrap();
    }
    let long = heap.allocate(layout(600 << 10, 8)).unwrap().addr;
    let behind = long.addr().get() - blocks[0].0.addr().get();
    assert!(behind <= 2 << 10, "the long block lies {behind} bytes behind the first");
}

#[cfg(target_pointer_width = "64")]
#[test]
fn where_memory_is_scarce_a_slot_that_is_a_little_larger_serves_before_a_slab_is_opened() {
    let ram = Ram::new(8 << 20);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 8 << 20).unwrap();
    let of = |bytes| heap.allocate(layout(bytes, 8)).unwrap();
    // A slot of 200 bytes is not aligned to 64, but for the first.
    let (larger, _odd) = (of(264), of(200));
    let plenty = of(256);
    assert_eq!((larger.bytes, plenty.bytes), (264, 256), "each has its class while memory is plenty");
    let _long = of(6 << 20);
    let (lent, small, aligned) = (of(248), of(242), heap.allocate(layout(192, 64)).unwrap());
    assert_eq!((lent.bytes, small.bytes), (256, 256), "the next class that has a slab");
    assert_eq!(
        aligned.bytes, 192,
        "200 bytes have another alignment, 256 are more than a sixteenth too many"
    );
    assert!(aligned.addr.addr().get().is_multiple_of(64));
    // SAFETY: 1. Nobody uses the block.
    let refused = unsafe { heap.free(lent.addr, layout(257, 8)) };
    assert!(matches!(refused, Err(BadFree::WrongSize { held_bytes: 256, .. })), "{refused:?}");
    // SAFETY: 1. Nobody uses the block; a second free of it is refused.
    unsafe {
        heap.free(lent.addr, layout(248, 8)).unwrap();
        assert!(matches!(heap.free(lent.addr, layout(248, 8)), Err(BadFree::AlreadyFree { .. })));
        heap.free(small.addr, layout(242, 8)).unwrap();
    }
}
