//! Locks that a fork finds held by the thread that forks, so that none stays held by a thread that the child has not.
//!
//! 1. One handler is registered with the C library, when the program is loaded: one that is registered while another thread
//!    forks may come too late for that fork.
//! 2. What is to be held stands in a list behind a lock that the handler takes first. So who adds himself and then takes his own lock is
//!    either in the list of a fork under way or waits until it is over.
//! 3. Nobody waits here for what another thread has begun, as the standard library's `Once` does: the child would wait for ever.

#![cfg_attr(not(unix), forbid(unsafe_code))]

use super::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use super::{Held, HostLock, Lock};

/// What takes part in every fork from [`around_forks`] on.
pub(crate) trait Forked: Sync {
    /// Before a fork: takes the locks that are to be free on both sides. Those of the heap are taken last, and whoever holds another one waits for
    /// none but them.
    #[cfg(unix)]
    fn hold(&self);

    /// Behind a fork, in the parent: lets them go.
    ///
    /// # Safety
    /// This thread, or the one that it is the fork of, called [`hold`](Self::hold) just before the fork.
    #[cfg(unix)]
    unsafe fn let_go(&self);

    /// Behind a fork, in the child.
    ///
    /// # Safety
    /// As [`let_go`](Self::let_go).
    #[cfg(unix)]
    unsafe fn begin(&self) {
        // SAFETY: 1. As the caller promises.
        unsafe { self.let_go() }
    }
}

/// A lock that is free on both sides of every fork.
pub(crate) struct ForkLock<T> {
    lock: Lock<HostLock, T>,
    is_known: AtomicBool,
}

impl<T: Send> ForkLock<T> {
    pub(crate) const fn new(value: T) -> ForkLock<T> {
        ForkLock { lock: Lock::new(value), is_known: AtomicBool::new(false) }
    }

    /// Waits until the lock is free, and takes it. Nobody waits for another one while holding it, apart from those of the heap.
    pub(crate) fn lock(&'static self) -> Held<'static, HostLock, T> {
        around_forks(&self.is_known, self);
        self.lock.lock()
    }
}

impl<T: Send> Forked for ForkLock<T> {
    #[cfg(unix)]
    fn hold(&self) {
        self.lock.hold();
    }

    #[cfg(unix)]
    unsafe fn let_go(&self) {
        // SAFETY: 1. `hold` kept it.
        unsafe { self.lock.let_go() }
    }
}

/// What the child of a fork does before anything else, with one thread and nothing held. In the parent it does nothing.
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) struct InChild {
    work: fn(),
    is_known: AtomicBool,
}

impl InChild {
    pub(crate) const fn new(work: fn()) -> InChild {
        InChild { work, is_known: AtomicBool::new(false) }
    }

    /// From now on.
    pub(crate) fn watch(&'static self) {
        around_forks(&self.is_known, self);
    }
}

impl Forked for InChild {
    #[cfg(unix)]
    fn hold(&self) {}

    #[cfg(unix)]
    unsafe fn let_go(&self) {}

    #[cfg(unix)]
    unsafe fn begin(&self) {
        (self.work)();
    }
}

/// The most that take part.
const MOST: usize = 24;

/// In the order in which they were added: who comes later is held earlier.
struct List {
    all: [Option<&'static dyn Forked>; MOST],
    len: usize,
}

static LIST: Lock<HostLock, List> = Lock::new(List { all: [None; MOST], len: 0 });

/// From now on it takes part in forks. `is_known` is its own, and false before the first call. To be called before each use of what it holds, with
/// nothing held.
#[inline]
pub(crate) fn around_forks(is_known: &AtomicBool, one: &'static dyn Forked) {
    // Acquire: who finds it known has the lock of the list, and so of the forks before, behind him.
    if !is_known.load(Acquire) {
        add(is_known, one);
    }
}

#[cold]
fn add(is_known: &AtomicBool, one: &'static dyn Forked) {
    watch();
    let mut held = LIST.lock();
    // Relaxed: written under the lock.
    if !is_known.load(Relaxed) {
        let at = held.len;
        held.all[at] = Some(one);
        held.len = at + 1;
        is_known.store(true, Release);
    }
}

#[cfg(not(unix))]
fn watch() {}

/// Registers the handler, if nobody has: at the latest when there is something to hold.
#[cfg(unix)]
fn watch() {
    static IS_WATCHED: AtomicBool = AtomicBool::new(false);
    // What is looked at here is in every program that comes here.
    core::hint::black_box(&AT_LOAD);
    // Relaxed: the C library's own lock orders the rest. Miri forks nothing.
    if !IS_WATCHED.swap(true, Relaxed) && !cfg!(miri) {
        // SAFETY: 1. The functions live as long as the program. 2. They take locks and let them go, in pairs.
        unsafe { libc::pthread_atfork(Some(hold), Some(let_go), Some(begin)) };
    }
}

#[cfg(unix)]
extern "C" fn at_load() {
    watch();
}

// First of all that the program has in such a section: handlers that were registered before find the locks held, and may allocate.
// SAFETY: 1. The loader calls what stands in this section, once and before the program, with arguments that are not asked for.
#[cfg(unix)]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array.00000"))]
#[used]
static AT_LOAD: extern "C" fn() = at_load;

#[cfg(unix)]
unsafe extern "C" fn hold() {
    let list = LIST.lock();
    list.all[..list.len].iter().rev().flatten().for_each(|one| one.hold());
    core::mem::forget(list);
}

#[cfg(unix)]
unsafe extern "C" fn let_go() {
    // SAFETY: 1. `hold` kept it just before the fork.
    let list = unsafe { LIST.kept() };
    // SAFETY: 1. `hold` called theirs, of each that is in the list.
    list.all[..list.len].iter().flatten().for_each(|one| unsafe { one.let_go() });
}

#[cfg(unix)]
unsafe extern "C" fn begin() {
    // SAFETY: 1. `hold` kept it just before the fork.
    let list = unsafe { LIST.kept() };
    // SAFETY: 1. `hold` called theirs, of each that is in the list.
    list.all[..list.len].iter().flatten().for_each(|one| unsafe { one.begin() });
}

#[cfg(all(test, unix, not(miri)))]
pub(crate) mod tests;
