//! Free spans by length: the lists of the fit table (`arena/index/fit/lists.rs`), linked through the shadow.

#![forbid(unsafe_code)]

use super::Runs;
use super::shadow::{LEAST, Links};
use crate::arena::index::fit::List;

/// The lists of one doubling: the places of their first spans, then one bit for each that is not empty.
pub(super) type Row = [u32; List::IN_ROW as usize + 1];
const FILLED: usize = List::IN_ROW as usize;

/// Spans of the own list that are looked at before the next longer list is.
const LOOKED: usize = 4;
/// Spans of about the length that are tried for an alignment before a span that surely holds it is.
const ALIGNED_LOOKED: u32 = 4;

impl<const SLABS: bool> Runs<SLABS> {
    /// A span becomes free that has no free neighbour.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn insert(&mut self, place: u32, granules: u32) {
        self.bound = self.bound.max(granules);
        if granules < LEAST {
            return self.shadow.set_short(place, granules);
        }
        let list = List::of(granules);
        let Some(row) = self.rows.get_mut(list.row()) else { return };
        let next = row[list.column()];
        row[list.column()] = place;
        if next == 0 {
            row[FILLED] |= 1 << list.column();
            self.filled |= 1 << list.row();
        } else {
            self.shadow.set_prev(next, place);
        }
        self.shadow.set_free(place, granules, next);
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
        let Links { next, prev } = self.shadow.around(place);
        if next != 0 {
            self.shadow.set_prev(next, prev);
        }
        if prev != 0 {
            return self.shadow.set_next(prev, next);
        }
        let list = List::of(granules);
        let Some(row) = self.rows.get_mut(list.row()) else { return };
        row[list.column()] = next;
        if next == 0 {
            row[FILLED] &= !(1 << list.column());
            if row[FILLED] == 0 {
                self.filled &= !(1 << list.row());
            }
        }
    }

    /// A good fit: of the first spans in the list of that length the shortest that is long enough, else the first of the next
    /// longer list; failing both, any of the own list. Its place; 0 where there is none.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn fit(&self, granules: u32) -> u32 {
        let mut list = List::of(granules);
        let mut place = 0;
        if !list.is_exact() {
            // By how much it is too long; by far more than any is where it is too short.
            let (mut best, mut least) = (0, 1 << 31);
            place = self.rows.get(list.row()).map_or(0, |row| row[list.column()]);
            for _ in 0..LOOKED {
                if place == 0 {
                    break;
                }
                let over = self.shadow.listed(place).wrapping_sub(granules);
                if over < least {
                    (best, least) = (place, over);
                }
                place = self.shadow.next(place);
            }
            if best != 0 {
                return best;
            }
            list = list.next();
        }
        let longer = self.at_or_above(list);
        if longer != 0 {
            return longer;
        }
        // Those that were looked at were too short.
        while place != 0 && self.shadow.listed(place) < granules {
            place = self.shadow.next(place);
        }
        place
    }

    /// A free span that holds a run with an alignment: one of about the length, else one that is long enough wherever it starts,
    /// else any. Its place; 0 where there is none.
    #[inline(never)]
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
            (list, place) = (List::of(has).next(), self.shadow.next(place));
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
        let mut place = row[(row[FILLED] | 1).ilog2() as usize % FILLED];
        let mut longest = 0;
        while place != 0 {
            longest = self.shadow.listed(place).max(longest);
            place = self.shadow.next(place);
        }
        longest
    }
}
