//! Where an arena's tables live: beside the space, in memory that the caller chooses.

#![allow(unsafe_code)]

use core::fmt;
use core::mem::{MaybeUninit, align_of, size_of};
use core::ops::DerefMut;

/// A table could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoTable {
    /// The bytes the table needs.
    pub needed_bytes: u64,
    /// The bytes that are left for tables, where that is known.
    pub left_bytes: Option<u64>,
}

impl fmt::Display for NoTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory for an arena's tables: {} more bytes needed", self.needed_bytes)?;
        match self.left_bytes {
            Some(left) => write!(f, ", {left} left of what was handed in"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for NoTable {}

/// A value of integers without padding, of which all zeros is one.
///
/// # Safety
/// Every bit pattern, all zeros included, is a value; there is no padding and no `Drop`.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: 1. An integer has no padding and every pattern is a value.
unsafe impl Plain for u8 {}
// SAFETY: 1. As for `u8`.
unsafe impl Plain for u32 {}
// SAFETY: 1. As for `u8`.
unsafe impl Plain for u64 {}
// SAFETY: 1. As for `u8`.
unsafe impl Plain for usize {}
// SAFETY: 1. An array adds no padding to its elements, which are plain.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A source of tables, each its own owner.
///
/// In a process the tables are mapped, so that what is not used costs no memory; in firmware they are carved from a
/// slice that the caller hands in.
///
/// # Safety
/// A table is zeros at first, keeps what is written to it and its length, and is nobody else's: an arena tells by its tables which
/// blocks are whose.
pub unsafe trait Metadata {
    /// A table of `T`.
    type Table<T: Plain>: DerefMut<Target = [T]>;

    /// A table of `len` zeros.
    ///
    /// # Errors
    /// [`NoTable`] when there is no memory for it.
    fn table<T: Plain>(&mut self, len: usize) -> Result<Self::Table<T>, NoTable>;

    /// A table of `len` zeros that is used from its start on, as the space is: what it was [grown](Self::grow) to is there, or
    /// more.
    ///
    /// # Errors
    /// [`NoTable`] when there is no memory for it.
    fn growing<T: Plain>(&mut self, len: usize) -> Result<Self::Table<T>, NoTable> {
        self.table(len)
    }

    /// The first `len` entries of a [growing](Self::growing) table are there from now on.
    ///
    /// # Errors
    /// [`NoTable`] when there is no memory for that; it is as it was.
    fn grow<T: Plain>(_table: &mut Self::Table<T>, _len: usize) -> Result<(), NoTable> {
        Ok(())
    }
}

/// Tables carved from a slice that the caller hands in, front to back.
#[derive(Debug)]
pub struct Borrowed<'a> {
    left: &'a mut [MaybeUninit<u8>],
}

impl<'a> Borrowed<'a> {
    /// Carves from `bytes`, whatever they hold.
    pub fn new(bytes: &'a mut [MaybeUninit<u8>]) -> Borrowed<'a> {
        Borrowed { left: bytes }
    }

    /// What is left to carve from.
    pub fn left_bytes(&self) -> usize {
        self.left.len()
    }

    /// A table of `len` zeros, if there is room for it.
    #[inline]
    pub(crate) fn find_table<T: Plain>(&mut self, len: usize) -> Option<&'a mut [T]> {
        let bytes = self.carve(len.checked_mul(size_of::<T>())?, align_of::<T>())?;
        // SAFETY: 1. `carve` has aligned the start to `T`, and `len * size_of::<T>()` bytes follow. 2. They are initialised
        // to zero, which is a value of `T: Plain`. 3. The borrow is exclusive for 'a: `carve` gave the rest away.
        Some(unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) })
    }

    /// So many zeroed bytes at a multiple of `align`, a power of two. One function for tables of every type, since code is dear
    /// where memory is.
    #[inline(never)]
    fn carve(&mut self, bytes: usize, align: usize) -> Option<&'a mut [MaybeUninit<u8>]> {
        let skip = self.skip(align);
        let table = self.left.split_off_mut(..bytes.saturating_add(skip))?;
        let table = table.get_mut(skip..)?;
        table.fill(MaybeUninit::new(0));
        Some(table)
    }

    /// The bytes before the next multiple of `align`.
    #[inline]
    fn skip(&self, align: usize) -> usize {
        (self.left.as_ptr() as usize).wrapping_neg() & (align - 1)
    }

    /// Says that a table of so many bytes finds no room.
    #[cold]
    #[inline(never)]
    fn no_table(&self, bytes: Option<usize>, align: usize) -> NoTable {
        let needed = bytes.and_then(|bytes| bytes.checked_add(self.skip(align)));
        NoTable {
            needed_bytes: needed.map_or(u64::MAX, |bytes| bytes as u64),
            left_bytes: Some(self.left.len() as u64),
        }
    }
}

// SAFETY: 1. A table is zeroed, and a part of the slice that nothing else is carved from.
unsafe impl<'a> Metadata for Borrowed<'a> {
    type Table<T: Plain> = &'a mut [T];

    #[inline]
    fn table<T: Plain>(&mut self, len: usize) -> Result<&'a mut [T], NoTable> {
        self.find_table(len).ok_or_else(|| self.no_table(len.checked_mul(size_of::<T>()), align_of::<T>()))
    }
}

/// Counts what tables would take from aligned memory, and gives empty ones.
#[derive(Debug, Default)]
pub struct Sizing {
    bytes: u64,
}

impl Sizing {
    /// The bytes counted so far, alignment included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

// SAFETY: 1. Its tables are empty.
unsafe impl Metadata for Sizing {
    type Table<T: Plain> = &'static mut [T];

    fn table<T: Plain>(&mut self, len: usize) -> Result<&'static mut [T], NoTable> {
        self.bytes = self.bytes.next_multiple_of(align_of::<T>() as u64) + len as u64 * size_of::<T>() as u64;
        Ok(&mut [])
    }
}

/// Tables on the system's heap. Those that grow do up to [`HEAP_GROWS`] entries.
#[cfg(test)]
pub(crate) struct Heap;

#[cfg(test)]
std::thread_local! {
    pub(crate) static HEAP_GROWS: crate::sync::Cell<usize> = const { crate::sync::Cell::new(usize::MAX) };
}

#[cfg(test)]
// SAFETY: 1. A table is zeros in a `Vec` of its own.
unsafe impl Metadata for Heap {
    type Table<T: Plain> = std::vec::Vec<T>;

    fn table<T: Plain>(&mut self, len: usize) -> Result<std::vec::Vec<T>, NoTable> {
        let mut bytes = std::boxed::Box::<[u8]>::new_uninit_slice((len + 1) * size_of::<T>());
        Ok(Borrowed::new(&mut bytes).table::<T>(len)?.to_vec())
    }

    fn grow<T: Plain>(_table: &mut std::vec::Vec<T>, len: usize) -> Result<(), NoTable> {
        let no_table = NoTable { needed_bytes: len as u64, left_bytes: None };
        if len > HEAP_GROWS.get() { Err(no_table) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_zero_aligned_and_apart() {
        let mut bytes = [MaybeUninit::new(0xffu8); 256];
        let mut meta = Borrowed::new(&mut bytes);
        let a: &mut [u8] = meta.table(3).unwrap();
        let b: &mut [u64] = meta.table(4).unwrap();
        assert_eq!((&*a, &*b), (&[0u8; 3][..], &[0u64; 4][..]));
        assert_eq!(b.as_ptr() as usize % align_of::<u64>(), 0);
        assert!(b.as_ptr() as usize >= a.as_ptr() as usize + 3);
    }

    #[test]
    fn a_table_that_does_not_fit_is_told_and_takes_nothing() {
        let mut bytes = [MaybeUninit::<u8>::uninit(); 64];
        let mut meta = Borrowed::new(&mut bytes);
        let error = meta.table::<u64>(9).unwrap_err();
        assert!(error.needed_bytes >= 72 && error.left_bytes == Some(64), "{error}");
        assert_eq!(meta.table::<u64>(usize::MAX).unwrap_err().needed_bytes, u64::MAX);
        assert_eq!(meta.left_bytes(), 64);
        assert!(meta.table::<u8>(64).is_ok());
    }
}
