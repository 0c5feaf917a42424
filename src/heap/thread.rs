//! Which cache a thread has: none, its own, or none any more.

mod barrier;
mod number;
mod place;

pub(super) use barrier::{everyone, is_there};

use super::cache::{self, Cache, Own};
use super::decay;
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
use super::errno;
use super::shared;
use super::stock::seat::{self, Inside};
#[cfg(unix)]
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use crate::sync::{Cell, HostLock};
use core::ops::Deref;
use core::ptr::{NonNull, null_mut};
use number::{Number, is_first};

std::thread_local! {
    /// Whether the thread has given its cache up: what it still allocates goes past the caches.
    static ENDED: Cell<bool> = const { Cell::new(false) };
    /// The cache in which the thread sits; its word may hold the empty one meanwhile. Null without one.
    static SEATED: Cell<*mut Cache> = const { Cell::new(null_mut()) };
    static GUARD: Guard = const { Guard };
}

/// The word of a thread that sits in a cache. Who sits there rises before the thread is gone; or else the system knows that it is gone.
pub(super) struct Word {
    at: Option<NonNull<AtomicPtr<Cache>>>,
    cache: NonNull<Cache>,
    of: Number,
    since_ms: usize,
}

/// How long a thread sits before others write its word. One that comes to the heap in the very last of its destructors is about to end
/// and to tell nobody; and the system still knows it for a moment when its memory may be another's.
const SETTLED_MS: usize = 50;

impl Word {
    fn put(&self, cache: *mut Cache) -> bool {
        let Some(at) = self.at else { return false };
        // SAFETY: 1. The word is there as long as the thread. 2. Everybody else reads and writes it by one instruction.
        // Relaxed: what a visitor stores is seen behind the barrier.
        unsafe { at.as_ref() }.store(cache, Relaxed);
        true
    }
}

impl seat::Word for Word {
    fn part(&self) -> bool {
        let sits_ms = decay::now_ms().wrapping_sub(self.since_ms);
        is_there() && sits_ms >= SETTLED_MS && self.put(cache::empty())
    }

    fn join(&self) {
        self.put(self.cache.as_ptr());
    }

    fn is_gone(&self) -> bool {
        self.of.is_gone()
    }
}

/// This thread's own cache, whose seat it is inside.
pub(super) struct Entered {
    own: Own,
    _inside: Inside<'static, HostLock, Word>,
}

impl Deref for Entered {
    type Target = Own;

    fn deref(&self) -> &Own {
        &self.own
    }
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

/// The cache in which this thread sits.
pub(super) fn seated() -> Option<NonNull<Cache>> {
    NonNull::new(SEATED.with(Cell::get))
}

/// This thread's own cache, got now if it has none yet; `None` when it has given its own up, or is inside already, or there is
/// no memory.
#[cold]
pub(super) fn obtain() -> Option<Entered> {
    match seated() {
        Some(cache) => enter(cache),
        None => enter(sit()?),
    }
}

fn enter(cache: NonNull<Cache>) -> Option<Entered> {
    // SAFETY: 1. The cache is made, and for good.
    let seat = unsafe { cache::seat(cache) };
    let inside = seat.enter()?;
    // SAFETY: 1. It is this thread's own, which is inside.
    let own = unsafe { Own::of(cache) };
    if seat.take_asked() {
        empty(own);
    }
    Some(Entered { own, _inside: inside })
}

/// Takes a seat: a spare cache's, or a new one's.
fn sit() -> Option<NonNull<Cache>> {
    if ENDED.with(Cell::get) {
        return None;
    }
    let own = shared::adopt()?;
    // The first use of the heap may allocate, from here: then there is a cache now.
    if seated().is_some() {
        shared::abandon(own);
        return seated();
    }
    let cache = own.leave();
    SEATED.with(|seated| seated.set(cache.as_ptr()));
    place::set(cache.as_ptr());
    let word = Word { at: place::address(), cache, of: Number::own(), since_ms: decay::now_ms() };
    // SAFETY: 1. The cache is made, and for good.
    unsafe { cache::seat(cache) }.sit(word, shared::age());
    if !can_register() {
        rise();
        return None;
    }
    // Registering a destructor may allocate, from here: the cache is in place before. Where the thread is past that, nobody
    // would give the cache up.
    match GUARD.try_with(|_| ()) {
        Ok(()) => set_key(true),
        Err(_) => end(),
    }
    // The registration may have used the cache, and even ended it.
    seated()
}

/// Gives the cache up, with what is in it. The process's first thread keeps an empty one: when its values are dropped,
/// destructors of statics and what is registered with `atexit` are still to run in it, and nobody is to come after it.
fn end() {
    if is_first() {
        return empty_own();
    }
    ENDED.with(|ended| ended.set(true));
    set_key(false);
    rise();
}

/// Leaves the seat, and the cache to whoever comes next.
fn rise() {
    let Some(cache) = seated() else { return };
    SEATED.with(|seated| seated.set(null_mut()));
    // SAFETY: 1. The cache is made, and for good.
    let inside = unsafe { cache::seat(cache) }.enter();
    place::set(cache::empty());
    // A thread that ends from inside, out of a hook, leaves the lock held: nobody ever visits its word.
    if let Some(inside) = inside {
        inside.rise();
        // SAFETY: 1. It was this thread's own, and is nobody's now.
        shared::abandon(unsafe { Own::of(cache) });
    }
}

/// Whether there is memory for what registering a destructor allocates: where there is none, the GNU C library ends the process, though
/// whoever wants a block can be told. What is allocated may be of this heap; then the cache has it at hand now.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
fn can_register() -> bool {
    /// The bytes of an entry of the C library's list.
    const ENTRY: usize = 4 * size_of::<usize>();
    let _kept = errno::Kept::now();
    // SAFETY: 1. The block is given back once.
    unsafe {
        // Seen from outside, or the compiler would leave both calls out.
        let entry = core::hint::black_box(libc::malloc(ENTRY));
        libc::free(entry);
        !entry.is_null()
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
fn can_register() -> bool {
    true
}

/// Sets this thread's value of a key whose destructor gives the cache up, or clears it.
///
/// A thread may come to the heap first when its thread-locals are gone, in a destructor of a key: the GNU C library still takes the
/// guard then, and never drops it. A key that is set there has its turn in the same round or in the next. A thread whose guard is
/// dropped clears it, so that nothing refers to a library any more that may be closed then. Where there is no key left, the guard is all;
/// and who comes first in the system's last round leaves the cache behind, since nothing tells which round it is: a visitor finds that
/// the thread is gone.
#[cfg(unix)]
fn set_key(set: bool) {
    /// The key plus one; 0 before there is one. Relaxed: it is a number, and nothing else depends on it.
    static KEY: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn last(_: *mut libc::c_void) {
        end();
    }

    let mut key = KEY.load(Relaxed);
    if key == 0 {
        let mut new = 0;
        // SAFETY: 1. The place is valid, and the function is there as long as a thread has a value.
        if unsafe { libc::pthread_key_create(&mut new, Some(last)) } != 0 {
            return;
        }
        key = new as usize + 1;
        if let Err(first) = KEY.compare_exchange(0, key, Relaxed, Relaxed) {
            // SAFETY: 1. No thread has a value of it.
            unsafe { libc::pthread_key_delete(new) };
            key = first;
        }
    }
    let value: *const libc::c_void = if set { (&raw const KEY).cast() } else { core::ptr::null() };
    // SAFETY: 1. The key was made, and is never deleted. 2. The value is not read through. It may allocate, from here.
    unsafe { libc::pthread_setspecific((key - 1) as libc::pthread_key_t, value) };
}

#[cfg(not(unix))]
fn set_key(_set: bool) {}

/// Empties this thread's cache, if it has one.
pub(super) fn empty_own() {
    if let Some(own) = seated().and_then(enter) {
        empty(*own);
    }
}

/// Empties the cache in which this thread is inside.
fn empty(own: Own) {
    past(|| own.empty());
}

/// Calls somebody else's function, which may allocate. From inside its cache this thread goes past it meanwhile: a hit would take what is
/// on its way to the slabs.
pub(super) fn call(hook: impl FnOnce()) {
    // SAFETY: 1. The cache is made, and for good.
    match seated().map(|cache| unsafe { cache::seat(cache) }) {
        Some(seat) if seat.is_inside() => past(hook),
        _ => hook(),
    }
}

/// Does something while this thread, which is inside its cache, goes past it.
fn past(body: impl FnOnce()) {
    struct Back(*mut Cache);

    impl Drop for Back {
        fn drop(&mut self) {
            place::set(self.0);
        }
    }

    let _back = Back(cache());
    place::set(cache::empty());
    body();
}

/// A fork left this thread in a process of this age.
#[cfg(unix)]
pub(super) fn grow_old(age: usize) {
    if let Some(cache) = seated() {
        // SAFETY: 1. The cache is made, and for good.
        unsafe { cache::seat(cache) }.grow_old(age);
    }
}
