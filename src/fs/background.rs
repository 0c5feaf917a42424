//! Commits in the background: one at a time, and none forgotten.

#![forbid(unsafe_code)]

use super::checkpoint::ModelCheckpoint;
use crate::error::{DemoError, Result};
use crate::sync::forks::ForkLock;
use std::string::String;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

/// Ends when the commit that was started last does, in this process: its sender is dropped then. (In a fork it never is.) Nobody waits
/// under the lock.
struct Last(Option<(u32, Receiver<()>)>);

static LAST: ForkLock<Last> = ForkLock::new(Last(None));

/// A commit under way, made by [`ModelCheckpoint::commit_async`].
///
/// Dropped, it waits for the end, so that a program that returns has written what it meant to; what went wrong is known
/// to [`wait`](Self::wait) only.
#[must_use = "whether it worked is known when wait() returns"]
pub struct PendingCommit {
    thread: Option<JoinHandle<Result<()>>>,
    /// A fork of it has not the thread.
    process: u32,
}

impl PendingCommit {
    pub(super) fn start(checkpoint: ModelCheckpoint) -> Result<PendingCommit> {
        let (under_way, end): (Sender<()>, Receiver<()>) = channel();
        // Whoever comes next waits for this one, and this one for who came before.
        let this = std::process::id();
        let before = LAST.lock().0.replace((this, end));
        if let Some((_, before)) = before.filter(|(whose, _)| *whose == this) {
            // Nothing is ever sent: this returns when the sender is gone.
            let _ = before.recv();
        }
        let thread = Builder::new().name(String::from("checkpoint")).spawn(move || {
            let result = checkpoint.commit();
            drop(under_way);
            result
        });
        match thread {
            Ok(thread) => Ok(PendingCommit { thread: Some(thread), process: this }),
            Err(source) => {
                Err(DemoError::Io { action: "start a thread for a checkpoint", path: None, source })
            }
        }
    }

    /// Whether it has ended, so that [`wait`](Self::wait) returns at once.
    pub fn is_finished(&self) -> bool {
        self.is_elsewhere() || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end. `Ok` means that the checkpoint survives a power loss.
    ///
    /// # Errors
    /// Those of [`ModelCheckpoint::commit`]; [`DemoError::Io`] where the listener of its progress panicked, and in a process that was
    /// forked meanwhile: its parent has the commit.
    pub fn wait(mut self) -> Result<()> {
        self.join()
    }

    fn is_elsewhere(&self) -> bool {
        self.process != std::process::id()
    }

    fn join(&mut self) -> Result<()> {
        if self.is_elsewhere() {
            // To let a thread go that is not here is nothing; to join it would be to wait for ever.
            drop(self.thread.take());
            return Err(DemoError::Io {
                action: "wait for a checkpoint",
                path: None,
                source: std::io::Error::other("this process was forked meanwhile, and its parent writes it"),
            });
        }
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(DemoError::Io {
                action: "write a checkpoint",
                path: None,
                source: std::io::Error::other("the thread that wrote it panicked"),
            }),
        }
    }
}

impl Drop for PendingCommit {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.join();
    }
}

impl std::fmt::Debug for PendingCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingCommit").field("finished", &self.is_finished()).finish()
    }
}
