//! Small blocks of a fixed heap: slabs of at most 64 slots.
//!
//! 1. A slab is a live span of the fit table, of exactly the granules that its slots need. It is marked: its size class, its
//!    free slots (one bit each) and its neighbours in the list of its class stand in the slot of its first anchor, which a
//!    live span has no other use for. So slabs have no table.
//! 2. A block's slab holds the anchor next behind it or the one before: the slots of both say where it starts.
//! 3. Sizes are 8 bytes apart, or 16 (`plan.rs`). What is larger than a block of the fit table comes from spans, whose granule is
//!    little then.
//! 4. An empty slab that is alone in its list stays, so that a program that takes one block and gives it back, again and
//!    again, opens no slab for it. Every other list holds no empty slab. Before a request fails, all of them are closed.

#![forbid(unsafe_code)]

use super::plan::{BLOCK_BYTES, Plan, SLAB_GRANULE_SHIFT, Sizes};
use crate::arena::index::fit::Sliced;
use crate::arena::index::fit::marks::{Links, MOST_GRANULES, Seen};
use crate::arena::index::{FitTable, SpanIndex};
use crate::arena::{Borrowed, Metadata, NoTable};
use crate::size::Span;
use core::mem::take;

/// The spans of a fixed heap.
pub(super) type Spans<M = Borrowed<'static>> = FitTable<M, Sliced>;

/// A size class: the first slab that has a free slot (block plus one), `ceil(2^32 / bytes of a slot)`, bytes of a slot, nothing, a
/// bit for each slot of a slab, granules of a slab.
type Cut = [u32; 8];
const FIRST: usize = 0;
const RECIPROCAL: usize = 1;
const BYTES: usize = 2;
const GRANULES: usize = 6;

/// A bit for each slot.
#[inline]
fn all(cut: &Cut) -> u64 {
    cut[4] as u64 | (cut[5] as u64) << 32
}

/// Granules and slots of a slab: of the numbers of slots that make enough granules and not twice as many, the one that wastes the
/// smallest share.
fn slab_of(slot_bytes: u32, least_granules: u32) -> (u32, u32) {
    // Two slots at least; 64 of the smallest are no more than a block.
    let least_granules = least_granules.max(2 * slot_bytes / GRANULE).min(64 * slot_bytes / GRANULE);
    let most_granules = (2 * least_granules).min(MOST_GRANULES);
    let (mut best, mut least) = ((0, 0), u64::MAX);
    for slots in 1..=64 {
        let granules = (slots * slot_bytes).div_ceil(GRANULE);
        let wasted = (granules * GRANULE - slots * slot_bytes) as u64 * 4096 / (granules * GRANULE) as u64;
        if (least_granules..=most_granules).contains(&granules) && wasted < least {
            (best, least) = ((granules, slots), wasted);
        }
    }
    best
}

/// The bytes of a granule.
const GRANULE: u32 = 1 << SLAB_GRANULE_SHIFT;

/// Where a slab starts, in bytes.
#[inline]
fn start_of(block: u32, seen: Seen) -> usize {
    block as usize * BLOCK_BYTES + ((seen.start_in_block() as usize) << SLAB_GRANULE_SHIFT)
}

/// The number of the slot that starts at a byte of a slab. What is left behind the last slot is shorter than a slot
/// (`slab_of` sees to that), so there is one.
///
/// One product tells both the quotient and whether there is a remainder (Lemire, Kaser and Kurz, "Faster remainder by direct
/// computation", 2019).
#[inline]
fn slot_of(cut: &Cut, within: usize) -> Option<u32> {
    let product = within as u64 * cut[RECIPROCAL] as u64;
    ((product as u32) < cut[RECIPROCAL]).then_some((product >> 32) as u32)
}

/// A slab that changes its place: it became full, has a free slot again, or is empty.
#[derive(Clone, Copy)]
pub(super) struct Chore {
    block: u32,
    class: u32,
}

/// Why a slot cannot be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotTaken {
    /// The slot is free already.
    Free,
    /// No slot starts there.
    Inside,
}

/// A slab that was found, and where in it.
#[derive(Clone, Copy)]
pub(super) struct Found {
    block: u32,
    class: usize,
    within: usize,
}

/// The slabs of a range.
pub(super) struct Slabs<M: Metadata = Borrowed<'static>> {
    /// A [`Cut`] for each class; none where there are no slabs.
    cuts: M::Table<Cut>,
    sizes: &'static Sizes,
}

impl<M: Metadata> Slabs<M> {
    /// Slabs in `spans`; none where that has no blocks.
    pub(super) fn new(meta: &mut M, spans: &Spans<M>, plan: Plan) -> Result<Self, NoTable> {
        let mut cuts = meta.table(if spans.has_no_blocks() { 0 } else { plan.sizes.count() })?;
        for (class, row) in cuts.iter_mut().enumerate() {
            let bytes = plan.sizes.slot_bytes(class);
            let (granules, slots) = slab_of(bytes, plan.slab_granules);
            // A quotient without a division, exact for every byte of a slab.
            let reciprocal = (1u64 << 32).div_ceil(bytes as u64) as u32;
            let all = !0u64 >> (64 - slots);
            *row = [0, reciprocal, bytes, 0, all as u32, (all >> 32) as u32, granules, 0];
        }
        Ok(Slabs { cuts, sizes: plan.sizes })
    }

    /// The class that serves bytes of which `last` is the last, if one does.
    #[inline]
    pub(super) fn class(&self, last: usize) -> Option<usize> {
        self.sizes.class(last).filter(|class| *class < self.cuts.len())
    }

    /// The bytes of a slot.
    #[inline]
    pub(super) fn bytes(&self, class: usize) -> usize {
        self.cuts[class][BYTES] as usize
    }

    #[inline]
    fn all(&self, class: usize) -> u64 {
        all(&self.cuts[class])
    }

    /// Takes a slot for bytes of which `last` is the last. Where it starts, in bytes, its length, and what is to be done.
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        spans: &mut Spans<M>,
        last: usize,
    ) -> Option<(usize, usize, Option<Chore>)> {
        let class = self.sizes.class(last)?;
        let cut = self.cuts.get(class)?;
        let block = cut[FIRST].checked_sub(1)?;
        let mut mark = spans.mark_of(block)?;
        let seen = mark.seen();
        let free = seen.bits();
        let left = free & free.wrapping_sub(1);
        mark.set_bits(left);
        let at = start_of(block, seen) + free.trailing_zeros() as usize * cut[BYTES] as usize;
        let chore = (left == 0).then_some(Chore { block, class: class as u32 });
        Some((at, cut[BYTES] as usize, chore))
    }

    /// A slab has no free slot any more: out of the list, in which it is the first.
    pub(super) fn filled(&mut self, spans: &mut Spans<M>, Chore { block, class }: Chore) {
        let next = spans.seen(block).links().next;
        self.cuts[class as usize][FIRST] = next;
        self.set_prev(spans, next, 0);
    }

    /// Opens a slab: takes a span for it. `false`: there is none.
    #[cold]
    #[inline(never)]
    pub(super) fn open(&mut self, spans: &mut Spans<M>, class: usize) -> bool {
        let (bytes, granules) = (self.cuts[class][BYTES], self.cuts[class][GRANULES]);
        let align = (1 << bytes.trailing_zeros()) >> SLAB_GRANULE_SHIFT;
        let Some(span) = spans.take(granules, u32::max(align, 1), &|_| 0) else { return false };
        let block = spans.mark(span, class, self.all(class));
        self.cuts[class][FIRST] = block + 1;
        true
    }

    /// The slab that holds the byte at `at`.
    #[inline]
    pub(super) fn find(&self, spans: &Spans<M>, at: usize) -> Option<Found> {
        if self.cuts.is_empty() {
            return None;
        }
        let (block, start) =
            spans.marked_at((at >> SLAB_GRANULE_SHIFT) as u32, |seen| seen.tag().is_some())?;
        let class = spans.seen(block).tag()?;
        let within = at - ((start as usize) << SLAB_GRANULE_SHIFT);
        Some(Found { block, class, within })
    }

    /// The class of a slab.
    pub(super) fn class_of(&self, found: Found) -> usize {
        found.class
    }

    /// The bit of the slot that starts where it was found.
    #[inline]
    fn bit(&self, found: Found) -> Option<u64> {
        let cut = &self.cuts[found.class];
        slot_of(cut, found.within).map(|slot| 1 << slot)
    }

    /// Whether a taken slot starts there.
    pub(super) fn taken(&self, spans: &Spans<M>, found: Found) -> Result<(), NotTaken> {
        let bit = self.bit(found).ok_or(NotTaken::Inside)?;
        match spans.seen(found.block).bits() & bit {
            0 if self.all(found.class) & bit != 0 => Ok(()),
            0 => Err(NotTaken::Inside),
            _ => Err(NotTaken::Free),
        }
    }

    /// Gives the slot at `at` back that was taken for bytes of which `last` is the last. Its bytes and what is to be done, or
    /// `None` where it cannot be told at a glance that it is such a slot and taken.
    #[inline(always)]
    pub(super) fn give(
        &mut self,
        spans: &mut Spans<M>,
        at: usize,
        last: usize,
    ) -> Option<(usize, Option<Chore>)> {
        let class = self.sizes.class(last)?;
        let cut = self.cuts.get(class)?;
        let (block, start) =
            spans.marked_at((at >> SLAB_GRANULE_SHIFT) as u32, |seen| seen.is_tagged(class))?;
        let bit = 1u64.wrapping_shl(slot_of(cut, at - ((start as usize) << SLAB_GRANULE_SHIFT))?);
        let mut mark = spans.mark_of(block)?;
        let free = mark.seen().bits();
        if free & bit != 0 {
            return None;
        }
        mark.set_bits(free | bit);
        let chore = (free == 0 || free | bit == all(cut)).then_some(Chore { block, class: class as u32 });
        Some((cut[BYTES] as usize, chore))
    }

    /// A slab was full, or is empty now.
    pub(super) fn freed(&mut self, spans: &mut Spans<M>, Chore { block, class }: Chore) {
        let free = spans.seen(block).bits();
        if free.is_power_of_two() {
            self.link(spans, block, class as usize);
        }
        if free == self.all(class as usize) {
            self.emptied(spans, block, class as usize);
        }
    }

    /// A slab that was full has a free slot: it is the first of its list, or the second behind one that lies lower, so that the lowest
    /// fill up and the higher run empty.
    fn link(&mut self, spans: &mut Spans<M>, block: u32, class: usize) {
        let first = self.cuts[class][FIRST];
        let Some(other) = first.checked_sub(1) else {
            self.cuts[class][FIRST] = block + 1;
            spans.known(block).set_links(Links::default());
            return;
        };
        if spans.seen(other).bits() == self.all(class) {
            // It was alone and empty; now there is another.
            self.close(spans, other);
            self.cuts[class][FIRST] = block + 1;
            spans.known(block).set_links(Links::default());
        } else if other < block {
            let links = spans.seen(other).links();
            spans.known(other).set_links(Links { next: block + 1, ..links });
            spans.known(block).set_links(Links { next: links.next, prev: first });
            self.set_prev(spans, links.next, block + 1);
        } else {
            spans.known(block).set_links(Links { next: first, prev: 0 });
            self.set_prev(spans, first, block + 1);
            self.cuts[class][FIRST] = block + 1;
        }
    }

    fn set_prev(&mut self, spans: &mut Spans<M>, link: u32, prev: u32) {
        if let Some(block) = link.checked_sub(1) {
            let mut mark = spans.known(block);
            let links = mark.seen().links();
            mark.set_links(Links { prev, ..links });
        }
    }

    /// The last slot of a slab came back: it is closed, unless it is alone in its list.
    fn emptied(&mut self, spans: &mut Spans<M>, block: u32, class: usize) {
        let Links { next, prev } = spans.seen(block).links();
        if next == 0 && prev == 0 {
            return;
        }
        self.set_prev(spans, next, prev);
        match prev.checked_sub(1) {
            Some(prev) => {
                let links = spans.seen(prev).links();
                spans.known(prev).set_links(Links { next, ..links });
            }
            None => self.cuts[class][FIRST] = next,
        }
        self.close(spans, block);
    }

    fn close(&mut self, spans: &mut Spans<M>, block: u32) {
        let span: Span = spans.unmark(block);
        let given = spans.give(span);
        debug_assert_eq!(given, Ok(()));
    }

    /// Closes the empty slabs that stay. Whether there were any.
    #[cold]
    #[inline(never)]
    pub(super) fn reclaim(&mut self, spans: &mut Spans<M>) -> bool {
        let mut any = false;
        for class in 0..self.cuts.len() {
            let Some(block) = self.cuts[class][FIRST].checked_sub(1) else { continue };
            if spans.seen(block).bits() == self.all(class) {
                take(&mut self.cuts[class][FIRST]);
                self.close(spans, block);
                any = true;
            }
        }
        any
    }

    /// The bytes of a slot and how many are taken of the slab that starts at a granule.
    pub(super) fn slots(&self, spans: &Spans<M>, start: u32) -> Option<(usize, u32)> {
        let found = self.find(spans, (start as usize) << SLAB_GRANULE_SHIFT)?;
        let taken = self.all(found.class) & !spans.seen(found.block).bits();
        Some((self.bytes(found.class), taken.count_ones()))
    }
}
