//! Tables in mapped memory.

use super::shelf::Place;
use super::{open_ahead, os};
use crate::arena::metadata::{Metadata, NoTable, Plain};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// Tables in mappings of their own: what is never used costs no memory, and what a program writes past a block
/// cannot reach them.
#[derive(Clone, Copy, Debug, Default)]
pub struct MappedTables;

/// One such table. Of one that grows the first entries are there: what is borrowed ends with them.
#[derive(Debug)]
pub struct MappedTable<T> {
    home: Home,
    start: NonNull<T>,
    len: usize,
    /// The entries that are there.
    grown: usize,
}

/// The mapping that a table lies in.
#[derive(Debug)]
pub(super) enum Home {
    /// None: it has no bytes.
    Nowhere,
    /// Its own.
    Own(os::Range),
    /// One for several tables.
    Shelf(Place),
}

impl Home {
    /// Makes the whole table, of so many bytes, readable.
    fn let_read(&self, len: usize) -> Result<(), i32> {
        match self {
            Home::Nowhere => Ok(()),
            Home::Own(range) => range.let_read(0, len),
            Home::Shelf(place) => place.let_read(len),
        }
    }

    /// Makes a part of the table readable and writable.
    fn open(&self, at: usize, len: usize) -> Result<(), i32> {
        match self {
            Home::Nowhere => Ok(()),
            Home::Own(range) => range.open_place(at, len),
            Home::Shelf(place) => place.open(at, len),
        }
    }
}

/// A table that grows is whole from the start if it is no longer.
pub(super) const WHOLE_TABLE: usize = 1 << 20;
/// The least that is opened of a longer one at once.
const STEP: usize = 256 << 10;
/// What is opened of one is a multiple of this, of which every system's page is a part.
pub(super) const PIECE: usize = 64 << 10;

/// The bytes of a table, if it can be as long.
pub(super) fn table_bytes<T>(len: usize) -> Result<usize, NoTable> {
    let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
    bytes.ok_or(NoTable { needed_bytes: u64::MAX, left_bytes: None })
}

fn no_table(bytes: usize) -> NoTable {
    NoTable { needed_bytes: bytes as u64, left_bytes: None }
}

impl<T: Plain> MappedTable<T> {
    fn new(len: usize, grows: bool) -> Result<MappedTable<T>, NoTable> {
        let bytes = table_bytes::<T>(len)?;
        if bytes == 0 {
            return Ok(MappedTable { home: Home::Nowhere, start: NonNull::dangling(), len, grown: len });
        }
        let grows = grows && bytes > WHOLE_TABLE;
        let range = os::Range::table(bytes, grows).map_err(|_| no_table(bytes))?;
        let start = range.start();
        // SAFETY: 1. A mapping of so many bytes begins there, at a page.
        Ok(unsafe { MappedTable::at(start, len, grows, Home::Own(range)) })
    }

    /// A table that lies somewhere.
    ///
    /// # Safety
    /// As many entries as `len` says are mapped as long as its home is, aligned, zeros and nobody else's; if it does not grow, they can be read and
    /// written.
    pub(super) unsafe fn at(start: NonNull<u8>, len: usize, grows: bool, home: Home) -> MappedTable<T> {
        MappedTable { home, start: start.cast(), len, grown: if grows { 0 } else { len } }
    }

    #[cfg(test)]
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// Where it begins.
    pub(super) fn start(&self) -> NonNull<T> {
        self.start
    }

    /// How many entries it can have.
    pub(super) fn most(&self) -> usize {
        self.len
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.grown == self.len
    }

    /// Makes all of it readable, of which nothing was opened.
    pub(super) fn let_read(&self) -> Result<(), i32> {
        self.home.let_read(self.len * size_of::<T>())
    }

    /// Makes a part readable and writable that nobody borrows.
    pub(super) fn open(&self, at: usize, len: usize) -> Result<(), i32> {
        let size = size_of::<T>();
        assert!(at <= self.len && len <= self.len - at, "{at}..+{len} of a table of {}", self.len);
        self.home.open(at * size, len * size)
    }

    /// Opens the first `len` entries, and some more, or just these, where no more is allowed.
    pub(super) fn grow(&mut self, len: usize) -> Result<(), NoTable> {
        if len <= self.grown {
            return Ok(());
        }
        assert!(len <= self.len, "{len} entries of a table of {}", self.len);
        let (opened, bytes) = (self.grown * size_of::<T>(), len * size_of::<T>());
        let most = self.len * size_of::<T>();
        let opened = open_ahead(opened, bytes, (PIECE, STEP), most, |at, len| self.home.open(at, len));
        self.grown = opened.map_err(|_| no_table(bytes))? / size_of::<T>();
        Ok(())
    }
}

// SAFETY: 1. A table is a mapping of its own, which holds zeros, or nothing.
unsafe impl Metadata for MappedTables {
    type Table<T: Plain> = MappedTable<T>;

    fn table<T: Plain>(&mut self, len: usize) -> Result<MappedTable<T>, NoTable> {
        MappedTable::new(len, false)
    }

    fn growing<T: Plain>(&mut self, len: usize) -> Result<MappedTable<T>, NoTable> {
        MappedTable::new(len, true)
    }

    fn grow<T: Plain>(table: &mut MappedTable<T>, len: usize) -> Result<(), NoTable> {
        table.grow(len)
    }
}

impl MappedTables {
    /// Gives the pages of a table from a place on up that hold nothing any more, but for the one that begins before it, where that can be done:
    /// then they are zeros.
    ///
    /// # Safety
    /// The table is of these and was [leaked](MappedTable::leak), the place goes to its end and is in the caller's hands alone, and zeros are as good
    /// there as what it holds.
    pub(crate) unsafe fn forget(start: NonNull<u8>, len: usize) {
        // SAFETY: 1. A table is a mapping of its own, or what the system's allocator gave, where nothing happens. 2. The rest as the caller
        // promises.
        unsafe { os::forget_rest(start, len) }
    }
}

impl<T: Plain> MappedTable<T> {
    /// The table for good, or what it was grown to: the mapping that it lies in is never given back.
    pub fn leak(self) -> &'static mut [T] {
        let table = core::mem::ManuallyDrop::new(self);
        let (start, len) = (table.start, table.grown);
        // SAFETY: 1. to 3. as in `deref_mut`; the mapping is not dropped any more, and nobody else has the table.
        unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }
}

// SAFETY: 1. A table has its part of a mapping alone; moving it to another thread moves plain integers.
unsafe impl<T: Plain> Send for MappedTable<T> {}
// SAFETY: 1. Shared access is read-only.
unsafe impl<T: Plain> Sync for MappedTable<T> {}

impl<T: Plain> Deref for MappedTable<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: 1. `grown` entries are there, aligned, all of them zeros or written through this table, as whoever made it promised; or they
        // have no bytes. 2. `T: Plain` has a value for every bit pattern. 3. The mapping lives as long as `self`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.grown) }
    }
}

impl<T: Plain> DerefMut for MappedTable<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: 1. to 3. as in `deref`. 4. `&mut self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.grown) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_start_as_zeros_and_keep_what_is_written() {
        let mut table = MappedTables.table::<[u32; 3]>(100_000).unwrap();
        assert!(table.iter().all(|entry| *entry == [0; 3]));
        table[99_999] = [1, 2, 3];
        assert_eq!(table[99_999], [1, 2, 3]);
        assert!(MappedTables.table::<u64>(0).unwrap().is_empty());
        assert_eq!(MappedTables.table::<u64>(usize::MAX).unwrap_err().needed_bytes, u64::MAX);
    }

    #[test]
    fn of_a_table_that_grows_is_there_what_it_was_grown_to_and_a_little_more() {
        const LEN: usize = 3 << 20;
        let mut table = MappedTables.growing::<u64>(LEN).unwrap();
        assert!(table.is_empty());
        for len in [1, 7, 40_000, 1 << 20, 1_000, LEN] {
            MappedTables::grow(&mut table, len).unwrap();
            let most = if len < LEN / 2 { LEN / 2 } else { LEN };
            assert!((len..=most).contains(&table.len()), "{len}");
            assert_eq!(table[len - 1], 0);
            table[len - 1] = len as u64;
        }
        for len in [1, 7, 1_000, 40_000, 1 << 20, LEN] {
            assert_eq!(table[len - 1], len as u64);
        }
        let short = &mut *MappedTables.growing::<u8>(WHOLE_TABLE).unwrap();
        assert_eq!(short.len(), WHOLE_TABLE);
    }
}
