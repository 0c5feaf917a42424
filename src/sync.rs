//! The only file that names atomics, cells and locks: `core` in every build, `loom` under `--cfg democratising_loom`.
//!
//! Everything else says `sync::atomic` and [`sync::Lock`](Lock), so the code that the models run is the code that ships.
//! A target whose atomics come from elsewhere gets them here as well.

mod bare;
#[cfg(all(feature = "std", not(democratising_loom)))]
pub(crate) mod forks;
#[cfg(feature = "std")]
mod host;

#[cfg(feature = "critical-section")]
pub use bare::CriticalSectionLock;
pub use bare::NoLock;

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use lock_api::RawMutex;

#[cfg(all(not(democratising_loom), not(feature = "portable-atomic")))]
pub(crate) use core::sync::atomic;
#[cfg(democratising_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(all(not(democratising_loom), feature = "portable-atomic"))]
pub(crate) use portable_atomic as atomic;

pub(crate) use core::cell::Cell;
/// `Mutex` parks who waits: for what is held while files are written. Never inside an allocator; see [`HostLock`].
#[cfg(feature = "std")]
pub(crate) use std::sync::{Condvar, Mutex, OnceLock};

/// The widest signed integer that the target changes atomically: 64 bits, or the width of a pointer.
#[cfg(target_has_atomic = "64")]
pub(crate) type Wide = i64;
#[cfg(not(target_has_atomic = "64"))]
pub(crate) type Wide = isize;

/// A [`Wide`] that several threads change.
#[cfg(target_has_atomic = "64")]
pub(crate) type AtomicWide = atomic::AtomicI64;
#[cfg(not(target_has_atomic = "64"))]
pub(crate) type AtomicWide = atomic::AtomicIsize;

/// The lock for bare metal: it spins.
///
/// Where an interrupt may want a lock that the interrupted code holds, hand in a lock that masks interrupts instead
/// (`critical-section` based ones implement [`lock_api::RawMutex`] too).
pub type SpinLock = spin::mutex::SpinMutex<(), spin::relax::Spin>;

#[cfg(feature = "std")]
pub use host::HostLock;

/// Declares a `const fn` that is a plain `fn` under loom, whose atomics and locks cannot be made in a constant.
macro_rules! const_unless_loom {
    ($(#[$attribute:meta])* $visible:vis const fn $($rest:tt)*) => {
        #[cfg(not(democratising_loom))]
        $(#[$attribute])*
        $visible const fn $($rest)*

        #[cfg(democratising_loom)]
        $(#[$attribute])*
        $visible fn $($rest)*
    };
}
pub(crate) use const_unless_loom;

#[cfg(not(democratising_loom))]
type Inner<L, T> = lock_api::Mutex<L, T>;
#[cfg(democratising_loom)]
type Inner<L, T> = modelled::Mutex<L, T>;

#[cfg(not(democratising_loom))]
type InnerGuard<'a, L, T> = lock_api::MutexGuard<'a, L, T>;
#[cfg(democratising_loom)]
type InnerGuard<'a, L, T> = modelled::Guard<'a, L, T>;

/// A value in static memory that is reached by pointer, and never written while anybody reads it.
///
/// Being a cell keeps one that is all zeros out of the program's file.
#[cfg(feature = "std")]
pub(crate) struct Blank<T>(core::cell::UnsafeCell<T>);

#[cfg(feature = "std")]
// SAFETY: 1. It gives a pointer away and nothing else; whoever writes through it answers for that.
unsafe impl<T> Sync for Blank<T> {}

#[cfg(feature = "std")]
impl<T> Blank<T> {
    pub(crate) const fn new(value: T) -> Blank<T> {
        Blank(core::cell::UnsafeCell::new(value))
    }

    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// A value behind a lock of the caller's kind.
pub struct Lock<L: RawMutex, T>(Inner<L, T>);

/// The value of a [`Lock`], held until this is dropped.
#[must_use = "the lock is let go when its guard is dropped"]
pub struct Held<'a, L: RawMutex, T>(ManuallyDrop<InnerGuard<'a, L, T>>);

impl<L: RawMutex, T> Drop for Held<'_, L, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: 1. Nobody has the guard any more.
        release(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

/// Lets a lock go. Where code is dear, no function that holds one has its own copy of this.
#[cfg_attr(target_pointer_width = "64", inline(always))]
#[cfg_attr(not(target_pointer_width = "64"), inline(never))]
fn release<L: RawMutex, T>(guard: InnerGuard<'_, L, T>) {
    drop(guard);
}

impl<L: RawMutex, T> Lock<L, T> {
    const_unless_loom! {
        /// A free lock around `value`.
        pub const fn new(value: T) -> Lock<L, T> {
            Lock(Inner::new(value))
        }
    }

    /// Waits until the lock is free, and takes it.
    #[inline]
    pub fn lock(&self) -> Held<'_, L, T> {
        Held(ManuallyDrop::new(self.0.lock()))
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<Held<'_, L, T>> {
        self.0.try_lock().map(|guard| Held(ManuallyDrop::new(guard)))
    }

    /// Waits until the lock is free, and keeps it beyond any scope: for a fork, which must find every lock held by the
    /// thread that forks.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(crate) fn hold(&self) {
        core::mem::forget(self.lock());
    }

    /// Lets go what [`hold`](Self::hold) keeps.
    ///
    /// # Safety
    /// This thread, or the one that it is the fork of, holds the lock, and no guard of it is alive.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(crate) unsafe fn let_go(&self) {
        // SAFETY: 1. As the caller promises.
        drop(unsafe { self.kept() });
    }

    /// The guard of what [`hold`](Self::hold) keeps.
    ///
    /// # Safety
    /// As [`let_go`](Self::let_go).
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(crate) unsafe fn kept(&self) -> Held<'_, L, T> {
        // SAFETY: 1. As the caller promises.
        Held(ManuallyDrop::new(unsafe { self.0.make_guard_unchecked() }))
    }

    /// Whether somebody holds it.
    #[cfg(all(test, feature = "std", unix, not(democratising_loom)))]
    pub(crate) fn is_held(&self) -> bool {
        self.0.is_locked()
    }

    /// The value, where nobody else can have it.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<L: RawMutex, T> Deref for Held<'_, L, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<L: RawMutex, T> DerefMut for Held<'_, L, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<L: RawMutex, T: fmt::Debug> fmt::Debug for Lock<L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(held) => f.debug_tuple("Lock").field(&*held).finish(),
            None => f.write_str("Lock(<held>)"),
        }
    }
}

impl<L: RawMutex, T: fmt::Debug> fmt::Debug for Held<'_, L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// loom's mutex in the shape of `lock_api`'s: the kind of lock is a name only.
#[cfg(democratising_loom)]
mod modelled {
    use core::marker::PhantomData;
    use core::ops::{Deref, DerefMut};
    use loom::sync::{Mutex as LoomMutex, MutexGuard};

    pub struct Mutex<L, T>(LoomMutex<T>, PhantomData<fn() -> L>);
    pub struct Guard<'a, L, T>(MutexGuard<'a, T>, PhantomData<fn() -> L>);

    // A model that panics under a lock has failed already; what it left behind is not judged again.
    impl<L, T> Mutex<L, T> {
        pub fn new(value: T) -> Self {
            Mutex(LoomMutex::new(value), PhantomData)
        }

        pub fn lock(&self) -> Guard<'_, L, T> {
            Guard(self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()), PhantomData)
        }

        pub fn try_lock(&self) -> Option<Guard<'_, L, T>> {
            self.0.try_lock().ok().map(|held| Guard(held, PhantomData))
        }

        pub fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }

    impl<L, T> Deref for Guard<'_, L, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<L, T> DerefMut for Guard<'_, L, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    static COUNT: Lock<SpinLock, u32> = Lock::new(0);

    #[test]
    fn a_lock_stands_in_a_constant_and_is_held_by_one() {
        let mut held = COUNT.lock();
        *held += 1;
        assert!(COUNT.try_lock().is_none());
        drop(held);
        assert_eq!(COUNT.try_lock().map(|held| *held), Some(1));
    }

    #[cfg(feature = "std")]
    #[test]
    fn the_host_lock_lets_no_increment_be_lost_among_more_threads_than_processors() {
        let count: Lock<HostLock, u32> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        *count.lock() += 1;
                    }
                });
            }
        });
        assert_eq!(*count.lock(), 8000);
    }
}
