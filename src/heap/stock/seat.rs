//! Who may touch a cache off the paths that hit, and how a thread is parted from its cache for a while.
//!
//! 1. A thread that **sits** in a cache hits without asking. For all else it **goes in**: the seat's lock is held, and nobody
//!    else touches what the hits do not.
//! 2. A visitor first **parts** the thread from its cache: it puts the empty cache into the thread's word, with the lock held.
//!    Then it makes every thread pass a barrier, without the lock. From there on the thread begins no hit on its cache; one
//!    may still be under way (`hit.rs`).
//! 3. Whether that is still so is what the number of the pass says, under the lock: a thread that went in since has its word back,
//!    and cleared the number; another visitor put its own there. Else the visitor may take what a hit under way cannot reach.
//! 4. No lock is held for longer than it takes to copy what a cache holds. A thread that is inside does not go in again: a hook
//!    that allocates there goes past the caches.
//! 5. Of a thread that ended without rising, the visitor has the cache.
//! 6. Whom a visitor cannot part it asks: the thread empties its cache itself when it next goes in.

#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use crate::sync::{Held, Lock, const_unless_loom};
use lock_api::RawMutex;

/// Where a thread keeps which cache it hits.
pub trait Word {
    /// Puts the empty cache there. `false`, and nothing is done: a barrier does not reach the thread.
    fn part(&self) -> bool;
    /// Puts the thread's own cache there.
    fn join(&self);
    /// Whether the thread has ended, and the word with it.
    fn is_gone(&self) -> bool {
        false
    }
}

/// The seat of a cache.
pub struct Seat<L: RawMutex, W> {
    held: Lock<L, Sitting<W>>,
    /// Whether the thread that sits here is inside. Only it reads and writes that.
    inside: AtomicBool,
    /// Whether the thread is to empty the cache.
    asked: AtomicBool,
    /// Which process the thread is of: a fork leaves caches of threads that are not there.
    age: AtomicUsize,
}

struct Sitting<W> {
    /// The word of the thread that sits here.
    word: Option<W>,
    /// The pass that parted it from its cache; 0 where it is not.
    parted: usize,
}

/// The lock of a seat.
#[must_use = "the cache is left when this is dropped"]
pub struct Inside<'a, L: RawMutex, W> {
    sitting: Held<'a, L, Sitting<W>>,
    /// Behind the lock, so that it is dropped last: whoever interrupts this thread finds it inside as long as the lock is held.
    _flag: Flag<'a>,
}

struct Flag<'a>(&'a AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// What a visitor found when it wanted to part a thread from its cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// No thread has the cache, or none of this process.
    Nobody,
    /// The thread was asked to empty it.
    Asked,
    /// Nothing can be taken from the loaded magazines, but the rest can. The thread was asked as well.
    Rest,
    /// Parted; to be visited behind a barrier.
    Parted,
    /// The thread has ended and left the cache, which is the visitor's now.
    Left,
}

impl<L: RawMutex, W: Word> Seat<L, W> {
    const_unless_loom! {
        /// Nobody's.
        pub const fn new() -> Self {
            Seat {
                held: Lock::new(Sitting { word: None, parted: 0 }),
                inside: AtomicBool::new(false),
                asked: AtomicBool::new(false),
                age: AtomicUsize::new(0),
            }
        }
    }

    /// The thread whose word it is takes the seat, in a process of this age. It has put the cache into its word, or does so now.
    pub fn sit(&self, word: W, age: usize) {
        let mut sitting = self.held.lock();
        self.asked.store(false, Relaxed);
        self.age.store(age, Relaxed);
        *sitting = Sitting { word: Some(word), parted: 0 };
    }

    /// The thread that sits here goes in, and has its cache again. `None`: it is inside.
    pub fn enter(&self) -> Option<Inside<'_, L, W>> {
        // Before the lock: a signal's handler that allocates finds it set.
        if self.inside.load(Relaxed) {
            return None;
        }
        self.inside.store(true, Relaxed);
        let flag = Flag(&self.inside);
        let mut sitting = self.held.lock();
        if sitting.parted != 0 {
            sitting.parted = 0;
            if let Some(word) = &sitting.word {
                word.join();
            }
        }
        Some(Inside { sitting, _flag: flag })
    }

    /// Whether the thread that sits here is inside. Only that thread may ask.
    #[cfg(not(democratising_loom))]
    pub fn is_inside(&self) -> bool {
        self.inside.load(Relaxed)
    }

    /// Whether the thread that is inside is to empty the cache: told once.
    pub fn take_asked(&self) -> bool {
        // Relaxed: what is to be emptied is what the thread itself put there.
        self.asked.load(Relaxed) && self.asked.swap(false, Relaxed)
    }

    /// A visitor parts the thread that sits here from its cache.
    pub fn part(&self, pass: usize, age: usize) -> Parting {
        if self.age.load(Relaxed) != age {
            return Parting::Nobody;
        }
        let Some(mut sitting) = self.held.try_lock() else {
            self.asked.store(true, Relaxed);
            return Parting::Asked;
        };
        let Some(word) = &sitting.word else { return Parting::Nobody };
        if word.is_gone() {
            *sitting = Sitting { word: None, parted: 0 };
            return Parting::Left;
        }
        if word.part() {
            sitting.parted = pass;
            return Parting::Parted;
        }
        self.asked.store(true, Relaxed);
        Parting::Rest
    }

    /// Calls `take` if the thread is still parted from the cache, by this pass, which let every thread pass a barrier since.
    pub fn visit(&self, pass: usize, take: impl FnOnce()) {
        // Whoever is inside has its cache again, or is another visitor.
        if let Some(sitting) = self.held.try_lock()
            && sitting.parted == pass
        {
            take();
        }
    }

    /// Calls `take` if a thread sits here and is not inside: for what no hit looks at.
    pub fn visit_rest(&self, age: usize, take: impl FnOnce()) {
        if self.age.load(Relaxed) == age
            && let Some(sitting) = self.held.try_lock()
            && sitting.word.is_some()
        {
            take();
        }
    }

    /// The thread that sits here is of a process of this age now, which a fork made of it.
    #[cfg_attr(not(unix), allow(dead_code))]
    pub fn grow_old(&self, age: usize) {
        self.age.store(age, Relaxed);
    }
}

impl<L: RawMutex, W: Word> Inside<'_, L, W> {
    /// The thread gives the seat up: nobody visits the cache any more.
    pub fn rise(mut self) {
        *self.sitting = Sitting { word: None, parted: 0 };
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;
    use crate::sync::{Cell, SpinLock};

    /// The word of a thread that a barrier reaches, or not; and whether the thread's own cache is in it.
    struct Thread<'a>(bool, &'a Cell<bool>);

    impl Word for Thread<'_> {
        fn part(&self) -> bool {
            self.1.set(!self.0);
            self.0
        }
        fn join(&self) {
            self.1.set(true);
        }
    }

    fn visits(visit: impl FnOnce(&mut dyn FnMut())) -> bool {
        let mut visited = false;
        visit(&mut || visited = true);
        visited
    }

    #[test]
    fn a_thread_that_is_inside_does_not_go_in_again() {
        let own = Cell::new(true);
        let seat: Seat<SpinLock, Thread> = Seat::new();
        seat.sit(Thread(true, &own), 1);
        let inside = seat.enter().unwrap();
        assert!(seat.enter().is_none() && seat.enter().is_none());
        assert_eq!(seat.part(5, 1), Parting::Asked);
        assert!(!visits(|take| seat.visit_rest(1, take)));
        drop(inside);
        let inside = seat.enter().unwrap();
        assert!(seat.take_asked() && !seat.take_asked(), "told once");
        inside.rise();
        assert_eq!(seat.part(6, 1), Parting::Nobody);
        assert!(!visits(|take| seat.visit_rest(1, take)));
    }

    #[test]
    fn a_visitor_takes_from_whom_it_parted_in_this_pass_until_the_thread_goes_in() {
        let own = Cell::new(true);
        let seat: Seat<SpinLock, Thread> = Seat::new();
        seat.sit(Thread(true, &own), 1);
        assert_eq!((seat.part(5, 2), own.get()), (Parting::Nobody, true), "of another process");
        assert!(!visits(|take| seat.visit_rest(2, take)) && visits(|take| seat.visit_rest(1, take)));
        assert_eq!((seat.part(5, 1), own.get()), (Parting::Parted, false));
        assert!(!visits(|take| seat.visit(6, take)) && visits(|take| seat.visit(5, take)));
        drop(seat.enter().unwrap());
        assert!(own.get() && !visits(|take| seat.visit(5, take)) && !seat.take_asked());
        seat.grow_old(2);
        assert_eq!((seat.part(6, 1), seat.part(7, 2)), (Parting::Nobody, Parting::Parted));
    }

    /// The word of a thread that ended without rising: it is not there any more.
    struct Gone;

    impl Word for Gone {
        fn part(&self) -> bool {
            unreachable!("it is not written")
        }
        fn join(&self) {
            unreachable!("nor by the thread")
        }
        fn is_gone(&self) -> bool {
            true
        }
    }

    #[test]
    fn what_a_thread_left_that_is_gone_is_one_visitors() {
        let seat: Seat<SpinLock, Gone> = Seat::new();
        seat.sit(Gone, 1);
        assert_eq!(seat.part(5, 2), Parting::Nobody, "of another process");
        assert_eq!((seat.part(6, 1), seat.part(7, 1)), (Parting::Left, Parting::Nobody));
        assert!(!visits(|take| seat.visit_rest(1, take)));
    }

    #[test]
    fn whom_no_barrier_reaches_is_asked_and_who_sits_down_next_is_not() {
        let own = Cell::new(true);
        let seat: Seat<SpinLock, Thread> = Seat::new();
        seat.sit(Thread(false, &own), 1);
        assert_eq!((seat.part(5, 1), own.get()), (Parting::Rest, true));
        assert!(!visits(|take| seat.visit(5, take)) && visits(|take| seat.visit_rest(1, take)));
        assert!(seat.take_asked() && !seat.take_asked());
        assert_eq!(seat.part(6, 1), Parting::Rest);
        seat.sit(Thread(true, &own), 3);
        assert!(!seat.take_asked());
        assert_eq!((seat.part(7, 1), seat.part(7, 3)), (Parting::Nobody, Parting::Parted));
    }
}
