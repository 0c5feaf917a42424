//! Locks that a fork finds held by the thread that forks, so that none stays held by a thread that the child has not.

#![cfg_attr(not(unix), forbid(unsafe_code))]

use super::{HostLock, Lock};

/// What a lock of the process guards that is to be whole on both sides of a fork.
pub(crate) trait AcrossForks: Sized + Send + 'static {
    /// The lock. Nobody waits for another one while holding it, apart from those of the heap.
    fn lock() -> &'static Lock<HostLock, Self>;
}

/// From now on the lock is taken before a fork, and let go on both sides. To be called once.
pub(crate) fn around_forks<T: AcrossForks>() {
    // Miri forks nothing.
    if cfg!(miri) {
        return;
    }
    #[cfg(unix)]
    // SAFETY: 1. The functions live as long as the program, and call nothing that is not safe around a fork.
    unsafe {
        libc::pthread_atfork(Some(hold::<T>), Some(let_go::<T>), Some(let_go::<T>))
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
