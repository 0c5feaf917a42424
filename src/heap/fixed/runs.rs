//! The spans of a range: exact runs of granules, live or free.
//!
//! 1. A bit for each granule says whether a live span starts there. With it a second free is refused, whatever else is known.
//! 2. In all but small ranges the rest stands in the range's **shadow** (`runs/shadow.rs`), a byte for each granule: lengths at
//!    both ends of a span, the links of free ones, the headers of slabs. Every step but the search is a few loads and stores.
//! 3. A small range is **flat**: another bit for each granule says whether it is in use, and a best fit is one pass over these.
//! 4. Granules are numbered from [`LOWEST`] on: 0 is no granule's number, and stands for nothing in lists of spans and of slabs.
//! 5. Free spans merge at once, but for those that are set aside for the next request of their length (`runs/aside.rs`). The
//!    shortest span that is asked for holds a header, the flat ranges' a granule.

#![forbid(unsafe_code)]

mod aside;
mod bits;
mod lists;
pub(super) mod shadow;
mod trees;

use super::COPIES;
use crate::arena::Borrowed;
use crate::arena::index::fit::List;
use bits::Bits;
use lists::Row;
use shadow::{LEAST, LOWEST, Shadow};

/// The spans of a range.
pub(super) struct Runs<const SLABS: bool> {
    /// Where live spans start; the end of the range counts as one.
    starts: Bits,
    /// The granules in use, of a flat range.
    used: Bits,
    pub(super) shadow: Shadow,
    rows: &'static mut [Row],
    /// One bit for each row that is not empty.
    filled: u32,
    /// The last span that was set aside of each length (`runs/aside.rs`).
    aside: &'static mut [u32],
    /// How many more may be set aside.
    room: u32,
    /// The least that `filled` is where a free span is about half of the range.
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
    /// The rows for a range of so many granules.
    const fn rows(granules: u32, flat: bool) -> usize {
        if flat { 0 } else { List::of(granules).row() + 1 }
    }

    /// The bytes of the tables, where so many lengths are set aside.
    pub(super) const fn table_bytes(granules: u32, flat: bool, asides: usize) -> usize {
        let bits = Bits::bytes_upto(LOWEST + granules);
        let rest = if flat { bits } else { Shadow::len_for(granules) };
        bits + rest + Self::rows(granules, flat) * size_of::<Row>() + asides * size_of::<u32>()
    }

    /// The spans of a free range, of which so many lengths are set aside: [`open`](Self::open) follows. `None`: the tables find no
    /// room.
    #[inline]
    pub(super) fn new(
        meta: &mut Borrowed<'static>,
        granules: u32,
        skew: u32,
        flat: bool,
        asides: usize,
    ) -> Option<Self> {
        let bits = Bits::bytes_upto(LOWEST + granules);
        Some(Runs {
            starts: Bits::new(meta.find_table(bits)?),
            used: Bits::new(meta.find_table(if flat { bits } else { 0 })?),
            rows: meta.find_table(Self::rows(granules, flat))?,
            aside: if asides == 0 { &mut [] } else { meta.find_table(asides)? },
            shadow: Shadow::new(meta.find_table(if flat { 0 } else { Shadow::len_for(granules) })?),
            room: aside::MOST,
            filled: 0,
            plenty: if COPIES { 1 << List::of(granules - granules / 4).row() } else { 0 },
            turn: 0,
            end: LOWEST + granules,
            skew: skew.wrapping_sub(LOWEST),
            flat,
            high: LOWEST,
            bound: granules,
        })
    }

    /// Makes one free span of all granules.
    #[inline]
    pub(super) fn open(&mut self) {
        let end = self.end;
        self.starts.set(end as usize);
        if self.is_flat() {
            self.used.flip(end..self.used.len());
        } else {
            self.insert(LOWEST, self.granules());
        }
    }

    /// No spans, in a range of nothing.
    pub(super) const fn none() -> Self {
        Runs {
            starts: Bits::new(&mut []),
            used: Bits::new(&mut []),
            shadow: Shadow::new(&mut []),
            rows: &mut [],
            filled: 0,
            aside: &mut [],
            room: 0,
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
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn take(&mut self, granules: u32, align: u32) -> Option<u32> {
        if granules > self.bound {
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
            if align == 1 {
                self.bound = granules - 1;
            }
            return None;
        }
        if !self.is_flat() {
            place = self.occupy(place, self.aligned(place, align), granules);
        }
        self.starts.set(place as usize);
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
        self.starts.set(start as usize);
        self.high = self.high.max(start + granules);
        Some(start)
    }

    /// Makes a part of the free span at `place` live, from `at` on. Returns `at`.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
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

    /// Takes the best fit of a flat range: the place where it starts; 0 where there is none.
    fn take_flat(&mut self, granules: u32, align: u32) -> u32 {
        let (place, _) = self.fit_flat(granules, align);
        if place != 0 {
            self.used.flip(place..place + granules);
        }
        place
    }

    /// The best fit of a flat range: the place where it starts, 0 where there is none; and by how much the free run that it is in is
    /// too long.
    #[inline(never)]
    fn fit_flat(&self, granules: u32, align: u32) -> (u32, u32) {
        // By far more than any is too long where it is too short.
        let (mut best, mut least, mut end) = (0, 1 << 31, LOWEST);
        loop {
            let start;
            (start, end) = self.free_flat(end);
            let has = end - start;
            if has == 0 {
                break;
            }
            let over = has.wrapping_sub(granules);
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

    /// The first free run of a flat range from a granule on: where it starts and ends; twice the same where there is none.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn free_flat(&self, from: u32) -> (u32, u32) {
        let start = self.used.next(from, !0, self.end);
        // Beyond the last granule everything counts as used; a range that fills its last word has nothing there.
        (start, self.used.next(start, 0, self.end))
    }

    /// The granules of the span that starts at a granule of a flat range.
    #[inline(never)]
    fn length_flat(&self, start: u32) -> u32 {
        let end = self.starts.next(start + 1, 0, self.end);
        self.used.next(start, !0, end).min(end) - start
    }

    /// The granules of the live span that starts at a granule, if one does that is no slab.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn live(&self, start: u32) -> Option<u32> {
        if start >= self.end || !self.starts.is_set(start as usize) {
            return None;
        }
        if self.is_flat() {
            return Some(self.length_flat(start));
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
            self.starts.clear(start);
            self.merge(start as u32, granules as u32);
            self.drain();
        }
        is_live
    }

    /// A live span, or a slab, is free.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn free(&mut self, start: u32, granules: u32) {
        self.starts.clear(start as usize);
        self.free_rest(start, granules);
    }

    /// Granules at the end of a live span, or all of it, are free.
    fn free_rest(&mut self, start: u32, granules: u32) {
        if self.is_flat() {
            self.bound = self.granules();
            self.used.flip(start..start + granules);
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

    /// The free granules of a flat range from one on.
    pub(super) fn free_behind(&self, end: u32) -> u32 {
        self.used.next(end, 0, self.end) - end
    }

    /// Lengthens a live span, if the granules behind it are free.
    pub(super) fn extend(&mut self, start: u32, granules: u32, to: u32) -> bool {
        if to > self.end - start {
            return false;
        }
        let (end, more) = (start + granules, to - granules);
        if self.is_flat() {
            if self.free_behind(end) < more {
                return false;
            }
            self.used.flip(end..start + to);
        } else {
            let behind = self.free_at(end);
            if behind < more {
                return false;
            }
            self.remove(end, behind);
            if behind > more {
                self.insert(end + more, behind - more);
            }
            self.shadow.set_live(start, to);
        }
        self.high = self.high.max(start + to);
        true
    }

    /// Shortens a live span to at least the shortest there is.
    pub(super) fn cut(&mut self, start: u32, granules: u32, to: u32) {
        if !self.is_flat() {
            self.shadow.set_live(start, to);
        }
        self.free_rest(start + to, granules - to);
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
        let mut start = self.starts.next(granule, 0, self.end);
        while COPIES
            && !self.is_flat()
            && let Some(granules) = self.shadow.aside(start)
        {
            start = self.starts.next(start + granules, 0, self.end);
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
        let (mut longest, mut end) = (0, LOWEST);
        loop {
            let start;
            (start, end) = self.free_flat(end);
            if start == end {
                return longest;
            }
            longest = longest.max(end - start);
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests;
