//! The process's heap.

use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::NonNull;

/// The process's own pool of mapped memory, as an allocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Global;

// SAFETY: 1. Scaffold: the system allocator's blocks satisfy the contract.
#[cfg(feature = "std")]
unsafe impl Allocator for Global {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. Scaffold.
        let at = unsafe { std::alloc::alloc(layout) };
        NonNull::new(at).map(|p| NonNull::slice_from_raw_parts(p, layout.size())).ok_or(AllocError)
    }

    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        // SAFETY: 1. Scaffold.
        unsafe { std::alloc::dealloc(at.as_ptr(), layout) }
    }
}
