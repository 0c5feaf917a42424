//! A static array that becomes a heap's.

#![forbid(unsafe_code)]

use crate::sync::SpinLock;
use core::fmt;
use core::mem::MaybeUninit;

/// The array behind a lock that is never let go once a heap has taken it.
pub(super) type Memory = lock_api::Mutex<SpinLock, Aligned<[MaybeUninit<u8>]>>;

/// Aligned like a block of any ordinary type.
#[repr(align(64))]
pub(super) struct Aligned<T: ?Sized>(T);

/// A static array for one [`FixedHeap`](super::FixedHeap); see [`FixedHeap::over`](super::FixedHeap::over).
///
/// It is zero or uninitialised, so it takes no room in an image.
pub struct StaticMemory<const BYTES: usize>(lock_api::Mutex<SpinLock, Aligned<[MaybeUninit<u8>; BYTES]>>);

impl<const BYTES: usize> StaticMemory<BYTES> {
    /// `BYTES` bytes, nobody's yet.
    pub const fn new() -> StaticMemory<BYTES> {
        StaticMemory(lock_api::Mutex::new(Aligned([MaybeUninit::uninit(); BYTES])))
    }

    pub(super) const fn memory(&'static self) -> &'static Memory {
        &self.0
    }
}

impl<const BYTES: usize> Default for StaticMemory<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BYTES: usize> fmt::Debug for StaticMemory<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.0.is_locked();
        f.debug_struct("StaticMemory").field("bytes", &BYTES).field("taken", &taken).finish()
    }
}

/// The array, for good; `None` where somebody has it.
pub(super) fn take(memory: &'static Memory) -> Option<&'static mut [MaybeUninit<u8>]> {
    let aligned = lock_api::MutexGuard::leak(memory.try_lock()?);
    Some(&mut aligned.0)
}
