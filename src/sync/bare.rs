//! Locks for machines without threads: one that masks interrupts, and none.

#![allow(unsafe_code)]

use super::Cell;
#[cfg(feature = "critical-section")]
use core::fmt;
use lock_api::{GuardNoSend, RawMutex};

/// No lock at all, for what a single thread uses. It cannot be shared ([`Sync`]); where a static needs that, the promise is
/// made in `SingleCore::new`.
#[derive(Debug)]
pub struct NoLock {
    held: Cell<bool>,
}

// SAFETY: 1. `lock` returns only when nobody holds it. 2. It is not `Sync`, so whoever asks is the thread that holds it, and
// what the cell says is true.
unsafe impl RawMutex for NoLock {
    // A new lock each time it is named, as the trait asks.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: NoLock = NoLock { held: Cell::new(false) };
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        if self.held.replace(true) {
            held_already();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        !self.held.replace(true)
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.held.set(false);
    }
}

/// A lock that masks interrupts, by the `critical-section` implementation that the program has chosen: an interrupt
/// handler may use what it guards.
#[cfg(feature = "critical-section")]
pub struct CriticalSectionLock {
    held: Cell<bool>,
    /// What to restore when it is let go.
    restore: Cell<critical_section::RestoreState>,
}

#[cfg(feature = "critical-section")]
impl fmt::Debug for CriticalSectionLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its cells are looked at in a critical section only.
        f.write_str("CriticalSectionLock")
    }
}

#[cfg(feature = "critical-section")]
// SAFETY: 1. The cells are touched in a critical section only, which one core and one context is in at a time.
unsafe impl Sync for CriticalSectionLock {}

#[cfg(feature = "critical-section")]
impl CriticalSectionLock {
    /// Enters the critical section and takes the lock, or leaves it again: then it is held further out in the same context,
    /// since nobody else can be in.
    #[inline]
    fn take(&self) -> bool {
        // SAFETY: 1. Each acquire is followed by one release: below, or in `unlock`. 2. Sections are nested as locks are:
        // the guards of two of them that are let go in another order than taken restore the interrupts early; see `unlock`.
        let restore = unsafe { critical_section::acquire() };
        if self.held.replace(true) {
            // SAFETY: 1. `restore` is that of the acquire above, and nothing was acquired in between.
            unsafe { critical_section::release(restore) };
            return false;
        }
        self.restore.set(restore);
        true
    }
}

#[cfg(feature = "critical-section")]
// SAFETY: 1. `lock` returns only inside a critical section in which nobody held it before. 2. Nobody else runs until it is let
// go: the guard does not leave its context (`GuardNoSend`).
unsafe impl RawMutex for CriticalSectionLock {
    // A new lock each time it is named, as the trait asks.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: CriticalSectionLock = CriticalSectionLock {
        held: Cell::new(false),
        restore: Cell::new(critical_section::RestoreState::invalid()),
    };
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        if !self.take() {
            held_already();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.take()
    }

    #[inline]
    unsafe fn unlock(&self) {
        let restore = self.restore.get();
        self.held.set(false);
        // SAFETY: 1. The caller holds the lock, so this is the state of the acquire in `take`. 2. The crate holds no other
        // lock of this kind meanwhile, so sections end in the order in which they began.
        unsafe { critical_section::release(restore) };
    }
}

/// Waiting would be for ever: there is nobody else who could let it go.
#[cold]
fn held_already() -> ! {
    panic!(
        "the lock is held already by the code that asks for it: an interrupt handler, or a call from inside"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_api::Mutex;

    fn is_exclusive<L: RawMutex>() {
        let lock: Mutex<L, u32> = Mutex::new(0);
        let mut held = lock.lock();
        *held += 1;
        assert!(lock.try_lock().is_none());
        drop(held);
        assert_eq!(lock.try_lock().map(|held| *held), Some(1));
        assert_eq!(*lock.lock(), 1);
    }

    #[test]
    fn no_lock_still_sees_who_holds_it() {
        is_exclusive::<NoLock>();
    }

    #[cfg(feature = "critical-section")]
    #[test]
    fn the_lock_over_critical_sections_is_held_by_one() {
        is_exclusive::<CriticalSectionLock>();
    }

    #[cfg(all(feature = "critical-section", feature = "std"))]
    #[test]
    fn the_lock_over_critical_sections_loses_no_increment_among_threads() {
        let count: Mutex<CriticalSectionLock, u32> = Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| *count.lock() += 1));
            }
        });
        assert_eq!(*count.lock(), 2000);
    }
}
