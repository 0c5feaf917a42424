//! How many threads are at it: those that collect, and those that ran out and try again. The child of a fork counts its own thread only.

#![forbid(unsafe_code)]

use crate::sync::Cell;
use crate::sync::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::sync::forks::InChild;

/// How many collections are under way.
static COLLECTING: AtomicUsize = AtomicUsize::new(0);

/// How many threads ran out of memory and try again.
static SHORT: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
    static COLLECTING_HERE: Cell<usize> = const { Cell::new(0) };
    static SHORT_HERE: Cell<usize> = const { Cell::new(0) };
}

/// Both counts, in the child of a fork.
static COUNTS: InChild = InChild::new(|| {
    // Relaxed, both: the child has one thread.
    COLLECTING.store(COLLECTING_HERE.get(), Relaxed);
    SHORT.store(SHORT_HERE.get(), Relaxed);
});

fn count(of: &AtomicUsize) {
    COUNTS.watch();
    // Relaxed: a count that is seen late costs one attempt.
    of.fetch_add(1, Relaxed);
}

/// This thread asks reclaimers, until this is dropped. What they ask for in turn is not asked of them again.
pub(super) struct Asking;

impl Asking {
    /// `None` when this thread asks already.
    pub(super) fn begin() -> Option<Asking> {
        if ASKING.replace(true) { None } else { Some(Asking) }
    }

    pub(super) fn is_under_way() -> bool {
        ASKING.get()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        ASKING.set(false);
    }
}

/// Whether this thread asks reclaimers, so that what runs now is perhaps one of them.
pub(crate) fn is_asking() -> bool {
    Asking::is_under_way()
}

/// A collection of this thread, until this is dropped.
pub(super) struct Turn {
    _asking: Asking,
}

impl Turn {
    /// `None` from inside a reclaimer.
    pub(super) fn begin() -> Option<Turn> {
        let turn = Turn { _asking: Asking::begin()? };
        count(&COLLECTING);
        COLLECTING_HERE.set(1);
        Some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        COLLECTING_HERE.set(0);
        // Release: pairs with the Acquire in `is_collecting`: who finds none under way finds everything that this one gave counted.
        COLLECTING.fetch_sub(1, Release);
    }
}

/// Whether a collection is under way, on whatever thread.
pub(super) fn is_collecting() -> bool {
    COLLECTING.load(Acquire) > 0
}

/// This thread ran out of memory and tries again, until this is dropped.
pub(super) struct Short;

impl Short {
    pub(super) fn begin() -> Short {
        count(&SHORT);
        SHORT_HERE.set(SHORT_HERE.get() + 1);
        Short
    }

    pub(super) fn is_among_several(&self) -> bool {
        SHORT.load(Relaxed) > 1
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        SHORT_HERE.set(SHORT_HERE.get() - 1);
        SHORT.fetch_sub(1, Relaxed);
    }
}
