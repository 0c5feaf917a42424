//! A thread's cache: two magazines for each size class, and the paths that hit them.

use super::thread;
use crate::pool::magazine::Magazine;
use crate::size::{HOST, HOST_CLASSES, SizeClass};
use crate::sync::Blank;
use core::ptr::{NonNull, null_mut};

/// The most blocks of a magazine: 32 costs 2 % of speed, 128 costs 4 % of memory (measured).
pub(super) const MOST: usize = 64;

/// How many blocks of a class a magazine holds: 16 KiB of them, at least 8, at most 64.
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

/// How full the loaded magazine of one class is.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Bin {
    pub(super) len: u32,
    /// 0 until the class is first used.
    pub(super) capacity: u32,
}

/// A thread's cache. All zeros is one that was never used.
#[repr(C)]
pub(super) struct Cache {
    pub(super) bins: [Bin; HOST_CLASSES],
    pub(super) loaded: [[usize; MOST]; HOST_CLASSES],
    pub(super) previous: [Magazine<usize, MOST>; HOST_CLASSES],
    /// The next cache that no thread has.
    pub(super) next: *mut Cache,
}

/// The cache of whoever has none: every magazine is empty, and full. Nobody writes to it, since `allocate` and `free`
/// write only where the length is not 0 or less than the capacity, and here both are 0.
pub(super) static EMPTY: Blank<Cache> = Blank::new(Cache {
    bins: [Bin { len: 0, capacity: 0 }; HOST_CLASSES],
    loaded: [[0; MOST]; HOST_CLASSES],
    previous: [const { Magazine::new() }; HOST_CLASSES],
    next: null_mut(),
});

/// A block of a class: one TLS load, one load, a test, two stores and a load. `benches/compare` holds us to it.
///
/// # Safety
/// `class` is less than `HOST_CLASSES`.
#[inline(always)]
pub(super) unsafe fn allocate(class: SizeClass) -> *mut u8 {
    let cache = thread::cache();
    // SAFETY: 1. The cache is this thread's own, or the shared empty one, which is only read. 2. `class` is in range, as
    // the caller promises. 3. `len <= MOST` is an invariant of every cache.
    unsafe {
        let bin = (&raw mut (*cache).bins).cast::<Bin>().add(class.0 as usize);
        let len = (*bin).len;
        if len == 0 {
            return refill(class);
        }
        let len = len - 1;
        (*bin).len = len;
        let loaded = (&raw mut (*cache).loaded).cast::<[usize; MOST]>().add(class.0 as usize).cast::<usize>();
        *loaded.add(len as usize) as *mut u8
    }
}

/// Takes a block of a class back: as many steps.
///
/// # Safety
/// As for [`allocate`]; and the block is the caller's to give back. Where it is not, the flush of its magazine tells.
#[inline(always)]
pub(super) unsafe fn free(at: *mut u8, class: SizeClass) {
    let cache = thread::cache();
    // SAFETY: 1. to 3. as in `allocate`. 4. `len < capacity <= MOST` where it is written.
    unsafe {
        let bin = (&raw mut (*cache).bins).cast::<Bin>().add(class.0 as usize);
        let len = (*bin).len;
        if len == (*bin).capacity {
            return spill(at, class);
        }
        let loaded = (&raw mut (*cache).loaded).cast::<[usize; MOST]>().add(class.0 as usize).cast::<usize>();
        *loaded.add(len as usize) = at as usize;
        (*bin).len = len + 1;
    }
}

/// The loaded magazine is empty, or this thread has no cache yet, or no more.
#[cold]
#[inline(never)]
fn refill(class: SizeClass) -> *mut u8 {
    let Some(mut cache) = thread::obtain() else { return super::shared::take_one(class) };
    // SAFETY: 1. The cache is this thread's own, and nothing below calls back into it.
    let cache = unsafe { cache.as_mut() };
    let (bin, loaded, previous) = cache.of(class);
    if bin.len == 0 {
        if previous.is_empty() {
            super::shared::depot(class).exchange_empty_for_full(previous);
        }
        bin.len = previous.pop_all(&mut loaded[..bin.capacity as usize]) as u32;
    }
    if bin.len == 0 {
        bin.len = super::shared::refill(class, &mut loaded[..bin.capacity as usize]) as u32;
    }
    match bin.len.checked_sub(1) {
        Some(len) => {
            bin.len = len;
            loaded[len as usize] as *mut u8
        }
        None => null_mut(),
    }
}

/// The loaded magazine is full, or this thread has no cache yet, or no more.
#[cold]
#[inline(never)]
fn spill(at: *mut u8, class: SizeClass) {
    let Some(mut cache) = thread::obtain() else {
        return super::shared::flush(class, &mut [at as usize]);
    };
    // SAFETY: 1. The cache is this thread's own, and nothing below calls back into it.
    let cache = unsafe { cache.as_mut() };
    let (bin, loaded, previous) = cache.of(class);
    if bin.len == bin.capacity {
        if !previous.is_empty() && !super::shared::depot(class).exchange_full_for_empty(previous) {
            super::shared::flush(class, previous.as_mut_slice());
            previous.drain().for_each(drop);
        }
        let moved = previous.push_all(&loaded[..bin.len as usize]);
        debug_assert_eq!(moved, bin.len as usize);
        bin.len = 0;
    }
    loaded[bin.len as usize] = at as usize;
    bin.len += 1;
}

impl Cache {
    /// What the cache has of one class, which is made ready at its first use.
    fn of(&mut self, class: SizeClass) -> (&mut Bin, &mut [usize; MOST], &mut Magazine<usize, MOST>) {
        let at = class.0 as usize;
        let (bin, previous) = (&mut self.bins[at], &mut self.previous[at]);
        if bin.capacity == 0 {
            let capacity = capacity(class);
            bin.capacity = capacity as u32;
            *previous = Magazine::with_capacity(capacity);
        }
        (bin, &mut self.loaded[at], previous)
    }

    /// Gives every block to the depots, and what they have no room for to the slabs.
    pub(super) fn empty(&mut self) {
        for class in (0..HOST_CLASSES).map(|class| SizeClass(class as u8)) {
            if self.bins[class.0 as usize].capacity == 0 {
                continue;
            }
            let (bin, loaded, previous) = self.of(class);
            super::shared::flush(class, &mut loaded[..bin.len as usize]);
            bin.len = 0;
            if !previous.is_empty() && !super::shared::depot(class).exchange_full_for_empty(previous) {
                super::shared::flush(class, previous.as_mut_slice());
                previous.drain().for_each(drop);
            }
        }
    }
}

/// Caches that no thread has, for the next thread that comes.
pub(super) struct Spare {
    first: *mut Cache,
    caches: usize,
}

// SAFETY: 1. A cache in the list is nobody's; whoever takes it out under the lock has it alone.
unsafe impl Send for Spare {}

impl Spare {
    pub(super) const NONE: Spare = Spare { first: null_mut(), caches: 0 };

    pub(super) fn put(&mut self, mut cache: NonNull<Cache>) {
        // SAFETY: 1. The caller gives its own cache up.
        unsafe { cache.as_mut() }.next = self.first;
        self.first = cache.as_ptr();
        self.caches += 1;
    }

    pub(super) fn take(&mut self) -> Option<NonNull<Cache>> {
        let cache = NonNull::new(self.first)?;
        // SAFETY: 1. A cache in the list lives for good, and is nobody's.
        self.first = unsafe { cache.as_ref() }.next;
        self.caches -= 1;
        Some(cache)
    }

    /// How many there are.
    pub(super) fn caches(&self) -> usize {
        self.caches
    }
}
