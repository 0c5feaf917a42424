//! `CheckpointDir`: the checkpoints of one run, by step, and which of them to keep.

#![forbid(unsafe_code)]

use super::checkpoint::ModelCheckpoint;
use super::load::{Checkpoint, Skipped};
use super::stale;
use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use std::collections::BTreeSet;
use std::format;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::string::String;
use std::vec::Vec;

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";
const LOCK: &str = ".democratising-lock";

/// A directory of checkpoints, one file for each step, that one process has at a time.
///
/// ```
/// # fn main() -> democratising::Result<()> {
/// # let temp = democratising::tempfile::tempdir()?;
/// # let path = temp.path().join("runs/a");
/// use democratising::{Tensor, fs::CheckpointDir};
///
/// let dir = CheckpointDir::open(path)?.keep_last(3);
/// let w = Tensor::zeros(&[8, 8])?;
/// for step in 0..10 {
///     dir.save(step, [("w", &w)])?;
/// }
/// assert_eq!(dir.steps()?, [7, 8, 9]);
/// if let Some((step, checkpoint)) = dir.latest_valid()? {
///     assert_eq!((step, checkpoint.get("w")?), (9, w));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CheckpointDir {
    path: PathBuf,
    lock: File,
    /// Who has the lock: a fork has the file too.
    process: u32,
    keep_last: Option<usize>,
    keep_every: Option<u64>,
    keep_best: Vec<(Metric, usize)>,
}

/// A number in a checkpoint's metadata that tells how good it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metric {
    key: String,
    lowest: bool,
}

impl Metric {
    /// The lower the better, as a loss.
    pub fn lowest(key: impl Into<String>) -> Metric {
        Metric { key: key.into(), lowest: true }
    }

    /// The higher the better, as an accuracy.
    pub fn highest(key: impl Into<String>) -> Metric {
        Metric { key: key.into(), lowest: false }
    }

    /// What a checkpoint has, turned so that less is better. What is no number is as good as none.
    fn of(&self, checkpoint: &Checkpoint) -> Option<f64> {
        let number: f64 = checkpoint.metadata(&self.key)?.trim().parse().ok()?;
        (!number.is_nan()).then_some(if self.lowest { number } else { -number })
    }
}

impl CheckpointDir {
    /// Opens a directory, makes it (so that it survives a power loss) where there is none, and removes what processes
    /// that were killed have left half written. It stays locked until this is dropped.
    ///
    /// # Errors
    /// [`DemoError::Io`] of kind [`ErrorKind::ResourceBusy`] where another process, or another part of this one, has it
    /// open; [`DemoError::Io`] where it cannot be made or written.
    pub fn open(path: impl AsRef<Path>) -> Result<CheckpointDir> {
        let named = path.as_ref();
        let failed = |action| move |source| DemoError::Io { action, path: Some(named.into()), source };
        let path = std::path::absolute(named).map_err(failed("open the checkpoint directory"))?;
        stale::may_stay(&path)
            .and_then(|()| create_durably(&path))
            .map_err(failed("create the checkpoint directory"))?;
        let lock = lock(&path.join(LOCK)).map_err(failed("lock the checkpoint directory"))?;
        stale::sweep(&path).map_err(failed("look for stale temp files in"))?;
        let process = std::process::id();
        Ok(CheckpointDir { path, lock, process, keep_last: None, keep_every: None, keep_best: Vec::new() })
    }

    /// Keeps the last `n`, and what other rules keep. Without any rule everything is kept. The one just saved always is.
    pub fn keep_last(mut self, n: usize) -> CheckpointDir {
        self.keep_last = Some(n);
        self
    }

    /// Keeps the `n` best by a number in their metadata, and what other rules keep; of equals the later. One that cannot be
    /// opened, damaged or not, is kept as well: nobody can tell how good it is.
    pub fn keep_best(mut self, metric: Metric, n: usize) -> CheckpointDir {
        self.keep_best.push((metric, n));
        self
    }

    /// Keeps every step that `k` divides, and what other rules keep. 0 keeps none.
    pub fn keep_every(mut self, k: u64) -> CheckpointDir {
        self.keep_every = Some(k);
        self
    }

    /// Saves these tensors as a step, then removes what no rule keeps. `Ok` means that it survives a power loss.
    ///
    /// # Errors
    /// Those of [`ModelCheckpoint::commit`]; then everything is as it was, but for [`DemoError::NotDurable`]. [`DemoError::Io`] with the
    /// action "remove an old checkpoint" where that failed. With these two the new one is in place.
    pub fn save<'t, N: Into<String>>(
        &self,
        step: u64,
        tensors: impl IntoIterator<Item = (N, &'t Tensor)>,
    ) -> Result<()> {
        self.save_with(step, tensors, [] as [(String, String); 0])
    }

    /// The same with metadata, in which metrics stand.
    ///
    /// # Errors
    /// Those of [`save`](Self::save).
    pub fn save_with<'t, N: Into<String>, K: Into<String>, V: Into<String>>(
        &self,
        step: u64,
        tensors: impl IntoIterator<Item = (N, &'t Tensor)>,
        metadata: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        let mut checkpoint = self.create(step)?;
        for (name, tensor) in tensors {
            checkpoint = checkpoint.add(name, tensor)?;
        }
        for (key, value) in metadata {
            checkpoint = checkpoint.metadata(key, value)?;
        }
        checkpoint.commit()?;
        self.prune(Some(step))
    }

    /// Begins a step by hand, as for [`ModelCheckpoint::commit_async`]; [`prune`](Self::prune) is the caller's then.
    ///
    /// # Errors
    /// Those of [`ModelCheckpoint::create`].
    pub fn create(&self, step: u64) -> Result<ModelCheckpoint> {
        ModelCheckpoint::create(self.path_of(step))
    }

    /// Removes what no rule keeps; `just_saved` is kept in any case.
    ///
    /// # Errors
    /// [`DemoError::Io`] where the directory cannot be read or a file not removed.
    pub fn prune(&self, just_saved: Option<u64>) -> Result<()> {
        if self.keep_last.is_none() && self.keep_every.is_none() && self.keep_best.is_empty() {
            return Ok(());
        }
        let steps = self.steps()?;
        let mut kept: BTreeSet<u64> = just_saved.into_iter().collect();
        kept.extend(steps.iter().rev().take(self.keep_last.unwrap_or(0)));
        if let Some(k @ 1..) = self.keep_every {
            kept.extend(steps.iter().filter(|&&step| step % k == 0));
        }
        kept.extend(self.best_of(&steps));
        for step in steps.into_iter().filter(|step| !kept.contains(step)) {
            let path = self.path_of(step);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let action = "remove an old checkpoint";
                    return Err(DemoError::Io { action, path: Some(path), source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the rules for the best keep, and whatever cannot be opened now: it may be one of them. One file is open at a time.
    fn best_of(&self, steps: &[u64]) -> BTreeSet<u64> {
        let mut kept = BTreeSet::new();
        let mut ranked = std::vec![Vec::new(); self.keep_best.len()];
        for &step in steps.iter().filter(|_| !self.keep_best.is_empty()) {
            let Ok(checkpoint) = self.load(step) else {
                kept.insert(step);
                continue;
            };
            for ((metric, _), ranked) in self.keep_best.iter().zip(&mut ranked) {
                ranked.extend(metric.of(&checkpoint).map(|number| (number, step)));
            }
        }
        for ((_, n), mut ranked) in self.keep_best.iter().zip(ranked) {
            ranked.sort_by(|(a, x), (b, y)| a.total_cmp(b).then(y.cmp(x)));
            kept.extend(ranked.into_iter().take(*n).map(|(_, step)| step));
        }
        kept
    }

    /// The steps that are there, in order, damaged ones too. Directories, pipes and the like are none, whatever their name.
    ///
    /// # Errors
    /// [`DemoError::Io`] where the directory cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let failed =
            |source| DemoError::Io { action: "read the directory", path: Some(self.path.clone()), source };
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            steps.extend(step_of(&entry.file_name()).filter(|_| may_be_file(&entry)));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Opens the checkpoint of a step, as [`ModelCheckpoint::load`] does.
    ///
    /// # Errors
    /// Those of [`ModelCheckpoint::load`].
    pub fn load(&self, step: u64) -> Result<Checkpoint> {
        ModelCheckpoint::load(self.path_of(step))
    }

    /// The last checkpoint whose checksums are all right, with its step; `None` where there is none at all. Newer ones that
    /// are damaged are passed over; [`Checkpoint::skipped`] has them, with what is wrong.
    ///
    /// # Errors
    /// That of the newest one where every one is damaged: a run that would begin anew should not do so by mistake. What
    /// keeps one from being opened or read that may be all right, as when descriptors or memory run out, is returned at once:
    /// a run should not go on from an older one by mistake either. [`DemoError::Io`] where the directory cannot be read.
    pub fn latest_valid(&self) -> Result<Option<(u64, Checkpoint)>> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let verified = self.load(step).and_then(|checkpoint| checkpoint.verify().map(|()| checkpoint));
            match verified {
                Ok(mut checkpoint) => {
                    checkpoint.skipped = skipped.into();
                    return Ok(Some((step, checkpoint)));
                }
                Err(error) if says_damaged(&error) => {
                    skipped.push(Skipped { step, path: self.path_of(step), error });
                }
                Err(error) => return Err(error),
            }
        }
        skipped.into_iter().next().map_or(Ok(None), |newest| Err(newest.error))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn path_of(&self, step: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{step}{SUFFIX}"))
    }
}

impl Drop for CheckpointDir {
    /// The lock would stay as long as a fork has the file.
    fn drop(&mut self) {
        if self.process == std::process::id() {
            stale::let_go(&self.lock);
        }
    }
}

/// Whether the next attempt would say the same: the file is not what it should be, or is gone.
fn says_damaged(error: &DemoError) -> bool {
    match error {
        DemoError::Format { .. } => true,
        DemoError::Io { source, .. } => source.kind() == ErrorKind::NotFound || is_loop(source),
        _ => false,
    }
}

/// Whether a link leads to itself, in the end.
fn is_loop(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

/// The step that a file's name tells, where it is one of ours.
fn step_of(name: &std::ffi::OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let step = digits.parse::<u64>().ok()?;
    // Each step has one name: not `+7`, not `007`.
    (format!("{step}") == digits).then_some(step)
}

/// Whether it is a regular file, or a link to one. What cannot be looked at may be one.
fn may_be_file(entry: &fs::DirEntry) -> bool {
    match fs::metadata(entry.path()) {
        Ok(metadata) => metadata.is_file(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// Makes a directory with all above it, and syncs each directory that got a new entry. What was there before is synced where it stands,
/// but for the rest above it: who made it may have been killed between the two.
fn create_durably(path: &Path) -> io::Result<()> {
    match (create_in_parent(path), path.parent()) {
        (Ok(Made::Now), Some(parent)) => sync_entry_of(parent),
        (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound => {
            create_durably(parent)?;
            // Once: there are places, as /proc, that say so of what stands in a directory that is there.
            create_in_parent(path).map(drop)
        }
        (made, _) => made.map(drop),
    }
}

/// When a directory was made.
enum Made {
    Now,
    Before,
}

/// Makes a directory in one that is there, where it is not there itself. What cannot be synced is not left: the next would take it for durable.
fn create_in_parent(path: &Path) -> io::Result<Made> {
    match fs::create_dir(path) {
        Ok(()) => {
            let synced = path.parent().map_or(Ok(()), sync_directory);
            if synced.is_err() {
                // Nobody has anything in it yet, or else it stays.
                let _ = fs::remove_dir(path);
            }
            synced.map(|()| Made::Now)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {
            sync_entry_of(path).map(|()| Made::Before)
        }
        Err(error) => Err(error),
    }
}

/// Syncs what holds a directory that was there. Where that cannot be opened, written or synced at all, it was not made through here.
fn sync_entry_of(path: &Path) -> io::Result<()> {
    use ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    let cannot = [InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported];
    match path.parent().map_or(Ok(()), sync_directory) {
        Err(error) if cannot.contains(&error.kind()) => Ok(()),
        synced => synced,
    }
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// How often, and with which pauses, a directory that another has is asked for.
#[cfg(unix)]
const BUSY_TRIES: u32 = 20;
#[cfg(unix)]
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Opens a file for whoever is first.
fn lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    let busy = || {
        io::Error::new(
            ErrorKind::ResourceBusy,
            "another CheckpointDir has it open; one at a time may write there",
        )
    };
    #[cfg(unix)]
    {
        let file = options.open(path)?;
        // A lock that was let go can be held for a moment by a child that is just being started: until it becomes another
        // program it has all descriptors of its parent.
        for _ in 0..BUSY_TRIES {
            match stale::lock(&file) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(BUSY_PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::OpenOptionsExt;
        // Shared with nobody; 32 is the system's code for that.
        options.share_mode(0).open(path).map_err(|error| match error.raw_os_error() {
            Some(32) => busy(),
            _ => error,
        })
    }
    #[cfg(not(any(unix, windows)))]
    {
        let _ = busy;
        options.open(path)
    }
}
