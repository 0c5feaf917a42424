//! The spans of a range: exact runs of granules, live or free.
//!
//! 1. A bit for each granule says whether a live span starts there. With it a second free is refused, whatever else is known.
//! 2. In all but small ranges the rest stands in the range's **shadow** (`runs/shadow.rs`), a byte for each granule: lengths at
//!    both ends of a span, the links of free ones, the headers of slabs. Every step but the search is a few loads and stores.
//! 3. A small range is **flat**: another bit for each granule says whether use begins or ends there, and a best fit is one pass over
//!    these. Between two live spans nothing does.
//! 4. Granules are numbered from [`LOWEST`] on: 0 is no granule's number, and stands for nothing in lists of spans and of slabs.
//! 5. Free spans merge at once, but for those that are set aside for the next request of their length (`runs/aside.rs`). The
//!    shortest span that is asked for holds a header, the flat ranges' a granule.

#![forbid(unsafe_code)]

mod aside;
mod bits;
#[cfg_attr(not(target_pointer_width = "64"), path = "runs/tree.rs")]
mod lists;
pub(super) mod shadow;
#[cfg(target_pointer_width = "64")]
mod trees;

use super::COPIES;
use crate::arena::Borrowed;
use crate::arena::index::fit::List;
use bits::Bits;
use lists::Lists;
use shadow::{LEAST, LOWEST, Shadow};

/// Spans of about the length that are tried for an alignment before a span that surely holds it is.
const ALIGNED_LOOKED: u32 = 4;

/// The spans of a range.
pub(super) struct Runs<const SLABS: bool> {
    /// Where live spans start; the end of the range counts as one.
    starts: Bits,
    /// The granules that are in use where the one before is not, or the other way round, of a flat range.
    edges: Bits,
    pub(super) shadow: Shadow,
    lists: Lists,
    /// The last span that was set aside of each length (`runs/aside.rs`).
    aside: &'static mut [u32],
    /// How many more may be set aside.
    room: u32,
    /// The least that the rows that are not empty are where a free span is about half of the range.
    plenty: u32,
    /// The length whose turn it is to be merged where there is no plenty.
    turn: usize,
    /// The number behind the last granule's.
    end: u32,
    /// What is added to a granule's number tells how far it lies behind a multiple of every alignment that is asked for.
    skew: u32,
    flat: bool,
    /// Granules from here on have never been taken.
    high: u32,
    /// No free span is longer.
    bound: u32,
}

impl<const SLABS: bool> Runs<SLABS> {
    /// The bytes of the tables, where so many lengths are set aside.
    pub(super) const fn table_bytes(granules: u32, flat: bool, asides: usize) -> usize {
        let bits = Bits::bytes_upto(LOWEST + granules);
        let rest = if flat { bits } else { Shadow::len_for(granules) + Lists::table_bytes(granules) };
        bits + rest + asides * size_of::<u32>()
    }

    /// Makes the spans of no range those of a free one, of which so many lengths are set aside. `None`: the tables find no room, and
    /// there is no range.
    #[inline]
    pub(super) fn open(
        &mut self,
        meta: &mut Borrowed<'static>,
        granules: u32,
        skew: u32,
        flat: bool,
        asides: usize,
    ) -> Option<()> {
        let end = LOWEST + granules;
        let bits = Bits::bytes_upto(end);
        self.starts = Bits::new(meta.find_table(bits)?);
        if SLABS && !flat {
            self.lists = Lists::new(meta, granules)?;
            if asides > 0 {
                self.aside = meta.find_table(asides)?;
            }
            self.shadow = Shadow::new(meta.find_table(Shadow::len_for(granules))?);
            self.flat = false;
        } else {
            self.edges = Bits::new(meta.find_table(bits)?);
        }
        if COPIES {
            self.plenty = 1 << List::of(granules - granules / 4).row();
        }
        self.skew = skew.wrapping_sub(LOWEST);
        self.bound = granules;
        self.end = end;
        if self.is_flat() {
            self.turn(end, LOWEST);
        } else {
            self.starts.flip(end as usize);
            self.insert(LOWEST, granules);
        }
        Some(())
    }

    /// No spans, in a range of nothing.
    pub(super) const fn none() -> Self {
        Runs {
            starts: Bits::new(&mut []),
            edges: Bits::new(&mut []),
            shadow: Shadow::new(&mut []),
            lists: Lists::none(),
            aside: &mut [],
            room: aside::MOST,
            plenty: 0,
            turn: 0,
            end: LOWEST,
            skew: 0,
            flat: true,
            high: LOWEST,
            bound: 0,
        }
    }

    /// The first multiple of an alignment from a granule on.
    #[inline]
    fn aligned(&self, place: u32, align: u32) -> u32 {
        let behind = self.skew.wrapping_add(place);
        place + (behind.wrapping_neg() & (align - 1))
    }

    /// Takes a run of `granules` granules at a multiple of `align`, a power of two: where it starts.
    #[cfg_attr(target_pointer_width = "64", inline)]
    pub(super) fn take(&mut self, granules: u32, align: u32) -> Option<u32> {
        if COPIES && granules > self.bound {
            return None;
        }
        let mut place = if self.is_flat() {
            self.take_flat(granules, align)
        } else if align == 1 {
            self.fit(granules)
        } else {
            self.fit_aligned(granules, align)
        };
        if place == 0 {
            if COPIES && align == 1 {
                self.bound = granules - 1;
            }
            return None;
        }
        if !self.is_flat() {
            place = self.occupy(place, self.aligned(place, align), granules);
            self.starts.flip(place as usize);
        }
        self.high = self.high.max(place + granules);
        Some(place)
    }

    /// The same in the usual case: no alignment, no flat range, and something that fits at once. `None` says nothing else.
    #[inline(always)]
    pub(super) fn take_plainly(&mut self, granules: usize) -> Option<u32> {
        if self.is_flat() || granules > self.bound as usize {
            return None;
        }
        let granules = granules as u32;
        let place = self.fit(granules);
        if place == 0 {
            return None;
        }
        let start = self.occupy(place, place, granules);
        self.starts.flip(start as usize);
        self.high = self.high.max(start + granules);
        Some(start)
    }

    /// Makes a part of the free span at `place` live, from `at` on. Returns `at`.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn occupy(&mut self, place: u32, at: u32, granules: u32) -> u32 {
        let has = self.shadow.listed(place);
        self.unlist(place, has);
        if at > place {
            self.insert(place, at - place);
        }
        let (end, behind) = (place + has, at + granules);
        if end > behind {
            self.insert(behind, end - behind);
        }
        self.shadow.set_live(at, granules);
        at
    }

    /// A free span that holds a run with an alignment: one of about the length, else one that is long enough wherever it starts,
    /// else any. Its place; 0 where there is none.
    #[cfg_attr(target_pointer_width = "64", inline(never))]
    fn fit_aligned(&self, granules: u32, align: u32) -> u32 {
        let place = self.scan(granules, align, ALIGNED_LOOKED);
        if place != 0 {
            return place;
        }
        let place = self.fit(granules + align - 1);
        if place != 0 {
            return place;
        }
        self.scan(granules, align, u32::MAX)
    }

    /// Takes the best fit of a flat range: the place where it starts; 0 where there is none.
    fn take_flat(&mut self, granules: u32, align: u32) -> u32 {
        let (place, _) = self.fit_flat(granules, align);
        if place != 0 {
            self.turn(place, place + granules);
        }
        place
    }

    /// A live span of a flat range begins at a granule, or is free from there on, that the other one is the end of.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn turn(&mut self, start: u32, end: u32) {
        self.starts.flip(start as usize);
        self.edges.flip(start as usize);
        self.edges.flip(end as usize);
    }

    /// The best fit of a flat range: the place where it starts, 0 where there is none; and by how much the free run that it is in is
    /// too long.
    #[inline(never)]
    fn fit_flat(&self, granules: u32, align: u32) -> (u32, u32) {
        // By far more than any is too long where it is too short.
        let (mut best, mut least, mut end) = (0, 1 << 31, 0);
        while let Some(start) = self.free_flat(&mut end) {
            let over = (end - start).wrapping_sub(granules);
            if over < least {
                let place = self.aligned(start, align);
                if place + granules <= end {
                    (best, least) = (place, over);
                    if over == 0 {
                        break;
                    }
                }
            }
        }
        (best, least)
    }

    /// The next free run of a flat range behind one that ends at `end`, or from the start: where it starts. It ends at `end` then. (Where
    /// there is no range, there is no bit either.)
    #[inline]
    fn free_flat(&self, end: &mut u32) -> Option<u32> {
        let start = self.edges.next(*end + 1);
        *end = self.edges.next(start + 1);
        (*end <= self.end).then_some(start)
    }

    /// Where the span of a flat range ends that holds a granule, and whether that one is free.
    pub(super) fn end_flat(&self, granule: u32) -> (u32, bool) {
        let (start, edge) = (self.starts.next(granule + 1), self.edges.next(granule + 1));
        // Where what is free ends, something live starts, and use begins.
        (start.min(edge), start == edge)
    }

    /// Whether something live starts at a granule.
    pub(super) fn is_start(&self, granule: u32) -> bool {
        self.starts.is_set(granule as usize)
    }

    /// The granules of the live span that starts at a granule, if one does that is no slab.
    #[cfg_attr(target_pointer_width = "64", inline)]
    pub(super) fn live(&self, start: u32) -> Option<u32> {
        if !self.starts.is_set(start as usize) {
            return None;
        }
        if self.is_flat() {
            return Some(self.end_flat(start).0 - start);
        }
        let granules = self.shadow.live(start);
        (granules < self.end).then_some(granules)
    }

    /// Gives the live span back that starts at `start` and has so many granules, in a range that is not flat. `false` says nothing else.
    #[inline(always)]
    pub(super) fn give_plainly(&mut self, start: usize, granules: usize) -> bool {
        if self.is_flat() {
            return false;
        }
        let is_live = self.starts.is_set(start) && self.shadow.live(start as u32) as usize == granules;
        if is_live {
            self.starts.flip(start);
            self.merge(start as u32, granules as u32);
            self.drain();
        }
        is_live
    }

    /// A live span, or a slab, is free.
    #[cfg_attr(target_pointer_width = "64", inline)]
    pub(super) fn free(&mut self, start: u32, granules: u32) {
        if !COPIES && self.is_flat() {
            return self.turn(start, start + granules);
        }
        self.starts.flip(start as usize);
        self.free_rest(start, granules);
    }

    /// What else there is to be done for it.
    fn free_rest(&mut self, start: u32, granules: u32) {
        if COPIES && self.is_flat() {
            self.all_may_fit();
            self.edges.flip(start as usize);
            self.edges.flip((start + granules) as usize);
        } else {
            self.merge(start, granules);
        }
    }

    /// Makes one free span of granules that became free and their neighbours.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn merge(&mut self, start: u32, granules: u32) {
        let (mut place, mut has) = (start, granules);
        let before = self.shadow.free_before(place);
        if before != 0 {
            place -= before;
            self.remove(place, before);
            has += before;
        }
        let behind = self.free_at(start + granules);
        if behind != 0 {
            self.remove(start + granules, behind);
            has += behind;
        }
        self.insert(place, has);
    }

    /// The granules of the free span that starts where another ends; none where that is live.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn free_at(&self, end: u32) -> u32 {
        if self.starts.is_set(end as usize) { 0 } else { self.shadow.free(end) }
    }

    /// Makes a live span of a flat range one of another length where it stands. `false`: it cannot be, or, if it becomes shorter and
    /// `may_move`, there is a better place: a free run that is shorter than what it would leave behind, and than a sixteenth of the range.
    pub(super) fn resize_flat(&mut self, start: u32, granules: u32, to: u32, may_move: bool) -> bool {
        let end = start + granules;
        let room = self.starts.next(end) - start;
        if to > room {
            return false;
        }
        if may_move && to < granules {
            let most = room.min(self.granules() / 16);
            if self.would_cut(to).is_some_and(|found| found < most) {
                return false;
            }
        }
        self.edges.flip(end as usize);
        self.edges.flip((start + to) as usize);
        self.high = self.high.max(start + to);
        self.all_may_fit();
        true
    }

    /// Something became free: no length is known any more of which there is nothing.
    #[inline]
    fn all_may_fit(&mut self) {
        if COPIES {
            self.bound = self.granules();
        }
    }

    /// Lengthens a live span, if the granules behind it are free, in a range that is not flat.
    pub(super) fn extend(&mut self, start: u32, granules: u32, to: u32) -> bool {
        let (end, more) = (start + granules, to - granules);
        let behind = self.free_at(end);
        if behind < more {
            return false;
        }
        self.remove(end, behind);
        if behind > more {
            self.insert(end + more, behind - more);
        }
        self.shadow.set_live(start, to);
        self.high = self.high.max(start + to);
        true
    }

    /// Shortens a live span to at least the shortest there is, in a range that is not flat.
    pub(super) fn cut(&mut self, start: u32, granules: u32, to: u32) {
        self.shadow.set_live(start, to);
        self.merge(start + to, granules - to);
    }

    /// The granules of the free span that a request of so many would be cut from, if there is one.
    pub(super) fn would_cut(&self, granules: u32) -> Option<u32> {
        if self.is_flat() {
            let (place, over) = self.fit_flat(granules, 1);
            return (place != 0).then_some(granules + over);
        }
        match self.fit(granules) {
            0 => None,
            place => Some(self.shadow.listed(place)),
        }
    }

    /// The last live span, or slab, that starts up to a granule.
    #[inline]
    pub(super) fn start_of(&self, granule: usize) -> Option<u32> {
        self.starts.last(granule).map(|start| start as u32)
    }

    /// The same of a granule in a slab; of others it may say nothing.
    #[inline(always)]
    pub(super) fn slab_start_of(&self, granule: usize) -> Option<usize> {
        if COPIES { self.starts.last_near(granule) } else { self.starts.last(granule) }
    }

    /// The first live span, or slab, that starts from a granule on.
    pub(super) fn next_live(&self, granule: u32) -> Option<u32> {
        let mut start = self.starts.next(granule);
        while COPIES
            && !self.is_flat()
            && let Some(granules) = self.shadow.aside(start)
        {
            start = self.starts.next(start + granules);
        }
        (start < self.end).then_some(start)
    }

    /// Whether there are no slabs.
    #[inline(always)]
    pub(super) fn is_flat(&self) -> bool {
        !SLABS || self.flat
    }

    /// Granules of the shortest span.
    #[inline]
    pub(super) fn least(&self) -> u32 {
        if self.is_flat() { 1 } else { LEAST }
    }

    /// All granules.
    #[inline]
    pub(super) fn granules(&self) -> u32 {
        self.end - LOWEST
    }

    /// The granules up to the end of the highest span that there ever was.
    pub(super) fn high_water(&self) -> u32 {
        self.high - LOWEST
    }

    /// The granules of the longest free span that a block can have.
    pub(super) fn longest(&self) -> u32 {
        if !self.is_flat() {
            return self.longest_listed();
        }
        let (mut longest, mut end) = (0, 0);
        while let Some(start) = self.free_flat(&mut end) {
            longest = longest.max(end - start);
        }
        longest
    }
}

#[cfg(all(test, feature = "std"))]
mod tests;
