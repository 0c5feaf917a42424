//! What the process holds, in one look.

#![forbid(unsafe_code)]

mod prometheus;

use crate::gc;
use crate::heap::Global;
use crate::pool::budget::scope::{Kind, Scope};
use crate::pool::{MemoryPool, Stats};
use core::fmt;
use std::collections::HashMap;
use std::string::{String, ToString};
use std::vec::Vec;

/// A snapshot of everything that is held: memory, mappings, files, connections; by scope, and with what could be given back.
///
/// ```
/// use democratising::{Tensor, pool::budget::scope::Scope, resources};
///
/// let step = Scope::new("step 1");
/// let tensor = step.run(|| Tensor::zeros(&[1 << 20]))?;
/// let now = resources();
/// let row = now.scopes.iter().find(|scope| scope.name == "step 1").unwrap();
/// assert_eq!(row.held[0].used, 4 << 20);
/// println!("{now}");
/// # drop(tensor);
/// # Ok::<(), democratising::DemoError>(())
/// ```
///
/// The parts are read one after the other: what other threads do meanwhile may be in one and not in another. Reclaimers are asked
/// what they could give back, so this is not to be called under a lock that one of them takes.
pub fn resources() -> Resources {
    let (pool, heap) = (MemoryPool::stats(), Global::stats());
    Resources {
        scopes: rows(),
        memory: std::vec![MemoryUse::of("pool", &pool), MemoryUse::of("heap", &heap)],
        reclaimable: gc::reclaimable()
            .into_iter()
            .map(|(name, resource, amount)| Reclaimable { name, resource: resource.to_string(), amount })
            .collect(),
    }
}

/// Every scope, each before those within it, and these as they were made.
fn rows() -> Vec<ScopeUse> {
    let (process, all) = (Scope::process(), Scope::all());
    let mut inner: HashMap<usize, Vec<Scope>> = HashMap::with_capacity(all.len());
    for scope in all {
        let parent = scope.parent().unwrap_or(Scope::process());
        inner.entry(parent.key()).or_default().push(scope);
    }
    let (mut rows, mut next) = (Vec::new(), std::vec![(process, 0)]);
    while let Some((scope, depth)) = next.pop() {
        rows.push(scope_row(&scope, depth));
        let within = inner.remove(&scope.key()).unwrap_or_default();
        next.extend(within.into_iter().rev().map(|scope| (scope, depth + 1)));
    }
    rows
}

fn scope_row(scope: &Scope, depth: usize) -> ScopeUse {
    let held = Kind::ALL.map(|kind| {
        let limit = scope.limit(kind);
        KindUse {
            kind: kind.name(),
            used: scope.used(kind),
            peak: scope.peak(kind),
            limit: (limit != u64::MAX).then_some(limit),
        }
    });
    ScopeUse { name: scope.name().to_string(), depth, ended: scope.has_ended(), held: held.into() }
}

/// What a process holds. Made by [`resources`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Resources {
    /// The process first, then every scope, those within a scope behind it.
    pub scopes: Vec<ScopeUse>,
    /// The pools of memory.
    pub memory: Vec<MemoryUse>,
    /// What reclaimers could give back, most first.
    pub reclaimable: Vec<Reclaimable>,
}

/// What a scope holds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ScopeUse {
    /// The scope's name.
    pub name: String,
    /// How many scopes are around it.
    pub depth: usize,
    /// Whether it ended, and still holds something.
    pub ended: bool,
    /// One for every kind, in the order of [`Kind::ALL`].
    pub held: Vec<KindUse>,
}

/// How much of one kind a scope holds, the scopes within it included.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KindUse {
    /// The kind, as [`Kind::name`] says it.
    pub kind: &'static str,
    /// What is held.
    pub used: u64,
    /// The most that was held at once.
    pub peak: u64,
    /// The scope's own limit, where it has one.
    pub limit: Option<u64>,
}

/// A pool of memory in numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryUse {
    /// Which one: "pool" of tensors, "heap" of [`Global`].
    pub name: &'static str,
    /// What live blocks hold.
    pub in_use_bytes: u64,
    /// What is backed by memory.
    pub reserved_bytes: u64,
    /// What is backed and holds nothing.
    pub idle_bytes: u64,
    /// The most that was backed at once.
    pub peak_reserved_bytes: u64,
    /// The pool's own limit, where it has one.
    pub limit_bytes: Option<u64>,
}

impl MemoryUse {
    fn of(name: &'static str, stats: &Stats) -> MemoryUse {
        MemoryUse {
            name,
            in_use_bytes: stats.in_use_bytes,
            reserved_bytes: stats.reserved_bytes,
            idle_bytes: stats.idle_bytes,
            peak_reserved_bytes: stats.peak_reserved_bytes,
            limit_bytes: (stats.limit_bytes != u64::MAX).then_some(stats.limit_bytes),
        }
    }
}

/// What a reclaimer could give back.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Reclaimable {
    /// The name that it was registered under.
    pub name: String,
    /// What is counted: "host bytes", "connections".
    pub resource: String,
    /// How much.
    pub amount: u64,
}

/// How far names of scopes that lie deep within others are indented at most.
const MOST_INDENT: usize = 64;

/// A table: what is held by each scope, then memory, then what could be given back. Kinds that nobody ever held are left out.
impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:<14} {:>14} {:>14} {:>14}", "scope", "kind", "held", "peak", "limit")?;
        for scope in &self.scopes {
            let ended = if scope.ended { " (ended)" } else { "" };
            let indent = scope.depth.saturating_mul(2).min(MOST_INDENT);
            let mut name = std::format!("{:indent$}{}{ended}", "", scope.name);
            let known = |held: &&KindUse| held.peak > 0 || (scope.depth > 0 && held.limit.is_some());
            if !scope.held.iter().any(|held| known(&held)) {
                writeln!(f, "{name:<32} nothing")?;
            }
            for KindUse { kind, used, peak, limit } in scope.held.iter().filter(known) {
                let limit = limit.map_or("-".into(), |limit| limit.to_string());
                writeln!(f, "{name:<32} {kind:<14} {used:>14} {peak:>14} {limit:>14}")?;
                name.clear();
            }
        }
        writeln!(f, "\n{:<32} {:>14} {:>14} {:>14} {:>14}", "memory", "in use", "reserved", "idle", "limit")?;
        for memory in &self.memory {
            let limit = memory.limit_bytes.map_or("-".into(), |limit| limit.to_string());
            let MemoryUse { name, in_use_bytes, reserved_bytes, idle_bytes, .. } = memory;
            writeln!(f, "{name:<32} {in_use_bytes:>14} {reserved_bytes:>14} {idle_bytes:>14} {limit:>14}")?;
        }
        if !self.reclaimable.is_empty() {
            writeln!(f, "\n{:<32} {:<14} {:>14}", "could be given back", "kind", "amount")?;
        }
        for Reclaimable { name, resource, amount } in &self.reclaimable {
            writeln!(f, "{name:<32} {resource:<14} {amount:>14}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_at_any_depth_is_printed() {
        let at = |depth| ScopeUse { name: "step".into(), depth, ended: false, held: Vec::new() };
        let scopes = std::vec![at(1), at(40_000), at(usize::MAX)];
        let text = Resources { scopes, memory: Vec::new(), reclaimable: Vec::new() }.to_string();
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("  step ")), "{text}");
        assert_eq!(text.matches(&std::format!("\n{:64}step nothing", "")).count(), 2, "{text}");
    }
}
