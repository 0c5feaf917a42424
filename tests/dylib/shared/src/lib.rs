//! A Rust library that is linked at run time, and has the heap in it.

pub use democratising;

use democratising::Global;
use std::alloc::{GlobalAlloc, Layout};

/// Blocks that this library allocates.
pub fn blocks(layout: Layout, count: usize) -> Vec<usize> {
    // SAFETY: 1. No block is of size zero.
    (0..count).map(|_| unsafe { Global.alloc(layout) } as usize).collect()
}
