//! What a fork holds of the heap, and when a heap does what is due.

use super::*;
use crate::heap::stock::clocks::{Clocks, DECAY_MS, SETTLE_MS};
use crate::pool::PoolConfig;
use crate::space::Simulated;
#[cfg(not(miri))]
use crate::sync::forks::tests::forks_amid;
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// Which of the heap's locks somebody holds now, each with its name.
fn held() -> Vec<(&'static str, bool)> {
    let depots = STOCK.depots().iter().map(|depot| ("a depot's", depot.is_held()));
    let others = [
        ("that of the making", MAKING.is_held()),
        ("that of visits", VISITS.is_held()),
        ("that of the caches", CACHES.is_held()),
        ("the pool's", POOL.get().unwrap().is_held()),
    ];
    others.into_iter().chain(depots).collect()
}

/// Other tests of this process may have one for a moment.
fn are_free_soon() -> bool {
    let began = Instant::now();
    let mut busy = held();
    while busy.iter().any(|(_, is_held)| *is_held) && began.elapsed() < Duration::from_secs(20) {
        thread::yield_now();
        busy.iter_mut().zip(held()).for_each(|(was, is)| was.1 &= is.1);
    }
    busy.iter().all(|(_, is_held)| !is_held)
}

#[test]
fn a_fork_finds_every_lock_of_the_heap_held_by_who_forks_and_leaves_none_held() {
    pool().unwrap();
    assert_eq!(STOCK.depots().len(), HOST_CLASSES);
    ThisHeap.hold();
    let between = held();
    // SAFETY: 1. `hold` ran just before.
    unsafe { ThisHeap.let_go() };
    assert!(between.iter().all(|(_, is_held)| *is_held), "{between:?}");
    assert!(are_free_soon(), "one is held for good: {:?}", held());
}

#[cfg(not(miri))]
#[test]
fn a_fork_leaves_the_locks_of_the_heap_with_who_has_them() {
    pool().unwrap();
    forks_amid(&MAKING);
    forks_amid(&VISITS);
}

type Simple = Pool<Simulated, HostLock, MappedTables>;

fn simulated(config: PoolConfig) -> Simple {
    Pool::new(Simulated::device(64 << 20, 2 << 20), MappedTables, config).unwrap()
}

/// What a block of 8 MiB leaves idle that is taken and given back.
fn idle_mib(pool: &Simple) -> u64 {
    let layout = Layout::from_size_align(8 << 20, 1).unwrap();
    let block = pool.allocate(layout).unwrap();
    // SAFETY: 1. Nobody uses the block.
    unsafe { pool.free(block.addr, layout) }.unwrap();
    pool.idle_bytes() >> 20
}

#[test]
fn what_is_needed_again_soon_is_kept_until_it_decays_and_what_is_needed_later_is_not() {
    let config = PoolConfig::DEFAULT.retain_bytes(0).retain_most_bytes(64 << 20);
    let pool = simulated(config);
    let clocks = Clocks::new();
    let tick = |now_ms| clocks.tick(&pool, || now_ms, || unreachable!("too little for an ebb"));
    assert_eq!(idle_mib(&pool), 0);
    tick(SETTLE_MS - 1);
    tick(SETTLE_MS);
    assert_eq!(idle_mib(&pool), 0, "it is long ago that it was given up");
    tick(SETTLE_MS + 1);
    assert_eq!(idle_mib(&pool), 8, "it was given up too early");
    tick(DECAY_MS);
    tick(2 * DECAY_MS + SETTLE_MS);
    assert_eq!(pool.idle_bytes(), 0, "nobody has needed it for so long");
}

#[test]
fn an_ebb_is_told_once() {
    let config = PoolConfig::DEFAULT.retain_bytes(0).ebb_bytes(0);
    let pool = simulated(config);
    let layout = Layout::from_size_align(3 << 19, 1).unwrap();
    let blocks = [(); 4].map(|()| pool.allocate(layout).unwrap().addr);
    for block in &blocks[1..] {
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(*block, layout) }.unwrap();
    }
    let (clocks, mut ebbs) = (Clocks::new(), 0);
    for now_ms in 0..3 {
        clocks.tick(&pool, || now_ms, || ebbs += 1);
    }
    assert_eq!(ebbs, 1);
}
