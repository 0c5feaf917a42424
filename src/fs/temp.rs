//! Temporary files and directories that are counted, and that go when their process does.

#![forbid(unsafe_code)]

use super::durable;
use super::stale::{self, PREFIX, SUFFIX};
use crate::error::{DemoError, Result};
use crate::gc;
use crate::pool::budget::scope::{self, Holding, Kind, ProcessBudget};
use core::ops::Deref;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use tempfile::{Builder, NamedTempFile, TempPath};

/// How many files the process may have open through this module: as many as the system lets it (`RLIMIT_NOFILE`), unless
/// [`set_limit`](ProcessBudget::set_limit) says otherwise.
///
/// Temp files, temp directories and checkpoints being written are charged to it, one each. When it is used up,
/// [`gc::collect`](crate::gc::collect) is asked once before there is an error.
pub fn descriptors() -> ProcessBudget {
    scope::process_budget(Kind::Files)
}

/// One descriptor, of the scope that this thread is in.
pub(super) fn charge(action: &'static str, path: &Path) -> Result<Holding> {
    if let Ok(charge) = scope::charge(Kind::Files, 1) {
        return Ok(charge);
    }
    gc::collect()?;
    scope::charge(Kind::Files, 1).map_err(|refused| {
        let limit =
            if refused.scope().parent().is_none() { "limit of fs::descriptors()" } else { "scope's limit" };
        let problem = std::format!("{refused}; close files, or raise the {limit}");
        DemoError::Io { action, path: Some(path.into()), source: io::Error::other(problem) }
    })
}

/// A temp file with a name, removed when it is dropped, and by a later sweep where the process was killed.
///
/// It is read, written and looked at as a [`NamedTempFile`] is. To keep it, call [`persist`](Self::persist) or
/// [`into_inner`](Self::into_inner): as long as it is this, its name is one that sweeps look for, so it cannot be told to stay.
///
/// ```compile_fail,E0596
/// democratising::fs::temp_file().unwrap().disable_cleanup(true);
/// ```
#[derive(Debug)]
pub struct TempFile {
    file: NamedTempFile,
    /// Given back after the file is closed.
    charge: Holding,
}

impl TempFile {
    /// Renames it so that it survives a power loss, as [`persist`](super::persist) does.
    ///
    /// # Errors
    /// Those of [`persist`](super::persist).
    pub fn persist(self, path: impl AsRef<Path>) -> Result<File> {
        let file = durable::persist(self.file, path)?;
        stale::let_go(&file);
        Ok(file)
    }

    /// The file, to write through.
    pub fn as_file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// The file alone, to keep or to remove: it is charged no more, and no sweep removes it.
    ///
    /// It gets another name in its directory, `.tmp` and some letters, since a sweep goes by names.
    pub fn into_inner(self) -> NamedTempFile {
        drop(self.charge);
        let (file, path) = self.file.into_parts();
        let path = renamed(path);
        if !path.file_name().is_some_and(stale::is_swept) {
            stale::let_go(&file);
        }
        NamedTempFile::from_parts(file, path)
    }
}

/// The same file under a name that no sweep looks for. Where it cannot be renamed it keeps its own, and no sweep by this user could
/// remove it there either.
fn renamed(path: TempPath) -> TempPath {
    let directory = path.parent().unwrap_or(Path::new(".")).to_path_buf();
    let mut old = Some(path);
    let new = Builder::new().make_in(directory, |new| match old.take() {
        Some(path) => path.persist_noclobber(new).map_err(|refused| {
            old = Some(refused.path);
            refused.error
        }),
        None => Err(ErrorKind::NotFound.into()),
    });
    match (new, old) {
        (Ok(named), _) => named.into_temp_path(),
        (Err(_), Some(old)) => old,
        (Err(_), None) => unreachable!("a refusal gives it back"),
    }
}

impl Deref for TempFile {
    type Target = NamedTempFile;

    fn deref(&self) -> &NamedTempFile {
        &self.file
    }
}

impl Read for TempFile {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.file.read(to)
    }
}

impl Write for TempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for TempFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A temp directory, removed with all that is in it when it is dropped, and by a later sweep where the process was killed.
///
/// It is a [`tempfile::TempDir`] otherwise.
#[derive(Debug)]
pub struct TempDir {
    directory: tempfile::TempDir,
    /// Open, since it holds the lock that says that the directory is wanted.
    #[cfg(unix)]
    lock: Option<File>,
    _charge: Holding,
}

#[cfg(unix)]
impl Drop for TempDir {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(self.directory.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // To remove it takes a descriptor, and that of the lock may be the last one. Behind this it is tried again.
                self.lock = None;
            }
            _ => self.directory.disable_cleanup(true),
        }
    }
}

impl Deref for TempDir {
    type Target = tempfile::TempDir;

    fn deref(&self) -> &tempfile::TempDir {
        &self.directory
    }
}

/// A temp file in the system's directory for such.
///
/// ```
/// use democratising::fs;
/// use std::io::Write;
///
/// let mut file = fs::temp_file()?;
/// file.write_all(b"weights")?;
/// assert!(fs::descriptors().used() >= 1);
/// # Ok::<(), democratising::DemoError>(())
/// ```
///
/// # Errors
/// [`DemoError::Io`] where none can be made, or [`descriptors`] are used up.
pub fn temp_file() -> Result<TempFile> {
    temp_file_in(std::env::temp_dir())
}

/// A temp file in this directory.
///
/// # Errors
/// Those of [`temp_file`].
pub fn temp_file_in(directory: impl AsRef<Path>) -> Result<TempFile> {
    let directory = directory.as_ref();
    let failed =
        |source| DemoError::Io { action: "create a temp file in", path: Some(directory.into()), source };
    let charge = charge("create a temp file in", directory)?;
    stale::remember(directory);
    let file = stale::held(
        || Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(directory).map_err(failed),
        |file| stale::hold(file.as_file()),
        failed,
    )?;
    Ok(TempFile { file, charge })
}

/// A temp directory in the system's directory for such.
///
/// # Errors
/// Those of [`temp_file`].
pub fn temp_dir() -> Result<TempDir> {
    temp_dir_in(std::env::temp_dir())
}

/// A temp directory in this directory.
///
/// # Errors
/// Those of [`temp_file`].
pub fn temp_dir_in(directory: impl AsRef<Path>) -> Result<TempDir> {
    let parent = directory.as_ref();
    let failed =
        |source| DemoError::Io { action: "create a temp directory in", path: Some(parent.into()), source };
    let charge = charge("create a temp directory in", parent)?;
    stale::remember(parent);
    #[cfg(unix)]
    {
        let make = || {
            let directory =
                Builder::new().prefix(PREFIX).suffix(SUFFIX).tempdir_in(parent).map_err(failed)?;
            let lock = match File::open(directory.path()) {
                // A sweep was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => {
                    // What is in it would be looked for, which takes what opening it lacks: a descriptor, or a permission.
                    let _ = std::fs::remove_dir(directory.path());
                    return Err(failed(error));
                }
                Ok(lock) => Some(lock),
            };
            Ok((directory, lock))
        };
        let lock = |made: &(tempfile::TempDir, Option<File>)| made.1.as_ref().map_or(Ok(false), stale::hold);
        let (directory, lock) = stale::held(make, lock, failed)?;
        Ok(TempDir { directory, lock, _charge: charge })
    }
    #[cfg(not(unix))]
    {
        let directory = Builder::new().prefix(PREFIX).suffix(SUFFIX).tempdir_in(parent).map_err(failed)?;
        Ok(TempDir { directory, _charge: charge })
    }
}

/// Removes the temp files and directories that processes which ended have left in this directory; returns how many.
///
/// What a living process holds is left alone, and so is what was made to stay, by [`TempFile::into_inner`] too. [`gc::collect`](crate::gc::collect) does this wherever this process made
/// temp files.
///
/// # Errors
/// [`DemoError::Io`] where the directory cannot be read.
pub fn sweep(directory: impl AsRef<Path>) -> Result<u64> {
    let directory = directory.as_ref();
    stale::sweep(directory).map_err(|source| DemoError::Io {
        action: "look for stale temp files in",
        path: Some(directory.into()),
        source,
    })
}
