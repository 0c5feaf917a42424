//! Things handed from thread to thread through a bounded queue that sleeps when it must wait.
//!
//! The channels of `std` turn a few times before they sleep and allocate as they go; both would be charged to the
//! allocator under test, and differently on every machine.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A queue of at most `limit` things, first in, first out.
#[derive(Debug)]
pub struct Handoff<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

impl<T> Handoff<T> {
    /// An empty queue; a limit of 0 is taken as 1.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        let state = State { waiting: VecDeque::with_capacity(limit), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends `thing`, waiting until there is room.
    pub fn give(&self, thing: T) {
        let mut state = self.lock();
        while state.waiting.len() == self.limit {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.push_back(thing);
        self.changed.notify_all();
    }

    /// The oldest thing, waiting until there is one; `None` once the queue is closed and empty.
    pub fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(thing) = state.waiting.pop_front() {
                self.changed.notify_all();
                return Some(thing);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that nothing more comes.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::Handoff;

    #[test]
    fn everything_given_is_taken_in_order_and_the_end_is_seen() {
        let queue = Handoff::new(3);
        let taken = std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..1000).for_each(|number| queue.give(number));
                queue.close();
            });
            std::iter::from_fn(|| queue.take()).collect::<Vec<_>>()
        });
        assert_eq!(taken, (0..1000).collect::<Vec<_>>());
    }
}
