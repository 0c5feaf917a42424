//! What a fixed heap promises beside.

use crate::block::{Live, Ram, layout};
use allocator_api2::alloc::Allocator;
use democratising::error::{BadFree, OutOfMemory};
use democratising::heap::OnMisuse;
use democratising::heap::fixed::NotClaimed;
use democratising::{FixedHeap, NoLock, SingleCore, SmallHeap, SpinLock, StaticMemory, TensorBuf};
use std::alloc::GlobalAlloc;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Mutex;

#[test]
fn the_tables_take_a_small_share_of_the_memory() {
    let mut told = Vec::new();
    let most_shift = if cfg!(miri) { 15 } else { 25 };
    for len in (11..=most_shift).flat_map(|shift| [1usize << shift, (1 << shift) + (1 << (shift - 2))]) {
        let ram = Ram::new(len);
        let heap = FixedHeap::<SpinLock, 1>::empty();
        let bytes = ram.give(&heap, 0, len).unwrap();
        told.push((len, (len as u64 - bytes) as f64 * 100.0 / len as f64));
    }
    for (len, percent) in told {
        println!("{len:>9} bytes: tables {percent:.2} %");
        let most_percent = match len >> 10 {
            0..16 => 5.0,
            _ => 3.0,
        };
        assert!(percent <= most_percent, "{len} bytes: tables take {percent:.2} %");
    }
}

#[cfg(target_pointer_width = "64")]
#[test]
#[cfg_attr(miri, ignore = "Miri keeps a gigabyte of notes for a gigabyte")]
fn a_heap_of_1_gib_serves_large_and_small_blocks() {
    let ram = Ram::new(1 << 30);
    let heap = FixedHeap::<SpinLock, 1>::empty();
    let bytes = ram.give(&heap, 0, 1 << 30).unwrap();
    assert!(bytes > (1 << 30) / 100 * 97);
    let blocks: Vec<_> = [900 << 20, 1, 100, 5000, 4096, 30 << 20]
        .map(|bytes| (layout(bytes, 4096), heap.allocate(layout(bytes, 4096)).unwrap().addr))
        .into();
    assert!(heap.allocate(layout(200 << 20, 8)).is_err());
    for (layout, at) in blocks {
        // SAFETY: 1. Nobody uses the block.
        unsafe { heap.free(at, layout) }.unwrap();
    }
    assert!(heap.allocate(layout(1000 << 20, 8)).is_ok());
}

#[test]
fn ranges_that_are_no_memory_are_refused() {
    let heap = FixedHeap::<SpinLock, 2>::empty();
    // SAFETY: 1. Each is refused before anything is written.
    unsafe {
        let null = heap.claim(std::ptr::null_mut(), 4096);
        assert_eq!(null, Err(NotClaimed::NoRange { start: 0, given_bytes: 4096 }));
        let wrapping = heap.claim(std::ptr::without_provenance_mut(usize::MAX - 100), 4096);
        assert!(matches!(wrapping, Err(NotClaimed::NoRange { .. })), "{wrapping:?}");
        // Up to the last byte that there is.
        let last = heap.claim(std::ptr::without_provenance_mut(usize::MAX - 4095), 4096).unwrap_err();
        assert!(
            matches!(last, NotClaimed::NoRange { .. }) && last.to_string().contains("the last one"),
            "{last}"
        );
        let large = heap.claim(std::ptr::without_provenance_mut(4096), isize::MAX as usize + 1);
        assert!(matches!(large, Err(NotClaimed::TooLarge { .. })), "{large:?}");
    }
    assert_eq!(heap.stats(), FixedHeap::<SpinLock, 2>::empty().stats());
}

#[test]
fn adjacent_ranges_may_be_claimed_and_overlapping_ones_may_not() {
    let ram = Ram::new(64 << 10);
    let heap = FixedHeap::<SpinLock, 3>::empty();
    ram.give(&heap, 0, 16 << 10).unwrap();
    ram.give(&heap, 16 << 10, 16 << 10).unwrap();
    let held = heap.allocate(layout(8000, 8)).unwrap();
    for (at, len) in [(0, 16 << 10), (100, 8), (0, 64 << 10), ((32 << 10) - 1, 4096)] {
        let refused = ram.give(&heap, at, len);
        assert!(matches!(refused, Err(NotClaimed::Overlaps { .. })), "{refused:?}");
    }
    ram.give(&heap, 32 << 10, 16 << 10).unwrap();
    assert_eq!(ram.give(&heap, 48 << 10, 16 << 10), Err(NotClaimed::TooMany { most: 3 }));
    // SAFETY: 1. Nobody uses the block.
    unsafe { heap.free(held.addr, layout(8000, 8)) }.unwrap();
}

#[test]
fn a_range_below_another_may_be_claimed() {
    let ram = Ram::new(32 << 10);
    let heap = FixedHeap::<SpinLock, 2>::empty();
    ram.give(&heap, 16 << 10, 16 << 10).unwrap();
    ram.give(&heap, 0, 16 << 10).unwrap();
}

#[test]
fn a_range_that_is_too_short_takes_no_place_in_the_heap() {
    let ram = Ram::new(16 << 10);
    let heap = FixedHeap::<SpinLock, 1>::empty();
    for _ in 0..2 {
        let refused = ram.give(&heap, 0, 12);
        assert!(matches!(refused, Err(NotClaimed::TooSmall { given_bytes: 12, .. })), "{refused:?}");
    }
    ram.give(&heap, 0, 16 << 10).unwrap();
    static SCANT: StaticMemory<12> = StaticMemory::new();
    let over: FixedHeap<SpinLock, 1> = FixedHeap::over(&SCANT);
    assert!(over.allocate(layout(8, 8)).is_err());
    let ram = Ram::new(16 << 10);
    ram.give(&over, 0, 16 << 10).unwrap();
    assert!(over.allocate(layout(8, 8)).is_ok());
}

#[test]
fn a_heap_over_a_static_array_tells_its_numbers_before_it_is_asked_for_anything() {
    static MEMORY: StaticMemory<8192> = StaticMemory::new();
    let heap: FixedHeap<SpinLock, 1> = FixedHeap::over(&MEMORY);
    let stats = heap.stats();
    assert!(stats.limit_bytes > 7500 && stats.largest_free_bytes == stats.limit_bytes, "{stats:?}");
}

#[test]
fn what_lies_inside_a_block_of_a_small_heap_is_not_given_back() {
    let ram = Ram::new(8 << 10);
    let heap = SmallHeap::<SpinLock, 1>::empty();
    ram.give(&heap, 0, 8 << 10).unwrap();
    let (block, behind) =
        (heap.allocate(layout(100, 8)).unwrap().addr, heap.allocate(layout(100, 8)).unwrap().addr);
    for inside in [1, 4, 8, 16, 96] {
        // SAFETY: 1. It lies in the block. 2. It is refused.
        let refused = unsafe { heap.free_unsized(block.add(inside)) };
        assert!(matches!(refused, Err(BadFree::Interior { .. })), "{inside}: {refused:?}");
        // SAFETY: 1. As above.
        assert!(heap.usable_bytes(unsafe { block.add(inside) }).is_err(), "{inside}");
    }
    // SAFETY: 1. Nobody uses them.
    let freed = unsafe { (heap.free_unsized(block), heap.free_unsized(behind)) };
    assert_eq!(freed, (Ok(()), Ok(())));
    assert_eq!(heap.stats().in_use_bytes, 0);
}

#[test]
#[cfg_attr(miri, ignore = "a table of 80 KiB to clear")]
fn the_strictest_alignment_is_2_mib() {
    const MOST: usize = 2 << 20;
    let ram = Ram::new(5 << 20);
    let heap = FixedHeap::<SpinLock, 1>::empty();
    ram.give(&heap, 0, 5 << 20).unwrap();
    let block = heap.allocate(layout(100, MOST)).unwrap();
    assert!(block.addr.addr().get().is_multiple_of(MOST));
    assert!(heap.allocate(layout(100, 2 * MOST)).is_err());
}

#[test]
fn a_block_grows_in_place_into_free_neighbours_and_shrinks_in_place() {
    let ram = Ram::new(16 << 10);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 12 << 10).unwrap();
    // SAFETY: 1. Each block is used with its newest layout, and not after its free.
    unsafe {
        let at = heap.alloc(layout(1000, 8));
        assert_eq!(heap.realloc(at, layout(1000, 8), 9000), at);
        assert_eq!(heap.realloc(at, layout(9000, 8), 2000), at);
        let next = heap.alloc(layout(6000, 8));
        assert!(!next.is_null(), "what was cut off can be had");
        assert!(heap.realloc(at, layout(2000, 8), 9000).is_null(), "there is no room now");
        heap.dealloc(at, layout(2000, 8));
        heap.dealloc(next, layout(6000, 8));
    }
    assert_eq!(heap.stats().in_use_bytes, 0);
}

#[test]
fn a_block_that_becomes_shorter_moves_to_a_hole_that_it_fills_better_than_what_it_would_leave_behind() {
    let ram = Ram::new(68 << 10);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 64 << 10).unwrap();
    // SAFETY: 1. Each block is used with its newest layout, and not after its free.
    unsafe {
        let hole = heap.alloc(layout(512, 8));
        let large = heap.alloc(layout(2000, 8));
        large.write_bytes(7, 2000);
        let behind = heap.alloc(layout(64, 8));
        heap.dealloc(hole, layout(512, 8));
        let tight = heap.realloc(large, layout(2000, 8), 500);
        assert_eq!(tight, hole, "all of 2,000 bytes are one run again");
        assert!((0..500).all(|at| tight.add(at).read() == 7));
        assert_eq!(heap.alloc(layout(2000, 8)), large);
        // The rest of a block is a better place for a shorter one than a hole that it leaves more of.
        assert_eq!(heap.realloc(large, layout(2000, 8), 1900), large);
        for (at, bytes) in [(tight, 500), (large, 1900), (behind, 64)] {
            heap.dealloc(at, layout(bytes, 8));
        }
    }
    assert_eq!(heap.stats().in_use_bytes, 0);
}

#[test]
fn an_alignment_of_4_kib_costs_no_more_than_the_block() {
    let ram = Ram::new(40 << 10);
    let heap = FixedHeap::<SpinLock>::empty();
    let start = ram.at(0).align_offset(4096);
    ram.give(&heap, start, 32 << 10).unwrap();
    let count = std::iter::from_fn(|| heap.allocate(layout(4096, 4096)).ok()).count();
    assert_eq!(count, 7, "of 8 only the one with the tables is missing");
    assert_eq!(heap.stats().in_use_bytes, 7 * 4096);
    assert!(heap.allocate(layout(1, 1 << 30)).is_err());
}

thread_local! {
    static SEEN: Cell<Option<BadFree>> = const { Cell::new(None) };
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static SPARE: Cell<Option<NonNull<u8>>> = const { Cell::new(None) };
}

#[test]
fn a_bad_free_is_counted_and_told_as_the_program_chose() {
    let ram = Ram::new(16 << 10);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 16 << 10).unwrap();
    let block = heap.allocate(layout(100, 8)).unwrap().addr;
    // SAFETY: 1. Freed once; what follows is refused.
    unsafe { heap.free(block, layout(100, 8)) }.unwrap();
    // SAFETY: 1. It is refused.
    let again = || unsafe { Allocator::deallocate(&heap, block, layout(100, 8)) };
    let panicked = catch_unwind(AssertUnwindSafe(again)).unwrap_err();
    let told = panicked.downcast_ref::<String>().unwrap();
    assert!(told.contains("freed twice") && told.contains(&format!("{:p} (100 bytes)", block)), "{told}");
    heap.on_misuse(OnMisuse::Hook(|misuse| SEEN.set(Some(misuse.why))));
    again();
    assert!(matches!(SEEN.take(), Some(BadFree::AlreadyFree { .. })));
    // SAFETY: 1. It is refused, and nothing is read.
    assert!(unsafe { heap.realloc(block.as_ptr(), layout(100, 8), 200) }.is_null());
    assert!(matches!(SEEN.take(), Some(BadFree::AlreadyFree { .. })));
    heap.on_misuse(OnMisuse::Ignore);
    again();
    assert_eq!((SEEN.take(), heap.bad_frees()), (None, 4));
    // SAFETY: 1. It is refused.
    assert!(unsafe { heap.free(block, layout(100, 8)) }.is_err());
    assert_eq!(heap.bad_frees(), 4, "an error that is returned is not counted");
}

/// A global allocator must not unwind, so there a panic ends the program: which is another one here.
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_bad_free_through_the_global_interface_ends_the_program_where_it_is_to_panic() {
    const MARK: &str = "FIXED_HEAP_TEST_FREES_TWICE";
    const NAME: &str =
        "promises::a_bad_free_through_the_global_interface_ends_the_program_where_it_is_to_panic";
    if std::env::var_os(MARK).is_none() {
        let mut command = crate::again::again();
        let output =
            crate::start::output(command.args(["--exact", NAME, "--nocapture"]).env(MARK, "1")).unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("freed twice"), "{told}");
        assert!(
            output.status.code().is_none_or(|code| code != 0 && code != 101),
            "{}: it unwound",
            output.status
        );
        return;
    }
    let ram = Ram::new(4096);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 4096).unwrap();
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: 1. The second free is refused.
        unsafe {
            let block = heap.alloc(layout(100, 8));
            heap.dealloc(block, layout(100, 8));
            heap.dealloc(block, layout(100, 8));
        }
    }));
    std::process::exit(101);
}

/// A heap whose low-memory function can name it.
static SHORT: FixedHeap<SpinLock, 1> = FixedHeap::over(&SHORT_MEMORY);
static SHORT_MEMORY: StaticMemory<8192> = StaticMemory::new();

#[test]
fn before_a_request_fails_the_program_may_give_memory_back_once() {
    let spare = layout(4096, 8);
    SPARE.set(Some(SHORT.allocate(spare).unwrap().addr));
    SHORT.on_low_memory(Some(|report: &OutOfMemory| {
        ASKED.set(ASKED.get() + 1);
        assert!(report.largest_free_bytes < report.requested_bytes);
        assert!(SHORT.allocate(layout(7000, 8)).is_err(), "not locked, and not called again");
        let Some(block) = SPARE.take() else { return false };
        // SAFETY: 1. The spare block is used by nobody.
        unsafe { SHORT.free(block, layout(4096, 8)) }.unwrap();
        true
    }));
    let block = SHORT.allocate(layout(6000, 8)).unwrap();
    assert_eq!((ASKED.get(), SHORT.stats().failures), (1, 1));
    let report = SHORT.allocate(layout(6000, 8)).unwrap_err();
    assert_eq!((ASKED.get(), SHORT.stats().failures), (2, 3));
    assert_eq!((report.requested_bytes, report.limit_bytes), (6000, SHORT.stats().limit_bytes));
    SHORT.on_low_memory(None);
    // SAFETY: 1. Nobody uses the block.
    unsafe { SHORT.free_unsized(block.addr) }.unwrap();
    assert_eq!(SHORT.stats().in_use_bytes, 0);
}

static NEXT: FixedHeap<SpinLock, 1> = FixedHeap::over(&NEXT_MEMORY);
static NEXT_MEMORY: StaticMemory<8192> = StaticMemory::new();

#[test]
fn a_block_grows_into_what_the_program_gives_back_right_behind_it() {
    NEXT.on_low_memory(Some(|_| {
        let Some(block) = SPARE.take() else { return false };
        // SAFETY: 1. The spare block is used by nobody.
        unsafe { NEXT.free(block, layout(3000, 8)) }.unwrap();
        true
    }));
    let (short, long) = (layout(3000, 8), layout(5500, 8));
    let all_bytes = NEXT.stats().limit_bytes;
    for global in [false, true] {
        let block = NEXT.allocate(short).unwrap().addr;
        SPARE.set(Some(NEXT.allocate(short).unwrap().addr));
        assert!(
            SPARE.get() > Some(block) && all_bytes < 3000 + 5500,
            "there is room for it in no other place"
        );
        let failures_before = NEXT.stats().failures;
        // SAFETY: 1. The block is live and has that layout, and nobody uses it beside.
        let grown = unsafe {
            block.write_bytes(7, 3000);
            match global {
                true => NonNull::new(GlobalAlloc::realloc(&NEXT, block.as_ptr(), short, 5500)),
                false => Allocator::grow(&NEXT, block, short, long).ok().map(NonNull::cast),
            }
        };
        assert_eq!((grown, NEXT.stats().failures), (Some(block), failures_before));
        // SAFETY: 1. The block has these bytes, and nobody uses it. 2. Nothing is left that could be given back, so it stays as it is.
        unsafe {
            assert_eq!(std::slice::from_raw_parts(block.as_ptr(), 3000), [7; 3000]);
            assert!(GlobalAlloc::realloc(&NEXT, block.as_ptr(), long, 9000).is_null());
            assert_eq!(NEXT.stats().failures, failures_before + 1);
            NEXT.free(block, long).unwrap();
        }
    }
    NEXT.on_low_memory(None);
    assert_eq!(NEXT.stats().in_use_bytes, 0);
}

/// The text may be a block of the heap that it is of: it grows, and a heap that is locked would wait for itself.
#[test]
fn a_heap_is_shown_into_memory_of_its_own() {
    struct Text<'a>(&'a FixedHeap, usize);
    impl std::fmt::Write for Text<'_> {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            assert!(!self.0.is_locked(), "locked behind {} bytes", self.1);
            self.1 += part.len();
            Ok(())
        }
    }
    let ram = Ram::new(4096);
    let heap = FixedHeap::empty();
    ram.give(&heap, 0, 4096).unwrap();
    let mut text = Text(&heap, 0);
    std::fmt::write(&mut text, format_args!("{heap:?} {:#?} {}", heap, heap.stats())).unwrap();
    assert!(text.1 > 100);
}

#[test]
fn whatever_a_kernel_keeps_in_a_struct_can_be_shown() {
    static MEMORY: StaticMemory<4096> = StaticMemory::new();
    assert_eq!(format!("{MEMORY:?}"), "StaticMemory { bytes: 4096, taken: false }");
    // SAFETY: 1. This thread alone uses it.
    let heap = unsafe { SingleCore::new(FixedHeap::<NoLock, 1>::over(&MEMORY)) };
    assert!(heap.allocate(layout(100, 8)).is_ok());
    assert_eq!(format!("{MEMORY:?}"), "StaticMemory { bytes: 4096, taken: true }");
    assert!(
        format!("{heap:?}").starts_with("SingleCore(FixedHeap { stats: Stats { in_use_bytes: 104,"),
        "{heap:?}"
    );
    assert!(format!("{:?}", heap.live_spans()).starts_with("LiveSpans {"));
}

#[test]
fn a_static_array_serves_one_heap_only() {
    static MEMORY: StaticMemory<4096> = StaticMemory::new();
    let (first, second): (FixedHeap, FixedHeap) = (FixedHeap::over(&MEMORY), FixedHeap::over(&MEMORY));
    let block = first.allocate(layout(1000, 8)).unwrap();
    assert!(second.allocate(layout(8, 8)).is_err());
    assert_eq!(second.stats().limit_bytes, 0);
    // SAFETY: 1. Nobody uses the block.
    unsafe { first.free(block.addr, layout(1000, 8)) }.unwrap();
}

#[test]
fn a_static_array_is_the_first_range_of_its_heap_whatever_is_claimed_before_it_is_asked() {
    static FAST: StaticMemory<4096> = StaticMemory::new();
    let ram = Ram::new(64 << 10);
    let heap = FixedHeap::<SpinLock, 2>::over(&FAST);
    assert!(heap.free_bytes() > 3000, "it can be seen before anything is asked for");
    ram.give(&heap, 0, 64 << 10).unwrap();
    let limit = heap.stats().limit_bytes;
    let (first, second) =
        (heap.allocate(layout(3000, 8)).unwrap().addr, heap.allocate(layout(3000, 8)).unwrap().addr);
    let claimed = ram.at(0).addr()..ram.at(64 << 10).addr();
    assert!(!claimed.contains(&first.addr().get()) && claimed.contains(&second.addr().get()));
    // SAFETY: 1. Nobody uses the blocks.
    unsafe { (heap.free(first, layout(3000, 8)).unwrap(), heap.free(second, layout(3000, 8)).unwrap()) };
    assert_eq!(heap.stats().limit_bytes, limit);

    static ONLY: StaticMemory<4096> = StaticMemory::new();
    let heap = FixedHeap::<SpinLock, 1>::over(&ONLY);
    assert_eq!(ram.give(&heap, 0, 64 << 10), Err(NotClaimed::TooMany { most: 1 }));
    assert!(heap.allocate(layout(3000, 8)).is_ok());
}

#[test]
fn threads_whose_first_requests_meet_all_have_a_block() {
    /// What is reachable is not lost.
    static KEPT: Mutex<Vec<&StaticMemory<{ 64 << 10 }>>> = Mutex::new(Vec::new());
    for _ in 0..if cfg!(miri) { 3 } else { 300 } {
        let memory: &'static StaticMemory<{ 64 << 10 }> = Box::leak(Box::new(StaticMemory::new()));
        KEPT.lock().unwrap().push(memory);
        let heap: FixedHeap = FixedHeap::over(memory);
        let ready = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    ready.wait();
                    let _block = heap.allocate(layout(64, 8)).unwrap();
                });
            }
        });
        let stats = heap.stats();
        assert_eq!((stats.blocks, stats.failures), (4, 0));
    }
}

#[test]
fn eight_threads_find_a_static_array_divided() {
    static MEMORY: StaticMemory<{ 1 << 20 }> = StaticMemory::new();
    static HEAP: FixedHeap = FixedHeap::over(&MEMORY);
    const ROUNDS: usize = if cfg!(miri) { 10 } else { 200 };
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let layout = layout(1 + round * 7 % 3000, 1 << (round % 7));
                    let at = HEAP.allocate(layout).unwrap().addr;
                    let block = Live { at, layout, pattern: thread };
                    block.fill();
                    assert!(block.holds(layout.size(), thread));
                    // SAFETY: 1. Nobody uses the block.
                    unsafe { HEAP.free(at, layout) }.unwrap();
                }
            });
        }
    });
    let stats = HEAP.stats();
    assert_eq!(
        (stats.blocks, stats.in_use_bytes, stats.allocations, stats.failures),
        (0, 0, 8 * ROUNDS as u64, 0)
    );
}

/// Where blocks of random lengths stand, of which some were resized and freed when there was no room: each with its bytes.
fn filled<const SLABS: bool>(bytes: usize) -> Vec<(usize, usize)> {
    let ram = Ram::new(bytes + 4096);
    let start = ram.at(0).addr().wrapping_neg() % 4096;
    let heap = FixedHeap::<SpinLock, 1, SLABS>::empty();
    ram.give(&heap, start, bytes).unwrap();
    let (mut live, mut random) = (Vec::new(), 1u64);
    // SAFETY: 1. Every block is used with its newest layout and address only.
    unsafe {
        for _ in 0..if cfg!(miri) { 200 } else { 3000 } {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let size = (random >> 33) as usize % 300 + 1;
            if (random >> 60) > 5 || live.is_empty() {
                let at = heap.alloc(layout(size, 4));
                if !at.is_null() {
                    live.push((at, size));
                }
            } else {
                let (at, held) = live.swap_remove((random >> 20) as usize % live.len());
                let to = heap.realloc(at, layout(held, 4), size);
                if to.is_null() {
                    heap.dealloc(at, layout(held, 4));
                } else {
                    live.push((to, size));
                }
            }
        }
    }
    live.into_iter().map(|(at, size)| (at.addr() - ram.at(start).addr(), size)).collect()
}

#[test]
fn in_ranges_that_have_no_slabs_in_any_case_a_heap_without_them_does_the_same() {
    let all = [1000, 4 << 10, 16 << 10, 64 << 10, (320 << 10) - 1];
    for &bytes in &all[..if cfg!(miri) { 2 } else { 5 }] {
        assert!(filled::<true>(bytes) == filled::<false>(bytes), "{bytes}");
    }
}

#[test]
fn tensors_live_in_a_fixed_heap() {
    let ram = Ram::new(64 << 10);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 64 << 10).unwrap();
    let ones = TensorBuf::<f32, _>::from_fn_in(&[16, 16], &heap, |_| 1.0).unwrap();
    let zeros = TensorBuf::<f32, _>::zeros_in(&[16, 16], &heap).unwrap();
    assert_eq!(ones.iter().zip(&*zeros).map(|(a, b)| a + b).sum::<f32>(), 256.0);
    let error = TensorBuf::<f32, _>::zeros_in(&[1 << 20], &heap).unwrap_err();
    assert_eq!(
        error.to_string(),
        "out of memory on host: 4194304 bytes requested",
        "what it does not know, it does not tell"
    );
    assert_eq!(heap.stats().in_use_bytes, 2048);
    drop((ones, zeros));
    assert_eq!(heap.stats().in_use_bytes, 0);
}

#[test]
fn a_request_that_fails_for_its_alignment_alone_says_so() {
    let ram = Ram::new(8 << 10);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 8 << 10).unwrap();
    let refused = |bytes, align| heap.allocate(layout(bytes, align)).unwrap_err();
    let aligned = refused(1, 4 << 20);
    assert_eq!((aligned.requested_bytes, aligned.align_bytes), (1, 4 << 20));
    let told = aligned.to_string();
    assert!(
        told.starts_with("out of memory on host: 1 bytes requested at a multiple of 4194304, 0 in use"),
        "{told}"
    );
    let long = refused(8 << 10, 64).to_string();
    assert!(long.starts_with("out of memory on host: 8192 bytes requested, 0 in use"), "{long}");
}

#[test]
fn the_heap_itself_is_small_enough_for_a_microcontroller() {
    let one = size_of::<FixedHeap<SpinLock, 1>>();
    let each = size_of::<FixedHeap<SpinLock, 2>>() - one;
    // Pointers and lengths are half as long there.
    assert!(one <= 336 && each <= 224, "{one} bytes with one arena, {each} for each further one");
}
