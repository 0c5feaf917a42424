//! Dividing claimed memory into what blocks are made of and the tables beside it.

#![forbid(unsafe_code)]

use super::arena::FixedArena;
use super::plan::Plan;
use crate::arena::{Borrowed, NoArena};
use core::fmt;
use core::mem::MaybeUninit;

/// Why a range of memory was not claimed. The heap is as it was, and the range was not written to, unless it is
/// [`NoArena`](Self::NoArena).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NotClaimed {
    /// There is no room for a single block beside the tables.
    TooSmall {
        /// The bytes given.
        given_bytes: u64,
        /// The least that would do at that address.
        least_bytes: u64,
    },
    /// It starts at address zero, or reaches over the end of the address space.
    NoRange {
        /// Where it starts.
        start: u64,
        /// The bytes given.
        given_bytes: u64,
    },
    /// More than 4 GiB, or half of the address space: claim it in parts.
    TooLarge {
        /// The bytes given.
        given_bytes: u64,
        /// The most that one range can have.
        most_bytes: u64,
    },
    /// A part of it was claimed before.
    Overlaps {
        /// Where the range starts that was claimed before.
        start: u64,
        /// The bytes of that range.
        claimed_bytes: u64,
    },
    /// The heap holds as many ranges as its type allows: raise its `ARENAS`.
    TooMany {
        /// How many that are.
        most: usize,
    },
    /// The static memory is another heap's already.
    Taken,
    /// It cannot be divided.
    NoArena(NoArena),
}

impl fmt::Display for NotClaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotClaimed::TooSmall { given_bytes, least_bytes } => {
                write!(f, "{given_bytes} bytes are too few for a heap: give it {least_bytes} or more")
            }
            NotClaimed::NoRange { start, given_bytes } => {
                write!(
                    f,
                    "{given_bytes} bytes at {start:#x} are no range of memory: give its true start and length"
                )
            }
            NotClaimed::TooLarge { given_bytes, most_bytes } => {
                write!(
                    f,
                    "{given_bytes} bytes are too many for one claim: give parts of at most {most_bytes}"
                )
            }
            NotClaimed::Overlaps { start, claimed_bytes } => {
                write!(
                    f,
                    "claimed already: the heap holds {claimed_bytes} bytes at {start:#x}; give each range once"
                )
            }
            NotClaimed::TooMany { most } => {
                write!(f, "the heap holds {most} ranges, as many as its type allows: raise ARENAS")
            }
            NotClaimed::Taken => {
                f.write_str("the static memory is another heap's already: give each heap its own")
            }
            NotClaimed::NoArena(why) => why.fmt(f),
        }
    }
}

impl core::error::Error for NotClaimed {}

/// Makes an arena over `bytes`, with its tables at their end, where it is to stand.
///
/// The blocks come first, so they are aligned as well as the memory itself is: a range that starts at a multiple of 4 KiB
/// and is as long holds as many blocks aligned to that as can be.
#[cfg_attr(not(target_pointer_width = "64"), inline(never))]
pub(super) fn divide<const SLABS: bool>(
    bytes: &'static mut [MaybeUninit<u8>],
    arena: &mut Option<FixedArena<SLABS>>,
) -> Result<(), NotClaimed> {
    let given = bytes.len();
    let plan = Plan::of(given, SLABS);
    let skip = (bytes.as_ptr() as usize).wrapping_neg() & ((1 << plan.granule_shift) - 1);
    let bytes = bytes.get_mut(skip..).unwrap_or_default();
    let granules = most::<SLABS>(bytes.len(), plan);
    let parts = bytes.split_at_mut_checked(granules << plan.granule_shift);
    let divided = parts.filter(|_| granules > 0).and_then(|(range, tables)| {
        FixedArena::<SLABS>::divide(arena, range, granules as u32, plan, Borrowed::new(tables))
    });
    // The tables find the room that was counted.
    divided
        .ok_or(NotClaimed::TooSmall { given_bytes: given as u64, least_bytes: (skip + LEAST_BYTES) as u64 })
}

/// What the smallest arena needs, from its first granule on.
const LEAST_BYTES: usize = {
    let plan = Plan::of(0, false);
    (1 << plan.granule_shift) + FixedArena::<false>::table_bytes(1, plan)
};

/// The most granules that fit `len` bytes, which start with one, with the tables for them behind.
fn most<const SLABS: bool>(len: usize, plan: Plan) -> usize {
    let mut fit = 0;
    let mut end = (len >> plan.granule_shift) + 1;
    while fit + 1 < end {
        let granules = fit + (end - fit) / 2;
        let rest = len - (granules << plan.granule_shift);
        // Tables are aligned to what a granule is aligned to, so they need what they need and no more.
        let fits = FixedArena::<SLABS>::table_bytes(granules as u32, plan) <= rest;
        if fits { fit = granules } else { end = granules }
    }
    fit
}
