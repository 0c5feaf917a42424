//! What a fork holds of the heap.

use super::*;
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
