//! Who tells that memory runs short, and waiting for it.

#![forbid(unsafe_code)]

use crate::sync::{Condvar, Mutex};
use core::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time that stalls are summed over: what a process without privileges may ask for.
pub(super) const WINDOW: Duration = Duration::from_secs(2);

/// How it is known that memory runs short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Source {
    /// The kernel tells of stalls in the process's control group (version 2).
    ControlGroup,
    /// The kernel tells of stalls on the machine.
    Machine,
    /// What is left is looked at from time to time.
    Polling,
}

impl Source {
    /// The file that tells.
    pub(super) fn path(self, root: &Path) -> Option<PathBuf> {
        match self {
            Source::ControlGroup => {
                let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
                let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
                let mounted = ["sys/fs/cgroup", "sys/fs/cgroup/unified"].map(|mounted| root.join(mounted));
                // In a container the group's own path often is not there, and the mounted root is the group.
                let places = mounted.iter().flat_map(|mounted| [mounted.join(group), mounted.clone()]);
                places.map(|place| place.join("memory.pressure")).find(|path| path.exists())
            }
            Source::Machine => Some(root.join("proc/pressure/memory")),
            Source::Polling => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::ControlGroup => "stalls of the control group",
            Source::Machine => "stalls of the machine",
            Source::Polling => "what is left, looked at from time to time",
        })
    }
}

/// Why a wait ended.
pub(super) enum Told {
    Stop,
    /// Tasks have waited for memory as long as was asked.
    #[cfg(target_os = "linux")]
    Stalled,
    /// It is time to look.
    Time,
}

/// The side of the thread.
pub(super) enum Waiter {
    #[cfg(target_os = "linux")]
    Kernel {
        source: Source,
        told: std::fs::File,
        stop: Arc<std::os::fd::OwnedFd>,
    },
    Polling {
        every: Duration,
        stop: Arc<Stop>,
    },
}

/// The side of whoever ends it.
pub(super) enum Waker {
    #[cfg(target_os = "linux")]
    Kernel(Arc<std::os::fd::OwnedFd>),
    Polling(Arc<Stop>),
}

#[derive(Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Waiter {
    pub(super) fn new(
        source: Source,
        root: &Path,
        stall: Duration,
        every: Duration,
    ) -> io::Result<(Waiter, Waker)> {
        if source == Source::Polling {
            let stop = Arc::new(Stop::default());
            return Ok((Waiter::Polling { every, stop: stop.clone() }, Waker::Polling(stop)));
        }
        Waiter::of_kernel(source, root, stall)
    }

    #[cfg(target_os = "linux")]
    fn of_kernel(source: Source, root: &Path, stall: Duration) -> io::Result<(Waiter, Waker)> {
        use rustix::event::{EventfdFlags, eventfd};
        use std::io::Write;
        let path = source.path(root).ok_or(io::ErrorKind::NotFound)?;
        let mut told = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
        // The kernel overwrites the last byte.
        let trigger = std::format!("some {} {}\0", stall.as_micros(), WINDOW.as_micros());
        told.write_all(trigger.as_bytes())?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Waiter::Kernel { source, told, stop: stop.clone() }, Waker::Kernel(stop)))
    }

    #[cfg(not(target_os = "linux"))]
    fn of_kernel(_source: Source, _root: &Path, _stall: Duration) -> io::Result<(Waiter, Waker)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn source(&self) -> Source {
        match self {
            #[cfg(target_os = "linux")]
            Waiter::Kernel { source, .. } => *source,
            Waiter::Polling { .. } => Source::Polling,
        }
    }

    pub(super) fn wait(&mut self) -> Told {
        match self {
            #[cfg(target_os = "linux")]
            Waiter::Kernel { told, stop, .. } => {
                use rustix::event::{PollFd, PollFlags, poll};
                let mut files = [PollFd::new(&*told, PollFlags::PRI), PollFd::new(&**stop, PollFlags::IN)];
                match poll(&mut files, None) {
                    Err(rustix::io::Errno::INTR) => return self.wait(),
                    // Nothing can be waited for any more.
                    Err(_) => return Told::Stop,
                    Ok(_) => {}
                }
                let [told, stop] = files.map(|file| file.revents());
                if !stop.is_empty() || told.intersects(PollFlags::ERR | PollFlags::NVAL) {
                    // The control group may be gone: then there is nobody left to tell.
                    Told::Stop
                } else {
                    Told::Stalled
                }
            }
            Waiter::Polling { every, stop } => {
                let began = Instant::now();
                let mut stopped = stop.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                while !*stopped {
                    let Some(left) = every.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                        return Told::Time;
                    };
                    let waited = stop.changed.wait_timeout(stopped, left);
                    stopped = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
                }
                Told::Stop
            }
        }
    }
}

impl Waker {
    pub(super) fn wake(&self) {
        match self {
            #[cfg(target_os = "linux")]
            Waker::Kernel(stop) => {
                // It can only fail when it was woken 2^64 times.
                let _ = rustix::io::write(&**stop, &1u64.to_ne_bytes());
            }
            Waker::Polling(stop) => {
                *stop.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
                stop.changed.notify_all();
            }
        }
    }
}
