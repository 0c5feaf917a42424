//! `FixedHeap`: one randomized script over claimed memory of every size and start, and what it promises beside.

use allocator_api2::alloc::Allocator;
use democratising::arena::LiveSpan;
use democratising::error::{BadFree, OutOfMemory};
use democratising::heap::fixed::{NotClaimed, OnMisuse};
use democratising::lock_api::RawMutex;
use democratising::{FixedHeap, NoLock, SpinLock, StaticMemory, TensorBuf};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// Memory that a heap may have for as long as a test runs.
struct Ram {
    start: NonNull<u8>,
    layout: Layout,
}

impl Ram {
    fn new(bytes: usize) -> Ram {
        let layout = layout(bytes, 16);
        // SAFETY: 1. No test asks for nothing.
        let start = NonNull::new(unsafe { std::alloc::alloc(layout) }).expect("there is memory for the test");
        Ram { start, layout }
    }

    /// The address of a byte.
    fn at(&self, at: usize) -> *mut u8 {
        assert!(at <= self.layout.size());
        self.start.as_ptr().wrapping_add(at)
    }

    /// Gives `len` bytes from `at` to a heap.
    fn give<L: RawMutex, const N: usize>(
        &self,
        heap: &FixedHeap<L, N>,
        at: usize,
        len: usize,
    ) -> Result<u64, NotClaimed> {
        assert!(len <= self.layout.size() - at);
        // SAFETY: 1. The tests drop the heap before the memory, and use it through the heap alone.
        unsafe { heap.claim(self.at(at), len) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: 1. It was allocated so, and the heap is gone.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

fn layout(bytes: usize, align: usize) -> Layout {
    Layout::from_size_align(bytes, align).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Claim { at: usize, len: usize },
    Allocate { bytes: usize, align: usize, zeroed: bool },
    Free(usize),
    Realloc(usize, usize),
    Move { which: usize, bytes: usize, align: usize },
    FreeTwice(usize),
    FreeInterior(usize),
    FreeForeign(usize),
    ReallocWrong(usize),
}

const RAM: usize = 768 << 10;

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        6 => 0..=300usize,
        3 => 0..=4096usize,
        2 => 0..=64usize << 10,
        1 => prop_oneof![Just(1usize << 20), Just(isize::MAX as usize / 2), Just(4096), Just(65536)],
    ];
    let align = prop_oneof![5 => 0..=4u32, 2 => 0..=12u32, 1 => 13..=24u32].prop_map(|shift| 1usize << shift);
    let len = prop_oneof![2 => 0..=3usize << 10, 2 => 0..=64usize << 10, 1 => 0..=256usize << 10];
    prop_oneof![
        2 => (0..RAM, len).prop_map(|(at, len)| Step::Claim { at, len: len.min(RAM - at) }),
        12 => (bytes.clone(), align.clone(), any::<bool>())
            .prop_map(|(bytes, align, zeroed)| Step::Allocate { bytes, align, zeroed }),
        8 => any::<usize>().prop_map(Step::Free),
        5 => (any::<usize>(), bytes.clone()).prop_map(|(which, bytes)| Step::Realloc(which, bytes)),
        2 => (any::<usize>(), bytes, align)
            .prop_map(|(which, bytes, align)| Step::Move { which, bytes, align }),
        1 => any::<usize>().prop_map(Step::FreeTwice),
        1 => any::<usize>().prop_map(Step::FreeInterior),
        1 => any::<usize>().prop_map(Step::FreeForeign),
        1 => any::<usize>().prop_map(Step::ReallocWrong),
    ]
}

struct Live {
    at: NonNull<u8>,
    layout: Layout,
    pattern: u8,
}

impl Live {
    fn fill(&self) {
        // SAFETY: 1. The block is live, the test's and as long as its layout.
        unsafe { self.at.write_bytes(self.pattern, self.layout.size()) }
    }

    fn holds(&self, bytes: usize, pattern: u8) -> bool {
        // SAFETY: 1. As in `fill`, which has written all of it.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), bytes) }.iter().all(|&byte| byte == pattern)
    }
}

/// A heap, and what the script knows of it.
struct Shadow<'a, L: RawMutex> {
    heap: &'a FixedHeap<L, 3>,
    claims: Vec<(usize, usize)>,
    live: Vec<Live>,
    /// Where the live blocks are, with the bytes that each may use.
    taken: BTreeMap<usize, usize>,
    bad_frees: u64,
    patterns: u8,
}

impl<L: RawMutex> Shadow<'_, L> {
    fn took(&mut self, at: NonNull<u8>, layout: Layout) {
        let start = at.as_ptr() as usize;
        let bytes = self.heap.usable_bytes(at).unwrap() as usize;
        assert!(bytes >= layout.size() && start % layout.align() == 0, "{at:?} for {layout:?}");
        let inside = |(from, len): &(usize, usize)| *from <= start && start + bytes <= from + len;
        assert!(self.claims.iter().any(inside), "{at:?}, {bytes} bytes, is in no claimed range");
        let below = self.taken.range(..start + bytes).next_back();
        assert!(below.is_none_or(|(from, len)| from + len <= start), "{at:?} overlaps {below:x?}");
        self.taken.insert(start, bytes);
        self.patterns = self.patterns.wrapping_add(1);
        let block = Live { at, layout, pattern: self.patterns };
        block.fill();
        self.live.push(block);
    }

    fn left(&mut self, which: usize) -> Option<Live> {
        let count = self.live.len().max(1);
        let block = (!self.live.is_empty()).then(|| self.live.swap_remove(which % count))?;
        assert!(block.holds(block.layout.size(), block.pattern), "somebody wrote into {:?}", block.at);
        self.taken.remove(&(block.at.as_ptr() as usize));
        Some(block)
    }

    /// A block with its old contents, at its new place, or at the old one where there was no room.
    fn moved(&mut self, block: Live, to: Option<NonNull<u8>>, new: Layout) {
        let (at, layout) = match to {
            Some(to) => (to, new),
            None => (block.at, block.layout),
        };
        let kept = layout.size().min(block.layout.size());
        assert!(Live { at, ..block }.holds(kept, block.pattern), "a move lost bytes");
        self.took(at, layout);
    }

    fn step(&mut self, ram: &Ram, step: &Step) {
        let heap = self.heap;
        match *step {
            Step::Claim { at, len } => {
                let start = ram.at(at) as usize;
                let before = heap.stats();
                match ram.give(heap, at, len) {
                    Ok(bytes) => {
                        assert!(bytes > 0 && bytes <= len as u64);
                        let apart =
                            |(from, size): &(usize, usize)| start + len <= *from || from + size <= start;
                        assert!(self.claims.iter().all(apart), "an overlapping claim was taken");
                        self.claims.push((start, len));
                        assert_eq!(heap.stats().limit_bytes, before.limit_bytes + bytes);
                    }
                    Err(why) => {
                        assert_eq!(heap.stats(), before);
                        match why {
                            NotClaimed::TooSmall { least_bytes, .. } => assert!(least_bytes > len as u64),
                            NotClaimed::TooMany { most } => assert_eq!((most, self.claims.len()), (3, 3)),
                            NotClaimed::Overlaps { .. } => assert!(!self.claims.is_empty()),
                            why => panic!("{why}"),
                        }
                    }
                }
            }
            Step::Allocate { bytes, align, zeroed } => {
                let Ok(layout) = Layout::from_size_align(bytes, align) else { return };
                let failures = heap.stats().failures;
                // SAFETY: 1. A layout without bytes gets a block as any other.
                let at = unsafe { if zeroed { heap.alloc_zeroed(layout) } else { heap.alloc(layout) } };
                match NonNull::new(at) {
                    Some(at) => {
                        // SAFETY: 1. The block is new, and zeroed.
                        let zeros = || unsafe { std::slice::from_raw_parts(at.as_ptr(), bytes) };
                        assert!(!zeroed || zeros().iter().all(|&byte| byte == 0));
                        self.took(at, layout);
                    }
                    None => assert_eq!(heap.stats().failures, failures + 1),
                }
            }
            Step::Free(which) => {
                let Some(block) = self.left(which) else { return };
                // SAFETY: 1. The block is used no more.
                unsafe { heap.dealloc(block.at.as_ptr(), block.layout) };
            }
            Step::Realloc(which, bytes) => {
                let Some(block) = self.left(which) else { return };
                // SAFETY: 1. The block is used under its new address only.
                let to = unsafe { heap.realloc(block.at.as_ptr(), block.layout, bytes) };
                let Ok(new) = Layout::from_size_align(bytes, block.layout.align()) else {
                    assert!(to.is_null());
                    return self.moved(block, None, Layout::new::<()>());
                };
                self.moved(block, NonNull::new(to), new);
            }
            Step::Move { which, bytes, align } => {
                let Ok(new) = Layout::from_size_align(bytes, align) else { return };
                let Some(block) = self.left(which) else { return };
                let (at, old) = (block.at, block.layout);
                let zeroed = which % 2 == 0;
                // SAFETY: 1. The block is used under its new address only.
                let to = unsafe {
                    match bytes >= old.size() {
                        true if zeroed => heap.grow_zeroed(at, old, new),
                        true => heap.grow(at, old, new),
                        false => heap.shrink(at, old, new),
                    }
                };
                if let (Ok(to), true) = (&to, zeroed && bytes > old.size()) {
                    // SAFETY: 1. The block is as long as `new`, and zeroed behind what it had.
                    assert!(unsafe { &to.as_ref()[old.size()..] }.iter().all(|&byte| byte == 0));
                }
                self.moved(block, to.ok().map(|to| to.cast()), new);
            }
            Step::FreeTwice(which) => {
                let Some(block) = self.left(which) else { return };
                // SAFETY: 1. The block is used no more; the second free is refused.
                unsafe {
                    heap.dealloc(block.at.as_ptr(), block.layout);
                    heap.dealloc(block.at.as_ptr(), block.layout);
                }
                self.bad_frees += 1;
            }
            Step::FreeInterior(which) if !self.live.is_empty() => {
                let block = &self.live[which % self.live.len()];
                let bytes = self.taken[&(block.at.as_ptr() as usize)];
                if bytes > 1 {
                    let inside = block.at.as_ptr().wrapping_add(1 + which % (bytes - 1));
                    // SAFETY: 1. It is refused.
                    unsafe { heap.dealloc(inside, block.layout) };
                    self.bad_frees += 1;
                }
            }
            Step::FreeForeign(which) => {
                let mut mine = [0u64; 8];
                // SAFETY: 1. It is refused.
                unsafe {
                    heap.dealloc(mine.as_mut_ptr().cast(), layout(8 + which % 100, 8));
                    heap.dealloc(std::ptr::null_mut(), layout(8, 8));
                }
                self.bad_frees += 2;
            }
            Step::ReallocWrong(which) if !self.live.is_empty() => {
                let block = &self.live[which % self.live.len()];
                let bytes = self.taken[&(block.at.as_ptr() as usize)];
                let wrong = layout(bytes + 1, block.layout.align());
                // SAFETY: 1. It is refused.
                let to = unsafe { heap.realloc(block.at.as_ptr(), wrong, 1 + which % 1000) };
                assert!(to.is_null());
                self.bad_frees += 1;
            }
            _ => {}
        }
        self.check();
    }

    fn check(&self) {
        let stats = self.heap.stats();
        let in_use: usize = self.taken.values().sum();
        assert_eq!((stats.blocks as usize, stats.in_use_bytes as usize), (self.live.len(), in_use));
        assert_eq!(self.heap.free_bytes(), stats.limit_bytes - stats.in_use_bytes);
        assert!(
            stats.peak_in_use_bytes >= stats.in_use_bytes && stats.largest_free_bytes <= stats.limit_bytes
        );
        assert_eq!(self.heap.bad_frees(), self.bad_frees);
        let spans: Vec<LiveSpan<_>> = self.heap.live_spans().collect();
        let live_bytes =
            |span: &LiveSpan<_>| span.slots.map_or(span.bytes, |s| s.slot_bytes * s.taken as u64);
        assert_eq!(spans.iter().map(live_bytes).sum::<u64>(), stats.in_use_bytes, "{spans:?}");
    }
}

fn run<L: RawMutex>(claims: &[(usize, usize)], script: &[Step]) {
    let ram = Ram::new(RAM);
    let heap: FixedHeap<L, 3> = FixedHeap::empty();
    heap.on_misuse(OnMisuse::Ignore);
    let mut shadow = Shadow {
        heap: &heap,
        claims: Vec::new(),
        live: Vec::new(),
        taken: BTreeMap::new(),
        bad_frees: 0,
        patterns: 0,
    };
    for &(at, len) in claims {
        shadow.step(&ram, &Step::Claim { at, len: len.min(RAM - at) });
    }
    let largest = heap.stats().largest_free_bytes;
    for step in script {
        shadow.step(&ram, step);
    }
    while !shadow.live.is_empty() {
        shadow.step(&ram, &Step::Free(0));
    }
    assert_eq!(heap.live_spans().count(), 0);
    assert!(heap.stats().largest_free_bytes >= largest, "everything is one free run again");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_script_holds_over_any_claims(
        claims in prop::collection::vec((0..RAM, 0..256usize << 10), 0..3),
        script in prop::collection::vec(step(), 1..150),
    ) {
        run::<SpinLock>(&claims, &script);
    }

    #[test]
    fn the_script_holds_in_a_few_kib_without_a_lock(
        at in 0..100usize, len in 0..6usize << 10, script in prop::collection::vec(step(), 1..100),
    ) {
        run::<NoLock>(&[(at, len)], &script);
    }

    #[test]
    fn a_range_is_too_small_exactly_below_the_least_size_that_the_error_names(at in 0..64usize) {
        let ram = Ram::new(4096);
        let least = match ram.give(&FixedHeap::<SpinLock, 1>::empty(), at, 0) {
            Err(NotClaimed::TooSmall { given_bytes: 0, least_bytes }) => least_bytes as usize,
            other => panic!("{other:?}"),
        };
        for len in 0..least {
            let refused = ram.give(&FixedHeap::<SpinLock, 1>::empty(), at, len);
            let expected = NotClaimed::TooSmall { given_bytes: len as u64, least_bytes: least as u64 };
            prop_assert_eq!(refused, Err(expected));
        }
        for len in least..least + 300 {
            let heap = FixedHeap::<SpinLock, 1>::empty();
            prop_assert!(ram.give(&heap, at, len).is_ok(), "{} bytes", len);
            prop_assert!(heap.allocate(layout(1, 1)).is_ok());
        }
    }
}

#[test]
fn the_tables_take_a_small_share_of_the_memory() {
    let mut told = Vec::new();
    for shift in 11..=25 {
        let len = 1usize << shift;
        let ram = Ram::new(len);
        let heap = FixedHeap::<SpinLock, 1>::empty();
        let bytes = ram.give(&heap, 0, len).unwrap();
        told.push((len, (len as u64 - bytes) as f64 * 100.0 / len as f64));
    }
    for (len, percent) in told {
        println!("{len:>9} bytes: tables {percent:.2} %");
        let most_percent = match len >> 10 {
            0..16 => 5.0,
            // Small slabs have the largest tables.
            64..1024 => 4.5,
            _ => 3.0,
        };
        assert!(percent <= most_percent, "{len} bytes: tables take {percent:.2} %");
    }
}

#[cfg(target_pointer_width = "64")]
#[test]
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
    assert!(panicked.downcast_ref::<String>().unwrap().contains("freed twice"));
    heap.on_misuse(OnMisuse::Hook(|why| SEEN.set(Some(why))));
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
fn a_bad_free_through_the_global_interface_ends_the_program_where_it_is_to_panic() {
    const MARK: &str = "FIXED_HEAP_TEST_FREES_TWICE";
    const NAME: &str = "a_bad_free_through_the_global_interface_ends_the_program_where_it_is_to_panic";
    if std::env::var_os(MARK).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", NAME, "--nocapture"]).env(MARK, "1").output().unwrap();
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
fn eight_threads_find_a_static_array_divided() {
    static MEMORY: StaticMemory<{ 1 << 20 }> = StaticMemory::new();
    static HEAP: FixedHeap = FixedHeap::over(&MEMORY);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            scope.spawn(move || {
                for round in 0..200usize {
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
    assert_eq!((stats.blocks, stats.in_use_bytes, stats.allocations, stats.failures), (0, 0, 1600, 0));
}

#[test]
fn tensors_live_in_a_fixed_heap() {
    let ram = Ram::new(64 << 10);
    let heap = FixedHeap::<SpinLock>::empty();
    ram.give(&heap, 0, 64 << 10).unwrap();
    let ones = TensorBuf::<f32, _>::from_fn_in(&[16, 16], &heap, |_| 1.0).unwrap();
    let zeros = TensorBuf::<f32, _>::zeros_in(&[16, 16], &heap).unwrap();
    assert_eq!(ones.iter().zip(&*zeros).map(|(a, b)| a + b).sum::<f32>(), 256.0);
    assert!(TensorBuf::<f32, _>::zeros_in(&[1 << 20], &heap).is_err());
    assert_eq!(heap.stats().in_use_bytes, 2048);
    drop((ones, zeros));
    assert_eq!(heap.stats().in_use_bytes, 0);
}

#[test]
fn the_heap_itself_is_small_enough_for_a_microcontroller() {
    let one = size_of::<FixedHeap<SpinLock, 1>>();
    let each = size_of::<FixedHeap<SpinLock, 2>>() - one;
    // Pointers and lengths are half as long there.
    assert!(one <= 704 && each <= 640, "{one} bytes with one arena, {each} for each further one");
}
