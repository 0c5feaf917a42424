//! When the heap gives memory back: at an ebb, and by time. How much it keeps is `pool/idle.rs`'s.

use super::shared::{self, HeapPool};
use crate::pool::PoolConfig;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What the heap keeps: 16 MiB idle at rest, up to 256 MiB while that much comes and goes.
pub(super) const CONFIG: PoolConfig =
    PoolConfig::DEFAULT.retain_bytes(16 << 20).retain_most_bytes(256 << 20).ebb_bytes(16 << 20);

/// What lay idle for so long is given up.
const DECAY_MS: usize = 1000;
/// What is backed again after so long was not given up too early.
const SETTLE_MS: usize = 100;

// Relaxed throughout: two threads that tick at once do the work twice, which does no harm; the pool has its own lock.
static DECAYED_MS: AtomicUsize = AtomicUsize::new(0);
static SETTLED_MS: AtomicUsize = AtomicUsize::new(0);

/// Called wherever the pool's lock was taken anyway, and no magazine is in between.
#[inline]
pub(super) fn tick(pool: &HeapPool) {
    if pool.take_ebb() {
        shared::ebb(pool);
    }
    let now = now_ms();
    if due(&SETTLED_MS, now, SETTLE_MS) {
        pool.settle();
        if due(&DECAYED_MS, now, DECAY_MS) {
            pool.decay();
        }
    }
}

/// Whether it is so long ago that this was last due.
#[inline]
fn due(last_ms: &AtomicUsize, now: usize, every_ms: usize) -> bool {
    let last = last_ms.load(Relaxed);
    now.wrapping_sub(last) >= every_ms && last_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
}

#[cfg(unix)]
fn now_ms() -> usize {
    // The coarse clock is read without a system call, and exact enough for a second.
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: 1. `now` is a valid place for the answer.
    unsafe { libc::clock_gettime(CLOCK, &mut now) };
    (now.tv_sec as usize).wrapping_mul(1000).wrapping_add(now.tv_nsec as usize / 1_000_000)
}

#[cfg(not(unix))]
fn now_ms() -> usize {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_millis() as usize)
}
