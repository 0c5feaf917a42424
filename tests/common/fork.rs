//! The child of a fork, made and waited for.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a child ends that finds everything right.
pub const RIGHT: i32 = 0;

/// Runs this in a child, and returns the status with which that ended: [`RIGHT`], 256 where it found something wrong or panicked, 14
/// (the alarm) where it hung.
pub fn in_child(finds_right: impl FnOnce() -> bool) -> i32 {
    // SAFETY: 1. The child only calls what is under test, and ends by `_exit` or by the alarm.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: 1. It ends this process, whatever it waits for.
        unsafe { libc::alarm(20) };
        let right = catch_unwind(AssertUnwindSafe(finds_right)).unwrap_or(false);
        // SAFETY: 1. Nothing of the parent's is run at the end.
        unsafe { libc::_exit(!right as i32) };
    }
    let mut status = 0;
    // SAFETY: 1. The child of a moment ago, and an integer of ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    status
}
