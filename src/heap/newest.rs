//! The allocators under the trait of `allocator-api2` 0.4, which is another trait than that of 0.2 though it reads the
//! same: which one a collection takes depends on its own version.

use crate::arena::Metadata;
#[cfg(feature = "std")]
use crate::heap::Global;
use crate::heap::fixed::FixedHeap;
#[cfg(feature = "std")]
use crate::pool::MemoryPool;
use crate::pool::Pool;
use crate::space::HostSpace;
use allocator_api2::alloc::Allocator as Older;
use allocator_api2_04::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::NonNull;
use lock_api::RawMutex;

/// Implements the newer trait by the older one.
macro_rules! by_the_older {
    ([$($parameters:tt)*] $allocator:ty) => {
        // SAFETY: 1. What the older trait demands, word for word, is what the newer one demands.
        unsafe impl<$($parameters)*> Allocator for $allocator {
            #[inline]
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                Older::allocate(self, layout).map_err(|_| AllocError)
            }

            #[inline]
            fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                Older::allocate_zeroed(self, layout).map_err(|_| AllocError)
            }

            #[inline]
            unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
                // SAFETY: 1. The caller's promise, handed on.
                unsafe { Older::deallocate(self, at, layout) }
            }

            #[inline]
            unsafe fn grow(
                &self,
                at: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: 1. The caller's promise, handed on.
                unsafe { Older::grow(self, at, old, new) }.map_err(|_| AllocError)
            }

            #[inline]
            unsafe fn grow_zeroed(
                &self,
                at: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: 1. The caller's promise, handed on.
                unsafe { Older::grow_zeroed(self, at, old, new) }.map_err(|_| AllocError)
            }

            #[inline]
            unsafe fn shrink(
                &self,
                at: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: 1. The caller's promise, handed on.
                unsafe { Older::shrink(self, at, old, new) }.map_err(|_| AllocError)
            }
        }
    };
}

#[cfg(feature = "std")]
by_the_older!([] Global);
#[cfg(feature = "std")]
by_the_older!([] MemoryPool);
by_the_older!([S: HostSpace, L: RawMutex, M: Metadata] &Pool<S, L, M>);
by_the_older!([L: RawMutex, const ARENAS: usize, const SLABS: bool] FixedHeap<L, ARENAS, SLABS>);
