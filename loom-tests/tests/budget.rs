//! A budget under every interleaving: never over its limit, no trace of a refused charge, a limit that moves under use.

#![allow(
    deprecated,
    reason = "later compilers have another name for `fetch_update`, which loom and 1.88 do not know"
)]

use democratising::pool::budget::Budget;
use loom_tests::{Arc, model, thread};

/// What the models use of a budget.
trait Limited: Send + Sync + 'static {
    fn new(limit: u64) -> Self;
    fn take(&self, amount: u64) -> bool;
    fn release(&self, amount: u64);
    fn used(&self) -> u64;
    fn peak(&self) -> u64;
    fn limit(&self) -> u64;
    /// Returns how much more than `limit` is held.
    fn set_limit(&self, limit: u64) -> u64;
}

impl Limited for Budget {
    fn new(limit: u64) -> Self {
        Budget::new(limit)
    }
    fn take(&self, amount: u64) -> bool {
        self.try_take(amount).is_ok()
    }
    fn release(&self, amount: u64) {
        self.release(amount).expect("held");
    }
    fn used(&self) -> u64 {
        self.used()
    }
    fn peak(&self) -> u64 {
        self.peak()
    }
    fn limit(&self) -> u64 {
        self.limit()
    }
    fn set_limit(&self, limit: u64) -> u64 {
        self.set_limit(limit)
    }
}

/// Two who take and release while a third looks on.
fn an_observer_never_sees_more_than_the_limit<B: Limited>() {
    model(|| {
        let budget = Arc::new(B::new(5));
        let takers: Vec<_> = [3, 4]
            .into_iter()
            .map(|amount| {
                let budget = budget.clone();
                thread::spawn(move || {
                    if budget.take(amount) {
                        budget.release(amount);
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            let used = budget.used();
            assert!(used <= 5, "over the limit: {used} of 5");
        }
        for taker in takers {
            taker.join().unwrap();
        }
        assert_eq!(budget.used(), 0, "everything was released");
        assert!([3, 4].contains(&budget.peak()), "over the limit: a peak of {}", budget.peak());
        assert!(budget.take(5), "the whole of it is left");
    });
}

/// Two who want more than half: one of them gets it, and of the other there is no trace.
fn one_of_two_is_granted_and_the_other_leaves_no_trace<B: Limited>() {
    model(|| {
        let budget = Arc::new(B::new(5));
        let other = {
            let budget = budget.clone();
            thread::spawn(move || budget.take(3))
        };
        let mine = budget.take(3);
        let theirs = other.join().unwrap();
        assert_eq!(mine as u32 + theirs as u32, 1, "granted to one");
        assert_eq!((budget.used(), budget.peak()), (3, 3), "no trace of the other");
        assert!(budget.take(2), "the rest is left");
    });
}

/// One takes while another lowers the limit: what is held is known, and nothing more is granted.
fn a_lowered_limit_knows_what_is_over_it<B: Limited>() {
    model(|| {
        let budget = Arc::new(B::new(5));
        let taker = {
            let budget = budget.clone();
            thread::spawn(move || budget.take(3))
        };
        let over = budget.set_limit(2);
        assert!(!budget.take(3), "granted above a limit that is in force");
        let granted = taker.join().unwrap();
        assert_eq!(over, if granted { 1 } else { 0 }, "held above the limit");
        if granted {
            assert!(!budget.take(1), "no room before it fits");
            budget.release(3);
        }
        assert_eq!((budget.used(), budget.limit()), (0, 2));
        assert!(budget.take(2), "the whole of the new limit");
    });
}

/// Two limits are set while somebody takes and gives back; whichever limit came last is the one in force.
fn limits_set_at_once_leave_exactly_the_room_of_the_last<B: Limited>() {
    model(|| {
        let budget = Arc::new(B::new(2));
        let setters: Vec<_> = [4, 8]
            .into_iter()
            .map(|limit| {
                let budget = budget.clone();
                thread::spawn(move || {
                    budget.set_limit(limit);
                })
            })
            .collect();
        let granted = budget.take(5);
        // In this order: a charge is seen with the limit it was granted under, or a later one.
        let used = budget.used();
        assert!(used <= 8, "over every limit: {used}");
        for setter in setters {
            setter.join().unwrap();
        }
        if granted {
            budget.release(5);
        }
        let limit = budget.limit();
        assert!(limit == 4 || limit == 8);
        assert!(!budget.take(limit + 1), "more than the limit");
        assert!(budget.take(limit), "less than the limit");
    });
}

/// While the limit only rises, what is used is never above the limit read after it.
fn a_raised_limit_is_seen_before_what_it_made_room_for<B: Limited>() {
    model(|| {
        let budget = Arc::new(B::new(2));
        let raiser = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.set_limit(8);
            })
        };
        let taker = {
            let budget = budget.clone();
            thread::spawn(move || budget.take(5))
        };
        let (used, limit) = (budget.used(), budget.limit());
        assert!(used <= limit, "used {used} is over the limit: {limit}");
        raiser.join().unwrap();
        let granted = taker.join().unwrap();
        assert_eq!(budget.used(), if granted { 5 } else { 0 });
    });
}

/// One gives back what another takes.
fn a_share_is_never_counted_twice<B: Limited>() {
    model(|| {
        let budget = Arc::new(B::new(5));
        assert!(budget.take(5));
        let releaser = {
            let budget = budget.clone();
            thread::spawn(move || budget.release(5))
        };
        let taker = {
            let budget = budget.clone();
            thread::spawn(move || budget.take(4))
        };
        let used = budget.used();
        assert!(used <= 5, "over the limit: {used} of 5");
        releaser.join().unwrap();
        let granted = taker.join().unwrap();
        assert_eq!(budget.peak(), 5, "over the limit at some time");
        assert_eq!(budget.used(), if granted { 4 } else { 0 });
    });
}

macro_rules! the_budget_keeps_to {
    ($($law:ident),* $(,)?) => {
        $(#[test] fn $law() { super::$law::<Budget>(); })*
    };
}

mod budget {
    use super::*;
    the_budget_keeps_to!(
        an_observer_never_sees_more_than_the_limit,
        one_of_two_is_granted_and_the_other_leaves_no_trace,
        a_lowered_limit_knows_what_is_over_it,
        limits_set_at_once_leave_exactly_the_room_of_the_last,
        a_raised_limit_is_seen_before_what_it_made_room_for,
        a_share_is_never_counted_twice,
    );
}

/// Budgets that are wrong, and what a model says of them.
#[cfg(democratising_loom)]
mod planted {
    use super::*;
    use loom_tests::atomic::AtomicU64;
    use loom_tests::atomic::Ordering::{AcqRel, Acquire, Release};

    /// The counters of the wrong ones. `left` wraps below zero where it is used at all.
    struct Counters {
        left: AtomicU64,
        used: AtomicU64,
        peak: AtomicU64,
        limit: AtomicU64,
    }

    impl Counters {
        fn new(limit: u64) -> Self {
            Counters {
                left: AtomicU64::new(limit),
                used: AtomicU64::new(0),
                peak: AtomicU64::new(0),
                limit: AtomicU64::new(limit),
            }
        }

        fn enter(&self, amount: u64) {
            let used = self.used.fetch_add(amount, AcqRel) + amount;
            self.peak.fetch_max(used, AcqRel);
        }

        fn take_from_left(&self, amount: u64) -> bool {
            let fits = |left: u64| if left as i64 >= amount as i64 { Some(left - amount) } else { None };
            let granted = self.left.fetch_update(AcqRel, Acquire, fits).is_ok();
            if granted {
                self.enter(amount);
            }
            granted
        }
    }

    /// A wrong budget is a name, and what it does otherwise than the right one.
    macro_rules! wrong {
        ($(#[$why:meta])* $name:ident, $take:expr, $release:expr, $set_limit:expr) => {
            $(#[$why])*
            struct $name(Counters);

            impl Limited for $name {
                fn new(limit: u64) -> Self {
                    $name(Counters::new(limit))
                }
                fn take(&self, amount: u64) -> bool {
                    let take: fn(&Counters, u64) -> bool = $take;
                    take(&self.0, amount)
                }
                fn release(&self, amount: u64) {
                    let release: fn(&Counters, u64) = $release;
                    release(&self.0, amount)
                }
                fn used(&self) -> u64 {
                    self.0.used.load(Acquire)
                }
                fn peak(&self) -> u64 {
                    self.0.peak.load(Acquire)
                }
                fn limit(&self) -> u64 {
                    self.0.limit.load(Acquire)
                }
                fn set_limit(&self, limit: u64) -> u64 {
                    let set_limit: fn(&Counters, u64) -> u64 = $set_limit;
                    set_limit(&self.0, limit)
                }
            }
        };
    }

    fn leave(counters: &Counters, amount: u64) {
        counters.used.fetch_sub(amount, AcqRel);
    }

    fn leave_then_make_room(counters: &Counters, amount: u64) {
        leave(counters, amount);
        counters.left.fetch_add(amount, Release);
    }

    fn store_limit(counters: &Counters, limit: u64) -> u64 {
        counters.limit.store(limit, Release);
        counters.used.load(Acquire).saturating_sub(limit)
    }

    wrong!(
        /// Looks, and takes afterwards.
        ChecksThenTakes,
        |counters, amount| {
            let used = counters.used.load(Acquire);
            let fits = used + amount <= counters.limit.load(Acquire);
            if fits {
                counters.used.store(used + amount, Release);
                counters.peak.fetch_max(used + amount, AcqRel);
            }
            fits
        },
        leave,
        store_limit
    );

    wrong!(
        /// Takes, and looks afterwards.
        TakesThenChecks,
        |counters, amount| {
            counters.enter(amount);
            let fits = counters.used.load(Acquire) <= counters.limit.load(Acquire);
            if !fits {
                leave(counters, amount);
            }
            fits
        },
        leave,
        store_limit
    );

    wrong!(
        /// Reads the limit beside the counter that it takes from.
        LimitApart,
        |counters, amount| {
            let limit = counters.limit.load(Acquire);
            let fits = |used: u64| if used + amount <= limit { Some(used + amount) } else { None };
            let before = counters.used.fetch_update(AcqRel, Acquire, fits);
            if let Ok(used) = before {
                counters.peak.fetch_max(used + amount, AcqRel);
            }
            before.is_ok()
        },
        leave,
        store_limit
    );

    wrong!(
        /// Makes room while its share is still counted.
        RoomFirst,
        Counters::take_from_left,
        |counters, amount| {
            counters.left.fetch_add(amount, Release);
            leave(counters, amount);
        },
        store_limit
    );

    wrong!(
        /// Makes the room of a higher limit before the limit can be read.
        RoomBeforeLimit,
        Counters::take_from_left,
        leave_then_make_room,
        |counters, limit| {
            let old = counters.limit.load(Acquire);
            counters.left.fetch_add(limit.wrapping_sub(old), Release);
            counters.limit.store(limit, Release);
            0
        }
    );

    wrong!(
        /// Right, but for a release that forgets the room.
        ForgetsRoom,
        Counters::take_from_left,
        leave,
        store_limit
    );

    #[test]
    #[should_panic(expected = "granted to one")]
    fn looking_and_taking_apart_is_caught() {
        one_of_two_is_granted_and_the_other_leaves_no_trace::<ChecksThenTakes>();
    }

    #[test]
    #[should_panic(expected = "over the limit")]
    fn taking_before_looking_is_caught() {
        an_observer_never_sees_more_than_the_limit::<TakesThenChecks>();
    }

    #[test]
    #[should_panic(expected = "held above the limit")]
    fn a_limit_read_apart_is_caught() {
        a_lowered_limit_knows_what_is_over_it::<LimitApart>();
    }

    #[test]
    #[should_panic(expected = "over the limit")]
    fn a_release_that_makes_room_first_is_caught() {
        a_share_is_never_counted_twice::<RoomFirst>();
    }

    #[test]
    #[should_panic(expected = "is over the limit")]
    fn room_made_before_the_limit_rose_is_caught() {
        a_raised_limit_is_seen_before_what_it_made_room_for::<RoomBeforeLimit>();
    }

    #[test]
    #[should_panic(expected = "limit")]
    fn two_limits_set_at_once_without_a_lock_are_caught() {
        limits_set_at_once_leave_exactly_the_room_of_the_last::<RoomBeforeLimit>();
    }

    #[test]
    #[should_panic(expected = "the whole of it is left")]
    fn room_that_is_lost_is_caught() {
        an_observer_never_sees_more_than_the_limit::<ForgetsRoom>();
    }
}
