//! Where a range lies: its addresses, counted from the origin of its granules' numbers.

#![allow(unsafe_code)]

use super::claim::{Range, Unclaimed};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::slice;

/// Memory that was given away for good, and is not touched yet.
pub(super) struct Given {
    start: *mut u8,
    len: usize,
}

impl Given {
    /// `len` bytes from `start`.
    ///
    /// # Safety
    /// They may be read and written for as long as the program runs, and nobody else uses them from now on, if there can be such bytes.
    #[inline]
    pub(super) unsafe fn new(start: *mut u8, len: usize) -> Given {
        Given { start, len }
    }

    #[inline]
    pub(super) fn of(bytes: &'static mut [MaybeUninit<u8>]) -> Given {
        Given { start: bytes.as_mut_ptr().cast(), len: bytes.len() }
    }

    /// Where it lies.
    #[inline]
    pub(super) fn range(&self) -> Result<Range, Unclaimed> {
        Range::new(self.start as usize, self.len)
    }

    /// The bytes, where there can be such.
    #[inline]
    pub(super) fn bytes(self) -> Option<&'static mut [MaybeUninit<u8>]> {
        self.range().ok()?;
        // SAFETY: 1. It starts at no null pointer, does not wrap, and is at most `isize::MAX` long. 2. Whoever made it gave it away for
        // good.
        Some(unsafe { slice::from_raw_parts_mut(self.start.cast(), self.len) })
    }
}

/// The address of the granule that would have number 0. Nothing is read or written through it.
pub(super) struct Origin(*mut u8);

// SAFETY: 1. It is a number, with the right to bytes that were given away for good; it touches none of them.
unsafe impl Send for Origin {}
// SAFETY: 1. As for `Send`.
unsafe impl Sync for Origin {}

impl Origin {
    /// The origin that lies so many bytes before some.
    pub(super) fn before(bytes: &'static mut [MaybeUninit<u8>], lead: usize) -> Origin {
        Origin(bytes.as_mut_ptr().cast::<u8>().wrapping_sub(lead))
    }

    /// That of nothing.
    pub(super) const fn none() -> Origin {
        Origin(ptr::null_mut())
    }

    /// How far an address lies behind it; more than any that is the range's where it lies before.
    #[inline(always)]
    pub(super) fn distance(&self, at: *mut u8) -> usize {
        (at as usize).wrapping_sub(self.0 as usize)
    }

    /// The address so many bytes behind it.
    #[inline(always)]
    pub(super) fn pointer(&self, at: usize) -> *mut u8 {
        self.0.wrapping_add(at)
    }

    /// The same, of a byte that the range has.
    #[inline(always)]
    pub(super) fn addr(&self, at: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.pointer(at))
    }
}
