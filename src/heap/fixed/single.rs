//! A heap that one core uses, without a lock.

#![allow(unsafe_code)]

use super::FixedHeap;
use crate::sync::NoLock;
use core::alloc::{GlobalAlloc, Layout};
use core::ops::Deref;

/// A [`FixedHeap`] without a lock, that may stand in a static all the same: its maker has promised that only one core and
/// no interrupt ever uses it.
///
/// ```
/// use democratising::{FixedHeap, NoLock, SingleCore, StaticMemory};
///
/// static MEMORY: StaticMemory<4096> = StaticMemory::new();
/// // SAFETY: this program has one thread.
/// static HEAP: SingleCore<FixedHeap<NoLock, 1>> = unsafe { SingleCore::new(FixedHeap::over(&MEMORY)) };
///
/// let block = HEAP.allocate(core::alloc::Layout::new::<[u8; 100]>()).unwrap();
/// assert!(block.bytes >= 100);
/// ```
#[derive(Debug)]
pub struct SingleCore<H>(H);

impl<H> SingleCore<H> {
    /// A heap for one core.
    ///
    /// # Safety
    /// As long as the program runs, everything that uses the heap runs on the same core, in the same thread, and not in an
    /// interrupt handler.
    pub const unsafe fn new(heap: H) -> SingleCore<H> {
        SingleCore(heap)
    }
}

// SAFETY: 1. The maker has promised that nobody but one thread ever uses it, so it is never shared.
unsafe impl<H> Sync for SingleCore<H> {}
// SAFETY: 1. As above: it is never sent either.
unsafe impl<H> Send for SingleCore<H> {}

impl<H> Deref for SingleCore<H> {
    type Target = H;

    #[inline]
    fn deref(&self) -> &H {
        &self.0
    }
}

// SAFETY: 1. Everything is the heap's own.
unsafe impl<const ARENAS: usize, const SLABS: bool> GlobalAlloc
    for SingleCore<FixedHeap<NoLock, ARENAS, SLABS>>
{
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { GlobalAlloc::alloc(&self.0, layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { GlobalAlloc::dealloc(&self.0, at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { GlobalAlloc::alloc_zeroed(&self.0, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, old: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { GlobalAlloc::realloc(&self.0, at, old, new_bytes) }
    }
}
