//! The process's heap as the global allocator of this very test program, and around the edges of a thread's life.
#![cfg_attr(not(unix), allow(unused_imports))]

#[path = "../common/again.rs"]
mod again;
mod back;
mod blocks;
mod common;
#[cfg(unix)]
#[path = "../common/fork.rs"]
mod fork;
mod misuse;
#[path = "../common/start.rs"]
mod start;
mod threads;

use democratising::Global;

#[global_allocator]
static GLOBAL: Global = Global;
