//! What an action takes: the thread's CPU time, and instructions as a simulator of the processor counts them.

use crate::script::{Action, Live, random_actions, replay};
use crate::subject::{Kind, Memory};
use core::alloc::GlobalAlloc;
use std::process::Command;
use std::time::Duration;

/// The bounds of the sizes.
pub const MOST: [usize; 5] = [200, 1_000, 3_000, 10_000, 30_000];

/// The CPU time that this thread has had.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: 1. `time` is written to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "the system has no clock for a thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A heap on which the start of a script was played already.
fn warm(heap: &dyn GlobalAlloc, script: &[Action]) -> Live {
    let mut live = Live::with_room(script.len());
    replay_quietly(heap, &mut live, script);
    live
}

/// As `replay`, and not counted.
fn replay_quietly(heap: &dyn GlobalAlloc, live: &mut Live, script: &[Action]) {
    for action in script {
        assert!(live.act(heap, *action), "the heap has no memory for the script");
    }
}

/// Nanoseconds of CPU for an action: the least of some rounds, in which all take turns.
pub fn nanoseconds(kinds: &[Kind], memory: Memory, most: usize, resizes: bool, rounds: usize) -> Vec<f64> {
    const ACTIONS: usize = 1_000_000;
    let script = random_actions(1, ACTIONS + ACTIONS / 10, most, resizes);
    let (before, measured) = script.split_at(ACTIONS / 10);
    let mut least = vec![f64::INFINITY; kinds.len()];
    for _ in 0..rounds {
        for (kind, least) in kinds.iter().zip(&mut least) {
            let heap = kind.over(memory);
            let mut live = warm(&*heap, before);
            let began = cpu_time();
            replay(&*heap, &mut live, measured);
            *least = least.min((cpu_time() - began).as_nanos() as f64 / measured.len() as f64);
            live.clear(&*heap);
        }
    }
    least
}

/// Instructions of an action, those of the harness taken off; `None` where callgrind is missing.
pub fn instructions(name: &str, most: usize, resizes: bool) -> Option<f64> {
    Some(counted(name, most, resizes)? - counted("nobody", most, resizes)?)
}

const COUNTED: usize = 200_000;

fn counted(name: &str, most: usize, resizes: bool) -> Option<f64> {
    let this = std::env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--toggle-collect=embedded::script::replay",
            "--callgrind-out-file=/dev/null",
        ])
        .arg(this)
        .args(["count", name, &most.to_string(), if resizes { "resizes" } else { "plain" }])
        .output()
        .ok()?;
    let told = String::from_utf8_lossy(&output.stderr);
    let number =
        told.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().parse::<f64>().ok()?;
    Some(number / COUNTED as f64)
}

/// Plays the script whose instructions are counted.
pub fn count(heap: &dyn GlobalAlloc, most: usize, resizes: bool) {
    let script = random_actions(1, COUNTED + COUNTED / 10, most, resizes);
    let (before, measured) = script.split_at(COUNTED / 10);
    let mut live = warm(heap, before);
    replay(heap, &mut live, measured);
}
