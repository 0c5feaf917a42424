//! A budget: how much of something may be held at once, and the charges against it.
//!
//! 1. `left` is the truth: what may still be taken. A charge moves it down in one step or not at all, so the charges that
//!    were granted never add up to more than the limit, whatever else happens at the same time.
//! 2. `used` follows: up after a charge was granted, down before its share can be granted again. So it is never more than
//!    was granted, and the peak, which is read off it, is never more than the limit.
//! 3. A limit may fall below what is held. `left` is negative then; nothing is taken away, and nothing granted until it fits.
//!
//! The unit is the caller's: bytes, file descriptors, sockets.
//!
//! Budgets that stand one above the other, as a request's within the process's, are a [`path`]; named ones, with an account for
//! every kind of resource, are `scope`s (with `std`), which stand in a `tree`.

#![cfg_attr(not(windows), forbid(unsafe_code))]

#[cfg(any(feature = "std", democratising_loom))]
pub mod credit;
#[cfg(feature = "std")]
pub mod left;
#[cfg(feature = "std")]
pub mod machine;
pub mod path;
#[cfg(feature = "std")]
pub mod scope;
#[cfg(any(feature = "std", democratising_loom))]
pub mod tree;
#[cfg(all(feature = "std", windows))]
mod windows;

use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicWide, Lock, SpinLock, Wide, const_unless_loom};
use core::fmt;

/// How much of one resource may be held at once. Lock-free, apart from changing the limit.
///
/// ```
/// use democratising::pool::budget::Budget;
///
/// static SOCKETS: Budget = Budget::new(2);
///
/// let first = SOCKETS.charge(1)?;
/// let second = SOCKETS.charge(1)?;
/// assert!(SOCKETS.charge(1).is_err());
/// drop(first);
/// assert_eq!(SOCKETS.used(), 1);
/// # drop(second);
/// # Ok::<(), democratising::pool::budget::OverBudget>(())
/// ```
#[derive(Debug)]
pub struct Budget {
    left: AtomicWide,
    used: AtomicWide,
    peak: AtomicWide,
    limit: AtomicWide,
    /// Held while the limit changes: two changes at once would let the room of one be taken under the limit of the other.
    changing: Lock<SpinLock, ()>,
}

/// A charge was refused; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OverBudget {
    /// What was asked for.
    pub asked: u64,
    /// What could have been had at that moment.
    pub left: u64,
    /// The limit in force, or `u64::MAX` without one.
    pub limit: u64,
}

/// More was to be given back than is held; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OverRelease {
    /// What was to be given back.
    pub given: u64,
    /// What was held at that moment.
    pub used: u64,
}

impl Budget {
    /// No limit. The counters themselves end at `i64::MAX` (`isize::MAX` where only that is atomic).
    pub const UNLIMITED: u64 = u64::MAX;

    const_unless_loom! {
        /// A budget of `limit`, all of it left.
        pub const fn new(limit: u64) -> Budget {
            let limit = counted(limit);
            Budget {
                left: AtomicWide::new(limit),
                used: AtomicWide::new(0),
                peak: AtomicWide::new(0),
                limit: AtomicWide::new(limit),
                changing: Lock::new(()),
            }
        }
    }

    /// Takes `amount` until the charge is dropped.
    ///
    /// # Errors
    /// [`OverBudget`] when less is left. Nothing was changed then, the peak included.
    pub fn charge(&self, amount: u64) -> Result<Charge<'_>, OverBudget> {
        self.try_take(amount)?;
        Ok(Charge { budget: self, amount })
    }

    /// Takes `amount`; the caller keeps account of it and calls [`release`](Self::release). Nothing at all always fits.
    ///
    /// # Errors
    /// [`OverBudget`] when less is left. Nothing was changed then, the peak included.
    pub fn try_take(&self, amount: u64) -> Result<(), OverBudget> {
        if amount == 0 {
            return Ok(());
        }
        let mut left = self.left.load(Relaxed);
        let taken = loop {
            let taken = match Wide::try_from(amount) {
                Ok(taken) if taken <= left => taken,
                _ => return Err(OverBudget { asked: amount, left: left.max(0) as u64, limit: self.limit() }),
            };
            // Acquire: pairs with the Release on `left` in `release` and `set_limit`. Whoever takes the room that a release
            // or a higher limit made adds to `used` after that release took from it, and after that limit was there.
            match self.left.compare_exchange_weak(left, left - taken, Acquire, Relaxed) {
                Ok(_) => break taken,
                Err(now) => left = now,
            }
        };
        // Release: pairs with the Acquire in `used`, which then sees the limit that this was granted under.
        let used = self.used.fetch_add(taken, Release) + taken;
        // Looked at first: a peak is rarely new, and a look costs nothing beside a change.
        if used > self.peak.load(Relaxed) {
            self.peak.fetch_max(used, Relaxed);
        }
        Ok(())
    }

    /// Gives back `amount` that [`try_take`](Self::try_take) took.
    ///
    /// # Errors
    /// [`OverRelease`] when less is held: some share was given back twice. Nothing was changed then.
    pub fn release(&self, amount: u64) -> Result<(), OverRelease> {
        let mut used = self.used.load(Relaxed);
        let given = loop {
            let given = match Wide::try_from(amount) {
                Ok(given) if given <= used => given,
                _ => return Err(OverRelease { given: amount, used: used as u64 }),
            };
            match self.used.compare_exchange_weak(used, used - given, Relaxed, Relaxed) {
                Ok(_) => break given,
                Err(now) => used = now,
            }
        };
        // Release: pairs with the Acquire in `try_take`. After `used`, or `used` could count a share twice.
        self.left.fetch_add(given, Release);
        Ok(())
    }

    /// Sets the limit from now on, and returns how much more than that is held.
    ///
    /// What is held stays held, so a limit below it refuses every charge until enough was released. The result counts
    /// charges that were granted before the limit fell and are on their way into [`used`](Self::used).
    ///
    /// Two changes wait for each other, spinning: not for an interrupt handler.
    pub fn set_limit(&self, limit: u64) -> u64 {
        let limit = counted(limit);
        let _changing = self.changing.lock();
        let old = self.limit.load(Relaxed);
        let left = if limit < old {
            // The room goes first, then the limit: no charge is granted above the limit that can be read.
            let left = self.left.fetch_sub(old - limit, Relaxed) - (old - limit);
            self.limit.store(limit, Relaxed);
            left
        } else {
            self.limit.store(limit, Relaxed);
            // Release: pairs with the Acquire in `try_take`. After the limit, so that the room is taken under it.
            self.left.fetch_add(limit - old, Release) + (limit - old)
        };
        left.min(0).unsigned_abs() as u64
    }

    /// What is held.
    pub fn used(&self) -> u64 {
        // Acquire: pairs with the Release in `try_take`. Read this before `limit` to compare the two.
        self.used.load(Acquire) as u64
    }

    /// What may still be taken; less than `limit - used` while a charge is on its way.
    pub fn left(&self) -> u64 {
        self.left.load(Relaxed).max(0) as u64
    }

    /// The most that was held at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed) as u64
    }

    /// The limit in force, or [`UNLIMITED`](Self::UNLIMITED).
    pub fn limit(&self) -> u64 {
        match self.limit.load(Relaxed) {
            Wide::MAX => Budget::UNLIMITED,
            limit => limit as u64,
        }
    }
}

// A panic cannot leave a budget half changed: nothing in it calls anybody.
impl core::panic::UnwindSafe for Budget {}
impl core::panic::RefUnwindSafe for Budget {}

/// A limit as the counters hold it. What they cannot count is no limit: nobody can hold that much.
const fn counted(limit: u64) -> Wide {
    if limit < Wide::MAX as u64 { limit as Wide } else { Wide::MAX }
}

/// A share of a [`Budget`], held until this is dropped.
#[derive(Debug)]
#[must_use = "the share is given back when the charge is dropped"]
pub struct Charge<'a> {
    budget: &'a Budget,
    amount: u64,
}

impl Charge<'_> {
    /// What this charge holds.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes or gives back the difference.
    ///
    /// # Errors
    /// [`OverBudget`] when less is left than the difference. The charge holds what it held.
    pub fn resize(&mut self, amount: u64) -> Result<(), OverBudget> {
        match amount.checked_sub(self.amount) {
            Some(more) => self.budget.try_take(more)?,
            None => self.give_back(self.amount - amount),
        }
        self.amount = amount;
        Ok(())
    }

    /// Fails only where somebody released this charge's share behind its back. Then the budget has it already.
    fn give_back(&self, amount: u64) {
        let _ = self.budget.release(amount);
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "over budget: {} asked for, {} left", self.asked, self.left)?;
        match self.limit {
            Budget::UNLIMITED => Ok(()),
            limit => write!(f, " of {limit}"),
        }
    }
}

impl fmt::Display for OverRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} given back to a budget of which only {} is held: given back twice?",
            self.given, self.used
        )
    }
}

impl core::error::Error for OverBudget {}
impl core::error::Error for OverRelease {}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    /// (used, left, peak, limit)
    fn state(budget: &Budget) -> (u64, u64, u64, u64) {
        (budget.used(), budget.left(), budget.peak(), budget.limit())
    }

    #[test]
    fn a_charge_is_held_until_it_is_dropped_and_the_peak_stays() {
        let budget = Budget::new(10);
        let charge = budget.charge(10).unwrap();
        assert_eq!((charge.amount(), state(&budget)), (10, (10, 0, 10, 10)));
        drop(charge);
        assert_eq!(state(&budget), (0, 10, 10, 10));
    }

    #[test]
    fn a_refused_charge_says_what_was_left_and_leaves_no_trace() {
        let budget = Budget::new(10);
        let _held = budget.charge(4).unwrap();
        let before = state(&budget);
        for asked in [7, 11, Wide::MAX as u64, Wide::MAX as u64 + 1, u64::MAX] {
            assert_eq!(budget.charge(asked).unwrap_err(), OverBudget { asked, left: 6, limit: 10 });
        }
        assert_eq!(state(&budget), before);
    }

    #[test]
    fn nothing_always_fits() {
        let budget = Budget::new(0);
        assert_eq!(budget.charge(0).unwrap().amount(), 0);
        assert!(budget.charge(1).is_err());
        budget.set_limit(5);
        let _held = budget.charge(5).unwrap();
        budget.set_limit(1);
        assert!(budget.charge(0).is_ok(), "not even below a limit that is broken already");
    }

    #[test]
    fn more_than_is_held_cannot_be_given_back() {
        let budget = Budget::new(10);
        budget.try_take(3).unwrap();
        for given in [4, u64::MAX] {
            assert_eq!(budget.release(given), Err(OverRelease { given, used: 3 }));
        }
        assert_eq!(budget.release(3), Ok(()));
        assert_eq!(state(&budget), (0, 10, 3, 10));
        assert!(budget.release(1).is_err());
    }

    #[test]
    fn a_limit_below_what_is_held_loses_nothing_and_refuses_until_it_fits() {
        let budget = Budget::new(10);
        let (six, three) = (budget.charge(6).unwrap(), budget.charge(3).unwrap());
        assert_eq!(budget.set_limit(5), 4);
        assert_eq!(state(&budget), (9, 0, 9, 5));
        drop(three);
        assert_eq!(budget.charge(1).unwrap_err(), OverBudget { asked: 1, left: 0, limit: 5 });
        drop(six);
        assert_eq!(budget.charge(5).unwrap().amount(), 5);
        assert_eq!(budget.set_limit(20), 0);
        assert_eq!(state(&budget), (0, 20, 9, 20));
    }

    #[test]
    fn without_a_limit_the_counters_end_before_they_overflow() {
        let budget = Budget::new(Budget::UNLIMITED);
        let all = budget.charge(Wide::MAX as u64).unwrap();
        let refused = budget.charge(1).unwrap_err();
        assert_eq!(refused, OverBudget { asked: 1, left: 0, limit: Budget::UNLIMITED });
        assert_eq!(budget.set_limit(0), Wide::MAX as u64, "everything is over");
        assert_eq!(budget.set_limit(Budget::UNLIMITED), 0);
        assert_eq!(budget.limit(), Budget::UNLIMITED);
        drop(all);
        assert_eq!(budget.left(), Wide::MAX as u64);
    }

    #[test]
    fn a_charge_that_cannot_grow_holds_what_it_held() {
        let budget = Budget::new(10);
        let mut charge = budget.charge(4).unwrap();
        charge.resize(9).unwrap();
        assert!(charge.resize(11).is_err());
        assert_eq!((charge.amount(), budget.used()), (9, 9));
        charge.resize(2).unwrap();
        assert_eq!((charge.amount(), budget.used(), budget.peak()), (2, 2, 9));
        drop(charge);
        assert_eq!(budget.used(), 0);
    }
}
