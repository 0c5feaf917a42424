//! What the program is called for.

#![forbid(unsafe_code)]

use crate::error::OutOfMemory;

/// Called before a request fails, with what is missing. Whether something was given back, so that trying again (once)
/// makes sense: for a block that is to grow, where it stands too. The heap is not locked meanwhile; requests that the function makes
/// itself fail without calling it again, and so do those of other threads as long as it runs.
pub type LowMemory = fn(&OutOfMemory) -> bool;

/// Calls `call`. Where a global allocator must not unwind, neither does this: a panic in `call` ends the program.
#[cfg(not(panic = "abort"))]
// Only Rust calls it: "C" stands for what it does about panics.
#[allow(improper_ctypes_definitions)]
#[cold]
#[inline(never)]
pub(super) extern "C" fn without_unwinding(call: &mut dyn FnMut()) {
    call();
}

/// Calls `call`. Nothing unwinds in this program.
#[cfg(panic = "abort")]
#[inline]
pub(super) fn without_unwinding(call: &mut impl FnMut()) {
    call();
}
