//! Limits hold: a budget under many threads.

use democratising::pool::budget::Budget;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

/// A small generator of its own for each thread: xorshift.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn eight_threads_never_hold_more_than_the_limit() {
    const LIMIT: u64 = 1000;
    let budget = Budget::new(LIMIT);
    // What is really held, counted by those who hold it: after they were granted, until before they give back.
    let held = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 1..=8 {
            let (budget, held, refused) = (&budget, &held, &refused);
            scope.spawn(move || {
                let mut draw = Draw(seed);
                let mut charges = Vec::new();
                for _ in 0..20_000 {
                    let amount = draw.below(300);
                    match budget.charge(amount) {
                        Ok(charge) => {
                            let now = held.fetch_add(amount, SeqCst) + amount;
                            assert!(now <= LIMIT, "{now} held of {LIMIT}");
                            charges.push(charge);
                        }
                        Err(error) => {
                            assert!(error.left < amount && error.asked == amount && error.limit == LIMIT);
                            refused.fetch_add(1, SeqCst);
                        }
                    }
                    assert!(budget.used() <= LIMIT);
                    while charges.len() > draw.below(4) as usize {
                        let charge = charges.swap_remove(draw.below(charges.len() as u64) as usize);
                        held.fetch_sub(charge.amount(), SeqCst);
                    }
                }
                for charge in charges {
                    held.fetch_sub(charge.amount(), SeqCst);
                }
            });
        }
    });
    assert_eq!((budget.used(), budget.left(), held.into_inner()), (0, LIMIT, 0));
    assert!(budget.peak() <= LIMIT && budget.peak() > LIMIT / 2, "a peak of {}", budget.peak());
    assert!(refused.into_inner() > 0, "the limit was never reached: this test shows nothing");
}

#[test]
fn a_limit_that_moves_under_eight_threads_ends_exactly_where_it_was_set() {
    let budget = Budget::new(500);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let takers: Vec<_> = (1..=8)
            .map(|seed| {
                let budget = &budget;
                scope.spawn(move || {
                    let mut draw = Draw(seed);
                    for _ in 0..5_000 {
                        let Ok(mut charge) = budget.charge(draw.below(100)) else { continue };
                        let before = charge.amount();
                        let after = draw.below(200);
                        let changed = charge.resize(after).is_ok();
                        assert_eq!(charge.amount(), if changed { after } else { before });
                    }
                })
            })
            .collect();
        for seed in [21, 22] {
            let (budget, done) = (&budget, &done);
            scope.spawn(move || {
                let mut draw = Draw(seed);
                while !done.load(SeqCst) {
                    budget.set_limit(draw.below(1000));
                    thread::yield_now();
                }
            });
        }
        for taker in takers {
            taker.join().unwrap();
        }
        done.store(true, SeqCst);
    });
    assert_eq!(budget.set_limit(700), 0);
    assert_eq!((budget.used(), budget.left(), budget.limit()), (0, 700, 700));
    assert!(budget.peak() < 1000, "never above the highest limit");
}

#[test]
fn what_is_refused_says_so_in_words() {
    let budget = Budget::new(10);
    let _held = budget.charge(7).unwrap();
    assert_eq!(budget.charge(4).unwrap_err().to_string(), "over budget: 4 asked for, 3 left of 10");
    assert_eq!(
        budget.release(8).unwrap_err().to_string(),
        "8 given back to a budget of which only 7 is held: given back twice?"
    );
}
