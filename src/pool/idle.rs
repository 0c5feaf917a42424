//! How much idle memory a pool keeps.
//!
//! 1. Idle frames above a bound are given up when a block comes back. So a program that has freed a peak is small again even
//!    if it never calls the pool any more.
//! 2. The bound follows the program. Where frames are backed of late given up, it rises by as much: that was given up too
//!    early. It halves with every [`decay`](Pool::decay).
//! 3. An ebb: what is in blocks fell to half, and much more is backed. Then it is time to empty caches, and to give back by
//!    the page what is free in frames that are not. Where a rise follows as soon, the next ebb must leave twice as much.
//! 4. What lay idle from one decay to the next is given up. Where much is free beside live blocks, so is that, by the page.
//! 5. Where a limit was lowered below what is backed, whatever becomes idle is given up until it fits.

#![forbid(unsafe_code)]

use super::{Frames, Pool, PoolConfig, Shared};
use crate::arena::Grant;
use crate::arena::metadata::Metadata;
use crate::size::Granule;
use crate::space::Space;
use crate::sync::atomic::Ordering::Relaxed;
use lock_api::RawMutex;

/// What a pool remembers of how its memory was used of late.
pub(super) struct Idle {
    /// What is retained beyond [`PoolConfig::retain_bytes`].
    extra_bytes: u64,
    /// What was given up of late, and not backed again.
    given_up_bytes: u64,
    /// The most in blocks since it fell to half.
    high_bytes: u64,
    /// What was in blocks at the last ebb, until twice as much is again.
    low_bytes: u64,
    /// How many ebbs of late were none, twice.
    doubt: u32,
    /// More was backed than a limit that was lowered allows: what becomes idle is given up until it fits.
    is_over: bool,
}

impl Idle {
    pub(super) const NEW: Idle = Idle {
        extra_bytes: 0,
        given_up_bytes: 0,
        high_bytes: 0,
        low_bytes: u64::MAX,
        doubt: 0,
        is_over: false,
    };

    fn keep_bytes(&self, config: &PoolConfig) -> u64 {
        config.retain_bytes.saturating_add(self.extra_bytes)
    }

    /// So much was backed.
    fn created(&mut self, bytes: u64, config: &PoolConfig) {
        let again_bytes = bytes.min(self.given_up_bytes);
        self.given_up_bytes -= again_bytes;
        let most_bytes = config.retain_most_bytes.saturating_sub(config.retain_bytes);
        self.extra_bytes = (self.extra_bytes + again_bytes).min(most_bytes.max(self.extra_bytes));
    }

    #[inline]
    fn rise(&mut self, in_use_bytes: u64) {
        self.high_bytes = self.high_bytes.max(in_use_bytes);
        if in_use_bytes / 2 > self.low_bytes {
            self.low_bytes = u64::MAX;
            self.doubt = (self.doubt + 2).min(20);
        }
    }

    /// Half is gone: whether that leaves enough.
    #[cold]
    fn ebbs(&mut self, in_use_bytes: u64, backed_bytes: u64, config: &PoolConfig) -> bool {
        self.high_bytes = in_use_bytes;
        let least_bytes = config.ebb_bytes.saturating_mul(1 << self.doubt);
        let spare_bytes = backed_bytes.saturating_sub(in_use_bytes);
        if spare_bytes <= self.keep_bytes(config).saturating_add(least_bytes) {
            return false;
        }
        self.low_bytes = in_use_bytes;
        self.extra_bytes /= 2;
        true
    }
}

impl<S: Space, M: Metadata> Shared<S, M> {
    /// To be called before blocks come back.
    #[inline]
    pub(super) fn rise(&mut self) {
        self.idle.rise(self.arena.in_use_bytes());
    }

    /// Frames were created, since there were so many.
    #[cold]
    pub(super) fn created(&mut self, creates: u64) {
        let frame_bytes = self.arena.space().geometry().frame_bytes().unwrap_or(0);
        self.idle.created((self.arena.creates() - creates) * frame_bytes, &self.config);
    }

    fn trim(&mut self, keep_bytes: u64, grant: &impl Grant) -> u64 {
        let bytes = self.arena.trim(keep_bytes, grant);
        self.idle.given_up_bytes += bytes;
        bytes
    }
}

impl<S: Space, L: RawMutex, M: Metadata> Pool<S, L, M> {
    /// Blocks came back.
    #[inline]
    pub(super) fn fall(&self, shared: &mut Shared<S, M>, grant: &impl Grant) {
        let in_use_bytes = shared.arena.in_use_bytes();
        if in_use_bytes < shared.idle.high_bytes / 2
            && shared.idle.ebbs(in_use_bytes, shared.arena.backed_bytes(), &shared.config)
        {
            self.ebb.store(true, Relaxed);
        }
        if shared.idle.is_over {
            self.fit(shared, grant);
        }
        let keep_bytes = shared.idle.keep_bytes(&shared.config);
        if shared.arena.idle_bytes() > keep_bytes {
            shared.trim(keep_bytes, grant);
        }
    }

    /// Gives up what is idle, as far as more is backed than the limit allows.
    #[cold]
    pub(super) fn fit(&self, shared: &mut Shared<S, M>, grant: &impl Grant) {
        let over_bytes = || self.budget.used().saturating_sub(self.budget.limit());
        let keep_bytes = shared.arena.idle_bytes().saturating_sub(over_bytes());
        // A part of a frame cannot be kept.
        shared.arena.trim(keep_bytes, grant);
        shared.idle.is_over = over_bytes() > 0;
    }

    /// Whether there was an ebb ([`PoolConfig::ebb_bytes`]): what is in blocks fell to half of what it was, and much more is
    /// backed than they and what is retained need. True once for each; then is the moment to give up what caches hold, and
    /// to [`purge`](Self::purge).
    #[inline]
    pub fn take_ebb(&self) -> bool {
        // Relaxed: whoever sees it looks at the pool under its lock.
        self.ebb.load(Relaxed) && self.ebb.swap(false, Relaxed)
    }

    /// Gives back what is free in frames that are not, as far as the space can. Takes as long as there are live spans. The
    /// bytes, some of which may have been given back before.
    pub fn purge(&self) -> u64 {
        self.shared.lock().arena.purge()
    }

    /// What was given up before this is not what is needed again of late.
    pub fn settle(&self) {
        self.shared.lock().idle.given_up_bytes = 0;
    }

    /// Gives back the idle frames that nobody has needed since the last call, and retains less. Where much more is free beside
    /// live blocks than is retained, and than an eighth of what they take, what of it nobody has needed goes too. The bytes of the frames.
    pub fn decay(&self) -> u64 {
        let mut shared = self.shared.lock();
        shared.idle.extra_bytes /= 2;
        shared.idle.doubt = shared.idle.doubt.saturating_sub(1);
        let keep_bytes = shared.arena.idle_bytes() - shared.arena.idle_low_bytes();
        let given = shared.arena.trim(keep_bytes, &Frames(&self.budget));
        shared.arena.mark_idle();
        let spare_bytes = shared.arena.spare_bytes();
        let taken_bytes = shared.arena.backed_bytes() - shared.arena.idle_bytes() - spare_bytes;
        let is_much = spare_bytes > shared.config.retain_bytes.max(taken_bytes / 8);
        let mut next = is_much.then_some(Granule(0));
        while let Some(from) = next {
            next = shared.arena.purge_cold(from);
            if next.is_some() {
                // Others have their turn.
                drop(shared);
                shared = self.shared.lock();
            }
        }
        shared.arena.cool();
        given
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    const CONFIG: PoolConfig = PoolConfig::DEFAULT.retain_bytes(10).retain_most_bytes(30).ebb_bytes(100);

    #[test]
    fn what_is_backed_again_counts_once_and_up_to_the_most() {
        let mut idle = Idle { given_up_bytes: 5, ..Idle::NEW };
        for (created, extra) in [(3, 3), (10, 5), (10, 5)] {
            idle.created(created, &CONFIG);
            assert_eq!((idle.extra_bytes, idle.keep_bytes(&CONFIG)), (extra, 10 + extra));
        }
        idle.given_up_bytes = 1000;
        idle.created(900, &CONFIG);
        assert_eq!((idle.keep_bytes(&CONFIG), idle.given_up_bytes), (30, 100));
        // What is kept under settings that allow less goes with the decays.
        idle.created(1, &CONFIG.retain_most_bytes(12));
        assert_eq!(idle.extra_bytes, 20);
    }

    #[test]
    fn an_ebb_leaves_more_than_is_kept_and_halves_that() {
        let mut idle = Idle { extra_bytes: 8, ..Idle::NEW };
        assert!(!idle.ebbs(50, 50 + 18 + 100, &CONFIG));
        assert!(idle.ebbs(50, 50 + 18 + 101, &CONFIG));
        assert_eq!((idle.extra_bytes, idle.low_bytes, idle.high_bytes), (4, 50, 50));
    }

    /// Each rise to more than twice as much says that there was none; no number of them is too many.
    #[test]
    fn an_ebb_is_doubted_the_more_the_more_often_it_was_none() {
        let mut idle = Idle::NEW;
        for doubt in (0..20).step_by(2).chain([20; 100]) {
            assert_eq!(idle.doubt, doubt);
            let least = 10 + (100 << doubt);
            assert!(!idle.ebbs(1000, 1000 + least, &CONFIG));
            assert!(idle.ebbs(1000, 1001 + least, &CONFIG));
            idle.rise(2001);
            assert_eq!(idle.doubt, doubt, "half of it is not more than there was");
            idle.rise(2002);
            idle.rise(4000);
        }
        assert_eq!(idle.high_bytes, 4000);
    }
}
