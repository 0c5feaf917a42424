//! Waiting on a thread for what is asynchronous.

#![forbid(unsafe_code)]

use crate::error::{DemoError, Result};
use core::task::{Context, Poll, Waker};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Instant;
use std::vec::Vec;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::coop;

/// Whether this thread may wait for what other tasks do.
///
/// # Errors
/// [`DemoError::WouldDeadlock`] in a task of a runtime that has this thread alone.
pub(super) fn allowed(call: &'static str, advice: &'static str) -> Result<()> {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::CurrentThread && in_task() => {
            Err(DemoError::WouldDeadlock { call, advice })
        }
        _ => Ok(()),
    }
}

/// Whether this is called from a task that a tokio runtime polls, and not on one of its threads for blocking work.
///
/// Tasks have a budget of at most 255 steps before they give way to others; threads for blocking work have none. What is taken
/// here for a look goes back.
fn in_task() -> bool {
    let mut context = Context::from_waker(Waker::noop());
    let mut steps = Vec::with_capacity(256);
    let ends = loop {
        match coop::poll_proceed(&mut context) {
            Poll::Pending => break true,
            Poll::Ready(_) if steps.len() == 256 => break false,
            Poll::Ready(step) => steps.push(step),
        }
    };
    // Each step restores the budget that it found: the first must be the last to do so.
    while steps.pop().is_some() {}
    ends
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls until there is an answer; `None` where there is none by `until`.
///
/// # Errors
/// [`DemoError::WouldDeadlock`] where a task has to wait whose runtime cannot give its other work to another thread.
pub(super) fn wait<T>(
    until: Option<Instant>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<Option<T>> {
    // Most answers are there at once, and need nothing that could wake anybody.
    if let Poll::Ready(answer) = poll(&mut Context::from_waker(Waker::noop())) {
        return Ok(Some(answer));
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut parked = || {
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(answer) = poll(&mut context) {
                return Some(answer);
            }
            match until {
                None => thread::park(),
                Some(until) => match until.checked_duration_since(Instant::now()) {
                    Some(left) => thread::park_timeout(left),
                    None => return None,
                },
            }
        }
    };
    let several =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() != RuntimeFlavor::CurrentThread);
    if !several {
        return Ok(parked());
    }
    // In a `LocalSet` tokio panics rather than to give the thread's tasks away.
    if in_task() && catch_unwind(|| tokio::task::block_in_place(|| ())).is_err() {
        return Err(DemoError::WouldDeadlock {
            call: "a blocking call",
            advice: "await the asynchronous one",
        });
    }
    Ok(tokio::task::block_in_place(parked))
}

#[cfg(any(unix, windows))]
mod sockets {
    use crate::net::manager::{RECEIVE, Tcp};
    use crate::net::{Manager, PooledConnection};
    use core::time::Duration;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{SendFlags, recv, send};
    use std::io::{self, ErrorKind, Read, Write};
    use std::time::Instant;

    /// Reads and writes that wait on this thread, past the runtime: the socket's own readiness is asked, so it does not matter
    /// whether any runtime is alive. A failure, an end and a timeout close the connection instead of giving it back.
    impl Read for PooledConnection<Tcp> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let read = retry(self, PollFlags::IN, |socket| {
                Ok(recv(&**socket, &mut *buf, RECEIVE).map(|(bytes, _)| bytes)?)
            });
            if matches!(read, Ok(0)) && !buf.is_empty() {
                self.set_broken();
            }
            read
        }
    }

    /// A peer that has closed is an error, no signal. Apple's systems have an option of the socket for that, which the standard library
    /// sets; Windows has no signals.
    #[cfg(not(any(target_vendor = "apple", windows)))]
    const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
    #[cfg(target_vendor = "apple")]
    const SEND: SendFlags = SendFlags::DONTWAIT;
    #[cfg(windows)]
    const SEND: SendFlags = SendFlags::empty();

    impl Write for PooledConnection<Tcp> {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            retry(self, PollFlags::OUT, |socket| Ok(send(&**socket, buf, SEND)?))
        }

        /// Nothing is held back.
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn retry(
        socket: &mut PooledConnection<Tcp>,
        ready: PollFlags,
        mut call: impl FnMut(&PooledConnection<Tcp>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let until = socket.manager().io_timeout.and_then(|time| Instant::now().checked_add(time));
        let result = loop {
            match call(socket) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = ready_by(socket, ready, until) {
                        break Err(error);
                    }
                }
                other => break other,
            }
        };
        if result.is_err() {
            socket.set_broken();
        }
        result
    }

    fn ready_by(socket: &PooledConnection<Tcp>, ready: PollFlags, until: Option<Instant>) -> io::Result<()> {
        let left = match until {
            None => None,
            Some(until) => match until.checked_duration_since(Instant::now()) {
                // Longer than poll can tell is as good as no end; the loop comes back here.
                Some(left) => Timespec::try_from(left.min(Duration::from_secs(1 << 20))).ok(),
                None => {
                    let name = socket.manager().name();
                    let what = std::format!("{name} did not answer within the pool's io_timeout");
                    return Err(io::Error::new(ErrorKind::TimedOut, what));
                }
            },
        };
        match poll(&mut [PollFd::new(&**socket, ready)], left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
