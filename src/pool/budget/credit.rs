//! Credit: what an account of a [`tree`](super::tree) may spend without asking anybody.
//!
//! 1. It is one word. While it is **open** it counts what was taken beforehand from all accounts around, and is not used: a charge takes
//!    from it, a release adds to it, one exchange each.
//! 2. **Closed** it grants nothing and takes nothing: charges and releases go to the tree.
//! 3. Only who has the tree's lock opens or closes it. So once all credit below an account is closed under the lock, what is charged
//!    there is what is held, and stays that until the lock is let go.

#![forbid(unsafe_code)]

use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicWide, Wide, const_unless_loom};

const CLOSED: Wide = -1;

/// See the [module](self).
#[derive(Debug)]
pub struct Credit(AtomicWide);

impl Credit {
    const_unless_loom! {
        /// Closed.
        pub const fn new() -> Credit {
            Credit(AtomicWide::new(CLOSED))
        }
    }

    /// Takes `amount` if there is so much: a load, a branch and an exchange, which `benches/net.rs` times.
    #[inline]
    pub fn take(&self, amount: u64) -> bool {
        let Ok(amount) = Wide::try_from(amount) else { return false };
        let mut have = self.0.load(Relaxed);
        // A closed word is less than any amount.
        while amount <= have {
            // Acquire: pairs with the Release in `give` and `open`. Who takes what somebody gave goes on after that.
            match self.0.compare_exchange_weak(have, have - amount, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => have = now,
            }
        }
        false
    }

    /// Gives `amount` back, which was charged to this account, if it is open.
    #[inline]
    pub fn give(&self, amount: u64) -> bool {
        let Ok(amount) = Wide::try_from(amount) else { return false };
        let mut have = self.0.load(Relaxed);
        while have >= 0 {
            // What is charged to an account is no more than the word holds, and this is part of it.
            match self.0.compare_exchange_weak(have, have.wrapping_add(amount), Release, Relaxed) {
                Ok(_) => return true,
                Err(now) => have = now,
            }
        }
        false
    }

    /// Opens it with `amount`, or adds that where it is open. Under the tree's lock.
    pub(super) fn open(&self, amount: u64) {
        if !self.give(amount) {
            // Closed, so that nobody else changes it. Release: pairs with the Acquire in `take`.
            self.0.store(amount as Wide, Release);
        }
    }

    /// Closes it and returns what was left. Under the tree's lock.
    pub(super) fn close(&self) -> u64 {
        // Looked at first, which costs less: nobody but who has the lock opens it.
        if !self.is_open() {
            return 0;
        }
        // Acquire: pairs with the Release in `give`; what was given goes on to others.
        self.0.swap(CLOSED, Acquire).max(0) as u64
    }

    /// Whether it is open. Under the tree's lock.
    pub(super) fn is_open(&self) -> bool {
        self.0.load(Relaxed) != CLOSED
    }

    /// What is left in it now.
    pub(super) fn left(&self) -> u64 {
        self.0.load(Acquire).max(0) as u64
    }
}

impl Default for Credit {
    fn default() -> Credit {
        Credit::new()
    }
}
