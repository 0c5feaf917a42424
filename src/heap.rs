//! The process's heap.

pub mod fixed;

#[cfg(feature = "std")]
use crate::pool::host;
#[cfg(feature = "std")]
use allocator_api2::alloc::{AllocError, Allocator};
#[cfg(feature = "std")]
use core::{alloc::Layout, ptr::NonNull};

/// The process's pool of mapped memory, as an allocator (`allocator_api2`): for collections and for
/// [`TensorBuf`](crate::TensorBuf).
///
/// ```
/// use democratising::Global;
/// # #[cfg(feature = "std")] {
/// let mut squares = hashbrown::HashMap::with_capacity_in(100, Global);
/// squares.insert(7, 49);
/// assert_eq!(squares[&7], 49);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Global;

// SAFETY: 1. The process's pool is a static: its blocks stay valid until they are freed, and every `Global` is the same
// allocator. 2. The rest is the contract of the pool's own allocator interface, to which everything is handed on.
#[cfg(feature = "std")]
unsafe impl Allocator for Global {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        Allocator::allocate(&host::pool().map_err(|_| AllocError)?, layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        host::pool().map_err(|_| AllocError)?.allocate_zeroed(layout)
    }

    #[inline]
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if let Ok(pool) = host::pool() {
            // SAFETY: 1. The caller's promise, handed on.
            unsafe { pool.deallocate(at, layout) }
        }
    }

    unsafe fn grow(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let pool = host::pool().map_err(|_| AllocError)?;
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { pool.grow(at, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let pool = host::pool().map_err(|_| AllocError)?;
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { pool.grow_zeroed(at, old, new) }
    }

    unsafe fn shrink(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let pool = host::pool().map_err(|_| AllocError)?;
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { pool.shrink(at, old, new) }
    }
}
