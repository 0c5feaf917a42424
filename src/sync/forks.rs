//! Locks that a fork finds held by the thread that forks, so that none stays held by a thread that the child has not.

#![cfg_attr(not(unix), forbid(unsafe_code))]

use super::{HostLock, Lock};

/// What a lock of the process guards that is to be whole on both sides of a fork.
pub(crate) trait AcrossForks: Sized + Send + 'static {
    /// The lock. Nobody waits for another one while holding it, apart from those of the heap.
    fn lock() -> &'static Lock<HostLock, Self>;
}

/// What runs before a fork, or behind it.
#[cfg(unix)]
type Step = unsafe extern "C" fn();

/// From now on `hold` runs before each fork, `let_go` behind it, and `begin` in the child instead.
///
/// # Safety
/// They may run around any fork, and call nothing that is not safe there.
#[cfg(unix)]
pub(crate) unsafe fn at_forks(hold: Step, let_go: Step, begin: Step) {
    // Miri forks nothing.
    if !cfg!(miri) {
        // SAFETY: 1. The functions live as long as the program. 2. The rest as the caller promises.
        unsafe { libc::pthread_atfork(Some(hold), Some(let_go), Some(begin)) };
    }
}

/// From now on the lock is taken before a fork, and let go on both sides. To be called once.
pub(crate) fn around_forks<T: AcrossForks>() {
    #[cfg(unix)]
    // SAFETY: 1. They take the lock and let it go again.
    unsafe {
        at_forks(hold::<T>, let_go::<T>, let_go::<T>)
    };
    #[cfg(not(unix))]
    let _ = T::lock();
}

#[cfg(unix)]
unsafe extern "C" fn hold<T: AcrossForks>() {
    T::lock().hold();
}

#[cfg(unix)]
unsafe extern "C" fn let_go<T: AcrossForks>() {
    // SAFETY: 1. `hold` ran in this thread, or in the one that it is the fork of, just before the fork.
    unsafe { T::lock().let_go() };
}
