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

/// What is due, each with what is before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// To forget what was given up.
    Settle,
    /// To give up what lay idle.
    Decay,
}

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
        let due = self.due(now_ms());
        if due >= Due::Settle {
            pool.settle();
        }
        if due == Due::Decay {
            pool.decay();
        }
    }

    /// What is due now. Of two threads that ask at once, one is told so.
    #[inline]
    pub fn due(&self, now_ms: usize) -> Due {
        if !passed(&self.settled_ms, now_ms, SETTLE_MS) {
            Due::Nothing
        } else if passed(&self.decayed_ms, now_ms, DECAY_MS) {
            Due::Decay
        } else {
            Due::Settle
        }
    }
}

/// Whether it is so long ago that this was last so.
#[inline]
fn passed(last_ms: &AtomicUsize, now: usize, every_ms: usize) -> bool {
    // Relaxed: what is done then is done under the pool's lock, and nothing is handed on.
    let last = last_ms.load(Relaxed);
    now.wrapping_sub(last) >= every_ms && last_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_told_to_one_who_asks_when_the_time_has_passed() {
        let clocks = Clocks::new();
        let asked = [
            (SETTLE_MS - 1, Due::Nothing),
            (SETTLE_MS, Due::Settle),
            (SETTLE_MS, Due::Nothing),
            (2 * SETTLE_MS - 1, Due::Nothing),
            (DECAY_MS, Due::Decay),
            (DECAY_MS + SETTLE_MS, Due::Settle),
            (2 * DECAY_MS - 1, Due::Settle),
            (2 * DECAY_MS + SETTLE_MS, Due::Decay),
        ];
        for (now_ms, due) in asked {
            assert_eq!(clocks.due(now_ms), due, "{now_ms}");
        }
    }
}
