//! Caches that no thread has, for the next thread that comes.

use super::{Cache, Own};
use core::ptr::{NonNull, null_mut};

/// A list of them.
pub(in crate::heap) struct Spare {
    first: *mut Cache,
    caches: usize,
}

// SAFETY: 1. A cache in the list is nobody's; whoever takes it out under the lock has it alone.
unsafe impl Send for Spare {}

impl Spare {
    pub(in crate::heap) const NONE: Spare = Spare { first: null_mut(), caches: 0 };

    pub(in crate::heap) fn put(&mut self, cache: Own) {
        let cache = cache.leave();
        // SAFETY: 1. The caller gives its own cache up.
        unsafe { (*cache.as_ptr()).next = self.first };
        self.first = cache.as_ptr();
        self.caches += 1;
    }

    pub(in crate::heap) fn take(&mut self) -> Option<Own> {
        let cache = NonNull::new(self.first)?;
        self.caches -= 1;
        // SAFETY: 1. A cache in the list lives for good, and is nobody's.
        unsafe {
            self.first = (*cache.as_ptr()).next;
            Some(Own::of(cache))
        }
    }

    /// How many there are.
    pub(in crate::heap) fn caches(&self) -> usize {
        self.caches
    }
}
