//! How much the heap keeps, and what time it is. When it gives memory back is `stock/clocks.rs`'s.

use super::shared::{self, HeapPool};
use super::stock::clocks::Clocks;
use crate::pool::PoolConfig;

/// What the heap keeps: 16 MiB idle at rest, up to 256 MiB while that much comes and goes.
pub(super) const CONFIG: PoolConfig =
    PoolConfig::DEFAULT.retain_bytes(16 << 20).retain_most_bytes(256 << 20).ebb_bytes(16 << 20);

static CLOCKS: Clocks = Clocks::new();

/// Called wherever the pool's lock was taken anyway, and no magazine is in between.
#[inline]
pub(super) fn tick(pool: &HeapPool) {
    CLOCKS.tick(pool, now_ms, || shared::ebb(pool));
}

/// Milliseconds since some time.
#[cfg(unix)]
pub(super) fn now_ms() -> usize {
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
pub(super) fn now_ms() -> usize {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_millis() as usize)
}
