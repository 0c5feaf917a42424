//! A share of a scope, and a refusal to give one.

#![forbid(unsafe_code)]

use super::super::OverBudget;
use super::super::path::RefusedAt;
use super::kind::Kind;
use super::ledger::{self, PROCESS, Till};
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
    let till = &PURSE.get().unwrap_or(&PROCESS).tills[kind as usize];
    if !till.spend(amount) {
        take_and_tell(till, amount)?;
    }
    Ok(Holding { till, amount })
}

/// A share of a scope's budget and of those around it, held until this is dropped.
///
/// The share keeps the scope in the ledger: no reference to that is counted.
#[must_use = "the share is given back when this is dropped"]
pub struct Holding {
    till: &'static Till,
    amount: u64,
}

impl Holding {
    /// Nothing, of the process.
    pub const fn nothing(kind: Kind) -> Holding {
        Holding { till: &PROCESS.tills[kind as usize], amount: 0 }
    }

    /// The caller keeps the scope whose till it is.
    #[inline]
    pub(super) fn of(till: &'static Till, amount: u64) -> Result<Holding, Refused> {
        if !till.spend(amount) {
            take(till, amount)?;
        }
        Ok(Holding { till, amount })
    }

    /// How much it is.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Of what.
    pub fn kind(&self) -> Kind {
        self.till.kind
    }

    /// Where it was charged.
    pub fn scope(&self) -> Scope {
        Scope(ledger::place(self.till))
    }

    /// Takes or gives back the difference.
    ///
    /// # Errors
    /// [`Refused`] where less is left than the difference. It holds then what it held.
    pub fn resize(&mut self, amount: u64) -> Result<(), Refused> {
        if amount > self.amount {
            if !self.till.spend(amount - self.amount) {
                take(self.till, amount - self.amount)?;
            }
            if self.amount == 0 {
                leave_with_nothing(self.till);
            }
        } else if amount < self.amount {
            // Before the rest goes: something has to keep the scope all the time.
            if amount == 0 {
                keep_with_nothing(self.till);
            }
            give_back(self.till, self.amount - amount);
        }
        self.amount = amount;
        Ok(())
    }
}

impl Drop for Holding {
    #[inline]
    fn drop(&mut self) {
        if self.amount > 0 {
            give_back(self.till, self.amount);
        } else {
            leave_with_nothing(self.till);
        }
    }
}

impl Till {
    /// Pays a charge by credit where there is so much: one exchange. Nothing is charged otherwise, and always `take`n.
    #[inline]
    fn spend(&self, amount: u64) -> bool {
        amount > 0 && self.credit.take(amount)
    }
}

// What is refused is put together apart from the path that grants, which keeps its result in registers then.
#[cold]
#[inline(never)]
fn take(till: &'static Till, amount: u64) -> Result<(), Refused> {
    if amount == 0 {
        keep_with_nothing(till);
        return Ok(());
    }
    ledger::charge(till, amount).map_err(|refused| refused_at(till, refused))
}

/// Whoever listens hears of a refusal.
#[cold]
#[inline(never)]
fn take_and_tell(till: &'static Till, amount: u64) -> Result<(), Refused> {
    let taken = take(till, amount);
    if let Err(refused) = &taken {
        let Refused { scope, kind, over } = refused;
        timeline::refused(kind.name(), scope.name(), over.asked, over.left);
    }
    taken
}

#[inline]
fn give_back(till: &'static Till, amount: u64) {
    if till.credit.give(amount) {
        return;
    }
    let released = ledger::release(till, amount);
    debug_assert!(released.is_ok(), "only a holding takes and gives back");
}

/// A share of nothing does not show in the account, so it is counted where it is one of a scope that could go.
fn keep_with_nothing(till: &'static Till) {
    if !till.is_of_process() {
        ledger::hold_nothing(till, true);
    }
}

fn leave_with_nothing(till: &'static Till) {
    if !till.is_of_process() {
        ledger::hold_nothing(till, false);
    }
}

fn refused_at(till: &'static Till, refused: RefusedAt) -> Refused {
    let mut scope = Scope(ledger::place(till));
    for _ in 0..refused.depth {
        scope = scope.parent().unwrap_or(scope);
    }
    Refused { scope, kind: till.kind, over: refused.over }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Holding({} {} of {})", self.amount, self.kind(), self.scope().name())
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
