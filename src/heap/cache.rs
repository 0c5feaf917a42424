//! A thread's cache: for each size class a loaded magazine and one behind it, and the paths that hit the loaded one.
//!
//! A magazine is 512 bytes of words at a multiple of as much, of which one below the blocks is 0. So its state is one pointer, to the
//! first word above its blocks: it is empty where the word below is 0, and full where the pointer is a multiple of 512.

mod exchange;
mod spare;
mod stir;

pub(super) use exchange::Own;
pub(super) use spare::Spare;
pub(super) use stir::stir;

use super::owner::{self, Tags};
use super::thread;
use crate::size::{HOST, HOST_CLASSES, SizeClass};
use crate::sync::Blank;
use core::ptr::null_mut;

/// The most blocks of a magazine: 32 costs 2 % of speed, 128 costs 4 % of memory (measured).
pub(super) const MOST: usize = 63;
const MAGAZINE_BYTES: usize = 512;
const WORDS: usize = MAGAZINE_BYTES / size_of::<usize>();
const _: () = assert!(MOST < WORDS, "below the blocks of a full magazine lies a 0");

/// How many blocks of a class a magazine holds: 16 KiB of them, at least 8, at most [`MOST`].
pub(super) const fn capacity(class: SizeClass) -> usize {
    let capacity = (16 << 10) / HOST.slot_bytes(class);
    if capacity > MOST as u64 {
        MOST
    } else if capacity < 8 {
        8
    } else {
        capacity as usize
    }
}

/// The blocks of a magazine lie at its end, below them a 0.
#[derive(Clone, Copy)]
#[repr(C, align(512))]
struct Magazine([usize; WORDS]);

const _: () = assert!(size_of::<Magazine>() == MAGAZINE_BYTES && align_of::<Magazine>() == MAGAZINE_BYTES);

/// What the hits of a class do not look at.
#[derive(Clone, Copy)]
#[repr(C)]
struct Back {
    /// The top of the magazine behind; null until the class is first used.
    behind: *mut usize,
    /// How many blocks the loaded magazine may hold now.
    capacity: usize,
}

/// A thread's cache. All zeros, but for the tops, is one that was never used.
#[repr(C)]
pub(super) struct Cache {
    tops: [*mut usize; HOST_CLASSES],
    tags: Tags,
    /// The next cache that no thread has.
    next: *mut Cache,
    backs: [Back; HOST_CLASSES],
    /// Blocks that other threads carved, to go back to the slabs.
    away: [[usize; MOST]; owner::CLASSES],
    away_len: [usize; owner::CLASSES],
    magazines: [[Magazine; 2]; HOST_CLASSES],
}

/// The magazine of whoever has none: its top says that it is empty, and full.
static NONE: Blank<Magazine> = Blank::new(Magazine([0; WORDS]));

const fn no_top() -> *mut usize {
    // One behind the last word of a static.
    NONE.get().wrapping_add(1).cast()
}

/// The cache of whoever has none. Nobody writes to it: the hits write only where a magazine is not empty or not full, and
/// here all are both.
pub(super) static EMPTY: Blank<Cache> = Blank::new(Cache {
    tops: [no_top(); HOST_CLASSES],
    tags: Tags::none(),
    next: null_mut(),
    backs: [Back { behind: null_mut(), capacity: 0 }; HOST_CLASSES],
    away: [[0; MOST]; owner::CLASSES],
    away_len: [0; owner::CLASSES],
    magazines: [[Magazine([0; WORDS]); 2]; HOST_CLASSES],
});

/// A block of a class: the cache, its top, the word below, a test, a store. 9 instructions with the return, and 8 more for the
/// way to the class where the compiler does not know the layout; `tests/instructions.rs` counts them.
///
/// # Safety
/// `class` is less than `HOST_CLASSES`.
#[inline(always)]
pub(super) unsafe fn allocate(class: SizeClass) -> *mut u8 {
    let cache = thread::cache();
    // SAFETY: 1. The cache is this thread's own, or the shared empty one, which is only read. 2. `class` is in range, as
    // the caller promises. 3. Below every top lies a word of its magazine: a block, or the 0 below them.
    unsafe {
        let top = (&raw mut (*cache).tops).cast::<*mut usize>().add(class.0 as usize);
        let below = (*top).sub(1);
        let block = *below;
        if block == 0 {
            return exchange::refill(class);
        }
        *top = below;
        block as *mut u8
    }
}

/// Takes a block of a class back: the cache, its top, a test, two stores. 12 instructions with the return, 8 more for the way
/// to the class, and 9 more to ask for the owner where there are two caches.
///
/// # Safety
/// As for [`allocate`]; and the block is the caller's to give back. Where it is not, the flush of its magazine tells.
#[inline(always)]
pub(super) unsafe fn free(at: *mut u8, class: SizeClass) {
    let cache = thread::cache();
    // SAFETY: 1. and 2. as in `allocate`. 3. A top that is no multiple of a magazine's size lies in its magazine.
    unsafe {
        if !(*cache).tags.keep(at, class) {
            return exchange::send_back(at, class);
        }
        let top = (&raw mut (*cache).tops).cast::<*mut usize>().add(class.0 as usize);
        let above = *top;
        if above.addr() % MAGAZINE_BYTES == 0 {
            return exchange::spill(at, class);
        }
        *above = at as usize;
        *top = above.add(1);
    }
}
