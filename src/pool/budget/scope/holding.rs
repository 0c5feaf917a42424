//! A share of a scope, and a refusal to give one.

#![forbid(unsafe_code)]

use super::super::OverBudget;
use super::super::path::RefusedAt;
use super::kind::Kind;
use super::ledger::{self, PROCESS, Purse};
use super::{PURSE, Scope};
use crate::timeline;
use core::fmt;

/// Takes `amount` in the scope that this thread is in.
///
/// ```
/// use democratising::pool::budget::scope::{self, Kind};
///
/// let held = scope::charge(Kind::HostBytes, 1 << 20)?;
/// assert!(scope::process_budget(Kind::HostBytes).used() >= 1 << 20);
/// drop(held);
/// # Ok::<(), democratising::pool::budget::scope::Refused>(())
/// ```
///
/// # Errors
/// Those of [`Scope::charge`].
#[inline]
pub fn charge(kind: Kind, amount: u64) -> Result<Holding, Refused> {
    // This thread keeps the scope it is in, so the purse is that scope's.
    Holding::take(PURSE.get().unwrap_or(&PROCESS), kind, amount).map_err(Refused::told)
}

/// A share of a scope's budget and of those around it, held until this is dropped.
///
/// The share keeps the scope in the ledger: no reference to that is counted.
#[must_use = "the share is given back when this is dropped"]
pub struct Holding {
    purse: &'static Purse,
    kind: Kind,
    amount: u64,
}

impl Holding {
    /// Nothing, of the process.
    pub const fn nothing(kind: Kind) -> Holding {
        Holding { purse: &PROCESS, kind, amount: 0 }
    }

    /// The caller keeps the scope whose purse it is.
    #[inline]
    pub(super) fn take(purse: &'static Purse, kind: Kind, amount: u64) -> Result<Holding, Refused> {
        if amount == 0 {
            keep_with_nothing(purse);
        } else {
            take(purse, kind, amount)?;
        }
        Ok(Holding { purse, kind, amount })
    }

    /// How much it is.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Of what.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it was charged.
    pub fn scope(&self) -> Scope {
        Scope(ledger::place(self.purse))
    }

    /// Takes or gives back the difference.
    ///
    /// # Errors
    /// [`Refused`] where less is left than the difference. It holds then what it held.
    pub fn resize(&mut self, amount: u64) -> Result<(), Refused> {
        if amount > self.amount {
            take(self.purse, self.kind, amount - self.amount)?;
            if self.amount == 0 {
                leave_with_nothing(self.purse);
            }
        } else if amount < self.amount {
            // Before the rest goes: something has to keep the scope all the time.
            if amount == 0 {
                keep_with_nothing(self.purse);
            }
            give_back(self.purse, self.kind, self.amount - amount);
        }
        self.amount = amount;
        Ok(())
    }
}

impl Drop for Holding {
    #[inline]
    fn drop(&mut self) {
        if self.amount > 0 {
            give_back(self.purse, self.kind, self.amount);
        } else {
            leave_with_nothing(self.purse);
        }
    }
}

/// One exchange where the scope has credit.
#[inline]
fn take(purse: &'static Purse, kind: Kind, amount: u64) -> Result<(), Refused> {
    if purse.credits[kind as usize].take(amount) {
        return Ok(());
    }
    ledger::charge(purse, kind, amount).map_err(|refused| refused_at(purse, kind, refused))
}

#[inline]
fn give_back(purse: &'static Purse, kind: Kind, amount: u64) {
    if purse.credits[kind as usize].give(amount) {
        return;
    }
    let released = ledger::release(purse, kind, amount);
    debug_assert!(released.is_ok(), "only a holding takes and gives back");
}

/// A share of nothing does not show in the account, so it is counted where it is one of a scope that could go.
fn keep_with_nothing(purse: &'static Purse) {
    if !purse.is_process() {
        ledger::hold_nothing(purse, true);
    }
}

fn leave_with_nothing(purse: &'static Purse) {
    if !purse.is_process() {
        ledger::hold_nothing(purse, false);
    }
}

#[cold]
fn refused_at(purse: &'static Purse, kind: Kind, refused: RefusedAt) -> Refused {
    let mut scope = Scope(ledger::place(purse));
    for _ in 0..refused.depth {
        scope = scope.parent().unwrap_or(scope);
    }
    Refused { scope, kind, over: refused.over }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Holding({} {} of {})", self.amount, self.kind, self.scope().name())
    }
}

/// A scope had too little left; nothing is held more than before.
#[derive(Clone)]
pub struct Refused {
    scope: Scope,
    kind: Kind,
    over: OverBudget,
}

impl Refused {
    /// Whoever listens hears of it.
    #[cold]
    #[inline(never)]
    fn told(self) -> Refused {
        timeline::refused(self.kind.name(), self.scope.name(), self.over.asked, self.over.left);
        self
    }

    /// The scope that refused: the innermost that has too little.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What was asked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How much was asked for, left, and the limit.
    pub fn over(&self) -> OverBudget {
        self.over
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?}: {}", self.kind, self.scope.name(), self.over)
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refused({self})")
    }
}

impl core::error::Error for Refused {}
