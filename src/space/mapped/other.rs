//! Where there is no `mmap`: one block of the system's allocator, backed from the start.

use super::{Contents, LEAST};
use core::alloc::Layout;
use core::ptr::NonNull;
use std::alloc::{GlobalAlloc, System};

/// A block of the system's allocator.
#[derive(Debug)]
pub(super) struct Range {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: 1. The block is owned, and any thread may free it.
unsafe impl Send for Range {}
// SAFETY: 1. The methods that take `&self` touch no byte of it.
unsafe impl Sync for Range {}

/// What is taken at most, since all of it is backed at once.
pub(super) fn reserve_limit() -> usize {
    16 * LEAST
}

/// Nobody says.
pub(super) fn memory_bytes() -> Option<usize> {
    None
}

/// What is reserved is backed.
pub(super) fn commit_limit() -> usize {
    usize::MAX
}

/// There are no pages to give up.
///
/// # Safety
/// None.
pub(super) unsafe fn forget_rest(_start: NonNull<u8>, _len: usize) {}

impl Range {
    /// `len` bytes at a multiple of `align`.
    pub(super) fn reserve(len: usize, align: usize, _open: bool) -> Result<Range, i32> {
        let layout = Layout::from_size_align(len, align).map_err(|_| 0)?;
        // SAFETY: 1. No caller asks for zero bytes.
        let start = unsafe { System.alloc_zeroed(layout) };
        NonNull::new(start).map(|start| Range { start, layout }).ok_or(0)
    }

    /// Zeroed memory for a table.
    pub(super) fn table(len: usize, _grows: bool) -> Result<Range, i32> {
        Range::reserve(len, 4096, true)
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.layout.size()
    }

    pub(super) fn is_open(&self) -> bool {
        true
    }

    /// As below.
    pub(super) fn let_read(&self, _at: usize, _len: usize) -> Result<(), i32> {
        Ok(())
    }

    /// All of it is open.
    pub(super) fn open_place(&self, _at: usize, _len: usize) -> Result<(), i32> {
        Ok(())
    }

    pub(super) fn commit(&self, _at: usize, _len: usize) -> Result<Contents, i32> {
        Ok(Contents::Unknown)
    }

    pub(super) fn rehome(&self, _from: usize, _to: usize, _len: usize) -> Result<Contents, i32> {
        Ok(Contents::Unknown)
    }

    pub(super) fn forget(&self, _at: usize, _len: usize) {}

    pub(super) fn decommit(&self, _at: usize, _len: usize) {}
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: 1. The block came from this allocator with this layout. 2. Nobody uses it any more.
        unsafe { System.dealloc(self.start.as_ptr(), self.layout) }
    }
}
