//! A runtime of the crate's own, on one thread, for what must go on when no other runtime is there.
//!
//! It is started when it is first needed, and lives as long as the process. Connections made by a caller in a runtime of several threads
//! belong to that one: a socket that another thread waits for costs a wake-up for every message. A runtime of one thread goes on only
//! while somebody drives it, and a flight must land: its connections are made here, and moved over.

#![forbid(unsafe_code)]

use crate::error::{DemoError, Result};
use crate::sync::forks::ForkLock;
use std::io;
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// A runtime that may be dropped anywhere: to wait for its threads, as dropping one does, is forbidden inside of another.
struct Owned(Option<Runtime>);

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The runtime, and the process that has its thread: a fork has not, and makes one of its own.
struct Running(Option<(u32, Handle)>);

static RUNNING: ForkLock<Running> = ForkLock::new(Running(None));

impl Running {
    /// That of this process.
    fn handle(&self) -> Option<Handle> {
        let (whose, handle) = self.0.as_ref()?;
        (*whose == std::process::id()).then(|| handle.clone())
    }
}

/// The crate's own runtime.
///
/// # Errors
/// [`DemoError::Io`] where the system has no thread or descriptors for it.
pub(super) fn runtime() -> Result<Handle> {
    if let Some(handle) = RUNNING.lock().handle() {
        return Ok(handle);
    }
    let failed = |source: io::Error| DemoError::Io { action: "start the network thread", path: None, source };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let handle = runtime.handle().clone();
    let runtime = Owned(Some(runtime));
    let mut held = RUNNING.lock();
    if let Some(faster) = held.handle() {
        drop(held);
        return Ok(faster);
    }
    let named = std::thread::Builder::new().name("democratising-net".into());
    let started = named.spawn(move || {
        let owned = runtime;
        if let Some(runtime) = &owned.0 {
            runtime.block_on(core::future::pending::<()>());
        }
    });
    if let Err(error) = started {
        drop(held);
        return Err(failed(error));
    }
    // That of the process that this is a fork of stays as it is: its thread is not here to end it.
    core::mem::forget(held.0.replace((std::process::id(), handle.clone())));
    Ok(handle)
}

/// The runtime that this thread is in, else the crate's own.
///
/// # Errors
/// Those of [`runtime`].
pub(super) fn here() -> Result<Handle> {
    Handle::try_current().or_else(|_| runtime())
}

/// The runtime that this thread is in, if it goes on by itself, else the crate's own.
///
/// # Errors
/// Those of [`runtime`].
pub(super) fn driven() -> Result<Handle> {
    match Handle::try_current() {
        Ok(here) if here.runtime_flavor() != RuntimeFlavor::CurrentThread => Ok(here),
        _ => runtime(),
    }
}
