//! What a scope held when it ended.

#![forbid(unsafe_code)]

use super::Scope;
use super::kind::{KINDS, Kind};
use core::fmt;

/// What a scope held when it ended.
#[derive(Clone, Debug)]
#[must_use = "it says what was not given back"]
pub struct Remaining {
    scope: Scope,
    held: [(Kind, u64); KINDS],
}

impl Remaining {
    pub(super) fn of_scope(scope: Scope) -> Remaining {
        Remaining { held: Kind::ALL.map(|kind| (kind, scope.used(kind))), scope }
    }

    /// Whether everything was given back.
    pub fn is_nothing(&self) -> bool {
        self.held.iter().all(|&(_, amount)| amount == 0)
    }

    /// How much was held of a kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.held[kind as usize].1
    }

    /// The scope, which goes on counting what is still held.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scope {:?} ", self.scope.name())?;
        if self.is_nothing() {
            return f.write_str("holds nothing");
        }
        f.write_str("still holds")?;
        let held = self.held.iter().filter(|(_, amount)| *amount > 0);
        for (i, (kind, amount)) in held.enumerate() {
            write!(f, "{} {amount} {kind}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}
