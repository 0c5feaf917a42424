//! The ledger: which scopes there are, and what is charged to each.
//!
//! 1. A scope has a **purse**: a word of credit for every kind, which is all that most charges and releases touch. Purses are static,
//!    and used again for other scopes. So who holds something points to one without counting a reference.
//! 2. A purse is one scope's as long as a [`Handle`] to that lives or something is charged to it, by credit or not. Whoever charges
//!    has a handle, whoever releases still holds something: neither can meet another scope's purse.
//! 3. When the last handle goes, the scope's credit is closed for good. Where nothing is held then, the scope is taken out at once; else
//!    the ledger sees every release from then on, and the last one takes it out.
//! 4. Nothing is dropped under the lock: the last reference to a scope drops its handle to the one around it.

#![forbid(unsafe_code)]

use super::super::credit::Credit;
use super::super::machine::MachineMemory;
use super::super::path::RefusedAt;
use super::super::tree::{AccountId, Tree};
use super::super::{Budget, OverRelease};
use super::kind::{KINDS, Kind};
use super::{Handle, Place, Scope};
use crate::sync::atomic::AtomicBool;
use crate::sync::forks::ForkLock;
use crate::sync::{Held, HostLock};
use std::boxed::Box;
use std::sync::{Arc, Weak};
use std::vec::Vec;

/// A scope's purse. Cache lines of its own: threads in several scopes do not meet in them.
#[repr(align(64))]
pub(super) struct Purse {
    pub(super) tills: [Till; KINDS],
}

/// What a scope may spend of one kind without asking, and whose that is: all that a holding has to know.
pub(super) struct Till {
    pub(super) credit: Credit,
    id: AccountId,
    pub(super) kind: Kind,
}

const _: () = assert!(size_of::<Till>() <= 16, "two lines for a purse");

impl Purse {
    const fn new(id: AccountId) -> Purse {
        let mut tills =
            [const { Till { credit: Credit::new(), id: OUTERMOST, kind: Kind::HostBytes } }; KINDS];
        let mut at = 0;
        while at < KINDS {
            tills[at].id = id;
            tills[at].kind = Kind::ALL[at];
            at += 1;
        }
        Purse { tills }
    }

    fn id(&self) -> AccountId {
        self.tills[0].id
    }
}

impl Till {
    pub(super) fn is_of_process(&self) -> bool {
        self.id == OUTERMOST
    }
}

const OUTERMOST: AccountId = AccountId::new(0).unwrap();

/// The process's own.
pub(super) static PROCESS: Purse = Purse::new(OUTERMOST);

static LEDGER: ForkLock<Ledger> = ForkLock::new(Ledger {
    trees: [const { Tree::new() }; KINDS],
    entries: Vec::new(),
    purses: Vec::new(),
    free: Vec::new(),
    born: 0,
});

/// What one scope is, as long as the ledger has it.
pub(super) struct Node {
    pub(super) name: Box<str>,
    pub(super) within: Place,
    pub(super) purse: &'static Purse,
    pub(super) ended: AtomicBool,
    /// How many scopes were made before.
    born: u64,
}

impl Drop for Node {
    /// The scopes around go one after the other, not one within the other: they may be nested deeper than a stack.
    fn drop(&mut self) {
        let mut within = self.within.take();
        while let Some(handle) = within {
            let node = Arc::clone(&handle.node);
            drop(handle);
            within = Arc::into_inner(node).and_then(|mut node| node.within.take());
        }
    }
}

pub(super) struct Ledger {
    trees: [Tree<'static>; KINDS],
    /// By the index of the account. The process has none.
    entries: Vec<Option<Entry>>,
    purses: Vec<&'static Purse>,
    free: Vec<AccountId>,
    born: u64,
}

struct Entry {
    node: Arc<Node>,
    handle: Weak<Handle>,
    /// Whether the last handle is gone.
    is_left: bool,
    /// Holdings of nothing, which no account shows.
    nothings: usize,
}

/// The ledger, with the process in it. Its limits are read from the machine when it is first asked for.
fn ledger() -> Held<'static, HostLock, Ledger> {
    let ledger = LEDGER.lock();
    if !ledger.entries.is_empty() {
        return ledger;
    }
    drop(ledger);
    begin()
}

#[cold]
fn begin() -> Held<'static, HostLock, Ledger> {
    let limits = [
        (Kind::HostBytes, MachineMemory::read().limit_bytes().unwrap_or(Budget::UNLIMITED)),
        (Kind::Files, descriptors()),
    ];
    let mut ledger = LEDGER.lock();
    // Another thread may have been faster.
    if ledger.entries.is_empty() {
        ledger.put(OUTERMOST, None, &PROCESS);
        ledger.entries.push(None);
        ledger.purses.push(&PROCESS);
        for (kind, limit) in limits {
            ledger.trees[kind as usize].set_limit(OUTERMOST, limit);
        }
    }
    ledger
}

// Miri knows no limits.
#[cfg(all(unix, not(miri)))]
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(Budget::UNLIMITED)
}

#[cfg(any(not(unix), miri))]
fn descriptors() -> u64 {
    Budget::UNLIMITED
}

impl Ledger {
    fn put(&mut self, id: AccountId, within: Option<AccountId>, purse: &'static Purse) {
        for (tree, till) in self.trees.iter_mut().zip(&purse.tills) {
            tree.put(id, within, &till.credit, till.kind.has_credit());
        }
    }

    fn tree(&mut self, till: &Till) -> &mut Tree<'static> {
        &mut self.trees[till.kind as usize]
    }

    fn entry(&mut self, id: AccountId) -> Option<&mut Entry> {
        self.entries.get_mut(id.index())?.as_mut()
    }

    /// A handle to the entry's scope: the one there is, or another.
    fn handle(entry: &mut Entry) -> Arc<Handle> {
        entry.handle.upgrade().unwrap_or_else(|| {
            let handle = Arc::new(Handle { node: Arc::clone(&entry.node) });
            (entry.handle, entry.is_left) = (Arc::downgrade(&handle), false);
            handle
        })
    }

    /// Takes a scope out that has no handle and holds nothing. What it was is to be dropped outside of the lock.
    fn take_out_if_over(&mut self, id: AccountId) -> Option<Entry> {
        let is_over = self.entries[id.index()].as_ref().is_some_and(|it| it.is_left && it.nothings == 0)
            && self.trees.iter().all(|tree| tree.is_empty(id));
        if !is_over {
            return None;
        }
        self.trees.iter_mut().for_each(|tree| tree.take_out(id));
        self.free.push(id);
        self.entries[id.index()].take()
    }
}

/// A new scope within `within`.
pub(super) fn add(name: Box<str>, within: Place) -> Arc<Handle> {
    let mut ledger = ledger();
    let id = ledger.free.pop().unwrap_or_else(|| {
        let id = AccountId::new(ledger.purses.len()).expect("fewer scopes than 2^32");
        ledger.purses.push(Box::leak(Box::new(Purse::new(id))));
        ledger.entries.push(None);
        id
    });
    let purse = ledger.purses[id.index()];
    ledger.put(id, Some(super::purse(&within).id()), purse);
    ledger.born += 1;
    let node = Arc::new(Node { name, within, purse, ended: AtomicBool::new(false), born: ledger.born });
    let handle = Arc::new(Handle { node: Arc::clone(&node) });
    ledger.entries[id.index()] =
        Some(Entry { node, handle: Arc::downgrade(&handle), is_left: false, nothings: 0 });
    handle
}

/// The last handle to the scope is being dropped. Somebody may have got another meanwhile.
pub(super) fn leave(node: &Arc<Node>) {
    let id = node.purse.id();
    let mut ledger = ledger();
    let Some(entry) = ledger.entry(id) else { return };
    if !Arc::ptr_eq(&entry.node, node) || entry.handle.strong_count() > 0 {
        return;
    }
    entry.is_left = true;
    ledger.trees.iter_mut().for_each(|tree| tree.close_for_good(id));
    let gone = ledger.take_out_if_over(id);
    drop(ledger);
    drop(gone);
}

/// The scope whose till it is. The caller has a handle to it, or holds something of it.
#[cold]
pub(super) fn place(till: &Till) -> Place {
    ledger().entry(till.id).map(Ledger::handle)
}

/// Every scope but the process, the eldest first.
pub(super) fn all() -> Vec<Scope> {
    let mut all: Vec<Arc<Handle>> = ledger().entries.iter_mut().flatten().map(Ledger::handle).collect();
    all.sort_unstable_by_key(|handle| handle.node.born);
    all.into_iter().map(|handle| Scope(Some(handle))).collect()
}

/// A charge that the credit could not pay.
#[cold]
#[inline(never)]
pub(super) fn charge(till: &Till, amount: u64) -> Result<(), RefusedAt> {
    ledger().tree(till).charge(till.id, amount)
}

/// A release that the credit did not take.
#[cold]
#[inline(never)]
pub(super) fn release(till: &Till, amount: u64) -> Result<(), OverRelease> {
    let mut ledger = ledger();
    let tree = ledger.tree(till);
    let released = tree.release(till.id, amount);
    let gone = if tree.is_empty(till.id) { ledger.take_out_if_over(till.id) } else { None };
    drop(ledger);
    drop(gone);
    released
}

/// A holding of nothing keeps the scope, or keeps it no more.
#[cold]
#[inline(never)]
pub(super) fn hold_nothing(till: &Till, holds: bool) {
    let mut ledger = ledger();
    if let Some(entry) = ledger.entry(till.id) {
        entry.nothings = if holds { entry.nothings + 1 } else { entry.nothings.saturating_sub(1) };
    }
    let gone = ledger.take_out_if_over(till.id);
    drop(ledger);
    drop(gone);
}

/// Looks at the accounts of a kind.
pub(super) fn look<T>(till: &Till, look: impl FnOnce(&Tree<'static>, AccountId) -> T) -> T {
    look(ledger().tree(till), till.id)
}

pub(super) fn set_limit(till: &Till, limit: u64) -> u64 {
    ledger().tree(till).set_limit(till.id, limit)
}
