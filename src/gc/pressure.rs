//! Collecting because the machine runs short, before anything of this process fails.
//!
//! 1. Where the kernel tells of stalls (PSI), a thread sleeps until tasks have waited for memory as long as was asked; of the process's
//!    own control group if that can be asked, else of the machine.
//! 2. Where it does not, the thread looks from time to time how much the machine or the control group has left.
//! 3. Either way it collects ([`collect_until`]) what was asked for, with a deadline, on that thread: whoever allocates waits for nothing.

#![forbid(unsafe_code)]

mod source;

use super::collect::{Wanted, run};
use super::{Deadline, Resource};
use crate::error::{DemoError, Result};
use crate::pool::budget::left::MemoryLeft;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::fmt;
pub use source::Source;
use source::{Told, Waiter, Waker};
use std::format;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// When the memory runs short, and what is done then.
///
/// ```
/// use democratising::gc::Pressure;
///
/// let watch = Pressure::default().target_bytes(256 << 20).watch()?;
/// println!("collecting on {}", watch.source());
/// // The work of the program; `watch` ends the watching when it is dropped.
/// # Ok::<(), democratising::DemoError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is watched before `watch`"]
pub struct Pressure {
    stall: Duration,
    every: Duration,
    low_permille: u32,
    target_bytes: u64,
    deadline: Duration,
    source: Option<Source>,
    root: PathBuf,
}

impl Default for Pressure {
    /// Stalls of 100 ms in two seconds, or less than 5 % left, looked at every second; then everything that can be had in 100 ms.
    fn default() -> Pressure {
        Pressure {
            stall: Duration::from_millis(100),
            every: Duration::from_secs(1),
            low_permille: 50,
            target_bytes: u64::MAX,
            deadline: Duration::from_millis(100),
            source: None,
            root: PathBuf::from("/"),
        }
    }
}

impl Pressure {
    /// How long tasks wait for memory within two seconds before it is short: from 1 ms to 2 s.
    pub fn stall(mut self, stall: Duration) -> Pressure {
        self.stall = stall;
        self
    }

    /// How often to look where the kernel does not tell: from 1 ms on.
    pub fn every(mut self, every: Duration) -> Pressure {
        self.every = every;
        self
    }

    /// What is left when it is short, where the kernel does not tell, in thousandths of what there is.
    pub fn low_permille(mut self, permille: u32) -> Pressure {
        self.low_permille = permille;
        self
    }

    /// How much memory is asked of the reclaimers each time.
    pub fn target_bytes(mut self, bytes: u64) -> Pressure {
        self.target_bytes = bytes;
        self
    }

    /// How long a collection may take. Reclaimers see it.
    pub fn deadline(mut self, deadline: Duration) -> Pressure {
        self.deadline = deadline;
        self
    }

    /// This source and no other. Without it the best that the system has.
    pub fn source(mut self, source: Source) -> Pressure {
        self.source = Some(source);
        self
    }

    /// Another root than `/` for `proc/` and `sys/fs/cgroup`: a container's, or a test's.
    pub fn root(mut self, root: impl AsRef<Path>) -> Pressure {
        self.root = root.as_ref().into();
        self
    }

    /// Watches on a thread of its own, until what this returns is dropped.
    ///
    /// # Errors
    /// [`DemoError::InvalidConfig`] where a setting cannot be; [`DemoError::Io`] where the source that was asked for is not there, or no
    /// thread can be started.
    pub fn watch(self) -> Result<PressureWatch> {
        self.check()?;
        let (waiter, waker) = self.waiter()?;
        let source = waiter.source();
        let counts = Arc::new(Counts::default());
        let theirs = counts.clone();
        let thread = std::thread::Builder::new()
            .name("memory pressure".into())
            .spawn(move || self.run(waiter, &theirs))
            .map_err(|source| DemoError::Io {
                action: "start a thread to watch memory pressure",
                path: None,
                source,
            })?;
        Ok(PressureWatch { source, counts, waker, thread: Some(thread), process: std::process::id() })
    }

    fn check(&self) -> Result<()> {
        let wrong = |name, value, problem| Err(DemoError::InvalidConfig { name, value, problem });
        if !(Duration::from_millis(1)..=source::WINDOW).contains(&self.stall) {
            return wrong(
                "stall",
                format!("{:?}", self.stall),
                "it is from 1 ms to 2 s, the time over which stalls are summed",
            );
        }
        if self.every < Duration::from_millis(1) {
            return wrong("every", format!("{:?}", self.every), "it is 1 ms or more");
        }
        if !(1..=1000).contains(&self.low_permille) {
            return wrong(
                "low_permille",
                format!("{}", self.low_permille),
                "it is from 1 to 1,000 thousandths",
            );
        }
        Ok(())
    }

    /// The best source there is, or the one that was asked for.
    fn waiter(&self) -> Result<(Waiter, Waker)> {
        let all = [Source::ControlGroup, Source::Machine, Source::Polling];
        let mut last = None;
        for source in all.into_iter().filter(|source| self.source.is_none_or(|asked| asked == *source)) {
            match Waiter::new(source, &self.root, self.stall, self.every) {
                Ok(both) => return Ok(both),
                Err(error) => last = Some((source, error)),
            }
        }
        let (path, source) = last
            .map_or((None, std::io::ErrorKind::Unsupported.into()), |(source, error)| {
                (source.path(&self.root), error)
            });
        Err(DemoError::Io { action: "watch memory pressure by", path, source })
    }

    fn run(self, mut waiter: Waiter, counts: &Counts) {
        loop {
            match waiter.wait() {
                Told::Stop => return,
                #[cfg(target_os = "linux")]
                Told::Stalled => {}
                Told::Time => match MemoryLeft::read_under(&self.root) {
                    Some(left) if left.is_below(self.low_permille) => {}
                    _ => continue,
                },
            }
            let collected = run(
                Wanted::Bytes { target_bytes: self.target_bytes, of: None },
                Deadline::after(self.deadline),
            );
            let given =
                [Resource::HostBytes, Resource::MappedBytes].map(|resource| collected.amount(resource));
            let given = given[0].saturating_add(given[1]);
            // Relaxed: counts that say nothing about others, and that this thread alone writes. This one stops at the top.
            let before = counts.given_bytes.load(Relaxed);
            counts.given_bytes.store(before.saturating_add(given), Relaxed);
            counts.collections.fetch_add(1, Relaxed);
        }
    }
}

#[derive(Default)]
struct Counts {
    collections: AtomicU64,
    given_bytes: AtomicU64,
}

/// Watching, until this is dropped.
#[must_use = "the watching ends when this is dropped"]
pub struct PressureWatch {
    source: Source,
    counts: Arc<Counts>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    process: u32,
}

impl PressureWatch {
    /// How it knows.
    pub fn source(&self) -> Source {
        self.source
    }

    /// How often it has collected.
    pub fn collections(&self) -> u64 {
        self.counts.collections.load(Relaxed)
    }

    /// What its collections gave back of the machine's memory, mapped files included.
    pub fn given_bytes(&self) -> u64 {
        self.counts.given_bytes.load(Relaxed)
    }
}

impl Drop for PressureWatch {
    fn drop(&mut self) {
        // A fork has not got the thread.
        if self.process != std::process::id() {
            return;
        }
        self.waker.wake();
        // A reclaimer that drops this runs on the thread itself, which ends when that returns.
        let other = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(other) {
            // It ends whatever a reclaimer does: their panics are contained.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for PressureWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PressureWatch({}, {} collections)", self.source, self.collections())
    }
}
