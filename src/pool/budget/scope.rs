//! Scopes: named budgets in a tree, one for every kind of resource in each.
//!
//! 1. The **process** is the outermost scope. Its limits are the machine's, unless somebody sets others.
//! 2. A **scope** stands in another: a pool of connections, a device, a request, a training step. What is charged to it is
//!    charged to all around it ([`path`]).
//! 3. A thread is in one scope at a time ([`Scope::enter`]), and everything that is made there is charged to it: tensors,
//!    mappings, temp files, connections. A [`Holding`] remembers where it was charged, so it may be dropped anywhere.
//! 4. A scope that ends says what it still holds ([`Scope::end`]). What is still held keeps its place in the ledger until it is
//!    given back; nothing is forgotten.

#![forbid(unsafe_code)]

use super::machine::MachineMemory;
use super::{Budget, OverBudget, path};
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::{Cell, HostLock, Lock, OnceLock};
use crate::timeline;
use core::fmt;
use core::marker::PhantomData;
use std::boxed::Box;
use std::string::String;
use std::sync::{Arc, Weak};
use std::vec::Vec;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Bytes of the machine's own memory: tensors.
    HostBytes,
    /// Bytes of a device's memory.
    DeviceBytes,
    /// Bytes of files that are mapped. They are the system's to keep in memory or not.
    MappedBytes,
    /// Open files that are counted: temp files and directories, checkpoints being written.
    Files,
    /// Connections, those in a pool's store too.
    Connections,
    /// Sockets that others connect to.
    Listeners,
}

impl Kind {
    /// All of them, in the order that reports have.
    pub const ALL: [Kind; 6] = [
        Kind::HostBytes,
        Kind::DeviceBytes,
        Kind::MappedBytes,
        Kind::Files,
        Kind::Connections,
        Kind::Listeners,
    ];

    /// In words: "host bytes".
    pub const fn name(self) -> &'static str {
        match self {
            Kind::HostBytes => "host bytes",
            Kind::DeviceBytes => "device bytes",
            Kind::MappedBytes => "mapped bytes",
            Kind::Files => "files",
            Kind::Connections => "connections",
            Kind::Listeners => "listeners",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const KINDS: usize = Kind::ALL.len();

/// A named part of what the process holds. A clone is the same scope.
///
/// ```
/// use democratising::pool::budget::scope::{Kind, Scope};
/// use democratising::Tensor;
///
/// let step = Scope::new("step 12");
/// step.set_limit(Kind::HostBytes, 1 << 20);
/// let kept = step.run(|| Tensor::zeros(&[1000]))?;
/// assert_eq!(step.used(Kind::HostBytes), 4000);
/// assert!(step.run(|| Tensor::zeros(&[1 << 20])).is_err(), "more than the step may have");
///
/// let left = step.end();
/// assert_eq!(left.to_string(), "scope \"step 12\" still holds 4000 host bytes");
/// # drop(kept);
/// # Ok::<(), democratising::DemoError>(())
/// ```
#[derive(Clone)]
pub struct Scope(Place);

/// `None` is the process: its budgets are a static, so that charging them counts no reference.
type Place = Option<Arc<Node>>;

struct Node {
    name: Box<str>,
    within: Place,
    budgets: [Budget; KINDS],
    ended: AtomicBool,
}

static PROCESS: [Budget; KINDS] = [const { Budget::new(Budget::UNLIMITED) }; KINDS];

/// Every scope that is alive or held by something. Dead ones are taken out when another is made.
static SCOPES: Lock<HostLock, Vec<Weak<Node>>> = Lock::new(Vec::new());

std::thread_local! {
    static CURRENT: Cell<Place> = const { Cell::new(None) };
}

/// The process's budgets, their limits read from the machine when they are first used.
#[inline]
fn process() -> &'static [Budget; KINDS] {
    static READ: OnceLock<()> = OnceLock::new();
    READ.get_or_init(|| {
        PROCESS[Kind::HostBytes as usize]
            .set_limit(MachineMemory::read().limit_bytes().unwrap_or(Budget::UNLIMITED));
        PROCESS[Kind::Files as usize].set_limit(descriptors());
    });
    &PROCESS
}

#[cfg(unix)]
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(Budget::UNLIMITED)
}

#[cfg(not(unix))]
fn descriptors() -> u64 {
    Budget::UNLIMITED
}

/// The process's own budget of a kind: all scopes together.
pub fn process_budget(kind: Kind) -> &'static Budget {
    &process()[kind as usize]
}

/// From a scope outwards, the process last.
#[derive(Clone)]
struct Path<'a> {
    at: Option<&'a Node>,
    process: Option<&'static Budget>,
    kind: Kind,
}

impl<'a> Path<'a> {
    #[inline]
    fn of(place: &'a Place, kind: Kind) -> Path<'a> {
        Path { at: place.as_deref(), process: Some(process_budget(kind)), kind }
    }
}

impl<'a> Iterator for Path<'a> {
    type Item = &'a Budget;

    #[inline]
    fn next(&mut self) -> Option<&'a Budget> {
        match self.at {
            Some(node) => {
                self.at = node.within.as_deref();
                Some(&node.budgets[self.kind as usize])
            }
            None => self.process.take(),
        }
    }
}

impl Scope {
    /// A scope in the one that this thread is in, without limits of its own.
    pub fn new(name: impl Into<String>) -> Scope {
        Scope::current().child(name)
    }

    /// The scope around all others.
    pub const fn process() -> Scope {
        Scope(None)
    }

    /// The scope that this thread is in.
    pub fn current() -> Scope {
        // Without the thread's variables, at its end, only the process is left.
        let place = CURRENT.try_with(|current| {
            let place = current.take();
            current.set(place.clone());
            place
        });
        Scope(place.unwrap_or_default())
    }

    /// A scope in this one, without limits of its own.
    pub fn child(&self, name: impl Into<String>) -> Scope {
        let node = Arc::new(Node {
            name: name.into().into(),
            within: self.0.clone(),
            budgets: [const { Budget::new(Budget::UNLIMITED) }; KINDS],
            ended: AtomicBool::new(false),
        });
        let mut scopes = SCOPES.lock();
        // A weak reference keeps the node's memory: the list is cleaned whenever it would have to grow.
        if scopes.len() == scopes.capacity() {
            scopes.retain(|scope| scope.strong_count() > 0);
        }
        scopes.push(Arc::downgrade(&node));
        Scope(Some(node))
    }

    /// Every scope but the process that is alive, or whose charges are; those around a scope before it.
    pub fn all() -> Vec<Scope> {
        // Dropping the last reference to one here would drop it under the lock: that frees memory, and nothing else.
        let nodes: Vec<Arc<Node>> = SCOPES.lock().iter().filter_map(Weak::upgrade).collect();
        nodes.into_iter().map(|node| Scope(Some(node))).collect()
    }

    /// Its name; the outermost is called "process".
    pub fn name(&self) -> &str {
        self.0.as_deref().map_or("process", |node| &node.name)
    }

    /// The scope around it; `None` of the process.
    pub fn parent(&self) -> Option<Scope> {
        self.0.as_deref().map(|node| Scope(node.within.clone()))
    }

    /// How many scopes are around it.
    pub fn depth(&self) -> usize {
        Path::of(&self.0, Kind::HostBytes).count() - 1
    }

    /// Whether [`end`](Self::end) was called.
    pub fn has_ended(&self) -> bool {
        // Relaxed: it says nothing about what is held.
        self.0.as_deref().is_some_and(|node| node.ended.load(Relaxed))
    }

    /// Its own budget of a kind. What is charged here is not charged to the scopes around: use [`charge`](Self::charge).
    pub fn budget(&self, kind: Kind) -> &Budget {
        match self.0.as_deref() {
            Some(node) => &node.budgets[kind as usize],
            None => process_budget(kind),
        }
    }

    /// What is held of a kind, scopes within it included.
    pub fn used(&self, kind: Kind) -> u64 {
        self.budget(kind).used()
    }

    /// The most that was held of a kind at once.
    pub fn peak(&self, kind: Kind) -> u64 {
        self.budget(kind).peak()
    }

    /// Its own limit of a kind, or `u64::MAX`. Those of the scopes around it hold as well.
    pub fn limit(&self, kind: Kind) -> u64 {
        self.budget(kind).limit()
    }

    /// Sets its own limit of a kind from now on, and returns how much more than that is held. Nothing is taken away.
    pub fn set_limit(&self, kind: Kind, limit: u64) -> u64 {
        self.budget(kind).set_limit(limit)
    }

    /// What can still be had of a kind: the least that is left here and around.
    pub fn left(&self, kind: Kind) -> u64 {
        Path::of(&self.0, kind).map(Budget::left).min().unwrap_or(0)
    }

    /// Takes `amount` here and in all scopes around, until the holding is dropped.
    ///
    /// # Errors
    /// [`Refused`] with the scope that has less left. Nothing is held more than before.
    #[inline]
    pub fn charge(&self, kind: Kind, amount: u64) -> Result<Holding, Refused> {
        take(&self.0, kind, amount)?;
        Ok(Holding { place: self.0.clone(), kind, amount })
    }

    /// This thread is in the scope until the guard is dropped; then it is where it was.
    pub fn enter(&self) -> Entered {
        let before = CURRENT.try_with(|current| current.replace(self.0.clone())).unwrap_or_default();
        Entered { before, _of_this_thread: PhantomData }
    }

    /// Runs `work` in the scope.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let _in = self.enter();
        work()
    }

    /// The same future, in the scope whenever it is polled, on whatever thread.
    pub fn wrap<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let (scope, mut future) = (self.clone(), Box::pin(future));
        core::future::poll_fn(move |context| scope.run(|| future.as_mut().poll(context)))
    }

    /// Ends it: what it still holds. That stays counted until it is given back.
    pub fn end(self) -> Remaining {
        if let Some(node) = &self.0 {
            node.ended.store(true, Relaxed);
        }
        Remaining { held: Kind::ALL.map(|kind| (kind, self.used(kind))), scope: self }
    }
}

/// The same scope, not one of the same name.
impl PartialEq for Scope {
    fn eq(&self, other: &Scope) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Scope {}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Scope");
        shown.field("name", &self.name());
        for kind in Kind::ALL {
            if self.used(kind) > 0 {
                shown.field(kind.name(), &self.used(kind));
            }
        }
        shown.finish_non_exhaustive()
    }
}

/// Walks upwards. The process alone, which is nearly always meant, is one budget and no reference.
#[inline]
fn take(place: &Place, kind: Kind, amount: u64) -> Result<(), Refused> {
    if place.is_none() {
        return process_budget(kind).try_take(amount).map_err(|over| Refused {
            scope: Scope(None),
            kind,
            over,
        });
    }
    path::try_take(Path::of(place, kind), amount).map_err(|refused| refused_at(place, kind, refused))
}

#[cold]
fn refused_at(place: &Place, kind: Kind, refused: path::RefusedAt) -> Refused {
    let mut scope = Scope(place.clone());
    for _ in 0..refused.depth {
        scope = scope.parent().unwrap_or(scope);
    }
    Refused { scope, kind, over: refused.over }
}

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
    Scope::current().into_charge(kind, amount)
}

impl Refused {
    /// Whoever listens hears of it.
    #[cold]
    #[inline(never)]
    fn told(self) -> Refused {
        timeline::refused(self.kind.name(), self.scope.name(), self.over.asked, self.over.left);
        self
    }
}

impl Scope {
    #[inline]
    fn into_charge(self, kind: Kind, amount: u64) -> Result<Holding, Refused> {
        if let Err(why) = take(&self.0, kind, amount) {
            return Err(why.told());
        }
        Ok(Holding { place: self.0, kind, amount })
    }
}

/// A share of a scope's budget and of those around it, held until this is dropped.
#[must_use = "the share is given back when this is dropped"]
pub struct Holding {
    place: Place,
    kind: Kind,
    amount: u64,
}

impl Holding {
    /// Nothing, of the process.
    pub const fn nothing(kind: Kind) -> Holding {
        Holding { place: None, kind, amount: 0 }
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
        Scope(self.place.clone())
    }

    /// Takes or gives back the difference.
    ///
    /// # Errors
    /// [`Refused`] where less is left than the difference. It holds then what it held.
    pub fn resize(&mut self, amount: u64) -> Result<(), Refused> {
        match amount.checked_sub(self.amount) {
            Some(more) => take(&self.place, self.kind, more)?,
            None => self.give_back(self.amount - amount),
        }
        self.amount = amount;
        Ok(())
    }

    #[inline]
    fn give_back(&self, amount: u64) {
        let given = match &self.place {
            None => PROCESS[self.kind as usize].release(amount),
            place => path::release(Path::of(place, self.kind), amount),
        };
        debug_assert!(given.is_ok(), "only a holding takes and gives back");
    }
}

impl Drop for Holding {
    #[inline]
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = self.place.as_deref().map_or("process", |node| &node.name);
        write!(f, "Holding({} {} of {scope})", self.amount, self.kind)
    }
}

/// This thread is in a scope, until this is dropped.
#[must_use = "the thread leaves the scope when this is dropped"]
pub struct Entered {
    before: Place,
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        // The scope that is left is dropped here, outside of the variable.
        let left = CURRENT.try_with(|current| current.replace(before));
        drop(left);
    }
}

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entered")
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

/// What a scope held when it ended.
#[derive(Clone, Debug)]
#[must_use = "it says what was not given back"]
pub struct Remaining {
    scope: Scope,
    held: [(Kind, u64); KINDS],
}

impl Remaining {
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
