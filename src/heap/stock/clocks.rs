//! When a heap gives memory back: at an ebb, and by time. How much it keeps is `pool/idle.rs`'s.

#![forbid(unsafe_code)]

use crate::arena::metadata::Metadata;
use crate::pool::Pool;
use crate::space::Space;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::const_unless_loom;
use lock_api::RawMutex;

/// What lay idle for so long is given up.
pub const DECAY_MS: usize = 1000;
/// What is backed again after so long was not given up too early.
pub const SETTLE_MS: usize = 100;

/// When each was last due.
pub struct Clocks {
    decayed_ms: AtomicUsize,
    settled_ms: AtomicUsize,
}

impl Clocks {
    const_unless_loom! {
        /// Both were due at 0.
        pub const fn new() -> Clocks {
            Clocks { decayed_ms: AtomicUsize::new(0), settled_ms: AtomicUsize::new(0) }
        }
    }

    /// Does what is due. Called wherever the pool's lock was taken anyway, and no magazine is in between: `ebb` empties caches.
    #[inline]
    pub fn tick<S: Space, L: RawMutex, M: Metadata>(
        &self,
        pool: &Pool<S, L, M>,
        now_ms: impl FnOnce() -> usize,
        ebb: impl FnOnce(),
    ) {
        if pool.take_ebb() {
            ebb();
        }
        let now = now_ms();
        if due(&self.settled_ms, now, SETTLE_MS) {
            pool.settle();
            if due(&self.decayed_ms, now, DECAY_MS) {
                pool.decay();
            }
        }
    }
}

/// Whether it is so long ago that this was last due. Of two threads that ask at once, one is told so.
#[inline]
fn due(last_ms: &AtomicUsize, now: usize, every_ms: usize) -> bool {
    // Relaxed: what is done then is done under the pool's lock, and nothing is handed on.
    let last = last_ms.load(Relaxed);
    now.wrapping_sub(last) >= every_ms && last_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
}
