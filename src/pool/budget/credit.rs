//! Credit: what an account of a [`tree`](super::tree) may spend without asking anybody.
//!
//! 1. It is one word. While it is **open** it counts what was taken beforehand from all accounts around, and is not used: a charge takes
//!    from it, a release adds to it, one exchange each. Beside that stands the least that was left since it was opened, which
//!    tells how much was held at most.
//! 2. **Closed** it grants nothing and takes nothing: charges and releases go to the tree.
//! 3. Only who has the tree's lock opens or closes it. So once all credit below an account is closed under the lock, what is charged
//!    there is what is held, and stays that until the lock is let go.

#![forbid(unsafe_code)]

use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicWide, Wide, const_unless_loom};

/// The word of an open one is what is left, in its upper half, and the least that was left. Closed it is negative.
const CLOSED: Wide = -1;
const HALF: u32 = Wide::BITS / 2;
const LEAST: Wide = (1 << HALF) - 1;

/// The most that a word counts: 2 GiB, where it has 64 bits.
const MOST: Wide = Wide::MAX >> HALF;

/// See the [module](self).
#[derive(Debug)]
pub struct Credit(AtomicWide);

/// What stood in a word.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) now: u64,
    pub(super) least: u64,
}

impl Credit {
    /// The most that is counted here. More goes to the tree.
    pub(super) const MOST: u64 = MOST as u64;

    const_unless_loom! {
        /// Closed.
        pub const fn new() -> Credit {
            Credit(AtomicWide::new(CLOSED))
        }
    }

    /// Takes `amount` if there is so much: a load, a branch and an exchange, which `benches/net.rs` times.
    #[inline]
    pub fn take(&self, amount: u64) -> bool {
        if amount > MOST as u64 {
            return false;
        }
        let mut word = self.0.load(Relaxed);
        loop {
            // That of a closed one is -1, less than any amount.
            let left = (word >> HALF) - amount as Wide;
            if left < 0 {
                return false;
            }
            let after = left << HALF | left.min(word & LEAST);
            // Acquire: pairs with the Release in `give` and `open`. Who takes what somebody gave goes on after that.
            match self.0.compare_exchange_weak(word, after, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Gives `amount` back, which was charged to this account, if it is open and can count that.
    #[inline]
    pub fn give(&self, amount: u64) -> bool {
        let mut word = self.0.load(Relaxed);
        loop {
            if word < 0 || amount > (MOST - (word >> HALF)) as u64 {
                return false;
            }
            match self.0.compare_exchange_weak(word, word + ((amount as Wide) << HALF), Release, Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Opens a closed one with no more than [`MOST`](Self::MOST). Under the tree's lock.
    pub(super) fn open(&self, amount: u64) {
        // Nobody else changes a closed one. Release: pairs with the Acquire in `take`.
        self.0.store((amount as Wide) << HALF | amount as Wide, Release);
    }

    /// Closes it, if it is open, and returns what was left. Under the tree's lock.
    pub(super) fn close(&self) -> Option<Left> {
        // Looked at first, which costs less: nobody but who has the lock opens it.
        if !self.is_open() {
            return None;
        }
        // Acquire: pairs with the Release in `give`; what was given goes on to others.
        Some(Left::of(self.0.swap(CLOSED, Acquire)))
    }

    /// Whether it is open. Under the tree's lock.
    pub(super) fn is_open(&self) -> bool {
        self.0.load(Relaxed) != CLOSED
    }

    /// What is left in it now, if it is open.
    pub(super) fn left(&self) -> Option<Left> {
        let word = self.0.load(Acquire);
        (word != CLOSED).then(|| Left::of(word))
    }
}

impl Left {
    fn of(word: Wide) -> Left {
        Left { now: (word >> HALF) as u64, least: (word & LEAST) as u64 }
    }
}

impl Default for Credit {
    fn default() -> Credit {
        Credit::new()
    }
}
