//! A space: a range of addresses of one kind, counted in granules, backed by frames.
//!
//! Only the space knows whether its bytes can be touched and what backs them; everything above works on numbers.

mod fixed;
#[cfg(feature = "std")]
mod mapped;
mod simulated;
mod with_index;

pub use crate::size::{Geometry, Granule, Offset, Span};
pub use fixed::Fixed;
pub(crate) use fixed::MAX_ALIGN;
#[cfg(feature = "std")]
pub use mapped::{Mapped, MappedTables};
#[cfg(feature = "std")]
pub(crate) use mapped::{Measure, Shelf};
pub use simulated::{Simulated, SimulatedCounts};
pub use with_index::WithIndex;

use crate::arena::index::SpanIndex;
use crate::arena::metadata::Metadata;
use core::fmt;
use core::ptr::NonNull;

/// A range of addresses that an arena can divide.
///
/// # Safety
/// While a granule is committed, `addr` of an [`Offset`] in it names that byte and no other space's, and `offset` is
/// its inverse.
pub unsafe trait Space {
    /// What an address looks like: a pointer on the host, a number on a device.
    type Addr: Copy + Eq + fmt::Debug;
    /// The span index that suits it: the buddy tree where backing can move, the fit table where it cannot.
    type Index<M: Metadata>: SpanIndex<M>;
    /// Where its tables live unless the caller says otherwise.
    type Tables: Metadata;

    /// The units it is counted in. Always the same answer.
    fn geometry(&self) -> Geometry;

    /// Its length; a multiple of a granule, and of a frame where there are frames. Always the same answer.
    fn len_bytes(&self) -> u64;

    /// How far its first byte lies behind a multiple of the largest alignment that it can serve, and that alignment.
    fn alignment(&self) -> Alignment;

    /// The address of an offset that is less than `len_bytes`.
    fn addr(&self, at: Offset) -> Self::Addr;

    /// The offset of an address, or `None` for one of somebody else.
    fn offset(&self, addr: Self::Addr) -> Option<Offset>;

    /// Backs whole frames that are not backed, all of them or none.
    ///
    /// # Errors
    /// [`SpaceError`] when there is nothing to back them with.
    fn commit(&self, frames: Span) -> Result<Contents, SpaceError>;

    /// Gives up the backing of whole frames that are backed. Those of which that was refused, as a device's driver may, are
    /// [`kept`](Self::kept).
    fn decommit(&self, frames: Span);

    /// Of frames that were given up a moment ago the first run that is backed still. It holds what it did, counts as backed, and is
    /// given up again with what is idle later.
    fn kept(&self, given_up: Span) -> Option<Span> {
        let _ = given_up;
        None
    }

    /// Moves the backing of whole frames to as many that have none: `from` is no longer backed, `to` is.
    ///
    /// # Errors
    /// [`SpaceError`] when that failed; then `from` is backed as before and `to` is not.
    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError>;

    /// Whether the backing of idle frames can be moved at once. Where somebody may still be at work in what was freed, as a
    /// device's streams are, moving it waits; then frames are created first, as far as that is allowed, and moved only when
    /// nothing else is left.
    fn at_rest(&self, idle: Span) -> bool {
        let _ = idle;
        true
    }

    /// What free granules of backed frames hold is needed no more: their memory may be given back. They stay backed, and
    /// hold anything.
    fn forget(&self, free: Span) {
        let _ = free;
    }
}

/// A space whose bytes the processor can touch.
///
/// # Safety
/// Committed bytes may be read and written through `addr` for as long as the space lives.
pub unsafe trait HostSpace: Space<Addr = NonNull<u8>> {}

/// Where a space starts with respect to the largest alignment that blocks of it can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alignment {
    /// The largest alignment, a power of two.
    pub max_bytes: u64,
    /// The bytes between a multiple of it and the start of the space.
    pub skew_bytes: u64,
}

/// What bytes hold that were backed just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Zeros.
    Zeroed,
    /// Anything.
    Unknown,
}

/// Frames could not be backed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SpaceError {
    /// The bytes that were to be backed.
    pub asked_bytes: u64,
    /// The code of whoever refused: errno on the host, the driver's result on a device, 0 where there is none.
    pub code: i32,
}

impl SpaceError {
    /// A refusal of `asked_bytes` with a code.
    pub const fn new(asked_bytes: u64, code: i32) -> SpaceError {
        SpaceError { asked_bytes, code }
    }
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes could not be backed (code {})", self.asked_bytes, self.code)
    }
}

impl core::error::Error for SpaceError {}
