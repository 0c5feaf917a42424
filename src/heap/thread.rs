//! Which cache a thread has: none, its own, or none any more.

use super::cache::{Cache, EMPTY};
use super::shared;
use crate::sync::Cell;
use core::ptr::NonNull;

std::thread_local! {
    /// The thread's cache, or the empty one. Without a destructor it is one access, at any time of a thread's life.
    static CACHE: Cell<*mut Cache> = const { Cell::new(EMPTY.get()) };
    /// Whether the thread has given its cache up: what it still allocates goes past the caches.
    static ENDED: Cell<bool> = const { Cell::new(false) };
    static GUARD: Guard = const { Guard };
}

/// Dropped when its thread ends.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        end();
    }
}

/// The cache to work on.
#[inline(always)]
pub(super) fn cache() -> *mut Cache {
    CACHE.with(Cell::get)
}

/// This thread's own cache, got now if it has none yet; `None` when it has given its own up, or there is no memory.
#[cold]
pub(super) fn obtain() -> Option<NonNull<Cache>> {
    let cache = cache();
    if cache != EMPTY.get() {
        return NonNull::new(cache);
    }
    if ENDED.with(Cell::get) {
        return None;
    }
    let cache = shared::adopt()?;
    CACHE.with(|at| at.set(cache.as_ptr()));
    // Registering a destructor may allocate, from here: the cache is in place before. Where the thread is past that, nobody
    // would give the cache up.
    if GUARD.try_with(|_| ()).is_err() {
        end();
        return None;
    }
    // The registration may have used the cache, and even ended it.
    NonNull::new(CACHE.with(Cell::get)).filter(|cache| cache.as_ptr() != EMPTY.get())
}

/// Gives the cache up, with everything in it.
fn end() {
    ENDED.with(|ended| ended.set(true));
    give_up(CACHE.with(|at| at.replace(EMPTY.get())));
}

/// Empties this thread's cache, if it has one.
pub(super) fn empty_own() {
    let cache = CACHE.with(|at| at.replace(EMPTY.get()));
    if cache == EMPTY.get() {
        return;
    }
    if let Some(mut own) = NonNull::new(cache) {
        // SAFETY: 1. It is this thread's own, and while it is out of place nothing that `empty` calls works on it.
        unsafe { own.as_mut() }.empty();
    }
    // A hook that allocated meanwhile got a cache of its own.
    give_up(CACHE.with(|at| at.replace(cache)));
}

/// Leaves a cache that was this thread's, with what is in it, to the next thread that comes.
fn give_up(cache: *mut Cache) {
    if cache == EMPTY.get() {
        return;
    }
    if let Some(cache) = NonNull::new(cache) {
        shared::abandon(cache);
    }
}
