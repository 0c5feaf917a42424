//! How much idle memory the heap keeps, and for how long.
//!
//! 1. Idle memory above a bound goes back to the system at once. So a program that has freed a peak is small again even if it
//!    never calls the heap any more.
//! 2. The bound follows the program. Where memory was given back and had to be backed again within `ADAPT_MS`, it rises by
//!    as much, up to `MOST_BYTES`: that was given back too early. While that does not happen, it halves every `DECAY_MS`
//!    down to `LEAST_BYTES`.
//! 3. Where the blocks in use fall to half, and much is left over, caches and depots are emptied, and what is free in
//!    frames that cannot be given up is given back by the page.
//! 4. What lay idle for the whole of the last `DECAY_MS` goes back, as calls come.

use super::shared::HeapPool;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The bound at rest: what a program keeps that does nothing.
pub(super) const LEAST_BYTES: u64 = 16 << 20;
/// As much more that is backed and in no block is worth a look into caches and frames, when half of the blocks are gone.
pub(super) const EBB_BYTES: u64 = 4 << 20;
const MOST_BYTES: u64 = 256 << 20;
const DECAY_MS: usize = 1000;
const ADAPT_MS: usize = 20;

// Relaxed throughout: two threads that tick at once do the work twice, which does no harm; the pool has its own lock.
static DECAYED_MS: AtomicUsize = AtomicUsize::new(0);
static ADAPTED_MS: AtomicUsize = AtomicUsize::new(0);
static CREATES: AtomicUsize = AtomicUsize::new(0);
static UNMAPS: AtomicUsize = AtomicUsize::new(0);
static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);

/// Called wherever the pool's lock was taken anyway.
#[inline]
pub(super) fn tick(pool: &HeapPool) {
    if pool.take_ebb() {
        super::shared::ebb(pool);
    }
    let now = now_ms();
    if let Some(elapsed_ms) = due(&ADAPTED_MS, now, ADAPT_MS) {
        adapt(pool, elapsed_ms < 5 * ADAPT_MS, due(&DECAYED_MS, now, DECAY_MS).is_some());
    }
}

/// The time since this last gave one, if that is so long ago.
#[inline]
fn due(last_ms: &AtomicUsize, now: usize, every_ms: usize) -> Option<usize> {
    let last = last_ms.load(Relaxed);
    let elapsed_ms = now.wrapping_sub(last);
    let due = elapsed_ms >= every_ms && last_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok();
    due.then_some(elapsed_ms)
}

#[cold]
#[inline(never)]
fn adapt(pool: &HeapPool, lately: bool, decay: bool) {
    let (creates, unmaps) = pool.turnover();
    let since =
        |counter: &AtomicUsize, now: u64| (now as usize).wrapping_sub(counter.swap(now as usize, Relaxed));
    let (created, given_up) = (since(&CREATES, creates), since(&UNMAPS, unmaps));
    // What was given up before the last time, and created since: not the other way around. Before and after a pause, the
    // two have nothing to do with each other.
    let given_up_before = GIVEN_UP.swap(if lately { given_up } else { 0 }, Relaxed);
    let again_bytes = if lately { (created.min(given_up_before) as u64) << 21 } else { 0 };
    let config = pool.config();
    let retain_bytes = match again_bytes {
        0 if decay => (config.retain_bytes / 2).max(LEAST_BYTES),
        again_bytes => (config.retain_bytes + again_bytes).clamp(LEAST_BYTES, MOST_BYTES),
    };
    if retain_bytes != config.retain_bytes {
        pool.retain(retain_bytes);
    }
    if decay {
        pool.decay();
        // What lay idle for so long was not given up too early, should it be needed now.
        UNMAPS.store(pool.turnover().1 as usize, Relaxed);
    }
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
