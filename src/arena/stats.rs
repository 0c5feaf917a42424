//! An arena or a pool in numbers: a snapshot of one moment.

#![forbid(unsafe_code)]

use super::{Arena, Metadata, Space};
use core::fmt;

/// What is held, and what was done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of live blocks, each counted with all that it can use.
    pub in_use_bytes: u64,
    /// The most there ever were.
    pub peak_in_use_bytes: u64,
    /// Bytes that are backed; in a fixed space, up to the end of the highest block that there ever was.
    pub reserved_bytes: u64,
    /// The most there ever were.
    pub peak_reserved_bytes: u64,
    /// Bytes of backed frames that hold nothing.
    pub idle_bytes: u64,
    /// The most that may be backed, or `u64::MAX`.
    pub limit_bytes: u64,
    /// The longest free run of addresses, backed or not.
    pub largest_free_bytes: u64,
    /// Live blocks.
    pub blocks: u64,
    /// Blocks handed out so far.
    pub allocations: u64,
    /// Requests that failed so far.
    pub failures: u64,
    /// Frames created so far.
    pub creates: u64,
    /// Frames moved from where they were idle to where they were needed, so far.
    pub steals: u64,
    /// Frames given up so far.
    pub unmaps: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} blocks, {} bytes in use (peak {}), {} reserved (peak {}), {} idle",
            self.blocks,
            self.in_use_bytes,
            self.peak_in_use_bytes,
            self.reserved_bytes,
            self.peak_reserved_bytes,
            self.idle_bytes
        )?;
        if self.limit_bytes != u64::MAX {
            write!(f, ", limit {}", self.limit_bytes)?;
        }
        write!(
            f,
            "; {} allocations, {} failures, {} frames created, {} moved, {} given up",
            self.allocations, self.failures, self.creates, self.steals, self.unmaps
        )
    }
}

impl<S: Space, M: Metadata> fmt::Debug for Arena<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("geometry", &self.geometry)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
