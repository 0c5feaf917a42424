//! What is known of a heap without looking into it: its claims, what lives in them, and so what is free.

use super::watched::{HELD, Watched};
use crate::block::Ram;
use democratising::FixedHeap;
use democratising::error::BadFree;
use democratising::heap::fixed::NotClaimed;
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;

pub(super) type Heap<const SLABS: bool> = FixedHeap<Watched, 4, SLABS>;

#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// As the heap gave it.
    pub(super) at: NonNull<u8>,
    pub(super) layout: Layout,
    /// What it may use.
    pub(super) bytes: usize,
    pub(super) pattern: u8,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) start: usize,
    pub(super) len: usize,
    /// Where blocks can be.
    pub(super) first: usize,
    pub(super) end: usize,
    pub(super) granule: usize,
    pub(super) slabs: bool,
}

/// The granule of a range, as features.md and the documentation of the heap have it.
pub(super) fn granule_of(len: usize, slabs: bool) -> usize {
    let granule = match len {
        0..0x4000 => 8,
        0x4000..0x20000 => 16,
        0x20000..0x50000 => 32,
        _ => 64,
    };
    if slabs && granule == 64 { 64 } else { usize::max(granule, len.div_ceil(1 << 14).next_power_of_two()) }
}

pub(super) fn places(bytes: usize) -> impl Iterator<Item = usize> {
    (0..bytes.min(40)).chain((40..bytes).step_by(997)).chain(bytes.saturating_sub(20)..bytes)
}

impl Block {
    pub(super) fn fill(&self) {
        for place in places(self.bytes) {
            // SAFETY: 1. The block is live and the test's.
            unsafe { self.at.add(place).write(self.pattern ^ place as u8) };
        }
    }

    /// Whether `bytes` from `at` hold what was written when the block stood there, or elsewhere.
    pub(super) fn holds(&self, at: NonNull<u8>, bytes: usize) -> bool {
        let mut places = places(self.bytes).filter(|place| *place < bytes);
        // SAFETY: 1. The block at `at` is live and that long, and the places were written.
        places.all(|place| unsafe { at.add(place).read() } == self.pattern ^ place as u8)
    }
}

pub(super) struct Model<'a, const SLABS: bool> {
    pub(super) heap: &'a Heap<SLABS>,
    pub(super) ram: &'a Ram,
    pub(super) ram_bytes: usize,
    pub(super) claims: Vec<Claim>,
    pub(super) live: BTreeMap<usize, Block>,
    pub(super) in_use: usize,
    /// The peak is at least, at most this.
    pub(super) peak: (usize, usize),
    pub(super) failures: u64,
    pub(super) bad_frees: u64,
    pub(super) patterns: u8,
}

impl<const SLABS: bool> Model<'_, SLABS> {
    pub(super) fn note_peak(&mut self, at_most: usize) {
        self.peak.0 = self.peak.0.max(self.in_use);
        self.peak.1 = self.peak.1.max(at_most).max(self.in_use);
    }

    pub(super) fn took(&mut self, at: NonNull<u8>, layout: Layout) {
        let start = at.as_ptr() as usize;
        assert!(start.is_multiple_of(layout.align()), "{at:?} for {layout:?}");
        let bytes = self.heap.usable_bytes(at).expect("it is live") as usize;
        assert!(bytes >= layout.size() && bytes > 0);
        let in_claim = self.claims.iter().any(|claim| claim.first <= start && start + bytes <= claim.end);
        assert!(in_claim, "{at:?} lies in no claim");
        let below = self.live.range(..start + bytes).next_back();
        assert!(below.is_none_or(|(from, block)| from + block.bytes <= start), "{at:?} overlaps {below:x?}");
        self.patterns = self.patterns.wrapping_add(29);
        let block = Block { at, layout, bytes, pattern: self.patterns };
        block.fill();
        self.live.insert(start, block);
        self.in_use += bytes;
        self.note_peak(0);
    }

    pub(super) fn left(&mut self, which: usize) -> Option<(NonNull<u8>, Block)> {
        let (&at, &block) = self.live.iter().nth(which % self.live.len().max(1))?;
        assert!(block.holds(block.at, block.bytes), "somebody wrote into {at:#x}");
        self.live.remove(&at);
        self.in_use -= block.bytes;
        Some((block.at, block))
    }

    /// The free runs between what lives, by claim; empty slabs are closed before.
    pub(super) fn gaps(&self) -> Vec<(Claim, usize, usize)> {
        let _ = self.heap.stats();
        let mut gaps = Vec::new();
        let spans: Vec<(usize, usize)> =
            self.heap.live_spans().map(|span| (span.addr.as_ptr() as usize, span.bytes as usize)).collect();
        for claim in &self.claims {
            let mut from = claim.first;
            for (at, bytes) in spans.iter().filter(|(at, _)| (claim.first..claim.end).contains(at)) {
                assert!(*at >= from, "spans come in order");
                if *at > from {
                    gaps.push((*claim, from, *at));
                }
                from = at + bytes;
            }
            assert!(from <= claim.end);
            if from < claim.end {
                gaps.push((*claim, from, claim.end));
            }
        }
        gaps
    }

    /// How many bytes a span for a layout takes in a claim.
    pub(super) fn span_bytes(claim: &Claim, bytes: usize) -> Option<usize> {
        let least = if claim.slabs { 1024 } else { claim.granule };
        Some(bytes.checked_next_multiple_of(claim.granule)?.max(least))
    }

    /// Whether a free run has room for a layout.
    pub(super) fn fits(&self, layout: Layout) -> bool {
        layout.align() <= 2 << 20
            && self.gaps().iter().any(|(claim, from, end)| {
                let start = from.next_multiple_of(layout.align());
                Self::span_bytes(claim, layout.size())
                    .is_some_and(|bytes| start <= *end && bytes <= end - start)
            })
    }

    /// Whether a block might have stayed where it is, with another layout.
    pub(super) fn could_stay(&self, at: usize, block: Block, new: Layout) -> bool {
        if !at.is_multiple_of(new.align()) {
            return false;
        }
        let claim = self.claims.iter().find(|claim| (claim.first..claim.end).contains(&at)).unwrap();
        let is_slot = self.heap.live_spans().any(|span| {
            let from = span.addr.as_ptr() as usize;
            (from..from + span.bytes as usize).contains(&at) && span.slots.is_some()
        });
        let behind = if is_slot {
            0
        } else {
            self.gaps().iter().find(|gap| gap.1 == at + block.bytes).map_or(0, |gap| gap.2 - gap.1)
        };
        let wants = if is_slot { Some(new.size()) } else { Self::span_bytes(claim, new.size()) };
        wants.is_some_and(|wants| wants <= block.bytes + behind)
    }

    pub(super) fn claimed(&mut self, at: usize, len: usize, got: Result<u64, NotClaimed>) {
        let start = self.ram.at(at) as usize;
        let overlap =
            self.claims.iter().any(|claim| start < claim.start + claim.len && claim.start < start + len);
        match got {
            Ok(bytes) => {
                assert!(!overlap && self.claims.len() < 4 && bytes > 0);
                let granule = granule_of(len, SLABS);
                let first = start.next_multiple_of(granule);
                let end = first + bytes as usize;
                assert!(
                    end <= start + len && (bytes as usize).is_multiple_of(granule),
                    "{len} at {start:#x}: {bytes}"
                );
                self.claims.push(Claim { start, len, first, end, granule, slabs: SLABS && granule == 64 });
            }
            Err(NotClaimed::TooSmall { given_bytes, least_bytes }) => {
                assert!(!overlap && self.claims.len() < 4);
                assert!(
                    given_bytes == len as u64 && least_bytes > given_bytes && len < 200,
                    "{len}, {least_bytes}"
                );
            }
            Err(NotClaimed::TooMany { most }) => assert!(most == 4 && self.claims.len() == 4 && !overlap),
            Err(NotClaimed::Overlaps { start: theirs, claimed_bytes }) => {
                let it = self
                    .claims
                    .iter()
                    .find(|claim| (claim.start, claim.len) == (theirs as usize, claimed_bytes as usize));
                assert!(it.is_some_and(|it| start < it.start + it.len && it.start < start + len));
            }
            Err(why) => panic!("{why}"),
        }
    }
    pub(super) fn failed(&mut self, layout: Layout, what: &str) {
        self.failures += 1;
        assert!(!self.fits(layout), "{what}: {layout:?} fits one of {:x?}", self.gaps());
    }
    /// What is told of every address around some.
    pub(super) fn look(&self, from: usize, count: usize) {
        let base = self.ram.at(0) as usize;
        // Slabs that are open and empty are shown to nobody: now and then they are closed before.
        let closed = from.is_multiple_of(2);
        if closed {
            let _ = self.heap.stats();
        }
        let slabs: Vec<(usize, usize)> = self
            .heap
            .live_spans()
            .filter(|span| span.slots.is_some())
            .map(|span| (span.addr.as_ptr() as usize, span.bytes as usize))
            .collect();
        for place in from..(from + count).min(self.ram_bytes) {
            let at = NonNull::new(self.ram.at(place)).unwrap();
            let usable = self.heap.usable_bytes(at);
            let addr = base + place;
            let claim = self.claims.iter().find(|claim| (claim.first..claim.end).contains(&addr));
            if let Some(block) = self.live.get(&addr) {
                assert_eq!(usable, Ok(block.bytes as u64));
                for wrong in [block.bytes + 1, block.bytes + 5000] {
                    let wrong = Layout::from_size_align(wrong, 1).unwrap();
                    // SAFETY: 1. It is refused.
                    let refused = unsafe { self.heap.free(at, wrong) };
                    assert!(
                        matches!(refused, Err(BadFree::WrongSize { held_bytes, .. }) if held_bytes == block.bytes as u64)
                    );
                }
                continue;
            }
            for align in [1, 64] {
                for bytes in [1, 8, 24, 40, 700, 1024, 1500, 4096] {
                    let wrong = Layout::from_size_align(bytes, align).unwrap();
                    // SAFETY: 1. It is refused.
                    let refused = unsafe { self.heap.free(at, wrong) };
                    assert_eq!(
                        refused.err().map(|why| core::mem::discriminant(&why)),
                        usable.as_ref().err().map(core::mem::discriminant)
                    );
                }
            }
            let below = self.live.range(..addr).next_back();
            let inside = below.is_some_and(|(start, block)| addr < start + block.bytes);
            let in_slab = claim.is_some_and(|claim| claim.slabs && !closed)
                || slabs.iter().any(|(start, bytes)| (*start..start + bytes).contains(&addr));
            let offset = claim.map(|claim| (addr - claim.first) as u64);
            match usable {
                Err(BadFree::Foreign) => assert!(claim.is_none(), "{addr:#x} is foreign"),
                Err(BadFree::Interior { offset_bytes }) => {
                    assert!(Some(offset_bytes) == offset && (inside || in_slab))
                }
                Err(BadFree::AlreadyFree { offset_bytes }) => {
                    assert!(Some(offset_bytes) == offset && !inside)
                }
                other => panic!("{addr:#x}: {other:?}"),
            }
        }
    }

    pub(super) fn check(&mut self) {
        assert_eq!(HELD.get(), 0);
        let stats = self.heap.stats();
        assert_eq!((stats.blocks as usize, stats.in_use_bytes as usize), (self.live.len(), self.in_use));
        let limit: usize = self.claims.iter().map(|claim| claim.end - claim.first).sum();
        assert_eq!(
            (stats.limit_bytes as usize, self.heap.free_bytes() as usize),
            (limit, limit - self.in_use)
        );
        let peak = stats.peak_in_use_bytes as usize;
        assert!(self.peak.0 <= peak && peak <= self.peak.1, "{peak} is not in {:?}", self.peak);
        assert_eq!(stats.failures, self.failures);
        assert_eq!(self.heap.bad_frees(), self.bad_frees);
        let mut counted = 0;
        for span in self.heap.live_spans() {
            let (at, bytes) = (span.addr.as_ptr() as usize, span.bytes as usize);
            let claim =
                self.claims.iter().find(|claim| (claim.first..claim.end).contains(&at)).expect("in a claim");
            assert_eq!(span.offset.0, (at - claim.first) as u64);
            let blocks: Vec<_> = self.live.range(at..at + bytes).collect();
            counted += blocks.len();
            match span.slots {
                None => assert!(blocks.len() == 1 && (*blocks[0].0, blocks[0].1.bytes) == (at, bytes)),
                Some(slots) => {
                    assert!(slots.taken as usize == blocks.len() && slots.taken > 0);
                    for (start, block) in blocks {
                        assert!(block.bytes as u64 == slots.slot_bytes);
                        assert!((start - at).is_multiple_of(block.bytes));
                    }
                }
            }
        }
        assert_eq!(counted, self.live.len());
        let gaps = self.gaps();
        let largest = gaps
            .iter()
            .filter(|gap| !gap.0.slabs || gap.2 - gap.1 >= 1024)
            .map(|gap| gap.2 - gap.1)
            .max()
            .unwrap_or(0);
        assert_eq!(stats.largest_free_bytes as usize, largest, "{gaps:x?}");
        let marks: usize = self.claims.iter().map(|claim| claim.end - claim.first).sum();
        assert!(stats.reserved_bytes as usize <= marks && stats.reserved_bytes as usize >= self.in_use);
        if largest > 0 {
            let layout = Layout::from_size_align(largest, 1).unwrap();
            let at = self.heap.allocate(layout).expect("the largest free block can be had").addr;
            self.in_use += largest;
            self.note_peak(0);
            assert!(!self.live.contains_key(&(at.as_ptr() as usize)));
            // SAFETY: 1. Nobody uses it.
            assert_eq!(unsafe { self.heap.free(at, layout) }, Ok(()));
            self.in_use -= largest;
            assert_eq!(self.heap.stats().largest_free_bytes as usize, largest);
        }
    }
}
