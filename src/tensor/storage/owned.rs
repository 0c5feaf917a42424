//! A block of the host's with its charge.

#![forbid(unsafe_code)]

use super::Block;
use crate::pool::budget::scope::Holding;
use crate::timeline::{self, Place};

/// A block and what is charged for it: given back after the memory is.
pub(super) struct Owned {
    pub(super) block: Block,
    charged: Holding,
}

impl Owned {
    pub(super) fn new(block: Block, charged: Holding) -> Owned {
        let owned = Owned { block, charged };
        if timeline::is_recording() {
            owned.tell(timeline::allocated);
        }
        owned
    }

    /// Tells the timeline of a vector that a tensor owns from now on, or no more. What comes from a pool that pool tells.
    #[cold]
    fn tell(&self, tell: fn(Place, u64, u64, u64, u64, &str)) {
        if let Block::Adopted(_) | Block::Heaped(_) = self.block
            && let Ok(bytes) = self.block.bytes()
        {
            let (at, len) = (bytes.as_ptr() as u64, bytes.len() as u64);
            tell(Place::Heap, at, len, self.charged.amount(), 0, self.charged.scope().name());
        }
    }
}

impl Drop for Owned {
    #[inline]
    fn drop(&mut self) {
        if timeline::is_recording() {
            self.tell(timeline::freed);
        }
    }
}
