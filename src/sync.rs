//! The only file that names atomics, cells and locks: `core` in every build, `loom` under `--cfg democratising_loom`.
//!
//! Everything else says `sync::atomic` and [`sync::Lock`](Lock), so the code that the models run is the code that ships.
//! A target whose atomics come from elsewhere gets them here as well.

mod bare;
#[cfg(all(feature = "std", not(democratising_loom)))]
pub(crate) mod forks;

#[cfg(feature = "critical-section")]
pub use bare::CriticalSectionLock;
pub use bare::NoLock;

use core::fmt;
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

// SAFETY: 1. It gives a pointer away and nothing else; whoever writes through it answers for that.
#[cfg(feature = "std")]
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
pub struct Held<'a, L: RawMutex, T>(InnerGuard<'a, L, T>);

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
        Held(self.0.lock())
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<Held<'_, L, T>> {
        self.0.try_lock().map(Held)
    }

    /// Waits until the lock is free, and keeps it beyond any scope: for a fork, which must find every lock held by the
    /// thread that forks.
    #[cfg(all(feature = "std", not(democratising_loom)))]
    pub(crate) fn hold(&self) {
        core::mem::forget(self.lock());
    }

    /// Lets go what [`hold`](Self::hold) keeps.
    ///
    /// # Safety
    /// This thread, or the one that it is the fork of, holds the lock, and no guard of it is alive.
    #[cfg(all(feature = "std", not(democratising_loom)))]
    pub(crate) unsafe fn let_go(&self) {
        // SAFETY: 1. As the caller promises.
        unsafe { self.0.force_unlock() }
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

/// The lock of a process's own memory: who waits spins, then yields, then sleeps.
#[cfg(feature = "std")]
mod host {
    use super::SpinLock;
    use core::time::Duration;
    use lock_api::RawMutex;

    /// The lock for a process's own memory: it spins a little, then gives the processor away, and sleeps where that does not help.
    ///
    /// A lock that parks threads keeps queues, and those want memory: inside an allocator they would call it again. This one is a
    /// single flag, so it needs none, is made in a constant before `main`, and can be taken and let go around a fork. Giving
    /// the processor away matters where a holder has lost its own: a thread that only spins would burn its whole time slice. To
    /// a holder of a lower priority than a thread of a real-time class only sleep gives it.
    #[derive(Debug, Default)]
    pub struct HostLock(SpinLock);

    /// So often the processor is given away before the first sleep.
    const YIELDS: u32 = 32;
    const FIRST_SLEEP: Duration = Duration::from_micros(50);
    const LONGEST_SLEEP: Duration = Duration::from_micros(200);

    // SAFETY: 1. The flag of the lock inside is taken by one, and let go by that one.
    unsafe impl RawMutex for HostLock {
        // A new lock each time it is named, as the trait asks.
        #[allow(clippy::declare_interior_mutable_const)]
        const INIT: HostLock = HostLock(<SpinLock as RawMutex>::INIT);
        type GuardMarker = <SpinLock as RawMutex>::GuardMarker;

        #[inline]
        fn lock(&self) {
            if !self.try_lock() {
                self.wait();
            }
        }

        #[inline]
        fn try_lock(&self) -> bool {
            RawMutex::try_lock(&self.0)
        }

        #[inline]
        unsafe fn unlock(&self) {
            // SAFETY: 1. As the caller promises.
            unsafe { RawMutex::unlock(&self.0) }
        }

        #[inline]
        fn is_locked(&self) -> bool {
            RawMutex::is_locked(&self.0)
        }
    }

    impl HostLock {
        #[cold]
        #[inline(never)]
        fn wait(&self) {
            let mut yields = 0;
            let mut pause = FIRST_SLEEP;
            loop {
                // What these locks guard takes less than a microsecond, which is about what forty turns take.
                for _ in 0..40 {
                    core::hint::spin_loop();
                }
                if !RawMutex::is_locked(self) && RawMutex::try_lock(self) {
                    return;
                }
                if yields < YIELDS {
                    yields += 1;
                    std::thread::yield_now();
                } else {
                    sleep(pause);
                    pause = (pause * 2).min(LONGEST_SLEEP);
                }
            }
        }
    }

    /// By the system call itself: the C library's function is a place where a thread may be cancelled, with locks held.
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(miri)))]
    fn sleep(pause: Duration) {
        let time = libc::timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        // SAFETY: 1. The place of this thread's own error number is there as long as the thread. 2. The time is only read, and what a signal
        // leaves of it is not asked for.
        unsafe {
            let kept = *libc::__errno_location();
            libc::syscall(libc::SYS_nanosleep, &raw const time, core::ptr::null_mut::<libc::timespec>());
            *libc::__errno_location() = kept;
        }
    }

    #[cfg(not(all(target_os = "linux", target_pointer_width = "64", not(miri))))]
    fn sleep(pause: Duration) {
        std::thread::sleep(pause);
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

    // A thread of a real-time class that only yields never lets one of a lower priority run, which may be the holder.
    #[cfg(all(feature = "std", target_os = "linux", not(miri)))]
    #[test]
    fn who_waits_long_for_the_host_lock_sleeps() {
        fn sleeps() -> libc::c_long {
            // SAFETY: 1. All zeros is a value, and the place for the answer is valid.
            unsafe {
                let mut usage: libc::rusage = core::mem::zeroed();
                libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
                usage.ru_nvcsw
            }
        }
        let lock: Lock<HostLock, ()> = Lock::new(());
        let held = lock.lock();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let before = sleeps();
                drop(lock.lock());
                sleeps() - before
            });
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(held);
            let slept = waiter.join().unwrap();
            assert!(slept >= 3, "{slept} times");
        });
    }
}
