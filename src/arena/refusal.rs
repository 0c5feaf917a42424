//! Why there is no block, and why there is no arena.

#![forbid(unsafe_code)]

use super::metadata::NoTable;
use crate::size::SizeClass;
use crate::space::SpaceError;
use core::fmt;

/// Why there is no block. Everything is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoBlock {
    /// Larger, or more strictly aligned, than this space can ever serve.
    NeverFits {
        /// The bytes asked for.
        asked_bytes: u64,
        /// The bytes of the whole space.
        space_bytes: u64,
    },
    /// No free run of addresses is long enough now.
    NoRoom {
        /// The bytes asked for.
        asked_bytes: u64,
        /// The longest free run.
        largest_free_bytes: u64,
    },
    /// The budget refused.
    OverBudget {
        /// The bytes that were to be backed in addition.
        asked_bytes: u64,
    },
    /// The space had nothing to back it with.
    NotBacked(SpaceError),
    /// The space has no such size class.
    NoClass {
        /// The class asked for.
        class: SizeClass,
        /// How many there are, counted from 0; none where the space has no slabs.
        classes: usize,
    },
}

impl fmt::Display for NoBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoBlock::NeverFits { asked_bytes, space_bytes } => {
                write!(f, "a block of {asked_bytes} bytes never fits a space of {space_bytes}")
            }
            NoBlock::NoRoom { asked_bytes, largest_free_bytes } => {
                // Where a free run is long enough, it lies at the wrong place.
                let place =
                    if largest_free_bytes < asked_bytes { "" } else { " at a multiple of their alignment" };
                write!(
                    f,
                    "no room for {asked_bytes} bytes{place} now: the largest free run has {largest_free_bytes}"
                )
            }
            NoBlock::OverBudget { asked_bytes } => {
                write!(f, "{asked_bytes} more bytes are over the budget")
            }
            NoBlock::NotBacked(why) => why.fmt(f),
            NoBlock::NoClass { class, classes } => {
                write!(
                    f,
                    "no {class} in a space of {classes}, counted from 0: take one of its geometry's, or a block by its layout"
                )
            }
        }
    }
}

impl core::error::Error for NoBlock {}

/// A space cannot be divided as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoArena {
    /// Its tables found no memory.
    NoTable(NoTable),
    /// It has more granules than can be counted.
    TooLarge {
        /// The bytes of the space.
        space_bytes: u64,
        /// The most that granules of its size allow.
        most_bytes: u64,
    },
}

impl fmt::Display for NoArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoArena::NoTable(why) => why.fmt(f),
            NoArena::TooLarge { space_bytes, most_bytes } => write!(
                f,
                "a space of {space_bytes} bytes has too many granules: at most {most_bytes} bytes, or take larger granules"
            ),
        }
    }
}

impl core::error::Error for NoArena {}

impl From<NoTable> for NoArena {
    fn from(why: NoTable) -> NoArena {
        NoArena::NoTable(why)
    }
}
