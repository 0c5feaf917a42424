//! One randomized script, held against a shadow of every block.

use crate::block::{Live, Ram, layout};
use allocator_api2::alloc::Allocator;
use democratising::arena::LiveSpan;
use democratising::heap::OnMisuse;
use democratising::heap::fixed::NotClaimed;
use democratising::lock_api::RawMutex;
use democratising::{FixedHeap, NoLock, SpinLock};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::ptr::NonNull;

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

/// Scripts are shorter where each step is interpreted.
const SHORTER: usize = if cfg!(miri) { 20 } else { 1 };

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

/// A heap, and what the script knows of it.
struct Shadow<'a, L: RawMutex, const SLABS: bool> {
    heap: &'a FixedHeap<L, 3, SLABS>,
    claims: Vec<(usize, usize)>,
    live: Vec<Live>,
    /// Where the live blocks are, with the bytes that each may use.
    taken: BTreeMap<usize, usize>,
    bad_frees: u64,
    patterns: u8,
}

impl<L: RawMutex, const SLABS: bool> Shadow<'_, L, SLABS> {
    fn took(&mut self, at: NonNull<u8>, layout: Layout) {
        let start = at.as_ptr() as usize;
        let bytes = self.heap.usable_bytes(at).unwrap() as usize;
        assert!(bytes >= layout.size() && start.is_multiple_of(layout.align()), "{at:?} for {layout:?}");
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
                        let zeros = || {
                            // SAFETY: 1. The block is new, and zeroed.
                            unsafe { std::slice::from_raw_parts(at.as_ptr(), bytes) == vec![0; bytes] }
                        };
                        assert!(!zeroed || zeros());
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
                    assert!(unsafe { to.as_ref()[old.size()..] == vec![0; bytes - old.size()] });
                }
                if bytes == 0 {
                    // Its memory is back, and what is left of it is nothing.
                    let to = to.unwrap().cast();
                    assert_eq!(to.addr().get(), align);
                    // SAFETY: 1. It is what the heap gave, and used no more.
                    unsafe { heap.deallocate(to, new) };
                    return self.check();
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

fn run<L: RawMutex, const SLABS: bool>(ram_bytes: usize, claims: &[(usize, usize)], script: &[Step]) {
    let ram = Ram::new(ram_bytes);
    let heap: FixedHeap<L, 3, SLABS> = FixedHeap::empty();
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
        shadow.step(&ram, &Step::Claim { at, len: len.min(ram_bytes - at) });
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
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 128 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_script_holds_over_any_claims(
        claims in prop::collection::vec((0..RAM, 0..256usize << 10), 0..3),
        script in prop::collection::vec(step(), 1..150 / SHORTER),
    ) {
        run::<SpinLock, true>(RAM, &claims, &script);
    }

    #[test]
    fn the_script_holds_in_a_few_kib_without_a_lock(
        at in 0..100usize, len in 0..6usize << 10, script in prop::collection::vec(step(), 1..100 / SHORTER),
    ) {
        run::<NoLock, true>(RAM, &[(at, len)], &script);
    }

    #[test]
    fn the_script_holds_where_small_blocks_come_from_slabs(
        at in 0..5000usize, mib in 0..if cfg!(miri) { 1 } else { 5usize }, script in prop::collection::vec(step(), 1..400 / SHORTER),
    ) {
        run::<SpinLock, true>((6 << 20) + 5000, &[(at, (mib << 20) + (400 << 10))], &script);
    }

    #[test]
    fn the_script_holds_in_a_heap_without_slabs_whatever_it_claims(
        claims in prop::collection::vec((0..RAM, 0..RAM << 3), 1..3),
        script in prop::collection::vec(step(), 1..200 / SHORTER),
    ) {
        run::<SpinLock, false>(if cfg!(miri) { RAM } else { RAM << 3 }, &claims, &script);
    }

    #[test]
    fn a_range_is_too_small_exactly_below_the_least_size_that_the_error_names(at in 0..64usize) {
        let ram = Ram::new(4096);
        let least = match ram.give(&FixedHeap::<SpinLock, 1>::empty(), at, 0) {
            Err(NotClaimed::TooSmall { given_bytes: 0, least_bytes }) => least_bytes as usize,
            other => panic!("{other:?}"),
        };
        for len in (0..least).step_by(if cfg!(miri) { 40 } else { 1 }) {
            let refused = ram.give(&FixedHeap::<SpinLock, 1>::empty(), at, len);
            let expected = NotClaimed::TooSmall { given_bytes: len as u64, least_bytes: least as u64 };
            prop_assert_eq!(refused, Err(expected));
        }
        for len in least..least + if cfg!(miri) { 20 } else { 300 } {
            let heap = FixedHeap::<SpinLock, 1>::empty();
            prop_assert!(ram.give(&heap, at, len).is_ok(), "{} bytes", len);
            prop_assert!(heap.allocate(layout(1, 1)).is_ok());
        }
    }
}
