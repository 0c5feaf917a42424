//! The pool of connections: what a caller sees, one promise a test.
#![cfg(feature = "net")]

mod blocking;
mod cancelled;
mod closed;
mod common;
mod got;
mod idle;
mod made;
mod scripted;
