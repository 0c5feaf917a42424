//! What is fixed for each size class, looked up: computed, it would be divisions wherever a magazine changes hands.

#![forbid(unsafe_code)]

use super::cache::MOST;
use super::shared::DEPTH;
use crate::size::{HOST, HOST_CLASSES, SizeClass};

/// What is fixed for a class.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) slot_bytes: u32,
    pub(super) slab_bytes: u32,
    /// How many blocks a magazine holds: 16 KiB of them, at least 8, at most [`MOST`].
    pub(super) capacity: u8,
    /// The most magazines that a depot keeps: 256 KiB of blocks, at least 2, at most [`DEPTH`].
    pub(super) depth: u8,
    /// How many blocks the slabs are asked for at first: a magazine; where the heap is compact 1 KiB, at least 1, then twice as many each
    /// time. (4 KiB take as many instructions, and a fifth more memory in 3,000 threads that do little.)
    pub(super) first: u8,
}

/// The numbers of a class.
#[inline]
pub(super) fn of(class: SizeClass) -> Numbers {
    TABLE[class.0 as usize]
}

static TABLE: [Numbers; HOST_CLASSES] = {
    let mut table = [Numbers { slot_bytes: 0, slab_bytes: 0, capacity: 0, depth: 0, first: 0 }; HOST_CLASSES];
    let mut class = 0;
    while class < HOST_CLASSES {
        let of = SizeClass(class as u8);
        let slot_bytes = HOST.slot_bytes(of);
        let capacity = clamped((16 << 10) / slot_bytes, 8, MOST as u64);
        let depth = clamped((256 << 10) / (capacity as u64 * slot_bytes), 2, DEPTH as u64);
        let slab_bytes = HOST.slab_bytes(of) as u32;
        let few = clamped((1 << 10) / slot_bytes, 1, capacity as u64);
        let first = if cfg!(feature = "compact") { few } else { capacity };
        table[class] = Numbers { slot_bytes: slot_bytes as u32, slab_bytes, capacity, depth, first };
        class += 1;
    }
    table
};

const fn clamped(number: u64, least: u64, most: u64) -> u8 {
    if number < least {
        least as u8
    } else if number > most {
        most as u8
    } else {
        number as u8
    }
}
