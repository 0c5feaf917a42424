//! The one driver of the process: loaded and started at the first use, and refused in a fork of a process that did.

use super::result::{self, FORKED, IS_FORKED, Refused};
use super::sys::{self, Capture, Functions, Virtual};
use crate::error::{DemoError, DeviceId, Result};
use crate::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use crate::sync::forks::InChild;
use crate::sync::{HostLock, Lock, OnceLock};
use core::ffi::c_int;

/// A driver that was started and sees a device.
pub(super) struct Driver {
    pub(super) functions: Functions,
    /// Where the driver manages virtual memory.
    pub(super) virtual_memory: Option<Virtual>,
    /// Where the driver captures streams into graphs.
    pub(super) capture: Option<Capture>,
    pub(super) devices: u32,
    /// As the driver counts: 12080 is 12.8.
    pub(super) version: i32,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
/// Held while the driver is started, so that one that did not can be tried again.
static STARTING: Lock<HostLock, ()> = Lock::new(());
/// How many threads have started the driver, or are about to.
static BEGUN: AtomicUsize = AtomicUsize::new(0);
/// Set in a child of a process that had started the driver, or was about to.
static IS_FORK: AtomicBool = AtomicBool::new(false);

/// Whether this process is a fork of one that had started the driver. Asked before any lock is taken: who held one at the
/// fork is not there to let it go.
#[inline]
pub(super) fn is_fork() -> bool {
    // Relaxed: written before the child's only thread runs on.
    IS_FORK.load(Relaxed)
}

/// That it is none.
///
/// # Errors
/// What is told to a fork.
#[inline]
pub(super) fn not_forked() -> Result<(), Refused> {
    if is_fork() { Err(Refused { call: "fork", code: FORKED }) } else { Ok(()) }
}

/// The driver, started at the first call.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn driver() -> Result<&'static Driver, &'static str> {
    if is_fork() {
        return Err(IS_FORKED);
    }
    match DRIVER.get() {
        Some(driver) => Ok(driver),
        None => start(),
    }
}

#[cold]
fn start() -> Result<&'static Driver, &'static str> {
    MARK.watch();
    // SeqCst: before the lock is taken, since a fork that finds it held has to find this.
    BEGUN.fetch_add(1, SeqCst);
    find_and_start().inspect_err(|_| {
        // Relaxed: it may be tried again, by a fork too; one that is told otherwise came while it was tried.
        BEGUN.fetch_sub(1, Relaxed);
    })
}

fn find_and_start() -> Result<&'static Driver, &'static str> {
    let _starting = STARTING.lock();
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let found = sys::find()?;
    // SAFETY: 1. The flags have to be 0. 2. It may be called from any thread, and again.
    result::start(unsafe { (found.start.init)(0) })?;
    let mut devices = 0;
    // SAFETY: 1. The driver is started. 2. The pointer is to an integer of ours.
    result::start(unsafe { (found.start.device_count)(&mut devices) })?;
    if devices <= 0 {
        return Err("the CUDA driver sees no device");
    }
    let (functions, virtual_memory, capture) = found.functions().map_err(|_missing| TOO_OLD)?;
    let mut version = 0;
    // SAFETY: 1. The pointer is to an integer of ours.
    result::start(unsafe { (functions.driver_version)(&mut version) })?;
    let driver = Driver { functions, virtual_memory, capture, devices: devices as u32, version };
    Ok(DRIVER.get_or_init(|| driver))
}

const TOO_OLD: &str =
    "the CUDA driver lacks functions that every driver since CUDA 10 has; install a newer one";

/// Every later fork of this process is marked, once the driver is begun with.
static MARK: InChild = InChild::new(|| {
    // Relaxed, both: the child has one thread.
    if BEGUN.load(Relaxed) > 0 {
        IS_FORK.store(true, Relaxed);
    }
});

/// The ordinal as the driver takes it, of a device that is there.
///
/// # Errors
/// [`DemoError::DeviceUnavailable`] where it is not.
pub(super) fn with_device(ordinal: u32) -> Result<(&'static Driver, c_int)> {
    let unavailable = |problem| DemoError::DeviceUnavailable { device: DeviceId::Cuda(ordinal), problem };
    let driver = driver().map_err(unavailable)?;
    if ordinal >= driver.devices {
        return Err(unavailable("the machine has no CUDA device of this ordinal; they count from 0"));
    }
    Ok((driver, ordinal as c_int))
}
