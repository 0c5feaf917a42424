//! Real forks of this process, whose other tests go on meanwhile.

use super::*;
use crate::sync::atomic::{AtomicU8, AtomicUsize};
use std::thread;
use std::vec::Vec;

/// The status with which a child ends that does this: 0 if it is right, 256 if not, 14 (the alarm) where it hangs.
fn in_child(is_right: impl FnOnce() -> bool) -> i32 {
    let mut status = -1;
    // SAFETY: 1. The child only calls what is under test, and ends by `_exit` or by the alarm. 2. `status` is a valid place for the answer.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(20);
            libc::_exit(!is_right() as i32);
        }
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
    }
    status
}

/// Forks while another thread has a lock again and again: nobody lets go what that thread has, and the child can take it.
pub(crate) fn forks_amid<T: Send>(lock: &Lock<HostLock, T>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let holder = scope.spawn(|| {
            let mut turns = 0;
            while !done.load(Relaxed) {
                let held = lock.lock();
                for _ in 0..1000 {
                    core::hint::spin_loop();
                    assert!(lock.is_held(), "a fork let it go, in turn {turns}");
                }
                drop(held);
                turns += 1;
                thread::yield_now();
            }
        });
        for round in 0..40 {
            let status = in_child(|| {
                drop(lock.lock());
                !lock.is_held()
            });
            if status != 0 || holder.is_finished() {
                done.store(true, Relaxed);
            }
            assert_eq!(status, 0, "round {round}");
        }
        done.store(true, Relaxed);
        holder.join().unwrap();
    });
}

#[test]
fn a_fork_lock_is_its_holders_in_the_parent_and_nobodys_in_the_child() {
    static LOCK: ForkLock<u32> = ForkLock::new(0);
    drop(LOCK.lock());
    forks_amid(&LOCK.lock);
}

/// What is called of those who take part, in order: whose, and what. No lock: a child of another test would find it held.
struct Calls {
    calls: [AtomicU8; 1 << 14],
    len: AtomicUsize,
}

static CALLS: Calls = Calls { calls: [const { AtomicU8::new(0) }; 1 << 14], len: AtomicUsize::new(0) };

impl Calls {
    /// Called in a fork alone, and so by one thread at a time.
    fn push(&self, of: u8, what: u8) {
        let at = self.len.load(Relaxed);
        if let Some(call) = self.calls.get(at) {
            call.store(of + what, Relaxed);
            self.len.store(at + 1, Release);
        }
    }

    /// Since both take part: the forks that are over.
    fn forks(&self) -> Vec<[u8; 4]> {
        let calls = self.calls[..self.len.load(Acquire)].iter().map(|call| call.load(Relaxed));
        let calls: Vec<u8> = calls.skip_while(|&call| call != SECOND.0 + HOLD).collect();
        calls.chunks_exact(4).map(|fork| fork.try_into().unwrap()).collect()
    }
}

const HOLD: u8 = 0;
const LET_GO: u8 = 1;
const BEGIN: u8 = 2;

/// One who takes part.
struct One(u8);

static FIRST: One = One(10);
static SECOND: One = One(20);

impl Forked for One {
    fn hold(&self) {
        CALLS.push(self.0, HOLD);
    }

    unsafe fn let_go(&self) {
        CALLS.push(self.0, LET_GO);
    }

    unsafe fn begin(&self) {
        CALLS.push(self.0, BEGIN);
    }
}

#[test]
fn who_comes_later_is_held_earlier_and_each_takes_part_once() {
    static KNOWN: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    around_forks(&KNOWN[0], &FIRST);
    around_forks(&KNOWN[1], &SECOND);
    // Two threads may find at once that one is not known.
    add(&KNOWN[0], &FIRST);
    add(&KNOWN[1], &SECOND);
    let in_parent = [20 + HOLD, 10 + HOLD, 10 + LET_GO, 20 + LET_GO];
    let in_child_of_it = [20 + HOLD, 10 + HOLD, 10 + BEGIN, 20 + BEGIN];
    assert_eq!(in_child(|| CALLS.forks().last() == Some(&in_child_of_it)), 0);
    let forks = CALLS.forks();
    assert!(!forks.is_empty() && forks.iter().all(|fork| *fork == in_parent), "{forks:?}");
}
