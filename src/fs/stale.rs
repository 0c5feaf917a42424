//! Temp files that know whether anybody still wants them.
//!
//! Whoever makes one holds a lock on it (`flock`), and the kernel lets that go when the process ends, however it ends. So a
//! temp file that can be locked is nobody's any more and can go. A process's number, which others put into such names,
//! says less: numbers come again, and mean other processes in other containers.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::gc::{Deadline, Reclaim, Resource, Standing};
use crate::sync::forks::ForkLock;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::vec::Vec;

/// Temp files and directories are hidden and named so.
pub(super) const PREFIX: &str = ".democratising-";
pub(super) const SUFFIX: &str = ".tmp";

/// The most directories that are remembered for [`gc::collect`].
const MAX_DIRECTORIES: usize = 64;

/// Where temp files were made.
struct Directories(BTreeSet<PathBuf>);

static DIRECTORIES: ForkLock<Directories> = ForkLock::new(Directories(BTreeSet::new()));

/// Whether sweeps look for what is named so: nothing that is to stay may be.
pub(super) fn is_swept(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
}

/// Refuses a name for what is to stay that sweeps look for.
pub(super) fn may_stay(path: &Path) -> io::Result<()> {
    if path.file_name().is_some_and(is_swept) {
        let problem = "names of temp files (.democratising-*.tmp) are swept; choose another name";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(())
}

/// Remembers a directory in which a temp file is made, so that collections look there for those that others left.
pub(super) fn remember(directory: &Path) {
    static SWEEPER: Standing = Standing::new();
    // Wherever the process is by then.
    let Ok(directory) = std::path::absolute(directory) else { return };
    SWEEPER.register("stale temp files", 100, Sweeper);
    let mut held = DIRECTORIES.lock();
    if held.0.len() < MAX_DIRECTORIES {
        held.0.insert(directory);
    }
}

/// Removes what was left by processes that ended, in every directory where this one made temp files.
struct Sweeper;

impl Reclaim for Sweeper {
    /// Not counted before it is asked for: that would mean to read directories.
    fn reclaimable_bytes(&self) -> u64 {
        0
    }

    fn reclaim(&self, _target: u64, until: Deadline) -> u64 {
        let known: Vec<PathBuf> = DIRECTORIES.lock().0.iter().cloned().collect();
        let asked = known.iter().take_while(|_| !until.has_passed());
        asked.map(|directory| sweep(directory).unwrap_or(0)).sum()
    }

    fn resource(&self) -> Resource {
        Resource::Files
    }
}

/// Removes the temp files and directories that nobody holds; returns how many.
pub(super) fn sweep(directory: &Path) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_swept(&entry.file_name()) {
            // One that cannot be looked at, or that somebody else removes first, is no reason to stop.
            removed += u64::from(remove_if_stale(&entry.path()).unwrap_or(false));
        }
    }
    Ok(removed)
}

/// Locks a file that nobody has locked. A file system on a network can be interrupted even so.
#[cfg(unix)]
pub(super) fn lock(file: &File) -> rustix::io::Result<()> {
    use rustix::fs::{FlockOperation, flock};
    rustix::io::retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive))
}

/// Locks a new temp file or directory; `false` where a sweep was faster, and another has to be made.
#[cfg(unix)]
pub(super) fn hold(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    match lock(file) {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        // A file system without locks: nothing there is ever swept, since nothing there can be locked.
        Err(_) => Ok(true),
    }
}

#[cfg(not(unix))]
pub(super) fn hold(_file: &File) -> io::Result<bool> {
    Ok(true)
}

/// Lets go of a file that is no temp file any more: its lock would stand in the way of the program's own.
#[cfg(unix)]
pub(super) fn let_go(file: &File) {
    // What was never locked cannot be unlocked, and need not be.
    let _ = rustix::fs::flock(file, rustix::fs::FlockOperation::Unlock);
}

#[cfg(not(unix))]
pub(super) fn let_go(_file: &File) {}

#[cfg(unix)]
fn remove_if_stale(path: &Path) -> io::Result<bool> {
    use rustix::fs::{Mode, OFlags, open};
    use std::os::unix::fs::MetadataExt;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    lock(&file)?;
    let metadata = file.metadata()?;
    if metadata.nlink() == 0 {
        // Another sweep was faster, and what has the name by now is somebody's: processes that were forked make up the same names.
        return Ok(false);
    }
    if metadata.is_dir() {
        fs::remove_dir_all(path)?;
    } else if metadata.is_file() {
        fs::remove_file(path)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Elsewhere it cannot be known who holds a file.
#[cfg(not(unix))]
fn remove_if_stale(_path: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Makes something that a sweep leaves alone.
pub(super) fn held<T>(
    mut make: impl FnMut() -> Result<T>,
    lock: impl Fn(&T) -> io::Result<bool>,
    failed: impl Fn(io::Error) -> crate::error::DemoError,
) -> Result<T> {
    // A sweep between making and locking is rare, and twice in a row nobody's luck.
    for _ in 0..16 {
        let made = make()?;
        if lock(&made).map_err(&failed)? {
            return Ok(made);
        }
    }
    Err(failed(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "another process removes temp files as fast as they are made",
    )))
}
