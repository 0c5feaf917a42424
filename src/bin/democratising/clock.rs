//! The CPU time of this thread.

#![forbid(unsafe_code)]

use std::time::Duration;

/// What this thread has spent on a CPU; `None` where the system has no such clock.
///
/// Never the time of day: a replay shares its machine, and waiting is not work.
#[cfg(unix)]
pub fn thread_cpu() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

#[cfg(not(unix))]
pub fn thread_cpu() -> Option<Duration> {
    None
}
