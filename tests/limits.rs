//! Limits hold: a budget and a pool under many threads.

use democratising::pool::budget::Budget;
use democratising::space::{Mapped, MappedTables, Simulated, Space};
use democratising::{HostLock, Pool, PoolConfig};
use std::alloc::Layout;
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

/// What eight threads do to one pool, and what an observer must never see.
fn eight_threads_on_one_pool<S>(pool: &Pool<S, HostLock, MappedTables>, most_bytes: u64, moving: bool)
where
    S: Space,
    Pool<S, HostLock, MappedTables>: Sync,
{
    let done = AtomicBool::new(false);
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=8)
            .map(|seed| {
                let refused = &refused;
                scope.spawn(move || {
                    let mut draw = Draw(seed);
                    let mut live = Vec::new();
                    for _ in 0..2_000 {
                        let bytes =
                            if draw.below(3) == 0 { draw.below(6 << 20) } else { draw.below(100_000) };
                        let layout = Layout::from_size_align(bytes as usize, 64).unwrap();
                        match pool.allocate(layout) {
                            Ok(block) => live.push((block.addr, layout)),
                            Err(_) => {
                                refused.fetch_add(1, SeqCst);
                            }
                        }
                        while live.len() > draw.below(24) as usize {
                            let (addr, layout) = live.swap_remove(draw.below(live.len() as u64) as usize);
                            // SAFETY: 1. Nobody uses the block.
                            unsafe { pool.free(addr, layout) }.unwrap();
                        }
                    }
                    for (addr, layout) in live {
                        // SAFETY: 1. Nobody uses the block.
                        unsafe { pool.free(addr, layout) }.unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut draw = Draw(99);
            while !done.load(SeqCst) {
                let stats = pool.stats();
                assert!(
                    stats.reserved_bytes <= most_bytes && stats.peak_reserved_bytes <= most_bytes,
                    "{stats}"
                );
                assert!(stats.in_use_bytes <= stats.reserved_bytes, "{stats}");
                if moving {
                    // Below what is in use, too: then new requests fail, and nothing live is lost.
                    pool.configure(pool.config().max_bytes(draw.below(most_bytes + 1)));
                }
                thread::yield_now();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, SeqCst);
    });
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.in_use_bytes), (0, 0));
    assert_eq!(stats.idle_bytes, stats.reserved_bytes);
    assert_eq!(stats.failures, refused.into_inner());
    assert!(stats.failures > 0, "the limit was never reached: this test shows nothing");
    assert!(stats.peak_reserved_bytes > most_bytes / 2, "{stats}");
}

#[test]
fn eight_threads_never_take_a_pool_above_its_maximum() {
    // Little enough that a single thread reaches it, should the others be kept waiting.
    let config = PoolConfig::DEFAULT.max_bytes(16 << 20);
    let simulated = Pool::new(Simulated::device(4 << 30, 2 << 20), MappedTables, config).unwrap();
    eight_threads_on_one_pool(&simulated, 16 << 20, false);
    assert!(simulated.with_space(|space| space.counts().created) >= 8, "frames were created");
    let grown =
        Pool::new(Mapped::reserve(1 << 30).unwrap(), MappedTables, config.growth_permille(2000)).unwrap();
    eight_threads_on_one_pool(&grown, 16 << 20, false);
}

#[test]
fn a_maximum_that_moves_under_eight_threads_is_never_exceeded() {
    let config = PoolConfig::DEFAULT.max_bytes(16 << 20);
    let pool = Pool::new(Mapped::reserve(1 << 30).unwrap(), MappedTables, config).unwrap();
    eight_threads_on_one_pool(&pool, 16 << 20, true);
}

#[test]
fn an_allocation_that_fails_leaves_the_statistics_as_they_were() {
    let pool: Pool<Mapped, HostLock> =
        Pool::new(Mapped::reserve(1 << 30).unwrap(), MappedTables, PoolConfig::DEFAULT.max_bytes(8 << 20))
            .unwrap();
    let held = Layout::from_size_align(5 << 20, 64).unwrap();
    let block = pool.allocate(held).unwrap();
    let before = pool.stats();
    for bytes in [4 << 20, 1 << 29, isize::MAX as usize & !63] {
        let layout = Layout::from_size_align(bytes, 64).unwrap();
        assert!(pool.allocate(layout).is_err(), "{bytes} bytes");
    }
    let mut after = pool.stats();
    assert_eq!(after.failures, before.failures + 3);
    after.failures = before.failures;
    // What a request created and gave up again is no part of what is held.
    (after.creates, after.unmaps) = (before.creates, before.unmaps);
    assert_eq!(after, before);
    // SAFETY: 1. Nobody uses the block.
    unsafe { pool.free(block.addr, held) }.unwrap();
}
