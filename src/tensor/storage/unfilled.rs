//! Memory for elements that are still to come, not cleared before.

use super::{Block, Place, Storage, from_pool};
use crate::error::{OutOfMemory, Result};
use crate::pool::MemoryPool;
use crate::pool::budget::scope::{Holding, Kind};
use crate::tensor::dtype::DType;
use crate::tensor::{ALIGN_BYTES, TensorBuf};
use allocator_api2::alloc::Allocator;
use core::alloc::Layout;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;
use core::slice;

/// A block of the pool, with nothing in it yet.
pub(crate) struct Unfilled {
    at: NonNull<u8>,
    layout: Layout,
    charged: Holding,
}

impl Unfilled {
    /// # Errors
    /// [`DemoError::OutOfMemory`](crate::DemoError::OutOfMemory) where the pool has no room.
    pub(crate) fn pooled(bytes: usize) -> Result<Unfilled> {
        let refused =
            || OutOfMemory { requested_bytes: bytes as u64, limit_bytes: u64::MAX, ..OutOfMemory::default() };
        let layout = Layout::from_size_align(bytes.max(1), ALIGN_BYTES).map_err(|_| refused())?;
        let allocate = || Ok(MemoryPool.allocate(layout).map_err(|_| refused())?);
        let (at, charged) = from_pool(bytes, allocate)?;
        Ok(Unfilled { at: at.cast(), layout, charged })
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: 1. A live block of this many bytes, ours alone. 2. Nothing is said of what is in it.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr().cast(), self.layout.size()) }
    }

    /// The same memory as elements.
    ///
    /// # Safety
    /// Every byte was written, and together they are values of `dtype`.
    pub(crate) unsafe fn filled(self, dtype: DType) -> Storage {
        let mut this = ManuallyDrop::new(self);
        let charged = core::mem::replace(&mut this.charged, Holding::nothing(Kind::HostBytes));
        let bytes = this.layout.size();
        // SAFETY: 1. The block came from the pool with this layout, and nobody else gives it back: `this` is never
        // dropped. 2. Its bytes were all written: the caller's.
        let buf = unsafe { TensorBuf::from_raw_in(this.at, bytes, MemoryPool) };
        let elements = bytes / dtype.size_bytes();
        Storage { place: Place::charged((buf, charged), Block::Pooled), dtype, elements }
    }
}

impl Drop for Unfilled {
    fn drop(&mut self) {
        // SAFETY: 1. It came from the pool with this layout, and nobody uses it after this.
        unsafe { MemoryPool.deallocate(self.at, self.layout) }
    }
}

// SAFETY: 1. It owns its block, as a box would.
unsafe impl Send for Unfilled {}
