//! Free spans by length: the lists of the fit table (`arena/index/fit/lists.rs`), linked through the shadow. Where lengths of a list differ it
//! is a tree (`runs/trees.rs`).

#![forbid(unsafe_code)]

use super::Runs;
use super::shadow::{FREE, LEAST, Links, Shadow, word};
use crate::arena::Borrowed;
use crate::arena::index::fit::List;

/// The lists of one doubling: the places of their first spans, then one bit for each that is not empty.
type Row = [u32; List::IN_ROW as usize + 1];
const FILLED: usize = List::IN_ROW as usize;

/// The lists of a range.
pub(super) struct Lists {
    rows: &'static mut [Row],
    /// One bit for each row that is not empty.
    filled: u32,
}

impl Lists {
    /// Those of nothing.
    pub(super) const fn none() -> Lists {
        Lists { rows: &mut [], filled: 0 }
    }

    /// The rows for a range of so many granules.
    const fn rows(granules: u32) -> usize {
        List::of(granules).row() + 1
    }

    pub(super) const fn table_bytes(granules: u32) -> usize {
        Self::rows(granules) * size_of::<Row>()
    }

    /// Empty ones; `None` where their table finds no room.
    #[inline]
    pub(super) fn new(meta: &mut Borrowed<'static>, granules: u32) -> Option<Lists> {
        Some(Lists { rows: meta.find_table(Self::rows(granules))?, filled: 0 })
    }

    /// One bit for each row that is not empty.
    #[inline]
    pub(super) const fn filled(&self) -> u32 {
        self.filled
    }
}

impl<const SLABS: bool> Runs<SLABS> {
    /// A span becomes free that has no free neighbour.
    #[inline]
    pub(super) fn insert(&mut self, place: u32, granules: u32) {
        self.bound = self.bound.max(granules);
        if granules < LEAST {
            return self.shadow.set_short(place, granules);
        }
        let list = List::of(granules);
        let Some(row) = self.lists.rows.get_mut(list.row()) else { return };
        let first = row[list.column()];
        if first == 0 {
            row[list.column()] = place;
            row[FILLED] |= 1 << list.column();
            self.lists.filled |= 1 << list.row();
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
    #[inline(always)]
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
    #[inline(always)]
    pub(super) fn set_list(&mut self, list: List, first: u32) {
        let Some(row) = self.lists.rows.get_mut(list.row()) else { return };
        row[list.column()] = first;
        if first == 0 {
            row[FILLED] &= !(1 << list.column());
            if row[FILLED] == 0 {
                self.lists.filled &= !(1 << list.row());
            }
        }
    }

    /// The best fit of the list of a length, else the first of the next longer list. Its place; 0 where there is none.
    #[inline(always)]
    pub(super) fn fit(&self, granules: u32) -> u32 {
        let mut list = List::of(granules);
        if !list.is_exact() {
            let root = self.lists.rows.get(list.row()).map_or(0, |row| row[list.column()]);
            let best = self.fit_of(root, granules);
            if best != 0 {
                return best;
            }
            list = list.next();
        }
        self.at_or_above(list)
    }

    /// Looks at so many spans, those of about the length first.
    pub(super) fn scan(&self, granules: u32, align: u32, most: u32) -> u32 {
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
    #[inline]
    fn at_or_above(&self, list: List) -> u32 {
        let Some(mut row) = self.lists.rows.get(list.row()) else { return 0 };
        let mut columns = row[FILLED] & !0 << list.column();
        if columns == 0 {
            // Where there is none above, there is no row of that number.
            let above = self.lists.filled & !1 << list.row();
            match self.lists.rows.get(above.trailing_zeros() as usize) {
                Some(next) => row = next,
                None => return 0,
            }
            columns = row[FILLED];
        }
        row[columns.trailing_zeros() as usize % FILLED]
    }

    /// Whether no free span is as long as the greatest power of two up to half of the range.
    pub(in super::super) fn is_tight(&self) -> bool {
        self.lists.filled >> List::of(self.granules() / 4).row() <= 1
    }

    /// The granules of the longest span in the lists.
    pub(super) fn longest_listed(&self) -> u32 {
        let Some(row) = self.lists.filled.checked_ilog2().and_then(|row| self.lists.rows.get(row as usize))
        else {
            return 0;
        };
        let first = row[(row[FILLED] | 1).ilog2() as usize % FILLED];
        let longest = self.shadow.listed(first);
        if List::of(longest).is_exact() { longest } else { self.longest_of(first) }
    }
}

impl Shadow {
    /// A free span stands at a place, first of a list with this one behind it.
    #[inline]
    pub(super) fn set_free(&mut self, place: u32, granules: u32, next: u32) {
        let header = self.header_mut(place);
        header[..4].copy_from_slice(&(granules | FREE).to_be_bytes());
        header[4..8].copy_from_slice(&next.to_le_bytes());
        header[8..12].copy_from_slice(&0u32.to_le_bytes());
        self.set_word((place + granules) as usize - 4, granules | FREE);
    }

    /// The free spans behind and before one in its list.
    #[inline]
    pub(super) fn around(&self, place: u32) -> Links {
        let header = self.header(place);
        Links { next: word(header, 4), prev: word(header, 8) }
    }

    #[inline]
    pub(super) fn set_next(&mut self, place: u32, next: u32) {
        self.set_word(place as usize + 4, next);
    }

    #[inline]
    pub(super) fn set_prev(&mut self, place: u32, prev: u32) {
        self.set_word(place as usize + 8, prev);
    }
}
