//! Where those who need a new connection meet the connections that are being made.
//!
//! 1. A connection is made in a **flight** that nobody owns. Whoever needs one waits at the desk, and the first flight that lands
//!    serves whoever has waited longest. So a caller who goes away takes nothing with him: his flight serves the next, or its
//!    connection is kept **ready**.
//! 2. There are at least as many flights as callers who wait. A caller starts one only where there are fewer.
//! 3. A flight that fails tells its error to the caller who has waited longest: one flight, one answer.
//!
//! It is plain data; whoever shares it puts a lock around it, and lets nothing go in there that runs other code when dropped.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::vec::Vec;

/// Somebody who waits for a connection, and may have gone away.
pub trait Caller<T, E>: Sized {
    /// Whether nobody is there any more.
    fn is_gone(&self) -> bool;

    /// Tells the outcome of a flight; gives it back where nobody is there any more.
    fn tell(self, outcome: Result<T, E>) -> Result<(), Result<T, E>>;
}

/// The desk of one pool.
#[derive(Debug)]
pub struct Desk<T, C> {
    ready: Vec<T>,
    waiting: VecDeque<C>,
    flights: usize,
    closed: bool,
}

/// What a caller finds.
#[derive(Debug)]
pub enum Found<T> {
    /// A connection that nobody waited for.
    Ready(T),
    /// A flight is on its way for every caller.
    Wait,
    /// The caller is to start a flight, and wait.
    Depart,
    /// The desk is closed.
    Closed,
}

impl<T, C> Desk<T, C> {
    /// Nobody waits, nothing is on its way.
    pub const fn new() -> Desk<T, C> {
        Desk { ready: Vec::new(), waiting: VecDeque::new(), flights: 0, closed: false }
    }

    /// Somebody needs a connection. `caller` is made only where he has to wait.
    pub fn ask<E>(&mut self, caller: impl FnOnce() -> C) -> Found<T>
    where
        C: Caller<T, E>,
    {
        if self.closed {
            return Found::Closed;
        }
        // The newest: the others may sooner be given up.
        if let Some(ready) = self.ready.pop() {
            return Found::Ready(ready);
        }
        self.waiting.retain(|waiting| !waiting.is_gone());
        self.waiting.push_back(caller());
        if self.flights < self.waiting.len() {
            self.flights += 1;
            return Found::Depart;
        }
        Found::Wait
    }

    /// Starts a flight for nobody, to have connections ready. `false` when closed.
    pub fn depart(&mut self) -> bool {
        self.flights += usize::from(!self.closed);
        !self.closed
    }

    /// A flight ended. What comes back is to be dropped outside of the lock: an error that nobody waited for, or a
    /// connection after the desk was closed.
    pub fn land<E>(&mut self, mut outcome: Result<T, E>) -> Option<Result<T, E>>
    where
        C: Caller<T, E>,
    {
        self.flights = self.flights.saturating_sub(1);
        while let Some(caller) = self.waiting.pop_front() {
            match caller.tell(outcome) {
                Ok(()) => return None,
                Err(back) => outcome = back,
            }
        }
        match outcome {
            Ok(connection) => self.keep(connection).map(Ok),
            failed => Some(failed),
        }
    }

    /// Keeps a connection that nobody uses for the next caller; one who waits already has it at once. It comes back where the
    /// desk is closed.
    pub fn keep(&mut self, connection: T) -> Option<T> {
        if self.closed {
            return Some(connection);
        }
        self.ready.push(connection);
        None
    }

    /// Gives a connection to somebody who waits, else keeps it. It comes back where the desk is closed.
    pub fn hand_back<E>(&mut self, connection: T) -> Option<T>
    where
        C: Caller<T, E>,
    {
        let mut outcome = Ok(connection);
        while let Some(caller) = self.waiting.pop_front() {
            match caller.tell(outcome) {
                Ok(()) => return None,
                Err(back) => outcome = back,
            }
        }
        outcome.ok().and_then(|connection| self.keep(connection))
    }

    /// Connections that nobody uses.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Callers who wait.
    pub fn waiting<E>(&mut self) -> usize
    where
        C: Caller<T, E>,
    {
        self.waiting.retain(|waiting| !waiting.is_gone());
        self.waiting.len()
    }

    /// Connections that are being made.
    pub fn flights(&self) -> usize {
        self.flights
    }

    /// Takes out what nobody uses and `out` says yes to, oldest first.
    pub fn take_ready(&mut self, out: impl FnMut(&mut T) -> bool) -> Vec<T> {
        self.ready.extract_if(.., out).collect()
    }

    /// No connection from here on. Who waits is dropped with what comes back: outside of the lock.
    pub fn close(&mut self) -> (Vec<T>, VecDeque<C>) {
        self.closed = true;
        (core::mem::take(&mut self.ready), core::mem::take(&mut self.waiting))
    }
}

impl<T, C> Default for Desk<T, C> {
    fn default() -> Self {
        Desk::new()
    }
}
