//! A server that takes no more connections than it may, and ends in good order.
//!
//! 1. A **permit** is taken before a connection is: who is beyond the limit waits in the system's queue, and costs nothing. So that queue
//!    has to be long.
//! 2. Where descriptors run out (`EMFILE`), accepting pauses, idle connections of pools are given up, and it goes on. It ends only where
//!    the listening socket is none any more: whatever else the system says may be over in a moment, as a firewall's refusal (`EPERM`).
//! 3. A handler that panics ends its connection, and is counted.
//! 4. A **shutdown** stops accepting at once, tells the handlers, waits for them until the drain deadline, and ends those that are
//!    left. Dropping a server, or the future that serves, ends all of them.

#![forbid(unsafe_code)]

use super::manager::with_advice;
use super::socket::Socket;
use crate::error::{DemoError, Result};
use crate::gc;
use crate::pool::budget::scope::{Holding, Kind, Scope};
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::boxed::Box;
use std::io;
use std::net::SocketAddr;
use std::string::{String, ToString};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// A listening socket with limits.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> democratising::Result<()> {
/// use democratising::net::Server;
/// use std::time::Duration;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let server = Server::bind("127.0.0.1:0").await?.max_connections(1000).read_timeout(Duration::from_secs(5));
/// let (address, shutdown) = (server.local_addr()?, server.shutdown_handle());
/// let serving = tokio::spawn(server.serve(|mut socket| async move {
///     let mut request = [0; 4];
///     socket.read_exact(&mut request).await?;
///     socket.write_all(&request).await?;
///     Ok(())
/// }));
///
/// let mut client = tokio::net::TcpStream::connect(address).await?;
/// client.write_all(b"ping").await?;
/// let mut answer = [0; 4];
/// client.read_exact(&mut answer).await?;
/// shutdown.shutdown();
/// let served = serving.await.expect("it does not panic")?;
/// assert_eq!((served.accepted, served.aborted), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "serve() takes connections"]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    max_connections: usize,
    read_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    drain_timeout: Duration,
    shutdown: ShutdownHandle,
    /// The server in the ledger.
    scope: Scope,
    listening: Holding,
}

/// Ends a server; a clone is the same. Dropping it does not.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(Arc<watch::Sender<bool>>);

impl ShutdownHandle {
    /// No more connections are taken, and those that are there have until the drain deadline.
    pub fn shutdown(&self) {
        self.0.send_replace(true);
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    pub fn is_shut_down(&self) -> bool {
        *self.0.borrow()
    }

    /// Until [`shutdown`](Self::shutdown) is called; at once where it was.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ends = self.0.subscribe();
        async move {
            // Where nobody is left who could call it, it ends as well.
            let _ = ends.wait_for(|ends| *ends).await;
        }
    }
}

/// What a server did, told when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Served {
    /// Connections that were taken.
    pub accepted: u64,
    /// Handlers that returned an error.
    pub failed: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Handlers that were still at it at the drain deadline, and were ended.
    pub aborted: u64,
    /// How often accepting paused since descriptors, memory or the ledger had run out, or the system refused to accept.
    pub pauses: u64,
}

/// So long accepting pauses where descriptors have run out, each that is closed meanwhile helps; or where the system refuses.
const PAUSE: Duration = Duration::from_millis(20);

impl Server {
    /// Listens at an address; port 0 is a free one.
    ///
    /// # Errors
    /// [`DemoError::Connection`] where that cannot be done.
    pub async fn bind(address: impl ToSocketAddrs + ToString) -> Result<Server> {
        let name = address.to_string();
        let failed = |source: Box<dyn core::error::Error + Send + Sync>| DemoError::Connection {
            action: "bind",
            peer: name.as_str().into(),
            source,
        };
        let listener = listen(address).await.map_err(|error| failed(with_advice(error).into()))?;
        let address = listener.local_addr().map_err(|error| failed(error.into()))?;
        let scope = Scope::new(std::format!("server at {}", with_port(&name, address)));
        let listening =
            scope.charge(Kind::Listeners, 1).map_err(|refused| failed(refused.to_string().into()))?;
        Ok(Server {
            listener,
            address,
            max_connections: 1000,
            read_timeout: None,
            idle_timeout: None,
            drain_timeout: Duration::from_secs(10),
            shutdown: ShutdownHandle(Arc::new(watch::Sender::new(false))),
            scope,
            listening,
        })
    }

    /// Never more connections than this at once. 1000 unless said; zero takes one.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How long a request may take to come in: from its first byte, however slowly more come, to the next write of the handler.
    /// Reads fail with [`io::ErrorKind::TimedOut`] then. Without end unless said.
    pub fn read_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.read_timeout = time.into();
        self
    }

    /// How long a connection may lie idle: without a byte in either direction. Without end unless said.
    pub fn idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = time.into();
        self
    }

    /// How long handlers may go on after a shutdown. 10 s unless said.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.drain_timeout = time;
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// None today.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.address)
    }

    /// Ends this server from elsewhere.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// The server's place in the ledger.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Takes connections until the shutdown, and runs `handler` for each in a task of its own and in the server's scope.
    ///
    /// # Errors
    /// [`DemoError::Connection`] where the listening socket is none any more. The handlers' own errors are counted.
    pub async fn serve<H, F>(self, handler: H) -> Result<Served>
    where
        H: Fn(Socket) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let Server { listener, scope, shutdown, .. } = &self;
        let permits = Arc::new(Semaphore::new(self.max_connections));
        let pauses = AtomicUsize::new(0);
        let mut served = Served::default();
        let mut tasks = JoinSet::new();
        let mut stop = pin!(shutdown.wait());
        let result = loop {
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await.ok();
                accept(listener, scope, &pauses).await.map(|taken| (taken, permit))
            };
            let mut next = pin!(next);
            // One of three: the end, a handler that is done, a connection; in this order.
            let event = core::future::poll_fn(|context| {
                if stop.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Event::Stop);
                }
                while let Poll::Ready(Some(done)) = tasks.poll_join_next(context) {
                    note(&mut served, done);
                }
                next.as_mut().poll(context).map(Event::Next)
            })
            .await;
            match event {
                Event::Stop => break Ok(()),
                Event::Next(Err(error)) => break Err(error),
                Event::Next(Ok(((stream, peer, held), permit))) => {
                    served.accepted += 1;
                    let socket = Socket::new(
                        stream,
                        peer,
                        self.read_timeout,
                        self.idle_timeout,
                        shutdown.clone(),
                        held,
                    );
                    // Made here, so that a handler that panics before its first await is contained as well.
                    let work = gc::contained(|| handler(socket));
                    let Some(work) = work else {
                        served.panicked += 1;
                        continue;
                    };
                    let work = scope.wrap(work);
                    tasks.spawn(async move {
                        // Given back when the connection is closed, not before: with the task, or when it is ended.
                        let _permit = permit;
                        work.await
                    });
                }
            }
        };
        self.drain(tasks, &mut served).await;
        served.pauses = pauses.load(Relaxed) as u64;
        result.map(|()| served)
    }

    /// The listening socket is closed first: nobody new is to wait for this.
    async fn drain(self, mut tasks: JoinSet<Result<()>>, served: &mut Served) {
        let Server { listener, listening, drain_timeout, shutdown, .. } = self;
        drop(listener);
        drop(listening);
        // Also where the socket failed: the handlers are to know.
        shutdown.shutdown();
        let all = async {
            while let Some(done) = tasks.join_next().await {
                note(served, done);
            }
        };
        if tokio::time::timeout(drain_timeout, all).await.is_err() {
            tasks.abort_all();
            while let Some(done) = tasks.join_next().await {
                note(served, done);
            }
        }
    }
}

enum Event {
    Stop,
    Next(Result<((TcpStream, SocketAddr, Holding), Option<tokio::sync::OwnedSemaphorePermit>)>),
}

fn note(served: &mut Served, done: Result<Result<()>, tokio::task::JoinError>) {
    match done {
        Ok(Ok(())) => {}
        Ok(Err(_)) => served.failed += 1,
        Err(error) if error.is_panic() => {
            served.panicked += 1;
            // Dropping what was thrown is the handler's code too.
            gc::contained(|| drop(error));
        }
        Err(_) => served.aborted += 1,
    }
}

/// The next connection, with its place in the ledger. It is taken when somebody is there, so that a server to whom nobody comes takes
/// nothing from others; who finds no place waits as he would in the system's queue.
async fn accept(
    listener: &TcpListener,
    scope: &Scope,
    pauses: &AtomicUsize,
) -> Result<(TcpStream, SocketAddr, Holding)> {
    let (stream, peer) = loop {
        match listener.accept().await {
            Ok(taken) => break taken,
            Err(error) if of_the_peer(&error) => {}
            Err(error) if out_of_room(&error) => pause_for_room(pauses).await?,
            Err(error) if !of_the_listener(&error) => pause(pauses).await,
            Err(source) => {
                let peer: String = listener.local_addr().map_or("a listener".into(), |at| at.to_string());
                return Err(DemoError::Connection {
                    action: "accept at",
                    peer: peer.into(),
                    source: source.into(),
                });
            }
        }
    };
    loop {
        match scope.charge(Kind::Connections, 1) {
            Ok(held) => return Ok((stream, peer, held)),
            Err(_) => pause_for_room(pauses).await?,
        }
    }
}

/// Idle connections of pools give way, and time passes.
async fn pause_for_room(pauses: &AtomicUsize) -> Result<()> {
    gc::collect_resource(gc::Resource::Connections, 1)?;
    pause(pauses).await;
    Ok(())
}

/// Time passes: who asks again at once may be told the same, and keep a processor busy with it.
async fn pause(pauses: &AtomicUsize) {
    pauses.fetch_add(1, Relaxed);
    tokio::time::sleep(PAUSE).await;
}

/// How many connections may wait to be taken: what Linux lets there be unless it is told otherwise, and a system that lets fewer takes
/// its own number. (Tokio asks for 128. Who comes when the queue is full is not answered, and asks again after a second, then three.)
const BACKLOG: u32 = 4096;

/// Listens at the first of an address's numbers where that can be done.
async fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = None;
    for address in tokio::net::lookup_host(address).await? {
        match listen_at(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no number belongs to that name")))
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As tokio does: a server that starts again has its address at once. (On Windows it would mean to share it.)
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The address that was asked for, with the port that is listened at where any free one was.
fn with_port(name: &str, address: SocketAddr) -> String {
    match name.rsplit_once(':') {
        Some((host, port)) if port.parse() == Ok(0u16) => std::format!("{host}:{}", address.port()),
        _ => name.into(),
    }
}

/// Of one peer alone: it went away before it was accepted, or the network between. Linux tells what has happened to a connection
/// by the call that would accept it (accept(2): "should detect the network errors defined for the protocol .. and treat them like EAGAIN").
fn of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
    let of_its_end =
        matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted);
    of_its_end
        || matches!(error.kind(), HostUnreachable | NetworkDown | NetworkUnreachable | TimedOut)
        || of_its_network(error)
}

/// Those that the standard library has no name for.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn of_its_network(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::PROTO, Errno::NOPROTOOPT, Errno::HOSTDOWN, Errno::NONET, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn of_its_network(_: &io::Error) -> bool {
    false
}

/// Of the listening socket itself: there is none, or it does not listen, and asking again changes nothing.
#[cfg(unix)]
fn of_the_listener(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::BADF, Errno::NOTSOCK, Errno::INVAL, Errno::FAULT, Errno::NOSYS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(not(unix))]
fn of_the_listener(error: &io::Error) -> bool {
    // Of Windows: no handle, no socket.
    matches!(error.raw_os_error(), Some(10_009 | 10_038)) || error.kind() == io::ErrorKind::InvalidInput
}

/// Descriptors or memory have run out, and may be there again in a moment.
#[cfg(unix)]
pub(super) fn out_of_room(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(not(unix))]
pub(super) fn out_of_room(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}
