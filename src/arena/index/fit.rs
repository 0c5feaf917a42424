//! The fit table: a good fit over exact spans, in a constant number of steps, for memory whose backing stays put.
//!
//! 1. Two bits per granule say where spans start and whether they are live or free (`fit/edges.rs`). They alone describe
//!    the space: every length, every neighbour, every wrong free can be told from them.
//! 2. So that none of this needs a scan, the space is cut into **blocks** of a power of two of granules, each with one
//!    **slot**. The last granule of a block is its anchor. A span that holds an anchor keeps its length in the slots of
//!    its first and of its last anchor; the start and the end of a span lie within a block of these. A free span also
//!    links its first slot into the list of its length (`fit/lists.rs`).
//! 3. No two spans hold the same anchor. So there is a slot for every span that needs one, whatever happens: there is
//!    no pool of records that could run dry.
//! 4. A free span without an anchor is **hidden**: it lies within one block, is shorter than it, and is found by its
//!    bits. Where no program asks for less than a block (the rest comes from slabs), hidden spans serve nobody and
//!    only wait for their neighbours. Where it may, hidden spans are counted, their greatest length is known, and
//!    they are searched before anything is refused: a fit that exists is found.
//! 5. Free spans are merged at once. Where the space is backed in frames, they are kept in two sets: backed for
//!    certain, and perhaps not. Only in the second are places compared by cost.
//!
//! A block of one granule ([`Framed`]) hides nothing. Blocks of 32 ([`Unframed`]) cost 6 bits per granule in all; a
//! space too small for lists to pay has no blocks: what is left are the two bits and a best fit, one pass over them.
//!
//! All zeros, but for one free span, is the table of a free space; tables that are mapped cost nothing until used.

#![forbid(unsafe_code)]

mod backing;
mod edges;
mod find;
mod lists;

pub use backing::{Backing, Framed, Unframed};

use super::{NotLive, SpanIndex};
use crate::arena::bits;
use crate::arena::metadata::{Metadata, NoTable};
use crate::size::{Granule, Span};
use core::fmt;
use core::marker::PhantomData;
use core::ops::ControlFlow;
use edges::Edges;
use find::Place;
pub(crate) use lists::List;
use lists::Lists;

/// The sets of free spans.
const BACKED: u32 = 0;
const PARTLY: u32 = 1;

/// The fit table.
pub struct FitTable<M: Metadata, B: Backing = Framed> {
    edges: Edges<M>,
    lists: Lists<M>,
    /// With two sets, one bit per slot: the free span is in the second.
    partly: M::Table<u64>,
    /// Without blocks.
    flat: bool,
    granules: u32,
    skew: u32,
    /// Granules from here on have never been taken.
    high: u32,
    /// Hidden free spans, and a length that none of them exceeds.
    hidden: u32,
    hidden_longest: u32,
    /// Where hidden spans are looked for next.
    cursor: u32,
    /// The length of the longest free span, if it was needed and has not gone since.
    longest: Option<u32>,
    backing: PhantomData<fn() -> B>,
}

impl<M: Metadata, B: Backing> fmt::Debug for FitTable<M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (granules, high) = (&self.granules, &self.high);
        f.debug_struct("FitTable").field("granules", granules).field("high", high).finish_non_exhaustive()
    }
}

impl<M: Metadata, B: Backing> SpanIndex<M> for FitTable<M, B> {
    fn new(meta: &mut M, granules: u32, skew: u32) -> Result<Self, NoTable> {
        const { assert!(B::BLOCK_SHIFT <= 6, "a block lies within a word of bits") };
        const {
            let hides = B::BLOCK_SHIFT > 0 || B::FLAT_BELOW > 0;
            assert!(B::SETS == 1 || (B::SETS == 2 && !hides), "hidden spans are in no set");
        }
        let flat = granules < B::FLAT_BELOW;
        let slots = if flat { 0 } else { granules >> B::BLOCK_SHIFT };
        let mut table = FitTable {
            edges: Edges::new(meta, granules)?,
            lists: Lists::new(meta, slots, granules, B::SETS)?,
            partly: meta.table(if B::SETS == 2 { bits::words(slots) } else { 0 })?,
            flat,
            granules,
            skew,
            high: 0,
            hidden: 0,
            hidden_longest: 0,
            cursor: 0,
            longest: None,
            backing: PhantomData,
        };
        if granules > 0 && table.edges.is_real(granules) {
            table.insert(Span::new(0, granules), B::SETS - 1);
        }
        Ok(table)
    }

    #[inline]
    fn take(&mut self, granules: u32, align: u32, cost: &impl Fn(Span) -> u32) -> Option<Span> {
        if granules == 0 || granules > self.granules || !align.is_power_of_two() {
            return None;
        }
        if self.longest.is_some_and(|longest| granules > longest) {
            return None;
        }
        let place = match self.find(granules, align, cost) {
            Some(place) => place,
            None => {
                self.longest = Some(self.largest_free());
                return None;
            }
        };
        self.occupy(place, granules, cost);
        Some(Span::new(place.at, granules))
    }

    #[inline]
    fn give(&mut self, span: Span) -> Result<(), NotLive> {
        self.check(span)?;
        self.free(span);
        Ok(())
    }

    fn extend(&mut self, span: Span, granules: u32) -> bool {
        let Some(end) = span.start.0.checked_add(granules).filter(|&end| end <= self.granules) else {
            return false;
        };
        if self.check(span).is_err() || granules < span.granules {
            return false;
        }
        if granules == span.granules {
            return true;
        }
        let Some(behind) = self.free_at(span.end()).filter(|behind| behind.end() >= end) else {
            return false;
        };
        let set = self.remove(behind);
        self.edges.clear(behind.start.0);
        self.set_length(Span { granules, ..span });
        if behind.end() > end {
            self.insert(Span::new(end, behind.end() - end), set);
        }
        self.high = self.high.max(end);
        true
    }

    fn cut(&mut self, span: Span, granules: u32) -> Result<(), NotLive> {
        self.check(span)?;
        let granules = granules.clamp(1, span.granules);
        if granules < span.granules {
            let rest = Span::new(span.start.0 + granules, span.granules - granules);
            self.set_length(Span { granules, ..span });
            self.free(rest);
        }
        Ok(())
    }

    fn live(&self, start: Granule) -> Result<Span, NotLive> {
        let at = start.0;
        if at >= self.granules {
            return Err(NotLive::Outside);
        }
        if self.edges.is_live(at) {
            return Ok(Span::new(at, self.length(at)));
        }
        match self.edges.last(0..at + 1) {
            Some(start) if self.edges.is_live(start) => Err(NotLive::Inside),
            _ => Err(NotLive::Free),
        }
    }

    fn next_live(&self, from: Granule) -> Option<Span> {
        let at = self.edges.next_live(from.0..self.high);
        (at < self.high).then(|| Span::new(at, self.length(at)))
    }

    fn backed(&mut self, span: Span) {
        if B::SETS == 1 || span.is_empty() || span.start.0 >= self.granules {
            return;
        }
        let end = span.end().min(self.granules);
        let mut at = self.edges.last(0..span.start.0 + 1).unwrap_or(0);
        while at < end {
            let one = Span::new(at, self.length(at));
            // Of a free span that lies there in part, the rest may be backed or not.
            if self.edges.is_free(at) && at >= span.start.0 && one.end() <= end {
                self.refile(one, BACKED);
            }
            at = one.end();
        }
    }

    fn unbacked(&mut self, span: Span) {
        if B::SETS == 1 || span.is_empty() || span.start.0 >= self.granules {
            return;
        }
        let end = span.end().min(self.granules);
        let mut at = self.edges.last(0..span.start.0 + 1).unwrap_or(0);
        while at < end {
            let one = Span::new(at, self.length(at));
            if self.edges.is_free(at) {
                self.refile(one, PARTLY);
            }
            at = one.end();
        }
    }

    fn largest_free(&self) -> u32 {
        if let Some(longest) = self.longest {
            return longest;
        }
        let longest = (0..B::SETS).map(|set| self.lists.longest(set)).max().unwrap_or(0);
        if self.hidden == 0 || self.hidden_longest <= longest {
            return longest;
        }
        let mut longest = longest;
        self.each_hidden(0..self.granules, |free| {
            longest = free.granules.max(longest);
            ControlFlow::Continue(())
        });
        longest
    }

    fn high_water(&self) -> u32 {
        self.high
    }
}

/// Where spans end, and who borders on whom.
impl<M: Metadata, B: Backing> FitTable<M, B> {
    /// Whether there are no blocks. A constant where it can be one.
    #[inline]
    fn is_flat(&self) -> bool {
        B::FLAT_BELOW > 0 && self.flat
    }

    /// The slots of the first and the last anchor of a span, if it holds one.
    #[inline]
    fn slots(&self, span: Span) -> Option<(u32, u32)> {
        let (first, behind) = (span.start.0 >> B::BLOCK_SHIFT, span.end() >> B::BLOCK_SHIFT);
        (first < behind && !self.is_flat()).then(|| (first, behind - 1))
    }

    #[inline]
    fn set_length(&mut self, span: Span) {
        if let Some((first, last)) = self.slots(span) {
            self.lists.set_length(first, span.granules);
            if last != first {
                self.lists.set_length(last, span.granules);
            }
        }
    }

    /// The length of the span that starts at `at`: it ends within 64 granules, or holds the anchor of its block, whose
    /// slot knows.
    #[inline]
    fn length(&self, at: u32) -> u32 {
        if B::BLOCK_SHIFT == 0 && !self.is_flat() {
            return self.lists.length(at);
        }
        match self.edges.next_in_word(at) {
            Some(end) => end - at,
            None => self.length_of_long(at),
        }
    }

    #[inline]
    fn length_of_long(&self, at: u32) -> u32 {
        let block = at >> B::BLOCK_SHIFT;
        if self.is_flat() {
            self.edges.next(at + 1..self.granules) - at
        } else if block < self.granules >> B::BLOCK_SHIFT {
            self.lists.length(block)
        } else {
            // The last block has no anchor unless it is full.
            self.granules - at
        }
    }

    /// The start of the span that ends before `at`: it starts within 64 granules, or holds the anchor before that, whose
    /// slot knows.
    #[inline]
    fn start_before(&self, at: u32) -> u32 {
        match self.edges.last_in_word(at - 1) {
            Some(start) => start,
            None if self.is_flat() => self.edges.last(0..at).unwrap_or(0),
            None => at - self.lists.length((at >> B::BLOCK_SHIFT) - 1),
        }
    }

    /// The free span that starts at `at`.
    #[inline]
    fn free_at(&self, at: u32) -> Option<Span> {
        (at < self.granules && self.edges.is_free(at)).then(|| Span::new(at, self.length(at)))
    }

    /// The span whose first anchor has this slot.
    #[inline]
    fn span_of(&self, slot: u32) -> Span {
        let anchor = (slot << B::BLOCK_SHIFT) + (1 << B::BLOCK_SHIFT) - 1;
        let start = if B::BLOCK_SHIFT == 0 { Some(slot) } else { self.edges.last_in_word(anchor) };
        debug_assert!(start.is_some_and(|start| self.edges.is_free(start)), "slot {slot} is of no free span");
        Span::new(start.unwrap_or(anchor), self.lists.length(slot))
    }

    /// Whether exactly `span` is live.
    #[inline]
    fn check(&self, span: Span) -> Result<(), NotLive> {
        let at = span.start.0;
        if at < self.granules && self.edges.is_live(at) && self.length(at) == span.granules {
            Ok(())
        } else {
            Err(self.refusal(span))
        }
    }

    #[cold]
    #[inline(never)]
    fn refusal(&self, span: Span) -> NotLive {
        match self.live(span.start) {
            Ok(held) => NotLive::OtherLength(held.granules),
            Err(why) => why,
        }
    }
}

/// Free spans come and go.
impl<M: Metadata, B: Backing> FitTable<M, B> {
    /// `span`, which has no neighbour that is free, is free.
    #[inline]
    fn insert(&mut self, span: Span, set: u32) {
        self.edges.set_free(span.start.0);
        if let Some(longest) = &mut self.longest {
            *longest = span.granules.max(*longest);
        }
        let Some((first, last)) = self.slots(span) else {
            self.hidden += 1;
            self.hidden_longest = self.hidden_longest.max(span.granules);
            return;
        };
        if last != first {
            self.lists.set_length(last, span.granules);
        }
        if B::SETS == 2 {
            if set == PARTLY {
                bits::set(&mut self.partly, first);
            } else {
                bits::clear(&mut self.partly, first);
            }
        }
        self.lists.push(set, first, span.granules);
    }

    /// A free span is about to be something else; its edge stays. Returns the set that it was in.
    #[inline]
    fn remove(&mut self, span: Span) -> u32 {
        if self.longest == Some(span.granules) {
            self.longest = None;
        }
        let Some((first, _)) = self.slots(span) else {
            self.hidden -= 1;
            if self.hidden == 0 {
                self.hidden_longest = 0;
            }
            return BACKED;
        };
        let set = if B::SETS == 2 && bits::get(&self.partly, first) { PARTLY } else { BACKED };
        self.lists.pull(set, first);
        set
    }

    fn refile(&mut self, free: Span, set: u32) {
        self.remove(free);
        self.insert(free, set);
    }

    /// A span that was live is free and merges with its neighbours; it is backed, they are if their sets say so.
    #[inline]
    fn free(&mut self, span: Span) {
        let (mut whole, mut set) = (span, BACKED);
        if let Some(behind) = self.free_at(span.end()) {
            set |= self.remove(behind);
            self.edges.clear(behind.start.0);
            whole.granules += behind.granules;
        }
        if span.start.0 > 0 {
            let start = self.start_before(span.start.0);
            if self.edges.is_free(start) {
                set |= self.remove(Span::new(start, span.start.0 - start));
                self.edges.clear(span.start.0);
                whole = Span::new(start, whole.end() - start);
            }
        }
        self.insert(whole, set);
    }

    /// Makes `granules` granules at a place live. What is left of a span that was partly backed is in the first set if
    /// it costs nothing.
    #[inline]
    fn occupy(&mut self, place: Place, granules: u32, cost: &impl Fn(Span) -> u32) {
        let Place { free, at } = place;
        let set = self.remove(free);
        let set_of = |rest: Span| if set == BACKED || cost(rest) == 0 { BACKED } else { PARTLY };
        if at > free.start.0 {
            let front = Span::new(free.start.0, at - free.start.0);
            self.insert(front, set_of(front));
        }
        let live = Span::new(at, granules);
        self.edges.set_live(at);
        self.set_length(live);
        if free.end() > live.end() {
            let rest = Span::new(live.end(), free.end() - live.end());
            self.insert(rest, set_of(rest));
        }
        self.high = self.high.max(live.end());
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::arena::metadata::{Borrowed, Sizing};
    use core::mem::MaybeUninit;
    use std::vec;
    use std::vec::Vec;

    const N: u32 = 80 << Unframed::BLOCK_SHIFT;

    /// As [`Unframed`], with blocks at every size.
    enum Small {}

    impl Backing for Small {
        const BLOCK_SHIFT: u32 = Unframed::BLOCK_SHIFT;
        const FLAT_BELOW: u32 = 0;
        const SETS: u32 = 1;
    }

    #[test]
    fn hidden_spans_are_counted_until_the_last_is_gone() {
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut table = FitTable::<Borrowed, Small>::new(&mut Borrowed::new(&mut bytes), N, 0).unwrap();
        let taken: Vec<Span> = core::iter::from_fn(|| table.take(5, 1, &|_| 0)).collect();
        for span in taken.iter().step_by(2) {
            table.give(*span).unwrap();
        }
        let holds_anchor = |span: &&Span| span.start.0 / 32 < span.end() / 32;
        let anchored = taken.iter().step_by(2).filter(holds_anchor).count();
        assert!(anchored > 30);
        assert_eq!(table.hidden as usize, taken.len().div_ceil(2) - anchored);
        assert_eq!(table.hidden_longest, 5);
        for span in taken.iter().skip(1).step_by(2) {
            table.give(*span).unwrap();
        }
        assert_eq!((table.hidden, table.hidden_longest, table.largest_free()), (0, 0, N));
    }

    /// The window moves on behind a search that finds nothing near, so what is far is behind it or before.
    #[test]
    #[cfg_attr(miri, ignore = "safe code, too many spans to interpret")]
    fn a_hidden_span_far_away_is_found_whatever_lies_elsewhere() {
        for far in [3, 1000, 1700] {
            let mut bytes = vec![MaybeUninit::uninit(); 32 << 10];
            let mut table =
                FitTable::<Borrowed, Small>::new(&mut Borrowed::new(&mut bytes), 9000, 0).unwrap();
            let taken: Vec<Span> = core::iter::from_fn(|| table.take(5, 1, &|_| 0)).collect();
            assert_eq!((taken.len(), table.largest_free()), (1800, 0));
            // Every tenth is too short, one is not; all that hold no anchor.
            let hides = |span: &Span| span.start.0 / 32 == span.end() / 32;
            for span in taken.iter().step_by(10).filter(|span| hides(span)) {
                table.cut(*span, 2).unwrap();
            }
            let hole = *taken[far..].iter().find(|span| hides(span) && span.start.0 / 5 % 10 > 1).unwrap();
            table.give(hole).unwrap();
            assert_eq!(table.take(5, 1, &|_| 0), Some(hole));
            assert_eq!((table.take(5, 1, &|_| 0), table.largest_free()), (None, 3));
        }
    }

    #[test]
    fn tables_follow_the_granules() {
        fn bits_per_granule<B: Backing>(granules: u32) -> f64 {
            let mut sizing = Sizing::default();
            FitTable::<Sizing, B>::new(&mut sizing, granules, 0).unwrap();
            sizing.bytes() as f64 * 8.0 / granules as f64
        }
        assert!(bits_per_granule::<Unframed>(512) <= 2.0);
        assert!(bits_per_granule::<Unframed>(8191) <= 2.1);
        for shift in 13..22 {
            assert!(
                bits_per_granule::<Unframed>(1 << shift) <= 6.0 + 20e3 / f64::from(1 << shift),
                "{shift}"
            );
        }
        assert!(bits_per_granule::<Framed>(1 << 22) < 135.0);
    }
}
