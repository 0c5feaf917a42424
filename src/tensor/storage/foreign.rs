//! Memory of another library, lent for as long as its owner is kept.

use core::any::Any;
use core::ptr::NonNull;
use core::slice;
use std::boxed::Box;

/// Bytes that somebody else gives back.
pub(super) struct Foreign {
    at: NonNull<u8>,
    bytes: usize,
    /// Dropping it gives the bytes back.
    _owner: Box<dyn Any>,
}

impl Foreign {
    /// # Safety
    /// As [`Storage::foreign`](super::Storage::foreign).
    pub(super) unsafe fn new(at: NonNull<u8>, bytes: usize, owner: Box<dyn Any>) -> Foreign {
        Foreign { at, bytes, _owner: owner }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: 1. They are there as long as the owner, unchanged: the promise of whoever made this.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }
}

// SAFETY: 1. The bytes may be read, and given back, on any thread: the promise of whoever made this.
unsafe impl Send for Foreign {}

// SAFETY: 1. Shared, it only reads.
unsafe impl Sync for Foreign {}

// A panic leaves nothing half done: the bytes are only read, and the owner is only dropped.
impl core::panic::RefUnwindSafe for Foreign {}
impl core::panic::UnwindSafe for Foreign {}
