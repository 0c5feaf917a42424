//! The pool of connections.
//!
//! 1. deadpool holds what is idle and the **permits**: as many as there may be connections. Who gets one first is who asked first.
//! 2. With a permit, the newest idle connection is looked at, and used if it is still good; else the next; else one is made. New
//!    ones come over the [`desk`](super::desk), where a caller who goes away leaves his connect to others.
//! 3. Every connection, idle, used or being made, has a place in the pool's scope of the ledger, whose limit is the maximum. So
//!    no interleaving of callers, cancelled connects and connections that are being closed exceeds it.

#![forbid(unsafe_code)]

use super::builder::{ConnectionPoolBuilder, Settings};
use super::clock::now_ms;
use super::connection::PooledConnection;
use super::manager::{Manager, Tcp};
use super::reclaimer::Reclaimer;
use super::shared::{Conn, New, Shared, beyond, count};
use super::{background, blocking, keeper};
use crate::error::{DemoError, Result};
use crate::gc;
use crate::pool::budget::scope::{Kind, Scope};
use crate::sync::Cell;
use crate::sync::atomic::Ordering::Relaxed;
use core::fmt;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;
use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult};
use std::boxed::Box;
use std::string::String;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::runtime::Handle;

/// Connections that are made once and used many times. A clone is the same pool.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> democratising::Result<()> {
/// use democratising::net::ConnectionPool;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr()?.to_string();
/// # tokio::spawn(async move {
/// #     let (mut socket, _) = server.accept().await.unwrap();
/// #     let (mut read, mut write) = socket.split();
/// #     tokio::io::copy(&mut read, &mut write).await.unwrap();
/// # });
///
/// let pool = ConnectionPool::new(address, 10)?; // at most 10
/// for _ in 0..100 {
///     let mut connection = pool.get_async().await?;
///     connection.write_all(b"ping").await?;
///     let mut answer = [0; 4];
///     connection.read_exact(&mut answer).await?;
/// } // back to the pool
/// assert_eq!(pool.stats().connects, 1);
/// pool.close().await;
/// # Ok(())
/// # }
/// ```
pub struct ConnectionPool<M: Manager = Tcp> {
    inner: Arc<Inner<M>>,
}

pub(super) struct Inner<M: Manager> {
    pub(super) idle: managed::Pool<Recycler<M>>,
    pub(super) shared: Arc<Shared<M>>,
    reclaimer: Option<gc::ReclaimerId>,
}

/// What deadpool asks to make and to check connections.
pub(super) struct Recycler<M: Manager>(Arc<Shared<M>>);

std::thread_local! {
    /// What the poll that is under way came to wait for.
    static PHASE: Cell<&'static str> = const { Cell::new("") };
}

const WAITING: &str = "waiting for a connection to";
const CONNECTING: &str = "connecting to";
const CHECKING: &str = "checking an idle connection to";

/// What deadpool answers.
type Got<M> = Result<managed::Object<Recycler<M>>, PoolError<DemoError>>;

/// Polls a future, and tells what it came to wait for.
#[inline]
fn poll_in_phase<F: Future>(
    getting: Pin<&mut F>,
    context: &mut Context<'_>,
    phase: &mut &'static str,
) -> Poll<F::Output> {
    PHASE.set(WAITING);
    let polled = getting.poll(context);
    *phase = PHASE.get();
    polled
}

/// Runs a future, and says of each poll that it was in this phase.
async fn in_phase<T>(phase: &'static str, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    core::future::poll_fn(|context| {
        PHASE.set(phase);
        future.as_mut().poll(context)
    })
    .await
}

impl<M: Manager> managed::Manager for Recycler<M> {
    type Type = Box<Conn<M>>;
    type Error = DemoError;

    async fn create(&self) -> Result<Self::Type> {
        Box::pin(self.make()).await
    }

    async fn recycle(&self, conn: &mut Self::Type, _: &Metrics) -> RecycleResult<DemoError> {
        if self.is_good(conn, true).await {
            return Ok(());
        }
        // Before the next is made: its place in the ledger is needed.
        conn.close();
        Err(RecycleError::message("it is used no more"))
    }
}

// What is seldom awaited is boxed, here and below: deadpool moves what its awaits may have to keep several times on the way of a
// connection that is at hand, and with connects and checks in it that is half a kilobyte.
impl<M: Manager> Recycler<M> {
    async fn make(&self) -> Result<Box<Conn<M>>> {
        loop {
            let mut conn = match in_phase(CONNECTING, self.0.new_connection()).await? {
                // It is as good as any that would be made in its place.
                New::Made(mut conn) => {
                    self.move_here(&mut conn)?;
                    return Ok(conn);
                }
                New::Ready(conn) => conn,
            };
            if self.is_good(&mut conn, false).await {
                return Ok(conn);
            }
            conn.close();
        }
    }

    /// Nearly always a glance is enough.
    #[inline]
    async fn is_good(&self, conn: &mut Conn<M>, was_used: bool) -> bool {
        match self.glance(conn) {
            Some(good) => good,
            None => Box::pin(self.look(conn, was_used)).await,
        }
    }

    /// What can be said without a look at the connection itself.
    #[inline]
    fn glance(&self, conn: &Conn<M>) -> Option<bool> {
        let now_ms = now_ms();
        if now_ms >= conn.expires_ms {
            count(&self.0.counts.expired);
            return Some(false);
        }
        if u128::from(now_ms.saturating_sub(conn.idle_since_ms)) >= self.0.settings.check_after.as_millis() {
            return None;
        }
        let here = Handle::try_current().ok().map(|handle| handle.id());
        (here.is_none() || here == conn.runtime).then_some(true)
    }

    async fn look(&self, conn: &mut Conn<M>, was_used: bool) -> bool {
        let Shared { settings, counts, manager, .. } = &*self.0;
        let idle = Duration::from_millis(now_ms().saturating_sub(conn.idle_since_ms));
        if idle >= settings.check_after {
            let Some(connection) = conn.connection.as_mut() else { return false };
            let is_good = if was_used {
                check_in_time(settings.check_timeout, in_phase(CHECKING, manager.check(connection, idle)))
                    .await
            } else {
                let check = in_phase(CHECKING, manager.check_unused(connection, idle));
                check_in_time(settings.check_timeout, check).await
            };
            if !is_good {
                count(&counts.stale);
                return false;
            }
        }
        self.move_here(conn).inspect_err(|_| count(&counts.stale)).is_ok()
    }

    /// Makes a connection one of the runtime that this thread is in.
    fn move_here(&self, conn: &mut Conn<M>) -> Result<()> {
        let here = Handle::try_current().ok().map(|handle| handle.id());
        if here.is_some() && here != conn.runtime {
            let Some(connection) = conn.connection.take() else { return Err(self.0.closed()) };
            conn.connection = Some(self.0.manager.change_runtime(connection)?);
            conn.runtime = here;
        }
        Ok(())
    }
}

/// Whether a check says that all is well before its time is over. Most answer at once, and need no timer.
async fn check_in_time(time: Duration, check: impl Future<Output = Result<()>>) -> bool {
    let mut check = pin!(check);
    let first = core::future::poll_fn(|context| Poll::Ready(check.as_mut().poll(context))).await;
    match first {
        Poll::Ready(answer) => answer.is_ok(),
        // A thread outside of any runtime has no timer; the caller's own deadline has to do.
        Poll::Pending if Handle::try_current().is_err() => check.await.is_ok(),
        Poll::Pending => matches!(tokio::time::timeout(time, check).await, Ok(Ok(()))),
    }
}

impl ConnectionPool<Tcp> {
    /// A pool of at most `max_size` TCP connections to `address`, such as `"example.org:443"`. They are made when they are
    /// needed; [`builder`](Self::builder) has more to choose.
    ///
    /// # Errors
    /// [`DemoError::InvalidConfig`] where it may have none, or there is no address.
    pub fn new(address: impl Into<String>, max_size: usize) -> Result<Self> {
        ConnectionPool::builder(address).max_size(max_size).build()
    }

    /// Settings to choose for a pool of TCP connections.
    pub fn builder(address: impl Into<String>) -> ConnectionPoolBuilder<Tcp> {
        ConnectionPool::with_manager(Tcp::new(address))
    }
}

impl<M: Manager> ConnectionPool<M> {
    /// Settings to choose for a pool of whatever `manager` makes.
    pub fn with_manager(manager: M) -> ConnectionPoolBuilder<M> {
        ConnectionPoolBuilder::new(manager)
    }

    pub(super) fn make(manager: M, settings: Settings) -> Result<Self> {
        let keeps = settings.min_idle > 0 || settings.idle_timeout.or(settings.max_lifetime).is_some();
        let keeper = if keeps { Some(background::runtime()?) } else { None };
        let shared = Arc::new(Shared::new(manager, settings));
        let idle = managed::Pool::builder(Recycler(Arc::clone(&shared)))
            .max_size(shared.settings.max_size)
            .queue_mode(managed::QueueMode::Lifo)
            .build();
        let idle = idle.map_err(|error| DemoError::Io {
            action: "make a pool of connections",
            path: None,
            source: std::io::Error::other(error),
        })?;
        let inner = Arc::new_cyclic(|pool: &Weak<Inner<M>>| {
            let name = String::from(shared.scope.name());
            let reclaimer = gc::register(name, 50, Reclaimer(Weak::clone(pool)));
            Inner { idle, shared: Arc::clone(&shared), reclaimer: Some(reclaimer) }
        });
        if let Some(runtime) = keeper {
            runtime.spawn(keeper::keep(Arc::downgrade(&inner), shared));
        }
        Ok(ConnectionPool { inner })
    }

    /// A connection, used by nobody else until it is dropped. Whoever asked first gets one first.
    ///
    /// # Errors
    /// What stood in the way of a new connection, as it is ([`DemoError::Connection`]); [`DemoError::TimedOut`] after the
    /// pool's [`wait_timeout`](ConnectionPoolBuilder::wait_timeout); [`DemoError::Closed`] after [`close`](Self::close). A pool that
    /// was made before a fork is [`DemoError::Connection`] in the child.
    pub async fn get_async(&self) -> Result<PooledConnection<M>> {
        self.inner.shared.allowed()?;
        // Whether there is a permit can be told without getting in line, and nobody in line is passed by: where somebody waits, there
        // is none.
        const AT_ONCE: managed::Timeouts =
            managed::Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
        let mut getting = pin!(self.inner.idle.timeout_get(&AT_ONCE));
        let mut phase = WAITING;
        // Where one is idle there is nothing to wait for, and no timer to set.
        let first = core::future::poll_fn(|context| {
            Poll::Ready(poll_in_phase(getting.as_mut(), context, &mut phase))
        });
        match first.await {
            Poll::Ready(Err(PoolError::Timeout(_))) => {
                let waiting = self.inner.idle.get();
                Box::pin(async { self.in_time(pin!(waiting), WAITING).await }).await
            }
            Poll::Ready(got) => self.got(got),
            Poll::Pending => Box::pin(self.in_time(getting, phase)).await,
        }
    }

    /// Awaits a connection until the pool's time to wait is over. `phase` says what it came to wait for so far.
    async fn in_time(
        &self,
        mut getting: Pin<&mut impl Future<Output = Got<M>>>,
        mut phase: &'static str,
    ) -> Result<PooledConnection<M>> {
        let timer = {
            let here = background::here()?;
            let _in = here.enter();
            tokio::time::sleep(self.inner.shared.settings.wait_timeout)
        };
        let mut timer = pin!(timer);
        let got =
            core::future::poll_fn(|context| match poll_in_phase(getting.as_mut(), context, &mut phase) {
                Poll::Ready(got) => Poll::Ready(Some(got)),
                Poll::Pending => timer.as_mut().poll(context).map(|()| None),
            })
            .await;
        match got {
            Some(got) => self.got(got),
            None => Err(self.timed_out(phase)),
        }
    }

    /// The same, waiting on this thread.
    ///
    /// Inside of a tokio runtime of several threads, its other threads take over this one's tasks meanwhile.
    ///
    /// # Errors
    /// Those of [`get_async`](Self::get_async), and [`DemoError::WouldDeadlock`] on the thread of a runtime that has no other:
    /// whoever would give a connection back could not run.
    pub fn get(&self) -> Result<PooledConnection<M>> {
        self.inner.shared.allowed()?;
        blocking::allowed("ConnectionPool::get()", "await ConnectionPool::get_async()")?;
        let until = Instant::now().checked_add(self.inner.shared.settings.wait_timeout);
        let mut getting = pin!(self.inner.idle.get());
        let mut phase = WAITING;
        let got = blocking::wait(until, |context| poll_in_phase(getting.as_mut(), context, &mut phase))?;
        match got {
            Some(got) => self.got(got),
            None => Err(self.timed_out(phase)),
        }
    }

    #[inline]
    fn got(&self, got: Got<M>) -> Result<PooledConnection<M>> {
        match got {
            Ok(object) => {
                count(&self.inner.shared.counts.served);
                Ok(PooledConnection::new(object))
            }
            Err(PoolError::Backend(error)) => Err(error),
            // No timeouts and no hooks were given to deadpool: what is left is that it is closed.
            Err(_) => Err(self.inner.shared.closed()),
        }
    }

    #[cold]
    fn timed_out(&self, phase: &'static str) -> DemoError {
        let shared = &self.inner.shared;
        count(&shared.counts.timeouts);
        let stats = self.stats();
        DemoError::TimedOut {
            phase,
            peer: shared.manager.name().into(),
            waited: shared.settings.wait_timeout,
            in_use: stats.in_use,
            limit: stats.max_size,
        }
    }

    /// No connection from here on: who waits is told, what is idle is closed, and this waits until what is in use has come back.
    pub async fn close(&self) {
        let shared = &self.inner.shared;
        if shared.allowed().is_err() {
            return;
        }
        self.inner.close();
        loop {
            let freed = shared.freed.notified();
            let mut freed = pin!(freed);
            freed.as_mut().enable();
            if shared.scope.used(Kind::Connections) == 0 && shared.desk.lock().flights() == 0 {
                return;
            }
            freed.await;
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.inner.idle.is_closed()
    }

    /// The pool's place in the ledger: what it holds, and its limit.
    pub fn scope(&self) -> &Scope {
        &self.inner.shared.scope
    }

    /// The pool in numbers.
    pub fn stats(&self) -> ConnectionStats {
        self.inner.stats()
    }
}

impl<M: Manager> Clone for ConnectionPool<M> {
    fn clone(&self) -> Self {
        ConnectionPool { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Manager> fmt::Debug for ConnectionPool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.inner.shared.manager.name();
        f.debug_struct("ConnectionPool").field("to", &name).field("stats", &self.stats()).finish()
    }
}

impl<M: Manager> Inner<M> {
    fn close(&self) {
        self.idle.close();
        self.shared.close_desk();
    }

    /// Closes idle connections that `goes` says yes to, oldest first, and keeps `keep` of them. How many.
    pub(super) fn close_idle(&self, keep: usize, goes: impl Fn(&Conn<M>) -> bool) -> usize {
        let mut out = beyond(keep, self.idle_count(), |conn: &Conn<M>| goes(conn));
        let ready = self.shared.drop_ready(|conn| out(conn));
        let retained = self.idle.retain(|conn, _| !out(conn));
        ready + retained.removed.len()
    }

    /// Connections that nobody uses.
    pub(super) fn idle_count(&self) -> usize {
        self.idle.status().available + self.shared.desk.lock().ready()
    }

    fn stats(&self) -> ConnectionStats {
        let counts = &self.shared.counts;
        let (size, available, waiting, ready, connecting) = if self.shared.maker.is_this() {
            let desk = self.shared.desk.lock();
            let (ready, connecting) = (desk.ready(), desk.flights());
            drop(desk);
            let status = self.idle.status();
            (status.size, status.available, status.waiting, ready, connecting)
        } else {
            // In a fork nothing of it can be had, and a lock may be held for ever.
            (0, 0, 0, 0, 0)
        };
        ConnectionStats {
            max_size: self.shared.settings.max_size,
            idle: available + ready,
            in_use: size.saturating_sub(available),
            connecting,
            waiting,
            served: counts.served.load(Relaxed) as u64,
            connects: counts.connects.load(Relaxed) as u64,
            failures: counts.failures.load(Relaxed) as u64,
            timeouts: counts.timeouts.load(Relaxed) as u64,
            closed_stale: counts.stale.load(Relaxed) as u64,
            closed_expired: counts.expired.load(Relaxed) as u64,
            closed_unused: counts.unused.load(Relaxed) as u64,
        }
    }
}

impl<M: Manager> Drop for Inner<M> {
    fn drop(&mut self) {
        if let Some(id) = self.reclaimer.take() {
            gc::unregister(id);
        }
        if self.shared.maker.is_this() {
            self.close();
        }
    }
}

/// A pool of connections in numbers, nearly of one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The most that there may be.
    pub max_size: usize,
    /// Connections that nobody uses.
    pub idle: usize,
    /// Connections in use.
    pub in_use: usize,
    /// Connects under way.
    pub connecting: usize,
    /// Callers who wait.
    pub waiting: usize,
    /// Connections handed out so far.
    pub served: u64,
    /// Connects begun so far.
    pub connects: u64,
    /// Connects that failed.
    pub failures: u64,
    /// Callers whose time was over.
    pub timeouts: u64,
    /// Idle connections found dead.
    pub closed_stale: u64,
    /// Connections closed for their age.
    pub closed_expired: u64,
    /// Connections closed since nobody used them, or for memory or descriptors.
    pub closed_unused: u64,
}
