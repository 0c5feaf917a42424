//! Small blocks of a fixed heap: slabs of at most 64 slots.
//!
//! 1. A slab is a live span of the fit table, of exactly the granules that its slots need. It is marked: its size class, its
//!    free slots (one bit each) and its neighbours in the list of its class stand in the slot of its first anchor, which a
//!    live span has no other use for. So slabs have no table.
//! 2. A block's slab is the last live span that starts before it: a look at three words of bits at most.
//! 3. Sizes are `unit` bytes apart up to 64 units, two units from there to a block of the fit table. What is larger comes from
//!    spans, whose granule is little then.
//! 4. An empty slab that is alone in its list stays, so that a program that takes one block and gives it back, again and
//!    again, opens no slab for it. Every other list holds no empty slab. Before a request fails, all of them are closed.

#![forbid(unsafe_code)]

use super::plan::Plan;
use crate::arena::index::fit::marks::Links;
use crate::arena::index::{FitTable, SpanIndex, Unframed};
use crate::arena::{Borrowed, Metadata, NoTable};
use crate::size::Span;
use core::mem::take;

/// The spans of a fixed heap.
pub(super) type Spans<M = Borrowed<'static>> = FitTable<M, Unframed>;

/// A size class: the first slab that has a free slot (block plus one), `ceil(2^31 / units of a slot)`, bytes of a slot, then
/// granules and slots of a slab.
type Cut = [u32; 4];
const FIRST: usize = 0;
const BYTES: usize = 2;
const SLAB: usize = 3;

/// The classes of sizes up to a block: 64 a unit apart, the rest two units.
const fn classes(plan: Plan) -> usize {
    let units = 1 << (plan.granule_shift + 5 - plan.unit_shift);
    if units <= 64 { units } else { 32 + units / 2 }
}

/// The class of a size of at least one byte.
#[inline]
fn class_of(bytes: usize, unit_shift: u32) -> usize {
    let units = (bytes - 1) >> unit_shift;
    if units < 64 { units } else { 32 + units / 2 }
}

/// The bytes of the slots of a class.
fn slot_bytes(class: usize, plan: Plan) -> u32 {
    let units = if class < 64 { class as u32 + 1 } else { 2 * (class as u32 - 32) + 2 };
    // 64 of the smallest slots make a block.
    (units << plan.unit_shift).max(1 << (plan.granule_shift - 1))
}

/// Granules and slots of a slab: of the numbers of slots that make enough granules and not twice as many, the one that wastes the
/// smallest share.
fn cut(slot_bytes: u32, plan: Plan) -> (u32, u32) {
    let granule = 1u32 << plan.granule_shift;
    let (mut best, mut least) = ((plan.slab_granules.max(1), 1), u64::MAX);
    for slots in 1..=64u32 {
        let granules = (slots * slot_bytes).div_ceil(granule);
        if granules > 2 * plan.slab_granules {
            break;
        }
        let wasted = (granules * granule - slots * slot_bytes) as u64 * 4096 / (granules * granule) as u64;
        if granules >= plan.slab_granules.min(64 * slot_bytes / granule) && wasted < least {
            (best, least) = ((granules, slots), wasted);
        }
    }
    best
}

/// Why a slot cannot be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotTaken {
    /// No slab of that class is there.
    Elsewhere,
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
    cuts: M::Table<Cut>,
    granule_shift: u32,
    unit_shift: u32,
    /// The bytes of the largest slot; 0 where there are no slabs.
    most_bytes: usize,
}

impl<M: Metadata> Slabs<M> {
    /// Slabs in `spans`; none where that has no blocks.
    pub(super) fn new(meta: &mut M, spans: &Spans<M>, plan: Plan) -> Result<Self, NoTable> {
        let none = spans.has_no_blocks();
        let mut cuts = meta.table(if none { 0 } else { classes(plan) })?;
        for (class, row) in cuts.iter_mut().enumerate() {
            let bytes = slot_bytes(class, plan);
            let (granules, slots) = cut(bytes, plan);
            // A quotient without a division, exact for every unit of a slab: there are less than 2^10.
            let reciprocal = (1u32 << 31).div_ceil(bytes >> plan.unit_shift);
            *row = [0, reciprocal, bytes, granules << 8 | slots];
        }
        let most_bytes = if none { 0 } else { 1 << (plan.granule_shift + 5) };
        Ok(Slabs { cuts, granule_shift: plan.granule_shift, unit_shift: plan.unit_shift, most_bytes })
    }

    /// The class that serves `bytes` (a multiple of the alignment), if one does.
    #[inline]
    pub(super) fn class(&self, bytes: usize) -> Option<usize> {
        (bytes.wrapping_sub(1) < self.most_bytes).then(|| class_of(bytes, self.unit_shift))
    }

    /// The bytes of a slot.
    #[inline]
    pub(super) fn bytes(&self, class: usize) -> usize {
        self.cuts[class][BYTES] as usize
    }

    /// All slots of a slab of a class.
    #[inline]
    fn all(&self, class: usize) -> u64 {
        !0 >> (64 - (self.cuts[class][SLAB] & 0xff))
    }

    /// Takes a slot. Where it starts, in bytes, and its length.
    #[inline]
    pub(super) fn take(&mut self, spans: &mut Spans<M>, class: usize) -> Option<(usize, usize)> {
        let cut = &mut self.cuts[class];
        let block = cut[FIRST].checked_sub(1)?;
        let mut mark = spans.mark_of(block);
        let free = mark.seen().bits();
        let left = free & free.wrapping_sub(1);
        mark.set_bits(left);
        if left == 0 {
            // Full: out of the list, in which it is the first.
            let next = mark.seen().links().next;
            cut[FIRST] = next;
            if let Some(next) = next.checked_sub(1) {
                let mut next = spans.mark_of(next);
                let links = next.seen().links();
                next.set_links(Links { prev: 0, ..links });
            }
        }
        let bytes = self.cuts[class][BYTES] as usize;
        let start = (spans.start_of_block(block) as usize) << self.granule_shift;
        Some((start + free.trailing_zeros() as usize * bytes, bytes))
    }

    /// Opens a slab: takes a span for it. `false`: there is none.
    #[cold]
    #[inline(never)]
    pub(super) fn open(&mut self, spans: &mut Spans<M>, class: usize) -> bool {
        let [_, _, bytes, slab] = self.cuts[class];
        let align = (1 << bytes.trailing_zeros()) >> self.granule_shift;
        let Some(span) = spans.take(slab >> 8, u32::max(align, 1), &|_| 0) else { return false };
        let block = spans.mark(span, class as u32, self.all(class));
        self.cuts[class][FIRST] = block + 1;
        true
    }

    /// The slab of a class that holds the byte at `at`.
    #[inline]
    fn find_of(&self, spans: &Spans<M>, at: usize, class: usize) -> Option<Found> {
        let start = spans.live_start_near((at >> self.granule_shift) as u32)?;
        let block = Spans::<M>::block_of(start);
        spans.seen(block).is(class as u32).then(|| Found {
            block,
            class,
            within: at - ((start as usize) << self.granule_shift),
        })
    }

    /// The slab that holds the byte at `at`.
    pub(super) fn find(&self, spans: &Spans<M>, at: usize) -> Option<Found> {
        if self.most_bytes == 0 {
            return None;
        }
        let start = spans.live_start_near((at >> self.granule_shift) as u32)?;
        let block = Spans::<M>::block_of(start);
        let class = spans.seen(block).tag()? as usize;
        let within = at - ((start as usize) << self.granule_shift);
        let granules = self.cuts[class][SLAB] >> 8;
        (within >> self.granule_shift < granules as usize).then_some(Found { block, class, within })
    }

    /// The class of a slab.
    pub(super) fn class_of(&self, found: Found) -> usize {
        found.class
    }

    /// The bit of the slot that starts where it was found.
    #[inline]
    fn bit(&self, found: Found) -> Option<u64> {
        let [_, reciprocal, bytes, slab] = self.cuts[found.class];
        let slot = ((found.within >> self.unit_shift) as u64 * reciprocal as u64) >> 31;
        (slot as usize * bytes as usize == found.within && slot < (slab & 0xff) as u64).then(|| 1 << slot)
    }

    /// Whether a taken slot starts there.
    pub(super) fn taken(&self, spans: &Spans<M>, found: Found) -> Result<(), NotTaken> {
        let bit = self.bit(found).ok_or(NotTaken::Inside)?;
        if spans.seen(found.block).bits() & bit == 0 { Ok(()) } else { Err(NotTaken::Free) }
    }

    /// Gives the slot at `at` of a class back. Its bytes.
    #[inline]
    pub(super) fn give(&mut self, spans: &mut Spans<M>, at: usize, class: usize) -> Result<usize, NotTaken> {
        let found = self.find_of(spans, at, class).ok_or(NotTaken::Elsewhere)?;
        let bit = self.bit(found).ok_or(NotTaken::Inside)?;
        let mut mark = spans.mark_of(found.block);
        let before = mark.seen().bits();
        if before & bit != 0 {
            return Err(NotTaken::Free);
        }
        mark.set_bits(before | bit);
        if before == 0 {
            self.link(spans, found.block, class);
        }
        if before | bit == self.all(class) {
            self.emptied(spans, found.block, class);
        }
        Ok(self.cuts[class][BYTES] as usize)
    }

    /// A slab that was full has a free slot: it is the first of its list, or the second behind one that lies lower, so that the lowest
    /// fill up and the higher run empty.
    #[inline(never)]
    fn link(&mut self, spans: &mut Spans<M>, block: u32, class: usize) {
        let first = self.cuts[class][FIRST];
        let Some(other) = first.checked_sub(1) else {
            self.cuts[class][FIRST] = block + 1;
            spans.mark_of(block).set_links(Links::default());
            return;
        };
        if spans.seen(other).bits() == self.all(class) {
            // It was alone and empty; now there is another.
            self.close(spans, other);
            self.cuts[class][FIRST] = block + 1;
            spans.mark_of(block).set_links(Links::default());
        } else if other < block {
            let links = spans.seen(other).links();
            spans.mark_of(other).set_links(Links { next: block + 1, ..links });
            spans.mark_of(block).set_links(Links { next: links.next, prev: first });
            self.set_prev(spans, links.next, block + 1);
        } else {
            spans.mark_of(block).set_links(Links { next: first, prev: 0 });
            self.set_prev(spans, first, block + 1);
            self.cuts[class][FIRST] = block + 1;
        }
    }

    fn set_prev(&mut self, spans: &mut Spans<M>, link: u32, prev: u32) {
        if let Some(block) = link.checked_sub(1) {
            let mut mark = spans.mark_of(block);
            let links = mark.seen().links();
            mark.set_links(Links { prev, ..links });
        }
    }

    /// The last slot of a slab came back: it is closed, unless it is alone in its list.
    #[inline(never)]
    fn emptied(&mut self, spans: &mut Spans<M>, block: u32, class: usize) {
        let Links { next, prev } = spans.seen(block).links();
        if next == 0 && prev == 0 {
            return;
        }
        self.set_prev(spans, next, prev);
        match prev.checked_sub(1) {
            Some(prev) => {
                let links = spans.seen(prev).links();
                spans.mark_of(prev).set_links(Links { next, ..links });
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
        let found = self.find(spans, (start as usize) << self.granule_shift)?;
        let taken = self.all(found.class) & !spans.seen(found.block).bits();
        Some((self.bytes(found.class), taken.count_ones()))
    }
}
