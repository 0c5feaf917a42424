//! What can go wrong, in one type: what it was, its value, what to do.

#![forbid(unsafe_code)]

use crate::size::Shape;
use core::fmt;
#[cfg(feature = "std")]
use std::{string::String, vec::Vec};

/// The result of everything that can fail here.
pub type Result<T, E = DemoError> = core::result::Result<T, E>;

/// Why something failed. Sources stay attached; formatting an error allocates and asks nothing of anybody.
///
/// ```
/// use democratising::{DemoError, TensorBuf, FixedHeap};
///
/// static HEAP: FixedHeap = FixedHeap::empty();
/// match TensorBuf::<f32, _>::zeros_in(&[8, 8], &HEAP) {
///     Err(DemoError::OutOfMemory(report)) => assert_eq!(report.requested_bytes, 256),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, thiserror_no_std::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Memory ran out, or a limit was reached, after everything reclaimable was given back.
    #[error("{0}")]
    OutOfMemory(OutOfMemory),

    /// The number of elements does not make the shape.
    #[error("a tensor of shape {shape} needs {needed} elements, but {given} were given")]
    ElementCount {
        /// The shape asked for.
        shape: Shape,
        /// The elements such a shape holds.
        needed: usize,
        /// The elements that were there.
        given: usize,
    },

    /// A shape whose bytes cannot be counted, or with too many dimensions.
    #[error("a tensor of shape {lengths} cannot exist: {problem}")]
    ImpossibleShape {
        /// The lengths, as far as they fit.
        lengths: Shape,
        /// Which limit it breaks.
        problem: &'static str,
    },

    /// The elements have another type than was asked for.
    #[error("the tensor holds {held}, but {asked} was asked for; convert it or ask for {held}")]
    DTypeMismatch {
        /// The dtype of the tensor.
        held: &'static str,
        /// The dtype asked for.
        asked: &'static str,
    },

    /// A view that the tensor does not have.
    #[cfg(feature = "std")]
    #[error("{call} is no view of a tensor of shape {shape}: {problem}")]
    NoView {
        /// What was asked for, with its numbers: "narrow(0, 5, 3)".
        call: String,
        /// The shape of the tensor.
        shape: Shape,
        /// Which limit it breaks.
        problem: &'static str,
    },

    /// The elements are wanted in one piece, but those of this view lie apart.
    #[error(
        "the elements of this {dtype} view of shape {shape} do not lie in row-major order; call contiguous() first, or iter()"
    )]
    NotContiguous {
        /// The shape of the view.
        shape: Shape,
        /// The dtype of the view.
        dtype: &'static str,
    },

    /// A device that cannot be used here.
    #[error("{device} cannot be used: {problem}")]
    DeviceUnavailable {
        /// Which device.
        device: DeviceId,
        /// Why, and what to do about it.
        problem: &'static str,
    },

    /// A tensor, a stream or a device itself is another device's than the operation needs.
    #[error("{operation} needs {what} {needed}, not {held}; {advice}")]
    WrongDevice {
        /// What was asked for.
        operation: &'static str,
        /// What was given: "a tensor on", "a stream of".
        what: &'static str,
        /// Where it is.
        held: DeviceId,
        /// Where it would have to be.
        needed: DeviceId,
        /// What to do about it.
        advice: &'static str,
    },

    /// A device's driver refused a call.
    #[cfg(feature = "std")]
    #[error("{device}: {call} failed with {name} ({code}): {advice}")]
    DeviceFailed {
        /// Which device.
        device: DeviceId,
        /// The driver's function.
        call: &'static str,
        /// The driver's name for what went wrong.
        name: &'static str,
        /// The driver's number for it.
        code: i32,
        /// What it means, and what to do about it.
        advice: &'static str,
    },

    /// A block was given back that is not live.
    #[error("{0}")]
    BadFree(BadFree),

    /// A setting that cannot be.
    #[cfg(feature = "std")]
    #[error("{name} = {value} cannot be: {problem}")]
    InvalidConfig {
        /// The setting.
        name: &'static str,
        /// Its value, as it was given.
        value: String,
        /// Which values can be.
        problem: &'static str,
    },

    /// The operating system refused something.
    #[cfg(feature = "std")]
    #[error("cannot {action}{}: {source}", OnPath(.path))]
    Io {
        /// What was tried, as a verb: "open", "write".
        action: &'static str,
        /// The file, where there is one.
        path: Option<std::path::PathBuf>,
        /// The operating system's own words.
        source: std::io::Error,
    },

    /// A file that is not what it says it is.
    #[cfg(feature = "std")]
    #[error("cannot read {}{}{at}: {problem}", .format, OnPath(.path))]
    Format {
        /// The format it was read as: "npy", "text", "safetensors".
        format: &'static str,
        /// The file, where it is known.
        path: Option<std::path::PathBuf>,
        /// Where in the file, as " line 3" or " byte 128"; empty where the whole is meant.
        at: String,
        /// What is wrong and what was expected.
        problem: String,
    },

    /// A name that is taken, missing or reserved.
    #[cfg(feature = "std")]
    #[error("{what} {name:?} {problem}")]
    Name {
        /// What kind of thing: "tensor", "metadata key".
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A connection could not be made, or used.
    #[cfg(feature = "std")]
    #[error("cannot {action} {peer}: {source}")]
    Connection {
        /// What was tried, as a verb: "connect to", "bind".
        action: &'static str,
        /// The address, or the name of the pool.
        peer: std::boxed::Box<str>,
        /// Why, as whoever tried it says: a [`std::io::Error`] for TCP.
        source: std::boxed::Box<dyn core::error::Error + Send + Sync>,
    },

    /// Something did not happen in time.
    #[cfg(feature = "std")]
    #[error(
        "gave up {phase} {peer} after {} ms: {in_use} of {limit} connections were in use; {}", .waited.as_millis(), advice(*in_use, *limit)
    )]
    TimedOut {
        /// What it was doing: "waiting for a connection to".
        phase: &'static str,
        /// The address, or the name of the pool.
        peer: std::boxed::Box<str>,
        /// How long it waited.
        waited: std::time::Duration,
        /// Connections that were in use then.
        in_use: usize,
        /// The most that there may be.
        limit: usize,
    },

    /// Something was closed before.
    #[cfg(feature = "std")]
    #[error("{what} {name} is closed")]
    Closed {
        /// What kind of thing: "the pool of connections to".
        what: &'static str,
        /// Its name.
        name: std::boxed::Box<str>,
    },

    /// A call that waits, where nothing could go on while it does.
    #[cfg(feature = "std")]
    #[error(
        "{call} would block the only thread of its runtime, on which everything it waits for runs: {advice}"
    )]
    WouldDeadlock {
        /// The call.
        call: &'static str,
        /// What to do instead.
        advice: &'static str,
    },

    /// The new file stands under its name, but its directory could not be synced: it may be gone after a power loss.
    #[cfg(feature = "std")]
    #[error("{} is in place, but its directory could not be synced, so it may not survive a power loss: {source}", .path.display())]
    NotDurable {
        /// The file.
        path: std::path::PathBuf,
        /// Why the directory could not be synced.
        source: std::io::Error,
    },
}

#[cfg(not(feature = "std"))]
impl core::error::Error for DemoError {}

#[cfg(feature = "std")]
impl From<std::io::Error> for DemoError {
    fn from(source: std::io::Error) -> Self {
        DemoError::Io { action: "do an I/O operation", path: None, source }
    }
}

#[cfg(feature = "std")]
impl From<tempfile::PersistError> for DemoError {
    fn from(error: tempfile::PersistError) -> Self {
        DemoError::Io {
            action: "rename a temp file",
            path: Some(error.file.path().into()),
            source: error.error,
        }
    }
}

impl From<OutOfMemory> for DemoError {
    fn from(report: OutOfMemory) -> Self {
        DemoError::OutOfMemory(report)
    }
}

impl From<BadFree> for DemoError {
    fn from(error: BadFree) -> Self {
        DemoError::BadFree(error)
    }
}

/// What to do where a connection was not had in time.
#[cfg(feature = "std")]
fn advice(in_use: usize, limit: usize) -> &'static str {
    if in_use < limit {
        return "raise the timeout, or see why the peer does not answer";
    }
    "raise the timeout or the maximum, or give connections back sooner"
}

/// " of PATH", or nothing.
#[cfg(feature = "std")]
struct OnPath<'a>(&'a Option<std::path::PathBuf>);

#[cfg(feature = "std")]
impl fmt::Display for OnPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, " {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Which memory: the host's, or one device's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum DeviceId {
    /// The machine's own memory.
    #[default]
    Host,
    /// The CUDA device with this ordinal.
    Cuda(u32),
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceId::Host => f.write_str("host"),
            DeviceId::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// The numbers behind an allocation that failed, read at that moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct OutOfMemory {
    /// Whose memory ran out.
    pub device: DeviceId,
    /// What was asked for.
    pub requested_bytes: u64,
    /// What it was to start at a multiple of; 0 where that is not known, or no more than every block has.
    pub align_bytes: u64,
    /// What live blocks held.
    pub in_use_bytes: u64,
    /// The limit in force, or `u64::MAX` without one.
    pub limit_bytes: u64,
    /// The largest block that could still have been had without growing.
    pub largest_free_bytes: u64,
    /// What registered reclaimers said they could still give back.
    pub reclaimable_bytes: u64,
    /// Those reclaimers, and the scopes that hold most, each largest first. A scope within another counts for both.
    #[cfg(feature = "std")]
    pub consumers: Vec<Consumer>,
    /// What the device's driver had left, where there is one.
    pub free_bytes: Option<u64>,
    /// The streams of the device, largest first.
    #[cfg(feature = "std")]
    pub streams: Vec<StreamUse>,
}

/// A stream of a device, and the memory that was taken on it.
#[cfg(feature = "std")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StreamUse {
    /// The driver's handle; 0 is the default stream.
    pub stream: u64,
    /// What live blocks that were taken on it hold.
    pub in_use_bytes: u64,
    /// What its cache keeps for it.
    pub cached_bytes: u64,
}

#[cfg(feature = "cuda")]
impl StreamUse {
    /// A row of the table.
    pub(crate) const fn new(stream: u64, in_use_bytes: u64, cached_bytes: u64) -> StreamUse {
        StreamUse { stream, in_use_bytes, cached_bytes }
    }
}

/// A named holder of memory.
#[cfg(feature = "std")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Consumer {
    /// The name it was registered under.
    pub name: String,
    /// What it holds; of a reclaimer, what it could give back.
    pub bytes: u64,
    /// What it is.
    pub role: Role,
}

/// What a [`Consumer`] is.
#[cfg(feature = "std")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Role {
    /// Somebody who could give it back.
    Reclaimer,
    /// The scope whose limit was reached.
    FullScope,
    /// Another scope.
    Scope,
}

#[cfg(feature = "std")]
impl OutOfMemory {
    /// The scope whose limit was reached, where it was not the process's or a pool's.
    pub fn scope(&self) -> Option<&str> {
        let full = self.consumers.iter().find(|consumer| consumer.role == Role::FullScope);
        full.map(|scope| scope.name.as_str())
    }

    /// The scopes that hold most: the full one, then the others, largest first.
    pub fn scopes(&self) -> impl Iterator<Item = &Consumer> {
        self.consumers.iter().filter(|consumer| consumer.role != Role::Reclaimer)
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "out of memory on {}{}: {} bytes requested",
            self.device,
            InScope(self),
            self.requested_bytes
        )?;
        // Where a free block is long enough, it lies at the wrong place.
        if self.align_bytes > 0 && self.largest_free_bytes >= self.requested_bytes {
            write!(f, " at a multiple of {}", self.align_bytes)?;
        }
        // An allocator that gives no numbers has none to be told.
        let known = self.in_use_bytes > 0 || self.largest_free_bytes > 0 || self.limit_bytes != u64::MAX;
        if known || self.free_bytes.is_some() {
            write!(f, ", {} in use, largest free block {}", self.in_use_bytes, self.largest_free_bytes)?;
        }
        if self.limit_bytes != u64::MAX {
            write!(f, ", limit {}", self.limit_bytes)?;
        }
        if let Some(free_bytes) = self.free_bytes {
            write!(f, ", {free_bytes} free on the device")?;
        }
        if self.reclaimable_bytes > 0 {
            write!(f, ", {} reclaimable", self.reclaimable_bytes)?;
        }
        #[cfg(feature = "std")]
        for (i, consumer) in self.consumers.iter().filter(|it| it.role == Role::Reclaimer).enumerate() {
            write!(f, "{} {:?} {}", if i == 0 { "; held by" } else { "," }, consumer.name, consumer.bytes)?;
        }
        #[cfg(feature = "std")]
        for (i, scope) in self.scopes().enumerate() {
            write!(f, "{} {:?} {}", if i == 0 { "; in scopes:" } else { "," }, scope.name, scope.bytes)?;
        }
        #[cfg(feature = "std")]
        for (i, row) in self.streams.iter().enumerate() {
            let lead = if i == 0 { "; by stream" } else { "," };
            write!(f, "{lead} {:#x} {} in use, {} cached", row.stream, row.in_use_bytes, row.cached_bytes)?;
        }
        Ok(())
    }
}

/// " in scope "NAME"", or nothing.
struct InScope<'a>(&'a OutOfMemory);

impl fmt::Display for InScope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "std")]
        if let Some(scope) = self.0.scope() {
            return write!(f, " in scope {scope:?}");
        }
        let _ = (f, self.0);
        Ok(())
    }
}

/// Why a block could not be given back, or what else is wrong with it. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BadFree {
    /// The address is none of this space's.
    Foreign,
    /// The block is free already.
    AlreadyFree {
        /// Where it starts in its space.
        offset_bytes: u64,
    },
    /// The address lies inside a live block, not at its start.
    Interior {
        /// Where the address lies in its space.
        offset_bytes: u64,
    },
    /// A live block starts there, but not of that size.
    WrongSize {
        /// Where it starts in its space.
        offset_bytes: u64,
        /// The bytes the block really has.
        held_bytes: u64,
        /// The bytes that were to be given back.
        given_bytes: u64,
    },
    /// Something wrote behind the end of the block while it was live: told by the feature `hardened`.
    Overrun {
        /// Where it starts in its space.
        offset_bytes: u64,
        /// The first byte behind what was asked for that was found changed, counted from the block's start.
        byte: u64,
    },
    /// Something wrote to the block after it was freed: told by the feature `hardened`.
    WrittenAfterFree {
        /// Where it starts in its space.
        offset_bytes: u64,
        /// The first byte that was found changed, counted from the block's start.
        byte: u64,
    },
}

impl fmt::Display for BadFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            BadFree::Foreign => f.write_str("freed a block of somebody else: no address of this space"),
            BadFree::AlreadyFree { offset_bytes } => {
                write!(f, "freed twice: the block at offset {offset_bytes:#x} is free already")
            }
            BadFree::Interior { offset_bytes } => {
                write!(f, "freed an address inside a block: none starts at offset {offset_bytes:#x}")
            }
            BadFree::WrongSize { offset_bytes, held_bytes, given_bytes } => write!(
                f,
                "freed with the wrong size: the block at offset {offset_bytes:#x} has {held_bytes} bytes, not {given_bytes}"
            ),
            BadFree::Overrun { offset_bytes, byte } => write!(
                f,
                "written behind its end: byte {byte} of the block at offset {offset_bytes:#x} is not the program's, and was changed"
            ),
            BadFree::WrittenAfterFree { offset_bytes, byte } => write!(
                f,
                "written after it was freed: byte {byte} of the block at offset {offset_bytes:#x} was changed"
            ),
        }
    }
}

impl core::error::Error for BadFree {}
