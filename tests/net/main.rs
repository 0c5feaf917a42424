//! The pool of connections: what a caller sees, one promise a test.
#![cfg(feature = "net")]

mod blocking;
mod cancelled;
mod closed;
mod common;
#[cfg(unix)]
#[path = "../common/fork.rs"]
mod fork;
#[cfg(unix)]
mod forked;
mod got;
mod idle;
mod made;
mod scripted;
