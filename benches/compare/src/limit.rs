//! An end for a process that hangs.

/// Ends this process by SIGALRM when `seconds` of wall time have passed, whatever its threads wait for; 0 is never.
pub fn end_after(seconds: u32) {
    // SAFETY: `alarm` touches no memory of ours, and its signal's default is to end the process.
    unsafe { libc::alarm(seconds) };
}
