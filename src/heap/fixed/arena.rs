//! One range of a fixed heap, divided: large blocks are spans, small ones slots of slabs.
//!
//! It does what [`crate::arena::Arena`] does for any space, where nothing is ever committed, moved or granted: the paths of a small
//! block are a screen long, and nothing is counted here.

#![forbid(unsafe_code)]

mod lists;

use super::COPIES;
use super::origin::Origin;
use super::plan::{Plan, SLAB_GRANULE_SHIFT};
use super::runs::Runs;
use super::runs::shadow::{LEAST, LOWEST};
use super::slabs::{Chore, Given, Seen, Slabs};
use crate::arena::{Borrowed, LiveSlots, LiveSpan};
use crate::error::BadFree;
use crate::size::Offset;
use crate::space::MAX_ALIGN;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// What is to be done with a block that is to have another size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resized {
    /// It has that size now, where it stands; so many bytes were had, so many are.
    Done {
        /// The bytes it could use before.
        had: usize,
        /// The bytes it can use now.
        has: usize,
    },
    /// It stays as it is: another block serves better, or nothing else does.
    Move,
}

/// A range, divided.
pub(super) struct FixedArena<const SLABS: bool> {
    origin: Origin,
    granule_shift: u32,
    /// The bytes of a granule: where code is dear these are a factor.
    granule_bytes: u32,
    /// Slots were taken that are too large by up to a sixteenth, where memory was scarce: from then on they may be given back so.
    loose: bool,
    /// The class that may keep an empty slab, where only one may.
    kept: u8,
    pub(super) runs: Runs<SLABS>,
    pub(super) slabs: Slabs<SLABS>,
}

impl<const SLABS: bool> FixedArena<SLABS> {
    /// An arena without memory.
    pub(super) const fn none() -> Self {
        FixedArena {
            origin: Origin::none(),
            granule_shift: 0,
            granule_bytes: 0,
            loose: false,
            kept: 0,
            runs: Runs::none(),
            slabs: Slabs::none(),
        }
    }

    /// Divides so many granules, counted as `plan` says, with their tables from `meta`: an arena that had no memory. `None`: the tables
    /// find no room, and it has none.
    #[inline]
    pub(super) fn divide(
        &mut self,
        range: &'static mut [MaybeUninit<u8>],
        granules: u32,
        plan: Plan,
        mut meta: Borrowed<'static>,
    ) -> Option<()> {
        let Plan { granule_shift, flat, asides, .. } = plan;
        let skew = ((range.as_ptr() as usize % MAX_ALIGN) >> granule_shift) as u32;
        let origin = Origin::before(range, (LOWEST as usize) << granule_shift);
        self.origin = origin;
        self.granule_shift = granule_shift;
        self.granule_bytes = 1 << granule_shift;
        if SLABS {
            self.slabs = Slabs::new(&mut meta, plan)?;
        }
        self.runs.open(&mut meta, granules, skew, flat, asides)
    }

    /// The bytes of tables for so many granules.
    pub(super) const fn table_bytes(granules: u32, plan: Plan) -> usize {
        Runs::<SLABS>::table_bytes(granules, plan.flat, plan.asides) + Slabs::<SLABS>::table_bytes(plan)
    }

    /// Whether an address lies in the range, and where: so many bytes behind the origin.
    #[inline]
    pub(super) fn offset(&self, at: *mut u8) -> Option<usize> {
        let at = self.origin.distance(at);
        let granule = (at >> self.granule_shift).wrapping_sub(LOWEST as usize);
        (granule < self.runs.granules() as usize).then_some(at)
    }

    /// The bytes between the origin and the range.
    #[inline]
    fn lead(&self) -> usize {
        self.bytes_of(LOWEST)
    }

    #[inline]
    fn bytes_of(&self, granules: u32) -> usize {
        if COPIES {
            (granules as usize) << self.granule_shift
        } else {
            granules as usize * self.granule_bytes as usize
        }
    }

    /// All bytes that blocks can have.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes_of(self.runs.granules())
    }

    /// Bytes up to the end of the highest span that there ever was.
    pub(super) fn high_water_bytes(&self) -> usize {
        self.bytes_of(self.runs.high_water())
    }

    /// The class of a layout, if slots serve it.
    #[inline(always)]
    pub(super) fn class_of(&self, layout: Layout) -> Option<usize> {
        if SLABS { self.slabs.class(last(layout)) } else { None }
    }

    /// A slot of a class, if one is at hand. Where it starts, and its bytes.
    #[inline(always)]
    pub(super) fn take_near_slot(&mut self, class: usize) -> Option<(*mut u8, usize)> {
        let (at, bytes) = self.slabs.take_in(&mut self.runs, class)?;
        Some((self.origin.pointer(at), bytes))
    }

    /// A slot of a class of which none is at hand, if a slab has one. Where it starts, and its bytes.
    #[inline(always)]
    pub(super) fn take_far_slot(&mut self, class: usize) -> Option<(*mut u8, usize)> {
        let (at, bytes) = self.take_turn(class)?;
        Some((self.origin.pointer(at), bytes))
    }

    /// Gives a slot of a class back, if it is at a glance what it should be.
    #[inline(always)]
    pub(super) fn give_near_slot(&mut self, at: usize, class: usize) -> Option<Given<'_, SLABS>> {
        self.slabs.give(&mut self.runs, at, class)
    }

    /// How far an address lies behind the origin; more than any that is the range's where it lies before.
    #[inline(always)]
    pub(super) fn distance(&self, at: *mut u8) -> usize {
        self.origin.distance(at)
    }

    /// The address of a distance.
    #[inline(always)]
    pub(super) fn pointer(&self, at: usize) -> *mut u8 {
        self.origin.pointer(at)
    }

    /// A block for a layout, if one is at hand: a slot where it has a class, else a span that was set aside.
    #[inline(always)]
    pub(super) fn take_at_hand(&mut self, layout: Layout) -> Option<(*mut u8, usize)> {
        match self.class_of(layout) {
            Some(class) => self.take_near_slot(class),
            None => self.take_aside(layout),
        }
    }

    /// A span for a layout without a class that was set aside, if one was. Where it starts, and its bytes. (What has a class waits for
    /// its slabs: a span would leave their slots to nobody.)
    #[inline(always)]
    pub(super) fn take_aside(&mut self, layout: Layout) -> Option<(*mut u8, usize)> {
        if layout.align() > GRANULE {
            return None;
        }
        let start = self.runs.take_aside(aside_length(layout.size()))? as usize;
        Some((self.origin.pointer(start << SLAB_GRANULE_SHIFT), layout.size().next_multiple_of(GRANULE)))
    }

    /// Sets a span aside, if it is at a glance what it should be. Its bytes.
    #[inline(always)]
    pub(super) fn set_aside(&mut self, at: *mut u8, bytes: usize) -> Option<usize> {
        let at = self.origin.distance(at);
        let is_aside =
            at.is_multiple_of(GRANULE) && self.runs.set_aside(at >> SLAB_GRANULE_SHIFT, aside_length(bytes));
        is_aside.then_some(bytes.next_multiple_of(GRANULE))
    }

    /// A span for a layout, if that is what it takes and one is found at once.
    #[inline(always)]
    pub(super) fn take_span(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        if self.class_of(layout).is_some() || layout.align() > GRANULE {
            return None;
        }
        let granules = plain_granules(layout);
        let start = self.runs.take_plainly(granules)? as usize;
        Some((self.origin.addr(start << SLAB_GRANULE_SHIFT)?, granules << SLAB_GRANULE_SHIFT))
    }

    /// A block for a layout that is not at hand. Where it starts, and its bytes.
    #[inline(never)]
    pub(super) fn take_else(&mut self, layout: Layout) -> Option<(*mut u8, usize)> {
        let (at, bytes) = self.take_span(layout).or_else(|| self.allocate(layout))?;
        Some((at.as_ptr(), bytes))
    }

    /// Gives a span back, if it is at a glance what it should be. Its bytes.
    #[inline(always)]
    pub(super) fn give_span(&mut self, at: *mut u8, layout: Layout) -> Option<usize> {
        let (at, granules) = (self.origin.distance(at), plain_granules(layout));
        let start = at >> SLAB_GRANULE_SHIFT;
        let is_live = at.is_multiple_of(GRANULE) && self.runs.give_plainly(start, granules);
        is_live.then_some(granules << SLAB_GRANULE_SHIFT)
    }

    /// The slot that a block is in, if it can be told at a glance that it is live and of the class of its layout.
    #[inline(always)]
    pub(super) fn look(&self, at: *mut u8, layout: Layout) -> Option<Seen> {
        self.slabs.look(&self.runs, self.origin.distance(at), self.class_of(layout)?)
    }

    /// Whether a slot serves for a layout.
    #[inline(always)]
    pub(super) fn serves(&self, slot: Seen, layout: Layout) -> bool {
        self.class_of(layout) == Some(slot.class)
    }

    /// Gives a slot back that was looked at.
    #[inline(always)]
    pub(super) fn give_seen(&mut self, slot: Seen) -> Given<'_, SLABS> {
        self.slabs.give_seen(&mut self.runs, slot)
    }

    /// A block for a layout, and the bytes that it can use.
    #[inline]
    pub(super) fn allocate(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        if let Some(class) = self.class_of(layout) {
            // A slot, if need be of a new slab; if there can be none, a span.
            loop {
                let slot = self.take_slot(class).or_else(|| self.take_larger(class, layout));
                if let Some((at, bytes)) = slot {
                    return Some((self.origin.addr(at)?, bytes));
                }
                if !(self.open(class) || self.settle()) {
                    break;
                }
            }
        }
        self.allocate_span(layout)
    }

    /// The granules of a span for so many bytes; too many where the range has less.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn granules_for(&self, bytes: usize) -> u32 {
        let granules = (bytes.saturating_sub(1) >> self.granule_shift) + 1;
        u32::try_from(granules).unwrap_or(u32::MAX).max(self.runs.least())
    }

    #[inline]
    fn allocate_span(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        let granules = self.granules_for(layout.size());
        if layout.align() > MAX_ALIGN {
            return None;
        }
        let align = (layout.align() >> self.granule_shift).max(1) as u32;
        let start = loop {
            match self.runs.take(granules, align) {
                Some(start) => break start,
                None if self.settle() => {}
                None => return None,
            }
        };
        Some((self.origin.addr(self.bytes_of(start))?, self.bytes_of(granules)))
    }

    /// Gives the block at `at` back. The bytes it could use.
    /// `None`: [`why`](Self::why) says what is wrong with it, here as below.
    #[inline]
    pub(super) fn free(&mut self, at: usize, layout: Layout) -> Option<usize> {
        if COPIES
            && let Some(class) = self.class_of(layout)
            && let Some(given) = self.slabs.give_any(&mut self.runs, at, class)
        {
            let (bytes, chore) = (given.bytes(), given.chore());
            self.freed_if(chore);
            return Some(bytes);
        }
        if !SLABS {
            let (start, granules) = self.span_of(at, layout)?;
            self.runs.free(start, granules);
            return Some(self.bytes_of(granules));
        }
        let held = self.held(at);
        self.is_for(&held, layout).then(|| self.free_held(&held))
    }

    /// Does what a slot that was given back has left to do, if there is anything.
    #[inline]
    fn freed_if(&mut self, chore: Chore) {
        if chore != 0 {
            self.freed(chore);
        }
    }

    /// Gives a live block back, whatever it was taken for.
    fn free_held(&mut self, held: &Held) -> usize {
        match held.what {
            What::Slot(slot) if SLABS => {
                let chore = self.slabs.give_seen(&mut self.runs, slot).chore();
                self.freed_if(chore);
            }
            What::Span { start, granules } => self.runs.free(start, granules),
            _ => {}
        }
        held.bytes
    }

    /// Whether a live block was taken for a layout, or left to it.
    fn is_for(&self, held: &Held, layout: Layout) -> bool {
        match held.what {
            What::Slot(slot) if SLABS => {
                let given = self.class_of(layout);
                given == Some(slot.class)
                    || (COPIES
                        && self.loose
                        && given.is_some_and(|given| self.is_loose_fit(given, slot.class)))
                    || (self.slabs.has_stayed(&self.runs, slot) && layout.size() <= held.bytes)
            }
            What::Span { granules, .. } => granules == self.granules_for(layout.size()),
            _ => false,
        }
    }

    /// The live block that starts at `at`, or what there is instead.
    fn held(&self, at: usize) -> Held {
        let granule = (at >> self.granule_shift) as u32;
        if !SLABS {
            return self.held_flat(at, granule);
        }
        // It lies in what starts last before it, or in nothing.
        let Some(start) = self.runs.start_of(granule as usize) else {
            return Held { bytes: 0, what: What::Free };
        };
        let (bytes, what, end);
        if SLABS && let Some(slab) = self.slabs.find(&self.runs, start) {
            bytes = slab.bytes();
            what = match slab.slot(at) {
                Some(slot) if self.slabs.is_free(&self.runs, slot) => What::Free,
                Some(slot) => What::Slot(slot),
                None => What::Inside,
            };
            end = slab.end();
        } else {
            let granules = self.runs.live(start).unwrap_or(0);
            bytes = self.bytes_of(granules);
            what = if self.bytes_of(start) == at { What::Span { start, granules } } else { What::Inside };
            end = start + granules;
        }
        Held { bytes, what: if granule >= end { What::Free } else { what } }
    }

    /// The same, without a search, in a heap without slabs.
    fn held_flat(&self, at: usize, granule: u32) -> Held {
        let (end, is_free) = self.runs.end_flat(granule);
        let granules = end - granule;
        let what = if is_free {
            What::Free
        } else if self.runs.is_start(granule) && self.bytes_of(granule) == at {
            What::Span { start: granule, granules }
        } else {
            What::Inside
        };
        Held { bytes: self.bytes_of(granules), what }
    }

    /// Why what starts at `at` was refused, to be given back with so many bytes.
    pub(super) fn why(&self, at: usize, given_bytes: usize) -> BadFree {
        let (offset_bytes, given_bytes) = ((at - self.lead()) as u64, given_bytes as u64);
        let held = self.held(at);
        match held.what {
            What::Free => BadFree::AlreadyFree { offset_bytes },
            What::Inside => BadFree::Interior { offset_bytes },
            _ => BadFree::WrongSize { offset_bytes, held_bytes: held.bytes as u64, given_bytes },
        }
    }

    /// The bytes that the live block at `at` can use.
    pub(super) fn usable_bytes(&self, at: usize) -> Option<usize> {
        let held = self.held(at);
        held.is_live().then_some(held.bytes)
    }

    /// Gives the block at `at` back, whatever its size. The bytes it could use.
    pub(super) fn free_unsized(&mut self, at: usize) -> Option<usize> {
        let held = self.held(at);
        held.is_live().then(|| self.free_held(&held))
    }

    /// Makes the block at `at`, allocated with `old`, one of `new_bytes` where it stands, if that can be done; if it
    /// `may_move`, also only if no other block serves better.
    #[inline]
    pub(super) fn resize(
        &mut self,
        at: usize,
        old: Layout,
        new_bytes: usize,
        may_move: bool,
    ) -> Option<Resized> {
        let new_last = new_bytes.wrapping_sub(1) | (old.align() - 1);
        let new_class = if SLABS { self.slabs.class(new_last) } else { None };
        let span = if COPIES || !SLABS { self.span_of(at, old) } else { None };
        let (start, granules) = match span {
            Some(span) => span,
            None if !SLABS => return None,
            None => {
                let held = self.held(at);
                if !self.is_for(&held, old) {
                    return None;
                }
                match held.what {
                    // A slot stays what it is.
                    What::Slot(slot) if SLABS && new_class == Some(slot.class) => {
                        return Some(Resized::Done { had: held.bytes, has: held.bytes });
                    }
                    What::Slot(_) => return Some(Resized::Move),
                    What::Span { start, granules } => (start, granules),
                    What::Free | What::Inside => return None,
                }
            }
        };
        let wants = self.granules_for(new_bytes);
        if self.runs.is_flat() {
            if !self.runs.resize_flat(start, granules, wants, may_move) {
                return Some(Resized::Move);
            }
        } else {
            if wants > self.runs.granules()
                || (may_move && self.is_better_elsewhere(start, granules, wants, new_class))
                || (wants > granules && !self.runs.extend(start, granules, wants))
            {
                return Some(Resized::Move);
            }
            if wants < granules {
                self.runs.cut(start, granules, wants);
            }
        }
        Some(Resized::Done { had: self.bytes_of(granules), has: self.bytes_of(wants) })
    }

    /// The live span that starts at `at` and was taken for a layout, if there is one: its first granule, and how many it has.
    #[inline]
    fn span_of(&self, at: usize, layout: Layout) -> Option<(u32, u32)> {
        let (start, granules) = self.span_or_none(at, layout);
        (granules != 0).then_some((start, granules))
    }

    /// The same; of none there are 0 granules. Two numbers, not an option: they come back in registers.
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn span_or_none(&self, at: usize, layout: Layout) -> (u32, u32) {
        let (start, granules) = ((at >> self.granule_shift) as u32, self.granules_for(layout.size()));
        let is_live = self.bytes_of(start) == at && self.runs.live(start) == Some(granules);
        (start, if is_live { granules } else { 0 })
    }

    /// Whether a span should leave its place for its new length: for a slot, where half of the shortest span would be wasted; or, when
    /// free memory lies in short runs, for one that it fills better than what it would leave behind.
    fn is_better_elsewhere(&self, start: u32, granules: u32, wants: u32, new_class: Option<usize>) -> bool {
        if let Some(class) = new_class {
            return self.slabs.bytes(class) << 1 <= self.bytes_of(self.runs.least());
        }
        if wants == granules || !self.runs.is_tight() {
            return false;
        }
        let left = (granules + self.runs.free_at(start + granules)).saturating_sub(wants);
        self.runs.would_cut(wants).is_some_and(|found| found - wants < left)
    }

    /// Whether a slot of a class may be taken for a block of a smaller one: it is larger by a sixteenth at most.
    pub(super) fn is_loose_fit(&self, class: usize, larger: usize) -> bool {
        let bytes = self.slabs.bytes(class);
        class < larger && self.slabs.bytes(larger) <= bytes + bytes / 16
    }

    /// The slot at `at` is too large for its block of so many bytes, and stays with it all the same: from then on those of its slab may be
    /// given back with less than they hold. Whether it is a slot, and large enough.
    pub(super) fn stay(&mut self, at: usize, bytes: usize) -> bool {
        let held = self.held(at);
        if let What::Slot(slot) = held.what
            && bytes <= held.bytes
        {
            self.slabs.let_stay(&mut self.runs, slot);
            return true;
        }
        false
    }

    /// Makes free what is kept for requests to come. Whether there was anything.
    pub(super) fn settle(&mut self) -> bool {
        self.reclaim() | self.runs.give_asides()
    }

    /// The bytes of the longest free run that a block can have.
    pub(super) fn largest_free_bytes(&self) -> usize {
        self.bytes_of(self.runs.longest())
    }

    /// The first live span at or behind the byte `from` of the range that holds anything.
    pub(super) fn live_span(&self, from: usize) -> Option<LiveSpan<NonNull<u8>>> {
        let mut from = LOWEST + u32::try_from(from.div_ceil(1 << self.granule_shift)).ok()?;
        loop {
            let start = self.runs.next_live(from)?;
            let at = self.bytes_of(start);
            let slab = self.slabs.find(&self.runs, start);
            let slab = slab.map(|slab| (slab, slab.count(&self.runs)));
            from = match slab {
                Some((slab, _)) => slab.end(),
                None => start + self.runs.live(start)?,
            };
            if slab.is_some_and(|(_, taken)| taken == 0) {
                continue;
            }
            return Some(LiveSpan {
                addr: self.origin.addr(at)?,
                offset: Offset((at - self.lead()) as u64),
                bytes: self.bytes_of(from - start) as u64,
                slots: slab.map(|(slab, taken)| LiveSlots { slot_bytes: slab.bytes() as u64, taken }),
            });
        }
    }
}

/// The bytes of a granule of a range that is not flat.
const GRANULE: usize = 1 << SLAB_GRANULE_SHIFT;

/// The granules of a span for so many bytes beyond those of the shortest; more than is ever set aside where they are less.
#[inline(always)]
fn aside_length(bytes: usize) -> usize {
    bytes.wrapping_sub((LEAST as usize - 1) * GRANULE + 1) >> SLAB_GRANULE_SHIFT
}

/// The granules of a span for a layout, in a range that is not flat.
#[inline(always)]
fn plain_granules(layout: Layout) -> usize {
    layout.size().div_ceil(1 << SLAB_GRANULE_SHIFT).max(LEAST as usize)
}

/// What a layout's class is told by: the last byte of its size, rounded up to its alignment. More than any other for no bytes.
#[inline]
fn last(layout: Layout) -> usize {
    layout.size().wrapping_sub(1) | (layout.align() - 1)
}

/// What starts at a byte, and the bytes that it can use.
struct Held {
    bytes: usize,
    what: What,
}

enum What {
    /// A live block: a slot.
    Slot(Seen),
    /// A live block: a span.
    Span { start: u32, granules: u32 },
    /// Nothing: it is free memory, or a free slot.
    Free,
    /// Nothing: it lies inside a live block.
    Inside,
}

impl Held {
    fn is_live(&self) -> bool {
        matches!(self.what, What::Slot(_) | What::Span { .. })
    }
}

#[cfg(all(test, feature = "std"))]
mod tests;
