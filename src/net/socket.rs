//! A server's side of a connection: a stream with the server's timeouts.

#![forbid(unsafe_code)]

use super::server::ShutdownHandle;
use crate::pool::budget::scope::Holding;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::boxed::Box;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// A connection that a [`Server`](super::Server) took: a stream to read from and write to, which fails with
/// [`io::ErrorKind::TimedOut`] when the server's time for it is over. Dropped, it is closed.
pub struct Socket {
    stream: TcpStream,
    peer: SocketAddr,
    read_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    /// When the first byte of the request came that is being read; `None` between requests.
    request_began: Option<Instant>,
    last_byte: Instant,
    /// Set where something waits, and kept for the next wait. One for reads and one for writes: each wakes the task that set it, and the
    /// halves of a socket that was split may be in two.
    timers: [Option<Pin<Box<Sleep>>>; 2],
    shutdown: ShutdownHandle,
    _held: Holding,
}

/// Which half of a socket waits.
#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        read_timeout: Option<Duration>,
        idle_timeout: Option<Duration>,
        shutdown: ShutdownHandle,
        held: Holding,
    ) -> Socket {
        let (request_began, last_byte) = (None, Instant::now());
        // A peer that never says anything is one whose request takes too long.
        let request_began = read_timeout.map(|_| last_byte).or(request_began);
        Socket {
            stream,
            peer,
            read_timeout,
            idle_timeout,
            request_began,
            last_byte,
            timers: [None, None],
            shutdown,
            _held: held,
        }
    }

    /// Who is at the other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// The stream itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether the server is shutting down: the handler is to end after this request.
    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_shut_down()
    }

    /// Until the server is shutting down; for a handler whose peer may have no next request for it:
    ///
    /// ```
    /// # use democratising::{Result, net::Socket};
    /// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// async fn echo(mut socket: Socket) -> Result<()> {
    ///     let mut request = [0; 1024];
    ///     loop {
    ///         let ends = socket.shutting_down();
    ///         let bytes = tokio::select! {
    ///             bytes = socket.read(&mut request) => bytes?,
    ///             () = ends => return Ok(()),
    ///         };
    ///         if bytes == 0 {
    ///             return Ok(());
    ///         }
    ///         socket.write_all(&request[..bytes]).await?;
    ///     }
    /// }
    /// ```
    pub fn shutting_down(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shutdown.wait()
    }

    /// Whether a read or write that has to wait is too late already, waking the task when it would be.
    fn too_late(&mut self, way: Way, context: &mut Context<'_>) -> Option<io::Error> {
        let request = self.request_began.zip(self.read_timeout);
        let request = request.and_then(|(began, time)| began.checked_add(time));
        let idle = self.idle_timeout.and_then(|time| self.last_byte.checked_add(time));
        let until = [request, idle].into_iter().flatten().min()?;
        let timer =
            self.timers[way as usize].get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context).is_ready().then(|| {
            let what = if request == Some(until) { "the request took too long" } else { "idle for too long" };
            io::Error::new(io::ErrorKind::TimedOut, what)
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A peer that sends a byte now and then is never waited for; its time is over all the same.
        let slow = this.request_began.zip(this.read_timeout);
        if slow.is_some_and(|(began, time)| began.elapsed() >= time) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the request took too long")));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > before {
                    this.last_byte = Instant::now();
                    this.request_began.get_or_insert(this.last_byte);
                }
                Poll::Ready(result)
            }
            Poll::Pending => match this.too_late(Way::Read, context) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}

impl Socket {
    /// What a write came to: an answer ends the request before it.
    fn wrote<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.request_began = None;
        match polled {
            Poll::Ready(done) => {
                self.last_byte = Instant::now();
                Poll::Ready(done)
            }
            Poll::Pending => match self.too_late(Way::Write, context) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, buf);
        this.wrote(context, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(context, bufs);
        this.wrote(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl core::fmt::Debug for Socket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Socket").field(&self.peer).finish()
    }
}
