//! What happens when the program breaks its side of the contract: one policy, for the process's heap and for fixed ones.

#![deny(unsafe_code)]

#[cfg(feature = "std")]
#[allow(unsafe_code)]
mod process;

#[cfg(feature = "std")]
pub(super) use process::found;
#[cfg(feature = "std")]
pub(crate) use process::misused;
#[cfg(feature = "std")]
pub use process::on_misuse;

use crate::error::BadFree;
use core::fmt;

/// A block that was given back wrongly, or found to be written to by somebody who does not hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Misuse {
    /// The address that was freed.
    pub addr: usize,
    /// The bytes it was freed with; of a small block, those of its size class; 0 where nobody said.
    pub bytes: usize,
    /// What is wrong.
    pub why: BadFree,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "democratising: {:#x} ({} bytes): {}", self.addr, self.bytes, self.why)
    }
}

/// What happens on misuse found where no error can be returned: a block given back that is free already, of somebody else, or
/// of another size. It is refused in any case; the heap stays whole.
///
/// Misuse is a bug in the program: it has a pointer to memory that may be in other hands by now. The default stops it there.
/// A kernel, or a device that must not stop, takes a hook that logs.
#[derive(Clone, Copy, Debug, Default)]
pub enum OnMisuse {
    /// Say it and end the program: the process's heap writes one line to standard error and aborts, a fixed heap, which has
    /// neither, panics. (Through `GlobalAlloc`, which must not unwind, such a panic ends the program.)
    #[default]
    Stop,
    /// Call this, and go on. No lock of the heap is held meanwhile, and it may allocate. It runs in whichever thread found the misuse,
    /// maybe in the middle of an allocation. It returns: one of the process's heap that panics, or ends its thread, ends the process.
    Hook(fn(Misuse)),
    /// Go on.
    Ignore,
}
