//! Making a new file stand under its name so that it is still there after a power loss.
//!
//! The steps, and what a power loss does without each of them: write the file under another name beside its target
//! (else readers see half of it); sync the file (else the name may come to stand for zeros); rename it over the target
//! (which is the only step that anybody can see); sync the directory (else the rename may not have happened). Once a
//! sync has failed, the kernel may have dropped what it could not write and report success the next time, so nothing is
//! ever synced twice: the new file is given up.

#![forbid(unsafe_code)]

use super::stale;
use crate::error::{DemoError, Result};
#[cfg(unix)]
use crate::sync::Cell;
#[cfg(unix)]
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Renames a temp file so that it survives a power loss, and returns it open.
///
/// The file is synced, renamed to `path`, and then the directory is synced. Where the temp file is on another file
/// system, it is copied beside the target first, so that the target changes at once here too. An existing file is
/// replaced, and a symbolic link is followed to the file that it names. The permissions are those of the temp file.
/// Whatever the caller buffers has to be flushed before.
///
/// ```no_run
/// # fn main() -> democratising::Result<()> {
/// use democratising::{fs, tempfile};
/// use std::io::Write;
///
/// let mut temp_file = tempfile::NamedTempFile::new_in(".")?;
/// temp_file.write_all(b"weights")?;
/// fs::persist(temp_file, "model.pt")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`DemoError::NotDurable`] where the file is in place, but its directory could not be synced. [`DemoError::Io`] where
/// anything else failed: then what stood at `path` stands there unchanged, and the temp file is removed, as it is
/// whenever a [`NamedTempFile`] is dropped.
///
/// Directories can be synced on Unix only; elsewhere the file is synced once more under its new name, and the rename is as durable as that
/// makes it.
pub fn persist(temp_file: NamedTempFile, path: impl AsRef<Path>) -> Result<File> {
    let target = Target::resolve(path.as_ref())?;
    match target.sync_and_rename(temp_file)? {
        Renamed::Here(file) => target.sync_name(&file).map(|()| file),
        Renamed::Elsewhere(mut temp_file) => {
            let metadata = temp_file.as_file().metadata().map_err(|e| target.io("copy a temp file to", e))?;
            let mut copy = target.temp_file_with(Some(metadata.permissions()))?;
            let at = copy_all(&mut temp_file, &mut copy).map_err(|e| target.io("copy a temp file to", e))?;
            match target.sync_and_rename(copy)? {
                Renamed::Here(mut file) => {
                    target.sync_name(&file)?;
                    stale::let_go(&file);
                    file.seek(SeekFrom::Start(at)).map_err(|e| target.io("seek in", e))?;
                    Ok(file)
                }
                Renamed::Elsewhere(_) => {
                    Err(target.io("rename a temp file beside it to", ErrorKind::CrossesDevices.into()))
                }
            }
        }
    }
}

/// The file that a path stands for, and all that has to be known to replace it.
pub(super) struct Target {
    /// As the caller named it, for messages.
    named: PathBuf,
    /// Absolute, so that a change of the working directory changes nothing, and no symbolic link.
    place: PathBuf,
    parent: PathBuf,
    /// Opened before anything is renamed, so that only the sync itself can fail afterwards.
    #[cfg(unix)]
    directory: File,
    /// The name there of the temp file that was made last, until it is renamed.
    #[cfg(unix)]
    beside: Cell<Option<OsString>>,
}

/// A temp file goes by its path. Where the directory was moved meanwhile, that leads elsewhere, and the directory itself still does not.
#[cfg(unix)]
impl Drop for Target {
    fn drop(&mut self) {
        if let Some(name) = self.beside.take() {
            // Mostly it is gone.
            let _ = rustix::fs::unlinkat(&self.directory, name, rustix::fs::AtFlags::empty());
        }
    }
}

enum Renamed {
    Here(File),
    Elsewhere(NamedTempFile),
}

impl Target {
    pub(super) fn resolve(named: &Path) -> Result<Target> {
        let failed = |source| DemoError::Io { action: "write a file at", path: Some(named.into()), source };
        let no_file = || failed(io::Error::new(ErrorKind::InvalidInput, "the path names no file"));
        if names_no_file(named) {
            return Err(no_file());
        }
        let place = follow_links(std::path::absolute(named).map_err(failed)?).map_err(failed)?;
        stale::may_stay(&place).map_err(failed)?;
        replaceable(&place).map_err(failed)?;
        // A link can name what is to be a directory.
        if names_no_file(&place) {
            return Err(no_file());
        }
        let parent = place.parent().unwrap_or(Path::new("/")).to_path_buf();
        #[cfg(unix)]
        let directory = File::open(&parent).map_err(|source| DemoError::Io {
            action: "open the directory that is to hold",
            path: Some(named.into()),
            source,
        })?;
        Ok(Target {
            named: named.into(),
            place,
            parent,
            #[cfg(unix)]
            directory,
            #[cfg(unix)]
            beside: Cell::new(None),
        })
    }

    /// A hidden file in the target's directory that is removed when it is dropped. From the start it can be read by no
    /// more users than the target: for a new one, by those that the process's mask lets read.
    pub(super) fn temp_file(&self) -> Result<NamedTempFile> {
        self.temp_file_with(replaceable(&self.place).map_err(|e| self.io("look at", e))?)
    }

    #[cfg_attr(not(unix), allow(unused_variables, reason = "only Unix has modes"))]
    fn temp_file_with(&self, permissions: Option<Permissions>) -> Result<NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(stale::PREFIX).suffix(stale::SUFFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = permissions.map_or(0o666, |permissions| permissions.mode() & 0o777);
            builder.permissions(Permissions::from_mode(mode));
        }
        stale::remember(&self.parent);
        let failed = |error| self.io("create a temp file beside", error);
        let made = stale::held(
            || builder.tempfile_in(&self.parent).map_err(failed),
            |file| stale::hold(file.as_file()),
            failed,
        )?;
        #[cfg(unix)]
        self.beside.set(made.path().file_name().map(OsString::from));
        Ok(made)
    }

    /// Removes what processes that ended have left beside the target.
    pub(super) fn sweep(&self) {
        // The new file is what is wanted; whatever cannot be swept is left to the next.
        let _ = stale::sweep(&self.parent);
    }

    /// Gives a new file the permissions of the one it is going to replace, if there is one.
    pub(super) fn keep_permissions(&self, new: &File) -> Result<()> {
        match replaceable(&self.place).map_err(|e| self.io("look at", e))? {
            Some(permissions) => {
                new.set_permissions(permissions).map_err(|e| self.io("keep the permissions of", e))
            }
            None => Ok(()),
        }
    }

    /// Makes the file stand under the target's name for good.
    pub(super) fn publish(&self, temp_file: NamedTempFile) -> Result<()> {
        match self.sync_and_rename(temp_file)? {
            Renamed::Here(file) => self.sync_name(&file),
            Renamed::Elsewhere(_) => {
                Err(self.io("rename a temp file beside it to", ErrorKind::CrossesDevices.into()))
            }
        }
    }

    fn sync_and_rename(&self, temp_file: NamedTempFile) -> Result<Renamed> {
        temp_file.as_file().sync_all().map_err(|e| self.io("sync", e))?;
        match rename(temp_file, &self.place) {
            Ok(file) => {
                #[cfg(unix)]
                self.beside.set(None);
                Ok(Renamed::Here(file))
            }
            Err((error, file)) if error.kind() == ErrorKind::CrossesDevices => Ok(Renamed::Elsewhere(file)),
            Err((error, _)) => Err(self.io("rename a temp file to", told(error))),
        }
    }

    /// Makes the name of a file last that was just renamed. Where directories cannot be synced, what the system writes of the file
    /// itself behind that has it, or nothing can.
    fn sync_name(&self, file: &File) -> Result<()> {
        #[cfg(unix)]
        let (_, synced) = (file, self.directory.sync_all());
        #[cfg(not(unix))]
        let synced = file.sync_all();
        synced.map_err(|source| DemoError::NotDurable { path: self.named.clone(), source })
    }

    pub(super) fn io(&self, action: &'static str, source: io::Error) -> DemoError {
        DemoError::Io { action, path: Some(self.named.clone()), source }
    }
}

/// What a refused rename says.
fn told(error: io::Error) -> io::Error {
    if !cfg!(windows) || error.kind() != ErrorKind::PermissionDenied {
        return error;
    }
    let advice = "Windows may not replace a file that is open or mapped: drop what was loaded from it, or take another name";
    io::Error::new(error.kind(), std::format!("{error} {advice}"))
}

/// Renames a temp file, over what stands there. Where it cannot, it is a temp file still.
#[cfg(not(windows))]
fn rename(temp_file: NamedTempFile, to: &Path) -> core::result::Result<File, (io::Error, NamedTempFile)> {
    temp_file.persist(to).map_err(|refused| (refused.error, refused.file))
}

/// The same by the standard library, which replaces on Windows what somebody has open, where the system can.
#[cfg(windows)]
#[allow(deprecated, reason = "what takes the place of `from_path` came with tempfile 3.27")]
fn rename(temp_file: NamedTempFile, to: &Path) -> core::result::Result<File, (io::Error, NamedTempFile)> {
    let (file, path) = temp_file.keep().map_err(|refused| (refused.error, refused.file))?;
    match fs::rename(&path, to) {
        Ok(()) => Ok(file),
        Err(error) => Err((error, NamedTempFile::from_parts(file, tempfile::TempPath::from_path(path)))),
    }
}

/// Copies all of a file with its permissions; returns where the original stands.
fn copy_all(from: &mut NamedTempFile, to: &mut NamedTempFile) -> io::Result<u64> {
    let at = from.stream_position()?;
    from.rewind()?;
    io::copy(from.as_file_mut(), to.as_file_mut())?;
    to.as_file().set_permissions(from.as_file().metadata()?.permissions())?;
    Ok(at)
}

/// Whether a path can name a directory only.
fn names_no_file(path: &Path) -> bool {
    let is_separator = |&end: &u8| std::path::is_separator(end.into());
    let text = path.as_os_str().as_encoded_bytes();
    // A `Path` has forgotten a dot at its end.
    let before_dot = text.strip_suffix(b".").and_then(<[u8]>::last).is_some_and(is_separator);
    path.file_name().is_none() || before_dot || text.last().is_some_and(is_separator)
}

/// The path that is left when no symbolic link stands at its end any more. It need not exist.
fn follow_links(mut path: PathBuf) -> io::Result<PathBuf> {
    // As many as Linux follows, and a look at what the last one names.
    for _ in 0..=40 {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let to = fs::read_link(&path)?;
                path.pop();
                path.push(to);
            }
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// The permissions of the file to be replaced, if there is one. A rename would replace a device just as readily.
fn replaceable(place: &Path) -> io::Result<Option<Permissions>> {
    match fs::symlink_metadata(place) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.permissions())),
        Ok(metadata) if metadata.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(_) => Err(io::Error::new(ErrorKind::InvalidInput, "what stands there is no regular file")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
