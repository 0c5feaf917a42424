//! What a pool's connections, flights and keeper share.

#![forbid(unsafe_code)]

use super::clock::now_ms;
use super::desk::{Caller, Desk, Found};
use super::manager::Manager;
use super::process::Process;
use super::{background, builder::Settings};
use crate::error::{DemoError, Result};
use crate::gc;
use crate::pool::budget::scope::{Holding, Kind, Scope};
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{HostLock, Lock};
use core::time::Duration;
use std::boxed::Box;
use std::hash::{BuildHasher, RandomState};
use std::string::ToString;
use std::sync::Arc;
use tokio::runtime::Id;
use tokio::sync::{Notify, Semaphore, oneshot};

/// A connection with what is known of it. Dropped, it is closed first and given back to the ledger then.
///
/// It is boxed wherever it is kept: on its way in and out of a pool a pointer moves.
pub(super) struct Conn<M: Manager> {
    /// `None` in a shell, whose connection was taken out.
    pub(super) connection: Option<M::Connection>,
    #[cfg_attr(not(unix), allow(dead_code))]
    pub(super) manager: Arc<M>,
    place: Option<Seat>,
    pub(super) maker: Process,
    /// The runtime under which it was used last.
    pub(super) runtime: Option<Id>,
    pub(super) expires_ms: u64,
    pub(super) idle_since_ms: u64,
}

impl<M: Manager> Conn<M> {
    /// Closes it; in a fork of the process that made it, leaves it alone.
    pub(super) fn close(&mut self) {
        let connection = self.connection.take();
        if self.maker.is_this() {
            drop(connection);
        } else {
            core::mem::forget(connection);
        }
        self.place = None;
    }

    /// Takes it out of the pool's hands.
    pub(super) fn take(&mut self) -> Option<M::Connection> {
        self.place = None;
        self.connection.take()
    }
}

impl<M: Manager> Drop for Conn<M> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection's place in the ledger.
struct Seat {
    held: Option<Holding>,
    freed: Arc<Notify>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.held = None;
        self.freed.notify_waiters();
    }
}

/// What happened so far.
#[derive(Default, Debug)]
pub(super) struct Counts {
    pub(super) served: AtomicUsize,
    pub(super) connects: AtomicUsize,
    pub(super) failures: AtomicUsize,
    pub(super) timeouts: AtomicUsize,
    pub(super) stale: AtomicUsize,
    pub(super) expired: AtomicUsize,
    pub(super) unused: AtomicUsize,
}

/// Adds one. Relaxed: the counts say nothing about each other.
pub(super) fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Relaxed);
}

type Outcome<M> = Result<Box<Conn<M>>>;

/// A connection that nobody had yet.
pub(super) enum New<M: Manager> {
    /// It was made for whoever asked.
    Made(Box<Conn<M>>),
    /// It was made before, and kept ready.
    Ready(Box<Conn<M>>),
}

pub(super) struct Waiting<M: Manager>(oneshot::Sender<Outcome<M>>);

impl<M: Manager> Caller<Box<Conn<M>>, DemoError> for Waiting<M> {
    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }

    fn tell(self, outcome: Outcome<M>) -> Result<(), Outcome<M>> {
        self.0.send(outcome)
    }
}

pub(super) struct Shared<M: Manager> {
    pub(super) manager: Arc<M>,
    pub(super) settings: Settings,
    /// The pool in the ledger: as many connections as may be, inside of whoever made the pool.
    pub(super) scope: Scope,
    pub(super) desk: Lock<HostLock, Desk<Box<Conn<M>>, Waiting<M>>>,
    /// How many connects may be under way at once.
    connecting: Semaphore,
    /// A connection has left the ledger.
    pub(super) freed: Arc<Notify>,
    /// The keeper has something to do, or the pool is closed.
    pub(super) awake: Notify,
    /// The pool is closed.
    pub(super) ended: Notify,
    pub(super) counts: Counts,
    jitter: RandomState,
    /// In a fork of this one, whose threads are not there, the locks may be held for ever.
    pub(super) maker: Process,
}

impl<M: Manager> Shared<M> {
    pub(super) fn new(manager: M, settings: Settings) -> Shared<M> {
        let scope = Scope::new(std::format!("pool of {}", manager.name()));
        scope.set_limit(Kind::Connections, settings.max_size as u64);
        Shared {
            scope,
            desk: Lock::new(Desk::new()),
            connecting: Semaphore::new(settings.max_connecting.min(Semaphore::MAX_PERMITS)),
            freed: Arc::default(),
            awake: Notify::new(),
            ended: Notify::new(),
            counts: Counts::default(),
            jitter: RandomState::new(),
            maker: Process::this(),
            manager: Arc::new(manager),
            settings,
        }
    }

    /// # Errors
    /// [`DemoError::Connection`] in a fork of the process that made the pool.
    #[inline]
    pub(super) fn allowed(&self) -> Result<()> {
        if self.maker.is_this() { Ok(()) } else { Err(self.refused_in_child()) }
    }

    #[cold]
    fn refused_in_child(&self) -> DemoError {
        DemoError::Connection {
            action: "use, in the child of a fork, its parent's pool of connections to",
            peer: self.manager.name().into(),
            source: "make another pool in the child".into(),
        }
    }

    pub(super) fn closed(&self) -> DemoError {
        DemoError::Closed { what: "the pool of connections to", name: self.manager.name().into() }
    }

    /// A connection that was just made, or is kept ready.
    pub(super) async fn new_connection(self: &Arc<Self>) -> Result<New<M>> {
        loop {
            let (told, outcome) = oneshot::channel();
            let mut told = Some(told);
            let caller = || Waiting(told.take().expect("asked once"));
            let found = self.desk.lock().ask(caller);
            match found {
                Found::Ready(ready) => return Ok(New::Ready(ready)),
                Found::Closed => return Err(self.closed()),
                Found::Depart => self.depart()?,
                Found::Wait => {}
            }
            let mut place = InLine { shared: self, outcome: Some(outcome) };
            let Some(waiting) = place.outcome.as_mut() else { continue };
            let told = waiting.await;
            place.outcome = None;
            match told {
                Ok(outcome) => return outcome.map(New::Made),
                // The desk was closed, or whoever was asked is gone with its runtime: the next turn tells.
                Err(_) => continue,
            }
        }
    }

    /// Starts the flight that the desk has counted.
    pub(super) fn depart(self: &Arc<Self>) -> Result<()> {
        let flight = Flight { shared: Arc::clone(self), landed: false };
        background::driven()?.spawn(flight.go());
        Ok(())
    }

    /// A place in the ledger for one more connection.
    async fn charge(&self) -> Result<Seat> {
        loop {
            let freed = self.freed.notified();
            let refused = match self.scope.charge(Kind::Connections, 1) {
                Ok(held) => return Ok(Seat { held: Some(held), freed: Arc::clone(&self.freed) }),
                Err(refused) => refused,
            };
            if *refused.scope() == self.scope {
                // One that is being closed still counts; it is about to go.
                let _ = tokio::time::timeout(Duration::from_millis(20), freed).await;
                // A flight that nobody waits for is not worth more.
                if self.desk.lock().waiting() == 0 {
                    break Err(self.refused(refused.to_string()));
                }
                continue;
            }
            // Somebody around is full. Other pools may have idle connections.
            if gc::collect_resource(gc::Resource::Connections, 1)? == 0 {
                break Err(self.refused(refused.to_string()));
            }
        }
    }

    fn refused(&self, why: std::string::String) -> DemoError {
        DemoError::Connection { action: "connect to", peer: self.manager.name().into(), source: why.into() }
    }

    /// When a connection made now has lived long enough: up to a tenth earlier than it may, so that those made together do not
    /// end together.
    fn expires_ms(&self) -> u64 {
        let Some(lifetime) = self.settings.max_lifetime else { return u64::MAX };
        let lifetime_ms = lifetime.as_millis().min(u128::from(u64::MAX / 2)) as u64;
        let draw = self.jitter.hash_one(self.counts.connects.load(Relaxed)) % 1000;
        now_ms() + lifetime_ms - (u128::from(lifetime_ms) * u128::from(draw) / 10_000) as u64
    }

    /// Takes connections that nobody uses out, to be dropped by the caller.
    pub(super) fn drop_ready(&self, mut out: impl FnMut(&Conn<M>) -> bool) -> usize {
        let dropped = self.desk.lock().take_ready(|conn| out(conn));
        dropped.len()
    }

    pub(super) fn close_desk(&self) {
        let (ready, waiting) = self.desk.lock().close();
        drop((ready, waiting));
        self.awake.notify_waiters();
        self.ended.notify_waiters();
    }
}

/// A caller who waits. When he goes away with his connection already told to him, it goes to the next.
struct InLine<'a, M: Manager> {
    shared: &'a Arc<Shared<M>>,
    outcome: Option<oneshot::Receiver<Outcome<M>>>,
}

impl<M: Manager> Drop for InLine<'_, M> {
    fn drop(&mut self) {
        let Some(mut outcome) = self.outcome.take() else { return };
        outcome.close();
        if let Ok(Ok(connection)) = outcome.try_recv() {
            let back = self.shared.desk.lock().hand_back(connection);
            drop(back);
        }
    }
}

/// A connection on its way. Its outcome reaches the desk whatever happens, also where its runtime is shut down.
struct Flight<M: Manager> {
    shared: Arc<Shared<M>>,
    landed: bool,
}

impl<M: Manager> Flight<M> {
    async fn go(mut self) {
        let outcome = self.connect().await;
        self.land(outcome);
    }

    async fn connect(&self) -> Outcome<M> {
        let shared = &self.shared;
        let _turn = shared.connecting.acquire().await.map_err(|_| shared.closed())?;
        let place = shared.charge().await?;
        count(&shared.counts.connects);
        let connect = shared.manager.connect();
        let connection = match tokio::time::timeout(shared.settings.connect_timeout, connect).await {
            Ok(connected) => connected.inspect_err(|_| count(&shared.counts.failures))?,
            Err(_) => {
                count(&shared.counts.failures);
                let source = std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    std::format!("no answer within {:?}", shared.settings.connect_timeout),
                );
                let source: Box<dyn core::error::Error + Send + Sync> = source.into();
                let peer = shared.manager.name().into();
                return Err(DemoError::Connection { action: "connect to", peer, source });
            }
        };
        Ok(Box::new(Conn {
            connection: Some(connection),
            manager: Arc::clone(&shared.manager),
            place: Some(place),
            maker: Process::this(),
            runtime: tokio::runtime::Handle::try_current().ok().map(|handle| handle.id()),
            expires_ms: shared.expires_ms(),
            idle_since_ms: now_ms(),
        }))
    }

    fn land(&mut self, outcome: Outcome<M>) {
        self.landed = true;
        let back = self.shared.desk.lock().land(outcome);
        drop(back);
        self.shared.freed.notify_waiters();
        if self.shared.settings.min_idle > 0 {
            self.shared.awake.notify_waiters();
        }
    }
}

impl<M: Manager> Drop for Flight<M> {
    fn drop(&mut self) {
        if !self.landed {
            count(&self.shared.counts.failures);
            let why = "the connect panicked, or its runtime was shut down";
            let outcome = Err(self.shared.refused(why.into()));
            self.land(outcome);
        }
    }
}

/// What of a pool's connections is to go now, oldest first: those beyond `keep`, where they say so themselves.
pub(super) fn beyond<T>(
    keep: usize,
    count: usize,
    mut goes: impl FnMut(&T) -> bool,
) -> impl FnMut(&T) -> bool {
    let mut left = count;
    move |conn| {
        let goes = left > keep && goes(conn);
        left -= usize::from(goes);
        goes
    }
}
