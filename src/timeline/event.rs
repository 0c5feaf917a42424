//! One thing that happened.

#![forbid(unsafe_code)]

use core::fmt;

/// [`Event::stack`] where no callers were kept.
pub const NO_STACK: u32 = u32::MAX;

/// One thing that happened, in 56 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Event {
    /// Nanoseconds since the recording began.
    pub time_ns: u64,
    /// Where the block is, host or device: its address. 0 where the event has none.
    pub address: u64,
    /// Bytes; of what is told by the [`Action`].
    pub bytes: u64,
    /// A second number; of what is told by the [`Action`].
    pub more: u64,
    /// The stream that asked, as the driver names it; 0 on the host.
    pub stream: u64,
    /// Who did it: see [`Timeline::thread`](super::Timeline::thread).
    pub thread: u32,
    /// In which scope, or the text of a mark: see [`Timeline::name`](super::Timeline::name).
    pub name: u32,
    /// From where, or [`NO_STACK`]: see [`Timeline::stack`](super::Timeline::stack).
    pub stack: u32,
    /// Which memory.
    pub place: Place,
    /// What.
    pub action: Action,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Action {
    /// A block was handed out: `bytes` were asked for, `more` are in it.
    Allocate,
    /// A block came back, of which `bytes` had been asked for, `more` being in it.
    Free,
    /// Frames were created, moved or given up: `bytes` are reserved now, `more` frames were moved since it was last told.
    Reserve,
    /// A request for `bytes` failed after everything that could help.
    OutOfMemory,
    /// Reclaimers were asked, and gave `bytes` in `more` nanoseconds.
    Collect,
    /// The program set a mark.
    Mark,
}

impl Action {
    /// All of them.
    pub(super) const ALL: [Action; 6] =
        [Action::Allocate, Action::Free, Action::Reserve, Action::OutOfMemory, Action::Collect, Action::Mark];

    /// Whether it happens in a [`Place`], and not in the process as a whole.
    pub(super) fn is_of_a_place(self) -> bool {
        !matches!(self, Action::Collect | Action::Mark)
    }

    /// As files name it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Action::Allocate => "allocate",
            Action::Free => "free",
            Action::Reserve => "reserve",
            Action::OutOfMemory => "out-of-memory",
            Action::Collect => "collect",
            Action::Mark => "mark",
        }
    }
}

/// Which memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Place {
    /// The host's pool: [`MemoryPool`](crate::MemoryPool).
    Pool,
    /// The program's heap: vectors that became tensors. Nothing is reserved for them.
    Heap,
    /// The pool of a CUDA device.
    Cuda(u8),
}

impl Place {
    /// From "pool", "heap" or "cuda:0".
    pub(super) fn read(word: &str) -> Option<Place> {
        match word {
            "pool" => Some(Place::Pool),
            "heap" => Some(Place::Heap),
            _ => word.strip_prefix("cuda:")?.parse().ok().map(Place::Cuda),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Pool => f.write_str("pool"),
            Place::Heap => f.write_str("heap"),
            Place::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

const _: () = assert!(size_of::<Event>() == 56);
