//! Which cache a thread has: none, its own, or none any more.

mod place;

use super::cache::{Cache, EMPTY, Own};
use super::shared;
use crate::sync::Cell;
use core::ptr::NonNull;

std::thread_local! {
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
    place::get()
}

/// A cache that was in its place, if it was not the empty one.
fn own(cache: *mut Cache) -> Option<Own> {
    let cache = NonNull::new(cache).filter(|cache| cache.as_ptr() != EMPTY.get())?;
    // SAFETY: 1. What stands in a thread's place, the empty one aside, is its own.
    Some(unsafe { Own::of(cache) })
}

/// This thread's own cache, got now if it has none yet; `None` when it has given its own up, or there is no memory.
#[cold]
pub(super) fn obtain() -> Option<Own> {
    if let Some(own) = own(cache()) {
        return Some(own);
    }
    if ENDED.with(Cell::get) {
        return None;
    }
    place::set(shared::adopt()?.leave().as_ptr());
    // Registering a destructor may allocate, from here: the cache is in place before. Where the thread is past that, nobody
    // would give the cache up.
    if GUARD.try_with(|_| ()).is_err() {
        end();
    }
    // The registration may have used the cache, and even ended it.
    own(cache())
}

/// Gives the cache up, with what is in it. The process's first thread keeps an empty one: when its values are dropped,
/// destructors of statics and what is registered with `atexit` are still to run in it, and nobody is to come after it.
fn end() {
    if is_first() {
        return empty_own();
    }
    ENDED.with(|ended| ended.set(true));
    give_up(place::replace(EMPTY.get()));
}

/// Whether this is the thread that a process begins with, or the one that a fork left.
fn is_first() -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: 1. Both only ask for a number.
    return unsafe { libc::getpid() as libc::c_long == libc::syscall(libc::SYS_gettid) };
    #[cfg(target_vendor = "apple")]
    // SAFETY: 1. As above.
    return unsafe { libc::pthread_main_np() == 1 };
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    false
}

/// Empties this thread's cache, if it has one.
pub(super) fn empty_own() {
    let cache = place::replace(EMPTY.get());
    let Some(own) = own(cache) else { return };
    // Out of its place while it is emptied: a hook that allocates meanwhile gets a cache of its own.
    own.empty();
    give_up(place::replace(cache));
}

/// Leaves a cache that was this thread's, with what is in it, to the next thread that comes.
fn give_up(cache: *mut Cache) {
    if let Some(own) = own(cache) {
        shared::abandon(own);
    }
}
