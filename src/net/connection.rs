//! A connection on loan.

#![forbid(unsafe_code)]

use super::clock::now_ms;
use super::manager::{Manager, Tcp};
use super::pool::Recycler;
use core::fmt;
use core::ops::{Deref, DerefMut};
use deadpool::managed::Object;

/// A connection that nobody else uses, back in its pool when this is dropped.
///
/// It is the connection otherwise: a [`TcpStream`](tokio::net::TcpStream) of tokio, or whatever the pool's manager makes. One of TCP
/// can also be read and written by blocking calls, through [`std::io::Read`] and [`std::io::Write`].
#[must_use = "the connection goes back when this is dropped"]
pub struct PooledConnection<M: Manager = Tcp> {
    /// `None` only after it was taken out or given back.
    object: Option<Object<Recycler<M>>>,
    broken: bool,
}

impl<M: Manager> PooledConnection<M> {
    pub(super) fn new(object: Object<Recycler<M>>) -> Self {
        PooledConnection { object: Some(object), broken: false }
    }

    /// Closes it instead of giving it back: for a connection on which something was left half done.
    pub fn discard(mut this: Self) {
        this.broken = true;
    }

    /// Takes it out of the pool, which may make another in its place.
    pub fn take(mut this: Self) -> M::Connection {
        let mut object = this.object.take().expect("on loan until it is dropped");
        let connection = object.take().expect("a connection on loan is open");
        // The place in the ledger first, then the permit: whoever gets it finds the place free.
        if object.maker.is_this() {
            drop(Object::take(object));
        } else {
            core::mem::forget(object);
        }
        connection
    }

    #[cfg(any(unix, windows))]
    pub(super) fn manager(&self) -> &M {
        &self.object.as_ref().expect("on loan until it is dropped").manager
    }

    /// It will be closed instead of being given back.
    #[cfg(any(unix, windows))]
    pub(super) fn set_broken(&mut self) {
        self.broken = true;
    }
}

impl<M: Manager> Deref for PooledConnection<M> {
    type Target = M::Connection;

    #[inline]
    fn deref(&self) -> &M::Connection {
        let connection = self.object.as_ref().and_then(|object| object.connection.as_ref());
        connection.expect("a connection on loan is open")
    }
}

impl<M: Manager> DerefMut for PooledConnection<M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M::Connection {
        let connection = self.object.as_mut().and_then(|object| object.connection.as_mut());
        connection.expect("a connection on loan is open")
    }
}

impl<M: Manager> Drop for PooledConnection<M> {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else { return };
        if !object.maker.is_this() {
            // It is the parent's, and so are the pool's locks.
            core::mem::forget(object);
            return;
        }
        // A thread that panics has left who knows what half done.
        if self.broken || std::thread::panicking() {
            // Closed before its permit is free: whoever gets that finds the place in the ledger free.
            object.close();
            drop(Object::take(object));
            return;
        }
        object.idle_since_ms = now_ms();
    }
}

impl<M: Manager> fmt::Debug for PooledConnection<M>
where
    M::Connection: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledConnection").field(&**self).finish()
    }
}
