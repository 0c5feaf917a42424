//! A thread's cache: for each size class a loaded magazine and one behind it, and the paths that hit the loaded one. Small blocks that
//! another cache carved are collected in magazines of their own, to go back to the slabs.
//!
//! A magazine is 512 bytes of words at a multiple of as much, of which one below the blocks is 0. So its state is one pointer, to the
//! first word above its blocks: it is empty where the word below is 0, and full where the pointer is a multiple of 512.

mod exchange;
mod stir;

pub(super) use exchange::{Own, carry, seat};
pub(super) use stir::stir;

use super::numbers;
use super::stock::hit;
use super::stock::owner::{self, Tags};
use super::stock::seat::Seat;
use super::stock::spare::{Linked, Links};
use super::thread::{self, Word};
use crate::size::{HOST_CLASSES, SizeClass};
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};
use crate::sync::{Blank, HostLock};
use core::ptr::NonNull;

/// The most blocks of a magazine: 32 costs 2 % of speed, 128 costs 4 % of memory (measured).
pub(super) const MOST: usize = 63;
const MAGAZINE_BYTES: usize = 512;
const WORDS: usize = MAGAZINE_BYTES / size_of::<usize>();
const _: () = assert!(MOST < WORDS, "below the blocks of a full magazine lies a 0");

/// How many blocks of a class a magazine holds.
#[inline]
pub(super) fn capacity(class: SizeClass) -> usize {
    numbers::of(class).capacity as usize
}

/// The blocks of a magazine lie at its end, below them a 0.
#[derive(Clone, Copy)]
#[repr(C, align(512))]
struct Magazine([usize; WORDS]);

const _: () = assert!(size_of::<Magazine>() == MAGAZINE_BYTES && align_of::<Magazine>() == MAGAZINE_BYTES);

/// How many bins a cache has: one for each class, and one more for each class with owners.
const BINS: usize = HOST_CLASSES + owner::CLASSES;

/// Which bin of a cache.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    class: SizeClass,
}

impl Place {
    /// Of a class's blocks that come and go.
    #[inline(always)]
    const fn own(class: SizeClass) -> Place {
        Place { at: class.0 as usize, class }
    }

    /// Of a class's blocks that other caches carved, and that only come. The class is one with owners.
    #[inline(always)]
    const fn away(class: SizeClass) -> Place {
        debug_assert!(owner::tagged(class));
        Place { at: HOST_CLASSES + class.0 as usize, class }
    }

    fn all() -> impl Iterator<Item = Place> {
        let classes = |count| (0..count as u8).map(SizeClass);
        classes(HOST_CLASSES).map(Place::own).chain(classes(owner::CLASSES).map(Place::away))
    }
}

/// What the hits of a bin do not look at.
#[derive(Clone, Copy)]
#[repr(C)]
struct Back {
    /// The top of the magazine behind; null until the bin is first used.
    behind: *mut usize,
    /// How many blocks the loaded magazine may hold now.
    capacity: usize,
    /// How many blocks the slabs were asked for last; 0 at first.
    batch: usize,
}

/// What the hits look at.
#[repr(C)]
struct Front {
    tops: [*mut usize; BINS],
    tags: Tags,
}

/// A thread's cache. All zeros, but for the tops, is one that was never used.
#[repr(C)]
pub(super) struct Cache {
    front: Front,
    links: Links<Cache>,
    /// Who may touch what follows, and by what the hits do not.
    seat: Seat<HostLock, Word>,
    backs: [Back; BINS],
    /// Two for each bin that was ever used, in the order of their first uses, so that the memory of the others is never touched. From
    /// here on a cache that is spare may be zeros.
    magazines: [[Magazine; 2]; BINS],
}

/// The magazine of whoever has none: its top says that it is empty, and full.
static NONE: Blank<Magazine> = Blank::new(Magazine([0; WORDS]));

const fn no_top() -> *mut usize {
    // One behind the last word of a static.
    NONE.get().wrapping_add(1).cast()
}

/// A front with nothing behind, as aligned as a cache.
#[repr(C, align(512))]
pub(super) struct FrontAlone(Front);

const _: () = assert!(align_of::<FrontAlone>() == align_of::<Cache>());

/// The front of whoever has no cache. Nobody writes to it: the hits write only where a magazine is not empty or not full, and
/// here all are both.
pub(super) static EMPTY: Blank<FrontAlone> =
    Blank::new(FrontAlone(Front { tops: [no_top(); BINS], tags: Tags::none() }));

/// The cache of whoever has none, of which there is no more than the front.
#[inline(always)]
pub(super) const fn empty() -> *mut Cache {
    EMPTY.get().cast()
}

// SAFETY: 1. Only the lists of caches use the links.
unsafe impl Linked for Cache {
    unsafe fn links(at: NonNull<Cache>) -> *mut Links<Cache> {
        // SAFETY: 1. As the caller promises.
        unsafe { &raw mut (*at.as_ptr()).links }
    }
}

/// The loaded magazine of a bin: the place of its top. Atomic, since a visitor reads what a hit under way may write.
#[derive(Clone, Copy)]
struct Loaded(*mut *mut usize);

impl Loaded {
    /// # Safety
    /// The place is one of a class of the host's. The cache lives for good, and its hits are this thread's own; or it is the empty one,
    /// to which nothing is written; or the thread is parted from it, and only `skim` is called.
    #[inline(always)]
    unsafe fn of(cache: *mut Cache, place: Place) -> Loaded {
        // SAFETY: 1. The array has a top for each bin.
        unsafe { Loaded((&raw mut (*cache).front.tops).cast::<*mut usize>().add(place.at)) }
    }
}

// Every `unsafe` below rests on this: 1. Who made this promised that the cache is there. 2. Every top lies in its magazine or just
// behind it, with a word below: a block, or the 0 below them. 3. `hit` writes only where a magazine is not empty or not full.
impl hit::Loaded for Loaded {
    type At = *mut usize;
    #[inline(always)]
    fn top(&self) -> *mut usize {
        // SAFETY: 1. See above.
        unsafe { AtomicPtr::from_ptr(self.0) }.load(Relaxed)
    }
    #[inline(always)]
    fn set_top(&self, to: *mut usize) {
        // SAFETY: 1. See above.
        unsafe { AtomicPtr::from_ptr(self.0) }.store(to, Relaxed)
    }
    #[inline(always)]
    fn below(&self, at: *mut usize, words: usize) -> *mut usize {
        at.wrapping_sub(words)
    }
    #[inline(always)]
    fn above(&self, at: *mut usize) -> *mut usize {
        at.wrapping_add(1)
    }
    #[inline(always)]
    fn word(&self, at: *mut usize) -> usize {
        // SAFETY: 1. to 3. See above.
        unsafe { AtomicUsize::from_ptr(at) }.load(Relaxed)
    }
    #[inline(always)]
    fn set_word(&self, at: *mut usize, word: usize) {
        // SAFETY: 1. to 3. See above.
        unsafe { AtomicUsize::from_ptr(at) }.store(word, Relaxed)
    }
    #[inline(always)]
    fn is_end(&self, at: *mut usize) -> bool {
        at.addr().is_multiple_of(MAGAZINE_BYTES)
    }
}

/// A block of a class: the cache, its top, the word below, a test, a store. 9 instructions with the return, and 8 more for the
/// way to the class where the compiler does not know the layout; `tests/instructions.rs` counts them.
///
/// # Safety
/// `class` is less than `HOST_CLASSES`.
#[inline(always)]
pub(super) unsafe fn allocate(class: SizeClass) -> *mut u8 {
    // SAFETY: 1. The cache is this thread's own, or the shared empty one. 2. `class` is in range, as the caller promises.
    let loaded = unsafe { Loaded::of(thread::cache(), Place::own(class)) };
    match hit::pop(&loaded) {
        0 => exchange::refill(class),
        block => block as *mut u8,
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
    // SAFETY: 1. and 2. as in `allocate`.
    unsafe {
        if !(*cache).front.tags.keep(at, class) {
            return exchange::send_back(at, class);
        }
        if !hit::push(&Loaded::of(cache, Place::own(class)), at as usize) {
            exchange::spill(at, class)
        }
    }
}
