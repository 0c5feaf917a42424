//! Dividing claimed memory into what blocks are made of and the tables beside it.

#![forbid(unsafe_code)]

use super::COPIES;
use super::arena::FixedArena;
use super::plan::{self, Plan};
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
    /// It starts at address zero, or reaches to or over the end of the address space: what Rust points into has an address behind it, so
    /// the last byte that there is has to be left out.
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
                    "{given_bytes} bytes at {start:#x} are no range of memory, which has neither address 0 nor the last one: \
                     give its true start and length"
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

/// A range of claimed memory; the one of none ends at 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Range {
    pub(super) const NONE: Range = Range { start: 0, end: 0 };

    /// `len` bytes from `start`, which can be a slice.
    pub(super) fn new(start: usize, len: usize) -> Result<Range, Unclaimed> {
        match start.checked_add(len) {
            Some(_) if len > MOST_BYTES => Err(Unclaimed::TooLarge),
            Some(end) if start > 0 => Ok(Range { start, end }),
            _ => Err(Unclaimed::NoRange),
        }
    }

    pub(super) fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Why a range was not claimed, as the heap finds it. What is told of it is made where the program asks: most do not.
#[derive(Clone, Copy)]
pub(super) enum Unclaimed {
    TooSmall,
    NoRange,
    TooLarge,
    Overlaps(Range),
    TooMany,
}

/// The most bytes that one range can have.
pub(super) const MOST_BYTES: usize =
    if plan::MOST_BYTES < isize::MAX as u64 { plan::MOST_BYTES as usize } else { isize::MAX as usize };

impl Unclaimed {
    /// Why `len` bytes from `start` were not claimed by a heap of so many arenas.
    #[inline]
    pub(super) fn told(self, start: usize, len: usize, arenas: usize, slabs: bool) -> NotClaimed {
        let given_bytes = len as u64;
        match self {
            Unclaimed::TooSmall => {
                let least = skipped(start, Plan::of(len.max(1), slabs)) + LEAST_BYTES;
                NotClaimed::TooSmall { given_bytes, least_bytes: least as u64 }
            }
            Unclaimed::NoRange => NotClaimed::NoRange { start: start as u64, given_bytes },
            Unclaimed::TooLarge => NotClaimed::TooLarge { given_bytes, most_bytes: MOST_BYTES as u64 },
            Unclaimed::Overlaps(Range { start, end }) => {
                NotClaimed::Overlaps { start: start as u64, claimed_bytes: (end - start) as u64 }
            }
            Unclaimed::TooMany => NotClaimed::TooMany { most: arenas },
        }
    }
}

/// The bytes of a range that starts at `start` before its first granule.
fn skipped(start: usize, plan: Plan) -> usize {
    start.wrapping_neg() & ((1 << plan.granule_shift) - 1)
}

/// Makes `arena`, which has no memory, one over `bytes`, with its tables at their end. `None`: there is no room for a single block.
///
/// The blocks come first, so they are aligned as well as the memory itself is: a range that starts at a multiple of 4 KiB
/// and is as long holds as many blocks aligned to that as can be.
pub(super) fn divide<const SLABS: bool>(
    bytes: &'static mut [MaybeUninit<u8>],
    arena: &mut FixedArena<SLABS>,
) -> Option<()> {
    let plan = Plan::of(bytes.len(), SLABS);
    let bytes = bytes.get_mut(skipped(bytes.as_ptr() as usize, plan)..)?;
    let granules = most::<SLABS>(bytes.len(), plan);
    if granules == 0 {
        return None;
    }
    let (range, tables) = bytes.split_at_mut_checked(granules << plan.granule_shift)?;
    // The tables find the room that was counted.
    arena.divide(range, granules as u32, plan, Borrowed::new(tables))
}

/// What the smallest arena needs, from its first granule on.
const LEAST_BYTES: usize = {
    let plan = Plan::of(1, false);
    (1 << plan.granule_shift) + FixedArena::<false>::table_bytes(1, plan)
};

/// The most granules that fit `len` bytes, which start with one, with the tables for them behind.
fn most<const SLABS: bool>(len: usize, plan: Plan) -> usize {
    let mut granules = len >> plan.granule_shift;
    while granules > 0 {
        // Tables are aligned to what a granule is aligned to, so they need what they need and no more.
        let tables = FixedArena::<SLABS>::table_bytes(granules as u32, plan);
        let over = ((granules << plan.granule_shift) + tables).saturating_sub(len);
        if over == 0 {
            break;
        }
        // One granule less makes room for less than two. So nothing that fits is left out. Where code is dear ranges are short.
        let less = if COPIES { usize::max(over >> plan.granule_shift >> 1, 1) } else { 1 };
        granules = granules.saturating_sub(less);
    }
    granules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_granules_are_made_of_a_range_as_fit_it_with_their_tables() {
        let lens = (50..3000).chain((1..60).map(|n| n * 6007)).chain((1..40).map(|n| n * 262_147));
        for len in lens {
            let plan = Plan::of(len, true);
            let fits = |granules: usize| {
                (granules << plan.granule_shift) + FixedArena::<true>::table_bytes(granules as u32, plan)
                    <= len
            };
            let granules = most::<true>(len, plan);
            assert!(granules == 0 || fits(granules), "{granules} of {len} bytes");
            assert!(!fits(granules + 1), "{granules} of {len} bytes, and one more");
        }
    }
}
