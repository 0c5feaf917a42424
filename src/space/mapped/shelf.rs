//! One mapping for all the tables of a pool: a process that has but a few blocks pays for few system calls and few pages.

use super::os;
use super::tables::{Home, MappedTable, MappedTables, PIECE, WHOLE_TABLE, table_bytes};
use crate::arena::metadata::{Metadata, NoTable, Plain};
use crate::sync::atomic::{AtomicUsize, Ordering, fence};
use core::ptr::NonNull;

/// What a table begins at a multiple of: a line of the processor's cache.
const LINE: usize = 64;

/// Where tables go: those that can be written from the start side by side, behind them those that grow, which begin at pages.
#[derive(Debug)]
struct Plan {
    front: usize,
    back: usize,
}

impl Plan {
    /// What comes first is the shelf's own.
    const NEW: Plan = Plan { front: size_of::<Header>(), back: 0 };

    /// Where in its part a table goes, and whether that is the back.
    fn put(&mut self, bytes: usize, grows: bool) -> Option<(usize, bool)> {
        let grows = grows && bytes > WHOLE_TABLE;
        let (part, align) = if grows { (&mut self.back, PIECE) } else { (&mut self.front, LINE) };
        let at = part.checked_next_multiple_of(align)?;
        *part = at.checked_add(bytes)?;
        Some((at, grows))
    }

    /// Where the back begins.
    fn turn(&self) -> Option<usize> {
        self.front.checked_next_multiple_of(PIECE)
    }
}

/// Counts what a shelf has to hold, and gives empty tables.
#[derive(Debug)]
pub(crate) struct Measure(Plan);

impl Measure {
    /// Of nothing.
    pub(crate) const NEW: Measure = Measure(Plan::NEW);

    fn put<T>(&mut self, len: usize, grows: bool) -> Result<&'static mut [T], NoTable> {
        let bytes = table_bytes::<T>(len)?;
        self.0
            .put(bytes, grows)
            .map(|_| &mut [][..])
            .ok_or(NoTable { needed_bytes: u64::MAX, left_bytes: None })
    }
}

// SAFETY: 1. Its tables are empty.
unsafe impl Metadata for Measure {
    type Table<T: Plain> = &'static mut [T];

    fn table<T: Plain>(&mut self, len: usize) -> Result<&'static mut [T], NoTable> {
        self.put(len, false)
    }

    fn growing<T: Plain>(&mut self, len: usize) -> Result<&'static mut [T], NoTable> {
        self.put(len, true)
    }
}

/// Tables in one mapping, which is given back with the last of them.
#[derive(Debug)]
pub(crate) struct Shelf {
    shared: Shared,
    /// What is taken.
    plan: Plan,
    /// Where the back begins.
    turn: usize,
}

impl Shelf {
    /// Room for what was measured; `None`: there is no memory for it.
    pub(crate) fn new(measure: &Measure) -> Option<Shelf> {
        let turn = measure.0.turn()?;
        let len = turn.checked_add(measure.0.back).filter(|&len| len <= isize::MAX as usize)?;
        let range = os::Range::table(len, true).ok()?;
        range.open_place(0, turn).ok()?;
        Some(Shelf { shared: Shared::new(range), plan: Plan::NEW, turn })
    }

    /// A table on the shelf, or, where it was not measured, in a mapping of its own.
    fn put<T: Plain>(&mut self, len: usize, grows: bool) -> Result<MappedTable<T>, NoTable> {
        const { assert!(align_of::<T>() <= LINE) };
        let bytes = table_bytes::<T>(len)?;
        let all = self.shared.range().len();
        let mut plan = Plan { ..self.plan };
        let place =
            plan.put(bytes, grows).filter(|_| plan.front <= self.turn && plan.back <= all - self.turn);
        let Some((at, grows)) = place.filter(|_| bytes > 0) else {
            return if grows { MappedTables.growing(len) } else { MappedTables.table(len) };
        };
        self.plan = plan;
        let place = Place { shelf: self.shared.clone(), at: if grows { self.turn + at } else { at } };
        // SAFETY: 1. The plan has no two tables in one place, nor one that reaches beyond its part; the front was opened.
        // 2. A mapping begins at a page, so a multiple of a line or of a piece in it is aligned. 3. It lives as long as there is a place.
        Ok(unsafe { MappedTable::at(place.start(), len, grows, Home::Shelf(place)) })
    }
}

// SAFETY: 1. A table is a part of the shelf that nothing else is put in, or in a mapping of its own; both are zeros.
unsafe impl Metadata for Shelf {
    type Table<T: Plain> = MappedTable<T>;

    fn table<T: Plain>(&mut self, len: usize) -> Result<MappedTable<T>, NoTable> {
        self.put(len, false)
    }

    fn growing<T: Plain>(&mut self, len: usize) -> Result<MappedTable<T>, NoTable> {
        self.put(len, true)
    }

    fn grow<T: Plain>(table: &mut MappedTable<T>, len: usize) -> Result<(), NoTable> {
        table.grow(len)
    }
}

/// Where on a shelf a table is.
#[derive(Debug)]
pub(super) struct Place {
    shelf: Shared,
    at: usize,
}

impl Place {
    fn start(&self) -> NonNull<u8> {
        let range = self.shelf.range();
        assert!(self.at < range.len());
        // SAFETY: 1. Checked to lie in the mapping.
        unsafe { range.start().add(self.at) }
    }

    /// Makes the whole table, of so many bytes, readable.
    pub(super) fn let_read(&self, len: usize) -> Result<(), i32> {
        self.shelf.range().let_read(self.at, len)
    }

    /// Makes a part of the table readable and writable.
    pub(super) fn open(&self, at: usize, len: usize) -> Result<(), i32> {
        self.shelf.range().open_place(self.at + at, len)
    }
}

/// The mapping of a shelf, shared by its tables.
#[derive(Debug)]
struct Shared(NonNull<Header>);

/// What stands at its start: the heap's tables come before there is a heap.
#[derive(Debug)]
struct Header {
    range: os::Range,
    shares: AtomicUsize,
}

// SAFETY: 1. The range is used through shared references alone, and given back by whoever is last.
unsafe impl Send for Shared {}
// SAFETY: 1. As above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The first share. The start of the range can be written.
    fn new(range: os::Range) -> Shared {
        let header = range.start().cast::<Header>();
        // SAFETY: 1. As the caller says, and a shelf is no shorter than its header. 2. A mapping begins at a page.
        unsafe { header.write(Header { range, shares: AtomicUsize::new(1) }) };
        Shared(header)
    }

    fn header(&self) -> &Header {
        // SAFETY: 1. It was written when the shelf was made, and is there as long as there is a share.
        unsafe { self.0.as_ref() }
    }

    fn range(&self) -> &os::Range {
        &self.header().range
    }
}

impl Clone for Shared {
    fn clone(&self) -> Shared {
        // Relaxed: whoever clones has a share.
        self.header().shares.fetch_add(1, Ordering::Relaxed);
        Shared(self.0)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Release and Acquire: what others did with their tables lies behind the end of the mapping.
        if self.header().shares.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: 1. It was the last share: nobody else sees the header any more, nor what is around it.
            drop(unsafe { self.0.read() }.range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn tables_lie_side_by_side_and_are_zeros_and_nobody_elses() {
        let mut measure = Measure::NEW;
        let lens = if cfg!(miri) { [3, 1000, 1, 0, 66_000, 7] } else { [3, 100_000, 1, 0, 70_000, 300_000] };
        for len in lens {
            measure.table::<u32>(len).unwrap();
            measure.growing::<[u64; 2]>(len).unwrap();
        }
        let mut shelf = Shelf::new(&measure).unwrap();
        let mut tables: Vec<_> = lens
            .iter()
            .map(|&len| (shelf.table::<u32>(len).unwrap(), shelf.growing::<[u64; 2]>(len).unwrap()))
            .collect();
        assert!(tables.iter().all(|(table, grown)| !matches!(
            (&table.home(), &grown.home()),
            (Home::Own(_), _) | (_, Home::Own(_))
        )));
        let (short, long) =
            (shelf.table::<u8>(PIECE).unwrap(), shelf.growing::<u8>(WHOLE_TABLE + 1).unwrap());
        assert!(
            matches!((short.home(), long.home()), (Home::Own(_), Home::Own(_))),
            "what was not measured lies elsewhere"
        );
        assert!(short.is_whole() && !long.is_whole());
        drop(shelf);
        // An interpreter looks at some entries only.
        const STEP: usize = if cfg!(miri) { 997 } else { 1 };
        for (at, (table, grown)) in tables.iter_mut().enumerate() {
            assert!(table.iter().step_by(STEP).all(|&entry| entry == 0));
            table.iter_mut().step_by(STEP).for_each(|entry| *entry = at as u32 + 1);
            for len in [lens[at] / 3, lens[at]] {
                Shelf::grow(grown, len).unwrap();
                assert!(
                    grown
                        .iter()
                        .skip(at)
                        .step_by(STEP)
                        .all(|&entry| entry == [0; 2] || entry == [at as u64 + 77; 2])
                );
                grown[..len].iter_mut().step_by(STEP).for_each(|entry| *entry = [at as u64 + 77; 2]);
            }
        }
        // The mapping goes with the last table, whichever that is.
        while let Some((table, grown)) = tables.pop() {
            let at = tables.len();
            assert!(table.iter().step_by(STEP).all(|&entry| entry == at as u32 + 1), "{at}");
            assert!(grown.iter().step_by(STEP).all(|&entry| entry == [at as u64 + 77; 2]), "{at}");
        }
    }

    /// More of them than a process has addresses for, one after the other.
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(miri)))]
    #[test]
    fn the_mapping_is_given_back_with_the_last_table() {
        const LEN: usize = 64 << 30;
        for _ in 0..2500 {
            let mut measure = Measure::NEW;
            measure.growing::<u8>(LEN).unwrap();
            let mut shelf = Shelf::new(&measure).expect("addresses that were given back");
            let table = shelf.growing::<u8>(LEN).unwrap();
            assert!(matches!(table.home(), Home::Shelf(_)));
        }
    }
}
