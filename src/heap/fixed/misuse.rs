//! What happens when the program breaks its side of the contract, or is about to run out of memory.

#![forbid(unsafe_code)]

use crate::error::{BadFree, OutOfMemory};

/// What happens on a bad free through an interface that cannot return an error: a block that is free already, of
/// somebody else, or of another size. It is refused and counted in any case; the heap stays whole.
///
/// A bad free is a bug in the program: it has a pointer to memory that may be in other hands by now. The default stops
/// it there. A kernel, or a device that must not stop, takes a hook that logs.
#[derive(Clone, Copy, Debug, Default)]
pub enum OnMisuse {
    /// Panic with the reason. Through `GlobalAlloc`, which must not unwind, the panic ends the program.
    #[default]
    Panic,
    /// Call this; the heap is not locked meanwhile. Then go on.
    Hook(fn(BadFree)),
    /// Go on.
    Ignore,
}

/// Called before a request fails, with what is missing. Whether something was given back, so that trying again (once)
/// makes sense. The heap is not locked meanwhile; requests that the function makes itself fail without calling it again,
/// and so do those of other threads as long as it runs.
pub type LowMemory = fn(&OutOfMemory) -> bool;

/// Calls `call`. Where a global allocator must not unwind, neither does this: a panic in `call` ends the program.
// Only Rust calls it: "C" stands for what it does about panics.
#[allow(improper_ctypes_definitions)]
#[cold]
#[inline(never)]
pub(super) extern "C" fn without_unwinding(call: &mut dyn FnMut()) {
    call();
}
