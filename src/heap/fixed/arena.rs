//! One range of a fixed heap, divided: large blocks are spans of the fit table, small ones slots of slabs.
//!
//! It does what [`crate::arena::Arena`] does for any space, where nothing is ever committed, moved or granted: the paths of a small
//! block are a screen long, and nothing is counted here.

#![forbid(unsafe_code)]

use super::plan::Plan;
use super::slabs::{Chore, Found, NotTaken, Slabs, Spans};
use crate::arena::index::NotLive;
use crate::arena::{Borrowed, LiveSlots, LiveSpan, NoArena, Sizing, SpanIndex};
use crate::error::BadFree;
use crate::size::{Granule, Offset, Span};
use crate::space::{Fixed, Space};
use core::alloc::Layout;
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
pub(super) struct FixedArena {
    space: Fixed<'static>,
    granule_shift: u32,
    granules: u32,
    /// Granules of the shortest span: a block of the fit table, where there are slabs for what is shorter.
    least: u32,
    /// A slot was left to a block that became too small for it, since there was no other: from then on a slot may be given back
    /// with less than it was taken for.
    loose: bool,
    spans: Spans,
    slabs: Slabs,
}

impl FixedArena {
    /// Divides `space`, which is counted as `plan` says, with its tables from `meta`.
    pub(super) fn new(
        space: Fixed<'static>,
        plan: Plan,
        mut meta: Borrowed<'static>,
    ) -> Result<Self, NoArena> {
        let granules = (space.len_bytes() >> plan.granule_shift) as u32;
        let skew = (space.alignment().skew_bytes >> plan.granule_shift) as u32;
        let spans = Spans::with_blocks_unless(plan.flat, &mut meta, granules, skew)?;
        let slabs = Slabs::new(&mut meta, &spans, plan)?;
        let least = if spans.has_no_blocks() { 1 } else { Spans::<Borrowed>::BLOCK };
        Ok(FixedArena {
            space,
            granule_shift: plan.granule_shift,
            granules,
            least,
            loose: false,
            spans,
            slabs,
        })
    }

    /// The bytes of tables for so many granules.
    pub(super) fn metadata_bytes(granules: u32, plan: Plan) -> u64 {
        let mut sizing = Sizing::default();
        if let Ok(spans) = Spans::<Sizing>::with_blocks_unless(plan.flat, &mut sizing, granules, 0) {
            let slabs = Slabs::<Sizing>::new(&mut sizing, &spans, plan);
            debug_assert!(slabs.is_ok(), "counting cannot fail");
        }
        sizing.bytes()
    }

    /// Whether an address lies in the range, and where.
    #[inline]
    pub(super) fn offset(&self, at: NonNull<u8>) -> Option<usize> {
        self.space.offset(at).map(|at| at.0 as usize)
    }

    /// All bytes that blocks can have.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        (self.granules as usize) << self.granule_shift
    }

    /// Bytes up to the end of the highest span that there ever was.
    pub(super) fn high_water_bytes(&self) -> usize {
        (self.spans.high_water() as usize) << self.granule_shift
    }

    /// A slot for a layout, if there is one at hand. Where it starts, its bytes, and what is to be done.
    #[inline(always)]
    pub(super) fn take_slot(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize, Option<Chore>)> {
        let (at, bytes, chore) = self.slabs.take(&mut self.spans, last(layout))?;
        Some((self.space.find_addr(at)?, bytes, chore))
    }

    /// Gives a slot back, if it is at a glance what it should be. Its bytes, and what is to be done.
    #[inline(always)]
    pub(super) fn give_slot(&mut self, at: NonNull<u8>, layout: Layout) -> Option<(usize, Option<Chore>)> {
        let at = self.offset(at)?;
        self.slabs.give(&mut self.spans, at, last(layout))
    }

    /// Does what a slot that was taken has left to do.
    pub(super) fn filled(&mut self, chore: Chore) {
        self.slabs.filled(&mut self.spans, chore);
    }

    /// Does what a slot that was given back has left to do.
    pub(super) fn freed(&mut self, chore: Chore) {
        self.slabs.freed(&mut self.spans, chore);
    }

    /// A block for a layout, and the bytes that it can use.
    pub(super) fn allocate(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        let (at, bytes) = match self.class(layout) {
            Some(class) => match self.take_whole_slot(layout) {
                Some(slot) => slot,
                None => self.allocate_from_new_slab(class, layout)?,
            },
            None => self.allocate_span(layout)?,
        };
        Some((self.space.addr(Offset(at as u64)), bytes))
    }

    fn take_whole_slot(&mut self, layout: Layout) -> Option<(usize, usize)> {
        let (at, bytes, chore) = self.slabs.take(&mut self.spans, last(layout))?;
        if let Some(chore) = chore {
            self.filled(chore);
        }
        Some((at, bytes))
    }

    fn give_whole_slot(&mut self, at: usize, last: usize) -> Option<usize> {
        let (bytes, chore) = self.slabs.give(&mut self.spans, at, last)?;
        if let Some(chore) = chore {
            self.freed(chore);
        }
        Some(bytes)
    }

    #[inline]
    fn class(&self, layout: Layout) -> Option<usize> {
        self.slabs.class(last(layout))
    }

    #[cold]
    #[inline(never)]
    fn allocate_from_new_slab(&mut self, class: usize, layout: Layout) -> Option<(usize, usize)> {
        let opened = self.slabs.open(&mut self.spans, class)
            || (self.slabs.reclaim(&mut self.spans) && self.slabs.open(&mut self.spans, class));
        if opened { self.take_whole_slot(layout) } else { self.allocate_span(layout) }
    }

    /// The granules of a span for so many bytes; too many where the range has less.
    #[inline]
    fn granules_for(&self, bytes: usize) -> u32 {
        let granules = bytes.div_ceil(1 << self.granule_shift);
        if granules > self.granules as usize { u32::MAX } else { (granules as u32).max(self.least) }
    }

    #[inline]
    fn allocate_span(&mut self, layout: Layout) -> Option<(usize, usize)> {
        let granules = self.granules_for(layout.size());
        if layout.align() as u64 > self.space.alignment().max_bytes {
            return None;
        }
        let align = (layout.align() >> self.granule_shift).max(1) as u32;
        let span = match self.spans.take(granules, align, &|_| 0) {
            Some(span) => span,
            None => self.take_reclaimed(granules, align)?,
        };
        Some(((span.start.0 as usize) << self.granule_shift, (span.granules as usize) << self.granule_shift))
    }

    #[cold]
    #[inline(never)]
    fn take_reclaimed(&mut self, granules: u32, align: u32) -> Option<Span> {
        if granules > self.granules || !self.slabs.reclaim(&mut self.spans) {
            return None;
        }
        self.spans.take(granules, align, &|_| 0)
    }

    /// Gives the block at `at` back. The bytes it could use.
    pub(super) fn free(&mut self, at: usize, layout: Layout) -> Result<usize, BadFree> {
        match self.give_whole_slot(at, last(layout)) {
            Some(bytes) => Ok(bytes),
            None => self.free_span(at, layout),
        }
    }

    fn free_span(&mut self, at: usize, layout: Layout) -> Result<usize, BadFree> {
        let granules = self.granules_for(layout.size());
        let start = (at >> self.granule_shift) as u32;
        let aligned = (start as usize) << self.granule_shift == at;
        if aligned && !self.is_marked(start) && self.spans.give(Span::new(start, granules)).is_ok() {
            return Ok((granules as usize) << self.granule_shift);
        }
        self.free_otherwise(at, layout)
    }

    /// Whether a slab starts at a granule.
    #[inline]
    fn is_marked(&self, start: u32) -> bool {
        self.least > 1 && self.spans.is_marked(start)
    }

    /// Whether a layout is one for which a slot of `class` may have been left: without bytes, or of a smaller class.
    fn is_smaller(&self, layout: Layout, class: usize) -> bool {
        layout.size() == 0 || self.class(layout).is_some_and(|given| given < class)
    }

    /// A block that is not live as it was given, or a slot that was left to a smaller one.
    #[cold]
    #[inline(never)]
    fn free_otherwise(&mut self, at: usize, layout: Layout) -> Result<usize, BadFree> {
        let held = self.held(at)?;
        if let (true, Held::Slot(found)) = (self.loose, held) {
            let class = self.slabs.class_of(found);
            if self.is_smaller(layout, class) {
                return self.give_found(at, class);
            }
        }
        Err(self.wrong_size(at, held, layout.size()))
    }

    /// Gives a taken slot back, whatever it was taken for.
    fn give_found(&mut self, at: usize, class: usize) -> Result<usize, BadFree> {
        let bytes = self.slabs.bytes(class);
        let given = self.give_whole_slot(at, bytes - 1);
        given.ok_or(BadFree::AlreadyFree { offset_bytes: at as u64 })
    }

    fn wrong_size(&self, at: usize, held: Held, given: usize) -> BadFree {
        let held_bytes = self.held_bytes(held) as u64;
        BadFree::WrongSize { offset_bytes: at as u64, held_bytes, given_bytes: given as u64 }
    }

    /// The live block that starts at `at`.
    fn held(&self, at: usize) -> Result<Held, BadFree> {
        if let Some(found) = self.slabs.find(&self.spans, at) {
            return match self.slabs.taken(&self.spans, found) {
                Ok(()) => Ok(Held::Slot(found)),
                Err(why) => Err(refused(at, why)),
            };
        }
        let offset_bytes = at as u64;
        let start = (at >> self.granule_shift) as u32;
        let aligned = (start as usize) << self.granule_shift == at;
        match self.spans.live(Granule(start)) {
            Ok(span) if aligned => Ok(Held::Span(span)),
            Ok(_) | Err(NotLive::Inside | NotLive::OtherLength(_)) => Err(BadFree::Interior { offset_bytes }),
            Err(NotLive::Free) => Err(BadFree::AlreadyFree { offset_bytes }),
            Err(NotLive::Outside) => Err(BadFree::Foreign),
        }
    }

    fn held_bytes(&self, held: Held) -> usize {
        match held {
            Held::Slot(found) => self.slabs.bytes(self.slabs.class_of(found)),
            Held::Span(span) => (span.granules as usize) << self.granule_shift,
        }
    }

    /// The bytes that the live block at `at` can use.
    pub(super) fn usable_bytes(&self, at: usize) -> Result<usize, BadFree> {
        self.held(at).map(|held| self.held_bytes(held))
    }

    /// Gives the block at `at` back, whatever its size. The bytes it could use.
    pub(super) fn free_unsized(&mut self, at: usize) -> Result<usize, BadFree> {
        match self.held(at)? {
            Held::Slot(found) => {
                let class = self.slabs.class_of(found);
                self.give_found(at, class)
            }
            Held::Span(span) => match self.spans.give(span) {
                Ok(()) => Ok((span.granules as usize) << self.granule_shift),
                Err(_) => Err(BadFree::AlreadyFree { offset_bytes: at as u64 }),
            },
        }
    }

    /// Makes the block at `at`, allocated with `old`, one of `new_bytes` where it stands, if that can be done; if it
    /// `may_move`, also only if no other block serves better.
    pub(super) fn resize(
        &mut self,
        at: usize,
        old: Layout,
        new_bytes: usize,
        may_move: bool,
    ) -> Result<Resized, BadFree> {
        let held = self.held(at)?;
        let had = self.held_bytes(held);
        let new_class = Layout::from_size_align(new_bytes, old.align()).ok().and_then(|new| self.class(new));
        let span = match held {
            Held::Slot(found) => {
                let class = self.slabs.class_of(found);
                if self.class(old) != Some(class) && !(self.loose && self.is_smaller(old, class)) {
                    return Err(self.wrong_size(at, held, old.size()));
                }
                let stays = new_class == Some(class);
                return Ok(if stays { Resized::Done { had, has: had } } else { Resized::Move });
            }
            Held::Span(span) if span.granules == self.granules_for(old.size()) => span,
            Held::Span(_) => return Err(self.wrong_size(at, held, old.size())),
        };
        let wants = self.granules_for(new_bytes);
        if may_move && self.is_better_elsewhere(span, wants, new_class) {
            return Ok(Resized::Move);
        }
        let done = match wants {
            _ if wants < span.granules => self.spans.cut(span, wants).is_ok(),
            u32::MAX => false,
            _ => wants == span.granules || self.spans.extend(span, wants),
        };
        let has = (wants as usize) << self.granule_shift;
        Ok(if done { Resized::Done { had, has } } else { Resized::Move })
    }

    /// Whether a span should leave its place for its new length: for a slot, where half a block would be wasted; or, when free memory
    /// lies in short runs, for one that it fills better than what it would leave behind.
    fn is_better_elsewhere(&self, span: Span, wants: u32, new_class: Option<usize>) -> bool {
        if let Some(class) = new_class {
            return self.slabs.bytes(class) << 1 <= (self.least as usize) << self.granule_shift;
        }
        if self.least == 1 || wants == span.granules || wants > self.granules || !self.spans.is_tight() {
            return false;
        }
        let left = (span.granules + self.spans.free_behind(span)).saturating_sub(wants);
        self.spans.would_cut(wants).is_some_and(|found| found - wants < left)
    }

    /// A slot that has become too large for its block stays with it all the same.
    pub(super) fn stay(&mut self) {
        self.loose = true;
    }

    /// Closes what is kept open for requests to come.
    pub(super) fn settle(&mut self) {
        self.slabs.reclaim(&mut self.spans);
    }

    /// The bytes of the longest free run that a block can have.
    pub(super) fn largest_free_bytes(&self) -> usize {
        let longest = if self.least > 1 { self.spans.longest_listed() } else { self.spans.largest_free() };
        (longest as usize) << self.granule_shift
    }

    /// The first live span at or behind `from` that holds anything.
    pub(super) fn live_span(&self, from: usize) -> Option<LiveSpan<NonNull<u8>>> {
        let mut from = u32::try_from(from.div_ceil(1 << self.granule_shift)).ok()?;
        while from < self.granules {
            let span = self.spans.next_live(Granule(from))?;
            from = span.end();
            let at = (span.start.0 as usize) << self.granule_shift;
            let slots = self.slabs.slots(&self.spans, span.start.0);
            if slots.is_some_and(|(_, taken)| taken == 0) {
                continue;
            }
            let offset = Offset(at as u64);
            return Some(LiveSpan {
                addr: self.space.addr(offset),
                offset,
                bytes: (span.granules as u64) << self.granule_shift,
                slots: slots.map(|(bytes, taken)| LiveSlots { slot_bytes: bytes as u64, taken }),
            });
        }
        None
    }
}

/// What a layout's class is told by: the last byte of its size, rounded up to its alignment. More than any other for no bytes.
#[inline]
fn last(layout: Layout) -> usize {
    layout.size().wrapping_sub(1) | (layout.align() - 1)
}

/// A live block.
#[derive(Clone, Copy)]
enum Held {
    Slot(Found),
    Span(Span),
}

#[cold]
fn refused(at: usize, why: NotTaken) -> BadFree {
    let offset_bytes = at as u64;
    match why {
        NotTaken::Free => BadFree::AlreadyFree { offset_bytes },
        NotTaken::Inside => BadFree::Interior { offset_bytes },
    }
}
