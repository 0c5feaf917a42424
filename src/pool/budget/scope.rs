//! Scopes: named budgets in a tree, one for every kind of resource in each.
//!
//! 1. The **process** is the outermost scope. Its limits are the machine's, unless somebody sets others.
//! 2. A **scope** stands in another: a pool of connections, a device, a request, a training step. What is charged to it is
//!    charged to all around it, at once and exactly, by one change of one word as a rule ([`tree`](super::tree)).
//! 3. A thread is in one scope at a time ([`Scope::enter`]), and everything that is made there is charged to it: tensors,
//!    mappings, temp files, connections. A [`Holding`] remembers where it was charged, so it may be dropped anywhere.
//! 4. A scope that ends says what it still holds ([`Scope::end`]). What is still held keeps its place in the ledger until it is
//!    given back; nothing is forgotten.

#![forbid(unsafe_code)]

mod holding;
mod kind;
mod ledger;
mod remaining;

pub use holding::{Holding, Refused, charge};
pub use kind::Kind;
pub use remaining::Remaining;

use crate::sync::Cell;
use crate::sync::atomic::Ordering::Relaxed;
use core::fmt;
use core::marker::PhantomData;
use ledger::{Node, PROCESS, Purse, Till};
use std::boxed::Box;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

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

/// `None` is the process, which is always there.
type Place = Option<Arc<Handle>>;

/// Keeps a scope in the ledger.
struct Handle {
    node: Arc<Node>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        ledger::leave(&self.node);
    }
}

std::thread_local! {
    /// The scope that this thread is in.
    static CURRENT: Current =
        const { Current { place: Cell::new(None), depth: Cell::new(0), early: Cell::new(Vec::new()) } };
    /// Its purse, apart from it: what needs no destructor is reached in one step. `None` is the process.
    static PURSE: Cell<Option<&'static Purse>> = const { Cell::new(None) };
}

struct Current {
    place: Cell<Place>,
    /// How many guards there are.
    depth: Cell<usize>,
    /// Of guards that were dropped before those that came later: their depths, and where the thread was before them.
    early: Cell<Vec<(usize, Place)>>,
}

impl Drop for Current {
    fn drop(&mut self) {
        // Who charges after this, as the thread ends, charges the process: the scope may be gone.
        PURSE.set(None);
    }
}

impl Current {
    fn replace(&self, place: Place) -> Place {
        PURSE.set(place.as_ref().map(|handle| handle.node.purse));
        self.place.replace(place)
    }

    fn enter(&self, place: Place) -> (Place, usize) {
        self.depth.set(self.depth.get() + 1);
        (self.replace(place), self.depth.get())
    }

    /// The guard of that depth goes; returns the scope that is left with it.
    fn leave(&self, mut before: Place, depth: usize) -> Place {
        if depth != self.depth.get() {
            self.leave_early(before, depth);
            return None;
        }
        self.depth.set(depth - 1);
        let mut early = self.early.take();
        while let Some(at) = early.iter().position(|(early, _)| *early == self.depth.get()) {
            self.depth.set(self.depth.get() - 1);
            before = early.swap_remove(at).1;
        }
        self.early.set(early);
        self.replace(before)
    }

    /// Those that came later are still there, and the thread is in the scope of the last of them.
    #[cold]
    fn leave_early(&self, before: Place, depth: usize) {
        let mut early = self.early.take();
        early.push((depth, before));
        self.early.set(early);
    }
}

/// The purse of a scope that the caller keeps.
fn purse(place: &Place) -> &'static Purse {
    place.as_ref().map_or(&PROCESS, |handle| handle.node.purse)
}

fn till(place: &Place, kind: Kind) -> &'static Till {
    &purse(place).tills[kind as usize]
}

/// The process's own budget of a kind: all scopes together.
pub fn process_budget(kind: Kind) -> ProcessBudget {
    ProcessBudget(kind)
}

/// The process's own budget of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessBudget(Kind);

impl ProcessBudget {
    /// What is held, in all scopes together.
    pub fn used(self) -> u64 {
        Scope::process().used(self.0)
    }

    /// The most that was held at once.
    pub fn peak(self) -> u64 {
        Scope::process().peak(self.0)
    }

    /// The limit in force, or `u64::MAX`.
    pub fn limit(self) -> u64 {
        Scope::process().limit(self.0)
    }

    /// What can still be had.
    pub fn left(self) -> u64 {
        Scope::process().left(self.0)
    }

    /// Sets the limit from now on, and returns how much more than that is held. Nothing is taken away.
    pub fn set_limit(self, limit: u64) -> u64 {
        Scope::process().set_limit(self.0, limit)
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
            let place = current.place.take();
            current.place.set(place.clone());
            place
        });
        Scope(place.unwrap_or_default())
    }

    /// A scope in this one, without limits of its own.
    pub fn child(&self, name: impl Into<String>) -> Scope {
        Scope(Some(ledger::add(name.into().into(), self.0.clone())))
    }

    /// Every scope but the process that is alive, or whose charges are; those around a scope before it.
    pub fn all() -> Vec<Scope> {
        ledger::all()
    }

    fn node(&self) -> Option<&Node> {
        self.0.as_deref().map(|handle| &*handle.node)
    }

    /// Its name; the outermost is called "process".
    pub fn name(&self) -> &str {
        self.node().map_or("process", |node| &node.name)
    }

    /// The scope around it; `None` of the process.
    pub fn parent(&self) -> Option<Scope> {
        self.node().map(|node| Scope(node.within.clone()))
    }

    /// A number that no other scope has while this one is there.
    pub(crate) fn key(&self) -> usize {
        self.node().map_or(0, |node| core::ptr::from_ref(node).addr())
    }

    /// Whether it is `other`, or within that.
    pub fn is_within(&self, other: &Scope) -> bool {
        self == other || core::iter::successors(self.parent(), Scope::parent).any(|scope| scope == *other)
    }

    /// How many scopes are around it.
    pub fn depth(&self) -> usize {
        core::iter::successors(self.node(), |node| node.within.as_deref().map(|handle| &*handle.node)).count()
    }

    /// Whether [`end`](Self::end) was called.
    pub fn has_ended(&self) -> bool {
        // Relaxed: it says nothing about what is held.
        self.node().is_some_and(|node| node.ended.load(Relaxed))
    }

    /// What is held of a kind, scopes within it included.
    pub fn used(&self, kind: Kind) -> u64 {
        ledger::look(till(&self.0, kind), |tree, id| tree.used(id))
    }

    /// The most that was held of a kind at once.
    pub fn peak(&self, kind: Kind) -> u64 {
        ledger::look(till(&self.0, kind), |tree, id| tree.peak(id))
    }

    /// Its own limit of a kind, or `u64::MAX`. Those of the scopes around it hold as well.
    pub fn limit(&self, kind: Kind) -> u64 {
        ledger::look(till(&self.0, kind), |tree, id| tree.limit(id))
    }

    /// Sets its own limit of a kind from now on, and returns how much more than that is held. Nothing is taken away.
    pub fn set_limit(&self, kind: Kind, limit: u64) -> u64 {
        ledger::set_limit(till(&self.0, kind), limit)
    }

    /// What can still be had of a kind: the least that is left here and around.
    pub fn left(&self, kind: Kind) -> u64 {
        ledger::look(till(&self.0, kind), |tree, id| tree.left_around(id))
    }

    /// Takes `amount` here and in all scopes around, until the holding is dropped.
    ///
    /// # Errors
    /// [`Refused`] with the scope that has less left. Nothing is held more than before.
    #[inline]
    pub fn charge(&self, kind: Kind, amount: u64) -> Result<Holding, Refused> {
        Holding::of(till(&self.0, kind), amount)
    }

    /// This thread is in the scope until the guard is dropped; then it is where it was. Of several guards the last one that is there counts,
    /// in whatever order they go.
    pub fn enter(&self) -> Entered {
        let (before, depth) = CURRENT.try_with(|current| current.enter(self.0.clone())).unwrap_or_default();
        Entered { before, depth, _of_this_thread: PhantomData }
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
        if let Some(node) = self.node() {
            node.ended.store(true, Relaxed);
        }
        Remaining::of_scope(self)
    }
}

/// The same scope, not one of the same name.
impl PartialEq for Scope {
    fn eq(&self, other: &Scope) -> bool {
        match (self.node(), other.node()) {
            (None, None) => true,
            (Some(one), Some(other)) => core::ptr::eq(one, other),
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

/// This thread is in a scope, until this is dropped.
#[must_use = "the thread leaves the scope when this is dropped"]
pub struct Entered {
    before: Place,
    depth: usize,
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        // The scope that is left is dropped here, outside of the variable.
        let left = CURRENT.try_with(|current| current.leave(before, self.depth));
        drop(left);
    }
}

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entered")
    }
}
