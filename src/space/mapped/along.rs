//! Tables that go along with a range: a byte for so many of its bytes, which can be written once the range is there.

#![forbid(unsafe_code)]

use super::STEP;
use super::tables::MappedTable;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use core::ptr::NonNull;

/// One such table. All of it can be read.
#[derive(Debug)]
pub(super) struct Along {
    table: MappedTable<u8>,
    /// log2 of the bytes of the range that have one of the table.
    shift: u32,
    /// Where in the table those are that the first of the range have; its start follows its end.
    first: usize,
    /// How much of the range has bytes that can be written.
    reached: AtomicUsize,
}

impl Along {
    /// The table is new. The error is the system's.
    pub(super) fn new(table: MappedTable<u8>, shift: u32, first: usize) -> Result<Along, i32> {
        let is_whole = table.is_whole();
        if !is_whole {
            table.let_read()?;
        }
        let reached = AtomicUsize::new(if is_whole { usize::MAX } else { 0 });
        let first = first % table.most();
        Ok(Along { table, shift, first, reached })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.table.start()
    }

    /// What goes along with the range up to `end` can be written from now on. The error is the system's.
    #[inline]
    pub(super) fn reach(&self, end: usize) -> Result<(), i32> {
        // Relaxed: whoever sees the number comes behind the calls that it tells of. Who comes second does it again.
        let reached = self.reached.load(Relaxed);
        if end <= reached { Ok(()) } else { self.reach_from(reached, end) }
    }

    /// The same from where it cannot be, for an eighth more than is asked for.
    #[cold]
    fn reach_from(&self, reached: usize, end: usize) -> Result<(), i32> {
        let len = self.table.most();
        let end = end.saturating_add(STEP.max(end / 8));
        let (from, upto) = (reached >> self.shift, (end >> self.shift).min(len));
        // The part up to the table's end, and the part from its start.
        let turn = len - self.first;
        let behind = from.min(turn)..upto.min(turn);
        let before = from.max(turn) - turn..upto.max(turn) - turn;
        if !behind.is_empty() {
            self.table.open(self.first + behind.start, behind.len())?;
        }
        if !before.is_empty() {
            self.table.open(before.start, before.len())?;
        }
        self.reached.fetch_max(if upto == len { usize::MAX } else { end }, Relaxed);
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::super::MappedTables;
    use super::*;
    use crate::arena::metadata::Metadata;

    /// The parts of a table that can be written, as the kernel says.
    fn written(table: &MappedTable<u8>) -> std::vec::Vec<core::ops::Range<usize>> {
        let start = table.start().as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut parts = std::vec![];
        for line in maps.lines() {
            let (place, rest) = line.split_once(' ').unwrap();
            let (from, upto) = place.split_once('-').unwrap();
            let [from, upto] = [from, upto].map(|at| usize::from_str_radix(at, 16).unwrap());
            if rest.starts_with("rw") && from < start + table.most() && upto > start {
                parts.push(from.saturating_sub(start)..(upto - start).min(table.most()));
            }
        }
        parts
    }

    #[test]
    fn a_table_can_be_written_as_far_as_its_range_is_there_and_turns_at_its_end() {
        const LEN: usize = 4 << 20;
        for first in [0, 1 << 20, LEN - (1 << 20), LEN + 4096, 2 * LEN - 1] {
            let along = Along::new(MappedTables.growing(LEN).unwrap(), 10, first).unwrap();
            assert!(written(&along.table).is_empty());
            for mib in [1, 40, 41, 1100, 2000, 3900, 4096, 1 << 20] {
                along.reach(mib << 20).unwrap();
                let parts = written(&along.table);
                for at in 0..(mib << 10).min(LEN) {
                    let at = (first + at) % LEN;
                    assert!(parts.iter().any(|part| part.contains(&at)), "{first} {mib}: {at} of {parts:?}");
                }
                let bytes: usize = parts.iter().map(|part| part.len()).sum();
                let most = (mib << 10) + ((mib << 10) / 8).max(32 << 10) + (256 << 10);
                assert!(bytes <= most, "{first} {mib}: {bytes} of {most}");
            }
            assert_eq!(along.reached.load(Relaxed), usize::MAX);
        }
    }

    #[test]
    fn a_short_table_is_whole() {
        let along = Along::new(MappedTables.growing(4096).unwrap(), 10, 5).unwrap();
        assert_eq!(along.reach(usize::MAX), Ok(()));
        assert_eq!(along.table.most(), 4096);
    }
}
