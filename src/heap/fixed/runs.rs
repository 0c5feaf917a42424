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
mod tests {
    use super::*;
    use core::mem::MaybeUninit;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const N: u32 = 3000;

    fn runs(flat: bool, skew: u32) -> Runs<true> {
        runs_of(N, flat, skew)
    }

    fn runs_of(granules: u32, flat: bool, skew: u32) -> Runs<true> {
        let asides = if flat || !COPIES { 0 } else { 112 };
        let bytes = vec![MaybeUninit::uninit(); Runs::<true>::table_bytes(granules, flat, asides) + 8].leak();
        let mut runs = Runs::new(&mut Borrowed::new(bytes), granules, skew, flat, asides).unwrap();
        runs.open();
        runs
    }

    #[test]
    fn so_many_spans_are_set_aside_in_all_whatever_their_lengths_and_come_back_as_one_run() {
        if !COPIES {
            return;
        }
        let mut runs = runs_of(100_000, false, 0);
        for lengths in [1, 7] {
            let length = |i: u32| i % lengths;
            let spans: Vec<u32> =
                (0..aside::MOST + 20).map(|i| runs.take(LEAST + length(i), 1).unwrap()).collect();
            let mut set_aside = vec![0; lengths as usize];
            for (i, &start) in (0..).zip(&spans) {
                if runs.set_aside(start as usize, length(i) as usize) {
                    set_aside[length(i) as usize] += 1;
                } else {
                    assert!(give(&mut runs, start, LEAST + length(i)));
                }
            }
            assert_eq!(set_aside.iter().sum::<u32>(), aside::MOST);
            // Whatever is taken makes room for as much, and no more.
            for _ in 0..3 {
                let taken = runs.take_aside(0).unwrap();
                assert!(runs.set_aside(taken as usize, 0));
            }
            let more = runs.take(LEAST, 1).unwrap();
            assert!(!runs.set_aside(more as usize, 0));
            assert!(give(&mut runs, more, LEAST));
            assert!(runs.give_asides() && !runs.give_asides());
            assert_eq!(runs.longest(), 100_000);
        }
    }

    fn give(runs: &mut Runs<true>, start: u32, granules: u32) -> bool {
        let is_live = runs.live(start) == Some(granules);
        if is_live {
            runs.free(start, granules);
        }
        is_live
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take { granules: u32, align: u32 },
        Give(usize),
        GiveWrong { start: u32, granules: u32 },
        Extend(usize, u32),
        Cut(usize, u32),
        GiveAsides,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (16..200u32, prop_oneof![4 => Just(0u32), 1 => 0..7u32])
                .prop_map(|(granules, shift)| Step::Take { granules, align: 1 << shift }),
            6 => any::<usize>().prop_map(Step::Give),
            2 => (0..LOWEST + N, 1..200u32).prop_map(|(start, granules)| Step::GiveWrong { start, granules }),
            2 => (any::<usize>(), 1..100u32).prop_map(|(which, more)| Step::Extend(which, more)),
            2 => (any::<usize>(), 16..100u32).prop_map(|(which, keep)| Step::Cut(which, keep)),
            1 => Just(Step::GiveAsides),
        ]
    }

    /// The runs of free granules.
    fn free(model: &[bool]) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        let mut at = 0;
        for part in model.chunk_by(|a, b| a == b) {
            if !part[0] {
                found.push((at, part.len() as u32));
            }
            at += part.len() as u32;
        }
        found
    }

    proptest! {
        /// Free runs of a few lengths that one list has, and of others: what a request is cut from is the shortest of its list that holds
        /// it, else one of the next list that is not empty.
        #[test]
        fn the_best_fit_of_a_list_is_found(
            base in 64..6000u32, spread in 1..200u32, gives in prop::collection::vec((any::<u16>(), any::<bool>()), 1..if cfg!(miri) { 8 } else { 40 }),
            wants in prop::collection::vec(any::<u16>(), 20),
        ) {
            let mut runs = runs_of(1 << 18, false, 0);
            let length = |number: u16| base + u32::from(number) % spread;
            // A block between any two, so that nothing merges.
            let mut spans: Vec<(u32, u32)> = gives
                .iter()
                .map(|&(number, _)| {
                    let start = runs.take(length(number), 1).unwrap();
                    runs.take(LEAST, 1).unwrap();
                    (start, length(number))
                })
                .collect();
            // Nothing else is free.
            while let Some(rest) = Some(runs.longest()).filter(|rest| *rest > 0) {
                runs.take(rest, 1).unwrap();
            }
            let mut free: Vec<(u32, u32)> = Vec::new();
            for (place, &(number, back)) in gives.iter().enumerate() {
                runs.free(spans[place].0, spans[place].1);
                free.push(spans[place]);
                if back {
                    let taken = runs.take(length(number), 1).unwrap();
                    let which = free.iter().position(|&(start, _)| start == taken).unwrap();
                    // The rest of it, if there is one, stays with it.
                    let (start, has) = free.swap_remove(which);
                    if has > length(number) {
                        runs.free(start, length(number));
                        free.push((start, has));
                    } else {
                        spans[place].1 = 0;
                    }
                }
                prop_assert_eq!(runs.longest(), free.iter().map(|span| span.1).max().unwrap_or(0));
                for &want in &wants {
                    let want = length(want);
                    let list = |length| List::of(length);
                    let own = free.iter().map(|span| span.1).filter(|&has| has >= want && list(has) == list(want)).min();
                    let next = free.iter().map(|span| span.1).filter(|&has| has >= want).min();
                    let found = runs.would_cut(want);
                    match own {
                        Some(best) => prop_assert_eq!(found, Some(best)),
                        None => prop_assert_eq!(found.map(list), next.map(list)),
                    }
                }
            }
            // All of them go again, in any order.
            for &which in wants.iter().cycle() {
                if free.is_empty() {
                    break;
                }
                let has = free[which as usize % free.len()].1;
                let taken = runs.take(has, 1).unwrap();
                let place = free.iter().position(|&(start, length)| start == taken && length == has);
                prop_assert!(place.is_some(), "{} of {:?}", taken, free);
                free.swap_remove(place.unwrap());
                prop_assert_eq!(runs.longest(), free.iter().map(|span| span.1).max().unwrap_or(0));
            }
        }

        /// Held against a plain array of granules, by their numbers: no run is handed out twice, a fit that exists is found, nothing else is freed.
        #[test]
        fn runs_are_what_a_plain_array_says(
            flat in any::<bool>(), skew in 0..64u32, steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut runs = runs(flat, skew);
            let mut model = [false; (LOWEST + N) as usize];
            model[..LOWEST as usize].fill(true);
            let mut live: Vec<(u32, u32)> = Vec::new();
            // Whether spans may be set aside: then what is free need not be found.
            let mut aside = false;
            for step in steps {
                match step {
                    Step::Take { granules, align } => {
                        let fits = free(&model).into_iter().any(|(start, has)| {
                            (start..=start + has - granules.min(has))
                                .any(|at| (at - LOWEST + skew).is_multiple_of(align) && at + granules <= start + has)
                        });
                        let mut plain = || {
                            runs.take_aside((granules - LEAST) as usize).or_else(|| runs.take_plainly(granules as usize))
                        };
                        let plain = if align == 1 { plain() } else { None };
                        let taken = plain.or_else(|| runs.take(granules, align)).or_else(|| {
                            aside &= !runs.give_asides();
                            runs.take(granules, align)
                        });
                        prop_assert_eq!(taken.is_some(), fits);
                        if let Some(start) = taken {
                            prop_assert!((start - LOWEST + skew).is_multiple_of(align));
                            let range = start as usize..(start + granules) as usize;
                            prop_assert!(model[range.clone()].iter().all(|used| !used));
                            model[range].fill(true);
                            live.push((start, granules));
                        }
                    }
                    Step::Give(which) if !live.is_empty() => {
                        let (start, granules) = live.swap_remove(which % live.len());
                        let (at, length) = (start as usize, (granules - LEAST) as usize);
                        let set_aside = runs.set_aside(at, length);
                        prop_assert!(set_aside || runs.give_plainly(at, granules as usize) || give(&mut runs, start, granules));
                        prop_assert!(!runs.set_aside(at, length));
                        prop_assert!(!give(&mut runs, start, granules));
                        prop_assert!(!runs.give_plainly(at, granules as usize));
                        aside |= set_aside;
                        model[start as usize..(start + granules) as usize].fill(false);
                    }
                    Step::GiveWrong { start, granules } if !live.contains(&(start, granules)) => {
                        prop_assert!(!give(&mut runs, start, granules));
                        prop_assert!(!runs.give_plainly(start as usize, granules as usize));
                        prop_assert!(!runs.set_aside(start as usize, (granules.wrapping_sub(LEAST)) as usize));
                    }
                    Step::Extend(which, more) if !live.is_empty() => {
                        let at = which % live.len();
                        let (start, granules) = live[at];
                        let end = (start + granules) as usize;
                        let fits = model.get(end..end + more as usize).is_some_and(|behind| behind.iter().all(|used| !used));
                        let extended = runs.extend(start, granules, granules + more)
                            || (runs.give_asides() && runs.extend(start, granules, granules + more));
                        prop_assert_eq!(extended, fits);
                        if fits {
                            model[end..end + more as usize].fill(true);
                            live[at].1 += more;
                        }
                    }
                    Step::Cut(which, keep) if !live.is_empty() => {
                        let at = which % live.len();
                        let (start, granules) = live[at];
                        if keep < granules {
                            runs.cut(start, granules, keep);
                            model[(start + keep) as usize..(start + granules) as usize].fill(false);
                            live[at].1 = keep;
                        }
                    }
                    Step::GiveAsides => {
                        runs.give_asides();
                        aside = false;
                    }
                    _ => {}
                }
                for (start, granules) in &live {
                    prop_assert_eq!(runs.live(*start), Some(*granules));
                }
                let mut starts: Vec<u32> = live.iter().map(|span| span.0).collect();
                starts.sort_unstable();
                let mut from = 0;
                for start in starts {
                    prop_assert_eq!(runs.next_live(from), Some(start));
                    from = start + 1;
                }
                prop_assert_eq!(runs.next_live(from), None);
                let longest = free(&model).into_iter().map(|(_, has)| has).max().unwrap_or(0);
                if flat || !aside {
                    prop_assert_eq!(runs.longest(), if flat || longest >= LEAST { longest } else { 0 });
                }
            }
            for (start, granules) in live {
                prop_assert!(give(&mut runs, start, granules));
            }
            runs.give_asides();
            prop_assert_eq!(runs.longest(), N);
        }
    }
}
