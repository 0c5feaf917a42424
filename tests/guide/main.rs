//! The resource management guide, snippet by snippet, as the guide writes it.
//!
//! What differs is marked `differs:` where it stands. Helper functions that the guide leaves open are below it.
#![cfg(feature = "std")]
#![allow(dead_code, unused_variables, reason = "the guide's snippets show one thing each")]

mod files;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod gpu;
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[path = "../softcuda/harness.rs"]
mod harness;
mod limits;
mod memory;
#[cfg(feature = "net")]
mod network;
mod practices;
mod raii;

use democratising::{MemoryPool, Result, Tensor, tempfile};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The guide's paths are relative, and its pool is the process's: one test at a time, each in a directory of its own.
fn in_directory<T>(run: impl FnOnce(&Path) -> T) -> T {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    std::env::set_current_dir(directory.path()).unwrap();
    fs::write("data.txt", "1 2 3\n4 5 6\n").unwrap();
    fs::write("model.pt", "an older model").unwrap();
    let result = run(directory.path());
    std::env::set_current_dir("/").unwrap();
    MemoryPool::disable().unwrap();
    result
}

fn process(tensor: &Tensor) -> Result<()> {
    assert!(tensor.as_bytes().unwrap()[..100].iter().all(|&byte| byte == 0));
    Ok(())
}
