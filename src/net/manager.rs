//! What a pool has to know of its connections: how to make one, and whether one is still good.

#![forbid(unsafe_code)]

use super::server::out_of_room;
use crate::error::{DemoError, Result};
use crate::gc;
use core::time::Duration;
#[cfg(any(unix, windows))]
use rustix::net::RecvFlags;
use std::boxed::Box;
use std::io;
use std::string::String;
use tokio::net::TcpStream;

/// Makes and checks the connections of a [`ConnectionPool`](super::ConnectionPool).
///
/// ```
/// use democratising::net::{ConnectionPool, Manager};
/// use democratising::Result;
///
/// /// Connections that are numbers.
/// struct Numbers(std::sync::atomic::AtomicUsize);
///
/// impl Manager for Numbers {
///     type Connection = usize;
///     fn name(&self) -> &str {
///         "numbers"
///     }
///     async fn connect(&self) -> Result<usize> {
///         Ok(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
///     }
/// }
///
/// let pool = ConnectionPool::with_manager(Numbers(0.into())).max_size(2).build()?;
/// let (first, second) = (pool.get()?, pool.get()?);
/// assert_eq!((*first, *second), (0, 1));
/// drop(first);
/// assert_eq!(*pool.get()?, 0, "the one that came back");
/// # Ok::<(), democratising::DemoError>(())
/// ```
pub trait Manager: Send + Sync + 'static {
    /// What is pooled.
    type Connection: Send + 'static;

    /// What stands in errors and reports: the address of the peer.
    fn name(&self) -> &str;

    /// Makes a connection. It goes on when the caller who asked for it has gone away.
    ///
    /// # Errors
    /// Whatever stands in the way; the caller gets it as it is.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// Whether a connection that was idle so long is still good. It is dropped otherwise, and another taken.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    fn check(
        &self,
        connection: &mut Self::Connection,
        idle: Duration,
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = (connection, idle);
        async { Ok(()) }
    }

    /// The same for one that was kept ready, and that nobody had yet. As [`check`](Self::check) unless said.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    fn check_unused(
        &self,
        connection: &mut Self::Connection,
        idle: Duration,
    ) -> impl Future<Output = Result<()>> + Send {
        self.check(connection, idle)
    }

    /// Called before a connection is used under another tokio runtime than it was used under last. Sockets belong to the
    /// runtime that they were made under, and end with it.
    ///
    /// # Errors
    /// Whatever stands in the way; the connection is gone then, and another taken.
    fn change_runtime(&self, connection: Self::Connection) -> Result<Self::Connection> {
        Ok(connection)
    }
}

/// TCP, to an address such as `"example.org:443"`. The name is looked up for each connection anew.
#[derive(Clone, Debug)]
pub struct Tcp {
    address: Box<str>,
    pub(super) nodelay: bool,
    pub(super) io_timeout: Option<Duration>,
}

impl Tcp {
    /// Connections to `address`, without delay for small writes (`TCP_NODELAY`).
    pub fn new(address: impl Into<String>) -> Tcp {
        Tcp { address: address.into().into(), nodelay: true, io_timeout: None }
    }

    fn look(&self, stream: &TcpStream, was_used: bool) -> Result<()> {
        let problem = match peek(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => error,
            Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed it"),
            Ok(_) if !was_used => return Ok(()),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "an answer that nobody read lies in it"),
        };
        Err(self.failed("use a connection to")(problem))
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> DemoError {
        let peer = self.address.clone();
        move |source| DemoError::Connection { action, peer: peer.clone(), source: source.into() }
    }
}

impl Manager for Tcp {
    type Connection = TcpStream;

    fn name(&self) -> &str {
        &self.address
    }

    async fn connect(&self) -> Result<TcpStream> {
        let stream = loop {
            match TcpStream::connect(&*self.address).await {
                // Where descriptors have run out, those of idle connections will do, one at a time.
                Err(error) if out_of_room(&error) && collect_one()? => {}
                connected => break connected.map_err(with_advice).map_err(self.failed("connect to"))?,
            }
        };
        if self.nodelay {
            stream.set_nodelay(true).map_err(self.failed("set TCP_NODELAY on a connection to"))?;
        }
        Ok(stream)
    }

    /// Looks into the socket: at its end it is closed, and where bytes lie that nobody asked for, somebody went away in the
    /// middle of an answer. What comes a moment later cannot be seen.
    async fn check(&self, stream: &mut TcpStream, _idle: Duration) -> Result<()> {
        self.look(stream, true)
    }

    /// What lies in a socket that nobody used is a greeting.
    async fn check_unused(&self, stream: &mut TcpStream, _idle: Duration) -> Result<()> {
        self.look(stream, false)
    }

    fn change_runtime(&self, stream: TcpStream) -> Result<TcpStream> {
        let moved = stream.into_std().and_then(TcpStream::from_std);
        moved.map_err(self.failed("move to another runtime a connection to"))
    }
}

/// What an address has to look like, where it does not.
pub(super) fn with_advice(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidInput => {
            let told = std::format!("{error}; it is a name or number and a port: example.org:443");
            io::Error::new(io::ErrorKind::InvalidInput, told)
        }
        _ => error,
    }
}

/// Whether somebody gave an idle connection up.
fn collect_one() -> Result<bool> {
    Ok(gc::collect_resource(gc::Resource::Connections, 1)? > 0)
}

/// How to read without waiting. A runtime's socket never waits; where that can be said of a call too, it is.
#[cfg(unix)]
pub(super) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT;
#[cfg(windows)]
pub(super) const RECEIVE: RecvFlags = RecvFlags::empty();

#[cfg(any(unix, windows))]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    let mut byte = [0u8; 1];
    loop {
        match rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RECEIVE) {
            Ok((bytes, _)) => return Ok(bytes),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(not(any(unix, windows)))]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    use core::task::{Context, Poll, Waker};
    let (mut byte, mut context) = ([0u8; 1], Context::from_waker(Waker::noop()));
    match stream.poll_peek(&mut context, &mut tokio::io::ReadBuf::new(&mut byte)) {
        Poll::Ready(peeked) => peeked,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
