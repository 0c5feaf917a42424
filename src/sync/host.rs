//! The lock of a process's own memory: who waits spins, then yields, then sleeps.

#![allow(unsafe_code)]

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

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use crate::sync::Lock;

    // A thread of a real-time class that only yields never lets one of a lower priority run, which may be the holder.
    #[test]
    fn who_waits_long_for_the_host_lock_sleeps() {
        use crate::sync::atomic::{AtomicI32, Ordering::SeqCst};
        use std::time::{Duration, Instant};

        let sleeps = |thread: i32| {
            let status = std::fs::read_to_string(std::format!("/proc/self/task/{thread}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        };
        let lock: Lock<HostLock, ()> = Lock::new(());
        let held = lock.lock();
        let waiter = AtomicI32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: 1. Asks for a number.
                waiter.store(unsafe { libc::gettid() }, SeqCst);
                drop(lock.lock());
            });
            let end = Instant::now() + Duration::from_secs(60);
            while waiter.load(SeqCst) == 0 {
                assert!(Instant::now() < end, "the thread does not begin");
                std::thread::yield_now();
            }
            let before = sleeps(waiter.load(SeqCst));
            while sleeps(waiter.load(SeqCst)) < before + 3 {
                if Instant::now() > end {
                    drop(held);
                    panic!("the waiter does not sleep");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(held);
        });
    }
}
