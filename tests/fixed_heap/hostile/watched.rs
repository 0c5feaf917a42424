//! A lock that tells who waits for himself, and what the program is called for.

use democratising::error::OutOfMemory;
use democratising::heap::Misuse;
use democratising::lock_api::{GuardSend, RawMutex};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// Locks taken less locks let go.
    pub(super) static HELD: Cell<isize> = const { Cell::new(0) };
    pub(super) static TOLD: RefCell<Vec<Misuse>> = const { RefCell::new(Vec::new()) };
    pub(super) static HELP: RefCell<Help> = const { RefCell::new(Help { with: With::Nothing, asked: Vec::new() }) };
}

/// A lock that nobody waits for: who would is the one that holds it.
pub(super) struct Watched(AtomicBool);

// SAFETY: 1. `lock` returns only when nobody held it.
unsafe impl RawMutex for Watched {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Watched = Watched(AtomicBool::new(false));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        assert!(self.try_lock(), "the heap waits for itself");
    }

    fn try_lock(&self) -> bool {
        let got = !self.0.swap(true, Ordering::Acquire);
        HELD.set(HELD.get() + got as isize);
        got
    }

    unsafe fn unlock(&self) {
        assert!(self.0.swap(false, Ordering::Release), "nobody held it");
        HELD.set(HELD.get() - 1);
    }
}

/// What the program does when it is told of low memory.
pub(super) enum With {
    Nothing,
    /// Says that there is more, which is not so.
    Lies,
    /// Gives a block back, and says that there is nothing.
    Hides(Box<dyn Fn()>),
    /// Gives a block back.
    Free(Box<dyn Fn()>),
    /// Claims memory.
    Claim(Box<dyn Fn()>),
    /// Asks for memory itself.
    Ask(Box<dyn Fn()>),
}

pub(super) struct Help {
    pub(super) with: With,
    pub(super) asked: Vec<OutOfMemory>,
}

pub(super) fn help(report: &OutOfMemory) -> bool {
    assert_eq!(HELD.get(), 0, "called under the lock");
    let with = HELP.with_borrow_mut(|help| {
        help.asked.push(report.clone());
        std::mem::replace(&mut help.with, With::Nothing)
    });
    match with {
        With::Nothing => false,
        With::Lies => true,
        With::Hides(call) => {
            call();
            false
        }
        With::Free(call) | With::Claim(call) | With::Ask(call) => {
            call();
            true
        }
    }
}

pub(super) fn told(misuse: Misuse) {
    assert_eq!(HELD.get(), 0, "told under the lock");
    TOLD.with_borrow_mut(|told| told.push(misuse));
}
