//! A stream's cache: magazines of small blocks that were freed on it, or that it has waited for already.
//!
//! Whatever is in it can be used on its stream at once. It holds what two magazines of each size class do; a magazine that
//! is full goes back to the slabs as one batch, so that the order of streams is told once for all of it.

#![forbid(unsafe_code)]

use crate::pool::magazine::Magazine;
use crate::size::{Classes, Geometry, SizeClass};
use std::boxed::Box;
use std::vec::Vec;

/// How device memory is counted, frames aside.
pub(super) const GEOMETRY: Geometry = Geometry::spans(64 << 10).slabs(64 << 10, 512);
pub(super) const CLASSES: Classes = Classes::of(GEOMETRY);
const COUNT: usize = CLASSES.count();

/// The most blocks of a magazine, and the most bytes.
pub(super) const MOST: usize = 32;
const MOST_BYTES: u64 = 64 << 10;

pub(super) type Blocks = Magazine<u64, MOST>;

/// The magazines of one stream.
pub(super) struct Cache {
    /// Pushed to and popped from, and the other one.
    classes: Box<[[Blocks; 2]]>,
}

/// How many blocks of a class a magazine holds.
pub(super) fn capacity(class: SizeClass) -> usize {
    ((MOST_BYTES / CLASSES.slot_bytes(class)) as usize).clamp(2, MOST)
}

impl Cache {
    pub(super) fn new() -> Cache {
        let empty = |class: usize| {
            let capacity = capacity(SizeClass(class as u8));
            [Blocks::with_capacity(capacity), Blocks::with_capacity(capacity)]
        };
        Cache { classes: (0..COUNT).map(empty).collect() }
    }

    #[inline]
    pub(super) fn pop(&mut self, class: SizeClass) -> Option<u64> {
        let [loaded, other] = &mut self.classes[class.0 as usize];
        if loaded.is_empty() {
            core::mem::swap(loaded, other);
        }
        loaded.pop()
    }

    /// Takes a block; where there is no room, a full magazine is the caller's to give back first.
    #[inline]
    pub(super) fn push(&mut self, class: SizeClass, block: u64) -> Option<Vec<u64>> {
        let [loaded, other] = &mut self.classes[class.0 as usize];
        let mut overflow = None;
        if loaded.is_full() {
            if !other.is_empty() {
                overflow = Some(other.drain().collect());
            }
            core::mem::swap(loaded, other);
        }
        let pushed = loaded.push(block);
        debug_assert!(pushed.is_ok(), "an empty magazine has room");
        overflow
    }

    /// Whether the block is in it.
    pub(super) fn holds(&self, block: u64) -> bool {
        self.classes.iter().flatten().any(|blocks| blocks.as_slice().contains(&block))
    }

    /// How many blocks are in it.
    pub(super) fn len(&self) -> usize {
        self.classes.iter().flatten().map(|blocks| blocks.as_slice().len()).sum()
    }

    /// Everything in it, class by class.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (SizeClass, Vec<u64>)> + '_ {
        self.classes.iter_mut().enumerate().filter_map(|(class, [loaded, other])| {
            let blocks: Vec<u64> = loaded.drain().chain(other.drain()).collect();
            (!blocks.is_empty()).then_some((SizeClass(class as u8), blocks))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_gives_back_the_last_block_and_hands_on_whole_magazines() {
        let mut cache = Cache::new();
        let class = SizeClass(0);
        let most = capacity(class) as u64;
        for block in 0..2 * most {
            assert_eq!(cache.push(class, block), None);
        }
        assert_eq!(cache.push(class, 999).map(|blocks| blocks.len()), Some(most as usize), "the older one");
        assert_eq!((cache.pop(class), cache.pop(class)), (Some(999), Some(2 * most - 1)));
        assert_eq!(cache.len() as u64, most - 1);
        assert!(cache.holds(most) && !cache.holds(0));
        assert_eq!(cache.drain().map(|(_, blocks)| blocks.len() as u64).sum::<u64>(), most - 1);
        assert_eq!(cache.pop(class), None);
    }
}
