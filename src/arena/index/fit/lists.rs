//! Free spans by length: two-level segregated lists, 32 to a doubling, linked through a table beside the space.
//!
//! Lengths below 64 have a list each; above, a list holds lengths that differ by less than 1/32. One bit per list
//! and one per doubling say which hold anything, so the next longer one is found with two bit scans.

#![forbid(unsafe_code)]

use crate::arena::metadata::{Metadata, NoTable};

/// log2 of the lists of a doubling.
const SHIFT: u32 = 5;
const LISTS: u32 = 1 << SHIFT;

/// The lists of one doubling: their first spans, then one bit for each that is not empty. Links are slots plus one, and
/// 0 is none, so that all zeros is a table of nothing.
type Row = [u32; LISTS as usize + 1];
const FILLED: usize = LISTS as usize;

/// A span's length, then, if it is free, the next and the previous of its list.
type Slot = [u32; 4];
const LENGTH: usize = 0;
const NEXT: usize = 1;
const PREV: usize = 2;

/// A list: 32 times its row, plus its place in the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct List(u32);

// A fixed heap where code is dear has a tree in their place.
#[cfg_attr(not(target_pointer_width = "64"), allow(dead_code))]
impl List {
    /// The list of free spans of `length` granules.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(crate) const fn of(length: u32) -> List {
        if length < LISTS {
            return List(length);
        }
        // Row 1 starts at 32, row 2 at 64. The leading one of the length adds the row that the shift lacks.
        let shift = length.ilog2() - SHIFT;
        List((shift << SHIFT) + (length >> shift))
    }

    /// Whether every span in the list has the same length.
    #[inline]
    pub(crate) const fn is_exact(self) -> bool {
        self.0 < 2 * LISTS
    }

    #[inline]
    pub(crate) const fn next(self) -> List {
        List(self.0 + 1)
    }

    /// Lists of a row: of a doubling.
    pub(crate) const IN_ROW: u32 = LISTS;
    /// log2 of that.
    pub(crate) const BITS: u32 = SHIFT;

    /// Its row.
    #[inline]
    pub(crate) const fn row(self) -> usize {
        (self.0 >> SHIFT) as usize
    }

    /// Its place in the row.
    #[inline]
    pub(crate) const fn column(self) -> usize {
        (self.0 % LISTS) as usize
    }
}

/// The lists of one or two sets of free spans, and the slots that link them.
pub(super) struct Lists<M: Metadata> {
    slots: M::Table<Slot>,
    rows: M::Table<Row>,
    rows_per_set: u32,
    /// One bit for each row of a set that is not empty.
    filled: [u32; 2],
}

impl<M: Metadata> Lists<M> {
    /// Lists for `sets` sets of spans of up to `longest` granules, linked through `slots` slots; none without slots.
    pub(super) fn new(meta: &mut M, slots: u32, longest: u32, sets: u32) -> Result<Self, NoTable> {
        let rows_per_set = if slots == 0 { 0 } else { (List::of(longest).0 >> SHIFT) + 1 };
        let rows = meta.table((rows_per_set * sets) as usize)?;
        Ok(Lists { slots: meta.table(slots as usize)?, rows, rows_per_set, filled: [0; 2] })
    }

    /// The length kept in a slot.
    #[inline]
    pub(super) fn length(&self, slot: u32) -> u32 {
        self.slots[slot as usize][LENGTH]
    }

    #[inline]
    pub(super) fn set_length(&mut self, slot: u32, length: u32) {
        self.slots[slot as usize][LENGTH] = length;
    }

    /// Puts a slot in front of the list of its length.
    #[inline]
    pub(super) fn push(&mut self, set: u32, slot: u32, length: u32) {
        let (row, column) = self.place(set, List::of(length));
        let head = self.rows[row][column];
        self.slots[slot as usize] = [length, head, 0, 0];
        self.rows[row][column] = slot + 1;
        match head.checked_sub(1) {
            Some(head) => self.slots[head as usize][PREV] = slot + 1,
            None => {
                self.rows[row][FILLED] |= 1 << column;
                self.filled[set as usize] |= 1 << (row as u32 - set * self.rows_per_set);
            }
        }
    }

    /// Takes a slot out of its list.
    #[inline]
    pub(super) fn pull(&mut self, set: u32, slot: u32) {
        let [length, next, prev, _] = self.slots[slot as usize];
        if let Some(next) = next.checked_sub(1) {
            self.slots[next as usize][PREV] = prev;
        }
        if let Some(prev) = prev.checked_sub(1) {
            self.slots[prev as usize][NEXT] = next;
            return;
        }
        let (row, column) = self.place(set, List::of(length));
        self.rows[row][column] = next;
        if next == 0 {
            self.rows[row][FILLED] &= !(1 << column);
            if self.rows[row][FILLED] == 0 {
                self.filled[set as usize] &= !(1 << (row as u32 - set * self.rows_per_set));
            }
        }
    }

    /// A good fit in a set: of the first `looked` spans in the list of that length the shortest that is long enough,
    /// else the first of the next longer list; failing both, any of the own list.
    #[inline]
    pub(super) fn fit(&self, set: u32, length: u32, looked: usize) -> Option<u32> {
        let own = List::of(length);
        if own.is_exact() {
            return Some(self.at_or_above(set, own)?.1);
        }
        let enough = |slot: &u32| self.length(*slot) >= length;
        let mut spans = self.list(set, own);
        let good = spans.by_ref().take(looked).filter(enough).min_by_key(|slot| self.length(*slot));
        match good {
            Some(slot) => Some(slot),
            None => match self.at_or_above(set, own.next()) {
                Some((_, slot)) => Some(slot),
                None => spans.find(enough),
            },
        }
    }

    /// The spans of a set that are at least `length` long, those of about that length first, and some shorter ones.
    pub(super) fn from(&self, set: u32, length: u32) -> impl Iterator<Item = u32> {
        let mut found = self.at_or_above(set, List::of(length));
        core::iter::from_fn(move || {
            let (list, slot) = found?;
            found = match self.next(slot) {
                Some(next) => Some((list, next)),
                None => self.at_or_above(set, list.next()),
            };
            Some(slot)
        })
    }

    /// The length of the longest span of a set.
    pub(super) fn longest(&self, set: u32) -> u32 {
        let Some(top) = self.filled[set as usize].checked_ilog2() else { return 0 };
        let column = self.rows[(set * self.rows_per_set + top) as usize][FILLED].ilog2();
        let list = List(top << SHIFT | column);
        if list.is_exact() {
            return list.0;
        }
        self.list(set, list).map(|slot| self.length(slot)).max().unwrap_or(0)
    }

    /// Row and column of a list, row by row and set by set.
    #[inline]
    fn place(&self, set: u32, list: List) -> (usize, usize) {
        ((set * self.rows_per_set + (list.0 >> SHIFT)) as usize, (list.0 % LISTS) as usize)
    }

    /// The lowest list from `list` on that is not empty, and its first span.
    #[inline]
    fn at_or_above(&self, set: u32, list: List) -> Option<(List, u32)> {
        let (row, first) = (list.0 >> SHIFT, (set * self.rows_per_set) as usize);
        if row >= self.rows_per_set {
            return None;
        }
        let rest = self.rows[first + row as usize][FILLED] & !0 << (list.0 % LISTS);
        let (row, columns) = if rest != 0 {
            (row, rest)
        } else {
            let above = self.filled[set as usize] & (!1 << row);
            if above == 0 {
                return None;
            }
            let row = above.trailing_zeros();
            (row, self.rows[first + row as usize][FILLED])
        };
        let column = columns.trailing_zeros();
        let head = self.rows[first + row as usize][column as usize];
        Some((List(row << SHIFT | column), head.checked_sub(1)?))
    }

    /// The spans of one list.
    #[inline]
    fn list(&self, set: u32, list: List) -> impl Iterator<Item = u32> {
        let (row, column) = self.place(set, list);
        let head = self.rows.get(row).map_or(0, |row| row[column]);
        core::iter::successors(head.checked_sub(1), |slot| self.next(*slot))
    }

    #[inline]
    fn next(&self, slot: u32) -> Option<u32> {
        self.slots[slot as usize][NEXT].checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::List;

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, too much of it to interpret")]
    fn lists_are_in_order_of_length_and_exact_below_64() {
        let mut last = List::of(1);
        for length in 2..1 << 17 {
            let list = List::of(length);
            assert!(list.0 == last.0 || list.0 == last.0 + 1, "{length}");
            assert!(list.is_exact() == (length < 64), "{length}");
            if length <= 64 {
                assert_eq!(list.0, length);
            }
            last = list;
        }
        assert!(List::of(1 << 31).0 >> super::SHIFT < 32, "a bit for every row");
    }

    #[test]
    fn lengths_of_one_list_differ_by_less_than_a_thirtysecond() {
        for length in [64u32, 65, 127, 1000, 40_000, 1 << 30] {
            let longer = length + length / 32;
            assert_ne!(List::of(length), List::of(longer + 1), "{length}");
        }
    }
}
