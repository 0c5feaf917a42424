//! What a fork holds of the process's pool.

use super::*;
#[cfg(not(miri))]
use crate::sync::forks::tests::forks_amid;
use std::thread;
use std::time::{Duration, Instant};

/// Whether somebody holds the locks now: of the settings, of the making, of the pool.
fn held() -> [bool; 3] {
    [SETTING.is_held(), MAKING.is_held(), made().unwrap().is_held()]
}

#[test]
fn a_fork_finds_every_lock_of_the_pool_held_by_who_forks_and_leaves_none_held() {
    pool().unwrap();
    ThisPool.hold();
    let between = held();
    // SAFETY: 1. `hold` ran just before.
    unsafe { ThisPool.let_go() };
    assert_eq!(between, [true; 3]);
    // Other tests of this process may have one for a moment.
    let began = Instant::now();
    let mut busy = held();
    while busy != [false; 3] && began.elapsed() < Duration::from_secs(20) {
        thread::yield_now();
        busy.iter_mut().zip(held()).for_each(|(was, is)| *was &= is);
    }
    assert_eq!(busy, [false; 3], "one is held for good");
}

#[cfg(not(miri))]
#[test]
fn a_fork_leaves_the_locks_of_the_pool_with_who_has_them() {
    pool().unwrap();
    forks_amid(&MAKING);
    forks_amid(&SETTING);
}
