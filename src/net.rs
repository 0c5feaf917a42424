//! Connections: pools of them, and servers that limit them.
//!
//! 1. A [`ConnectionPool`] keeps connections that were made. Whoever needs one has it alone until it is dropped; no more than
//!    the maximum are ever there, and who asked first is served first.
//! 2. What a connection is, a [`Manager`] says; [`Tcp`] is the one that is there.
//! 3. A [`Server`] takes connections, no more than its limit at once, and ends in good order.
//! 4. Every connection and listener is charged to a scope of the ledger ([`crate::pool::budget::scope`]), and idle connections are
//!    given up when somebody collects ([`crate::gc`]).
//! 5. The child of a fork leaves its parent's connections alone, and needs pools of its own: of one that was made before, a request is
//!    an error.
//!
//! Asynchronous calls need a tokio runtime with I/O and time (`enable_all`); those that block need none.

#![forbid(unsafe_code)]

mod background;
mod blocking;
mod builder;
mod clock;
mod connection;
mod desk;
mod keeper;
mod manager;
mod pool;
mod process;
mod reclaimer;
mod server;
mod shared;
mod socket;

pub use builder::ConnectionPoolBuilder;
pub use connection::PooledConnection;
pub use manager::{Manager, Tcp};
pub use pool::{ConnectionPool, ConnectionStats};
pub use server::{Served, Server, ShutdownHandle};
pub use socket::Socket;
