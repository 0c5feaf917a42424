//! Free spans by length: the lists of the fit table (`arena/index/fit/lists.rs`), linked through the shadow. Where lengths of a list differ it
//! is a tree (`runs/trees.rs`).

#![forbid(unsafe_code)]

use super::super::COPIES;
use super::Runs;
use super::shadow::{LEAST, Links};
use crate::arena::index::fit::List;

/// The lists of one doubling: the places of their first spans, then one bit for each that is not empty.
pub(super) type Row = [u32; List::IN_ROW as usize + 1];
const FILLED: usize = List::IN_ROW as usize;

/// Spans of about the length that are tried for an alignment before a span that surely holds it is.
const ALIGNED_LOOKED: u32 = 4;

impl<const SLABS: bool> Runs<SLABS> {
    /// A span becomes free that has no free neighbour.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn insert(&mut self, place: u32, granules: u32) {
        if COPIES {
            self.bound = self.bound.max(granules);
        }
        if granules < LEAST {
            return self.shadow.set_short(place, granules);
        }
        let list = List::of(granules);
        let Some(row) = self.rows.get_mut(list.row()) else { return };
        let first = row[list.column()];
        if first == 0 {
            row[list.column()] = place;
            row[FILLED] |= 1 << list.column();
            self.filled |= 1 << list.row();
            if !list.is_exact() {
                return self.plant(place, granules);
            }
        } else if list.is_exact() {
            row[list.column()] = place;
            self.shadow.set_prev(first, place);
        } else {
            return self.graft(first, place, granules);
        }
        self.shadow.set_free(place, granules, first);
    }

    /// A free span is about to be something else.
    #[inline]
    pub(super) fn remove(&mut self, place: u32, granules: u32) {
        if granules >= LEAST {
            self.unlist(place, granules);
        }
    }

    /// The same, of a span in a list.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn unlist(&mut self, place: u32, granules: u32) {
        let list = List::of(granules);
        if !list.is_exact() {
            return self.uproot(place, granules);
        }
        let Links { next, prev } = self.shadow.around(place);
        if next != 0 {
            self.shadow.set_prev(next, prev);
        }
        if prev != 0 {
            return self.shadow.set_next(prev, next);
        }
        self.set_list(list, next);
    }

    /// Another span, or none, is the first of a list.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn set_list(&mut self, list: List, first: u32) {
        let Some(row) = self.rows.get_mut(list.row()) else { return };
        row[list.column()] = first;
        if first == 0 {
            row[FILLED] &= !(1 << list.column());
            if row[FILLED] == 0 {
                self.filled &= !(1 << list.row());
            }
        }
    }

    /// The best fit of the list of a length, else the first of the next longer list. Its place; 0 where there is none.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn fit(&self, granules: u32) -> u32 {
        let mut list = List::of(granules);
        if !list.is_exact() {
            let root = self.rows.get(list.row()).map_or(0, |row| row[list.column()]);
            let best = self.fit_of(root, granules);
            if best != 0 {
                return best;
            }
            list = list.next();
        }
        self.at_or_above(list)
    }

    /// A free span that holds a run with an alignment: one of about the length, else one that is long enough wherever it starts,
    /// else any. Its place; 0 where there is none.
    #[cfg_attr(target_pointer_width = "64", inline(never))]
    pub(super) fn fit_aligned(&self, granules: u32, align: u32) -> u32 {
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

    /// Looks at so many spans, those of about the length first.
    fn scan(&self, granules: u32, align: u32, most: u32) -> u32 {
        let (mut list, mut place) = (List::of(granules), 0);
        for _ in 0..most {
            if place == 0 {
                place = self.at_or_above(list);
                if place == 0 {
                    break;
                }
            }
            let has = self.shadow.listed(place);
            if self.aligned(place, align) + granules <= place + has {
                return place;
            }
            let own = List::of(has);
            (list, place) =
                (own.next(), if own.is_exact() { self.shadow.next(place) } else { self.next_of(place) });
        }
        0
    }

    /// The first span of the lowest list from `list` on that is not empty.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn at_or_above(&self, list: List) -> u32 {
        let Some(mut row) = self.rows.get(list.row()) else { return 0 };
        let mut columns = row[FILLED] & !0 << list.column();
        if columns == 0 {
            // Where there is none above, there is no row of that number.
            let above = self.filled & !1 << list.row();
            match self.rows.get(above.trailing_zeros() as usize) {
                Some(next) => row = next,
                None => return 0,
            }
            columns = row[FILLED];
        }
        row[columns.trailing_zeros() as usize % FILLED]
    }

    /// Whether no free span is longer than about a sixteenth of the range.
    pub(in super::super) fn is_tight(&self) -> bool {
        self.filled >> List::of(self.granules() / 4).row() <= 1
    }

    /// The granules of the longest span in the lists.
    pub(super) fn longest_listed(&self) -> u32 {
        let Some(row) = self.filled.checked_ilog2().and_then(|row| self.rows.get(row as usize)) else {
            return 0;
        };
        let first = row[(row[FILLED] | 1).ilog2() as usize % FILLED];
        let longest = self.shadow.listed(first);
        if List::of(longest).is_exact() { longest } else { self.longest_of(first) }
    }
}
