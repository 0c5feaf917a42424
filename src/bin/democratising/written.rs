//! A file that is written: there whole or not at all, and never in the place of what is read.

#![forbid(unsafe_code)]

use crate::failure::Failure;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf, is_separator};

/// A file that is to be written.
pub struct Written {
    path: PathBuf,
}

impl Written {
    /// Finds out early whether `path` can be written, since a long replay may come before it is. What is there already is replaced, unless
    /// it is one of the files that are read.
    pub fn check(path: &Path, read: &[impl AsRef<Path>]) -> Result<Written, Failure> {
        let unwritable = |error| unwritable(path, error);
        let written = match std::fs::metadata(path) {
            // A rename would put a file where a device or a directory was, or take the file that standard output goes to.
            Ok(found) if !found.is_file() || is_of_system(path) => {
                return Err(not_this(path, "is no regular file; name a file to write"));
            }
            // The file behind a link is replaced, not the link.
            Ok(_) => Written { path: std::fs::canonicalize(path).map_err(unwritable)? },
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(error)),
            Err(_) if path.is_symlink() => {
                return Err(not_this(path, "is a link that leads nowhere; name a file to write"));
            }
            Err(_) if path.to_string_lossy().ends_with(is_separator) => {
                return Err(not_this(path, "is the name of a directory; name a file to write"));
            }
            Err(_) => Written { path: path.to_owned() },
        };
        let target = place(&written.path);
        let is_read = |other: &Path| other.as_os_str() != "-" && target.is_some() && place(other) == target;
        if read.iter().any(|other| is_read(other.as_ref())) {
            return Err(not_this(path, "is read, and would be lost; name another file to write"));
        }
        written.temporary().map_err(unwritable)?;
        Ok(written)
    }

    /// That it is another file than one that is written too.
    pub fn differs_from(&self, other: &Written) -> Result<(), Failure> {
        if place(&self.path) == place(&other.path) {
            return Err(not_this(&self.path, "is to be written twice; name two files"));
        }
        Ok(())
    }

    /// Writes a file beside the target and puts it in its place.
    pub fn write(&self, text: &str) -> Result<(), Failure> {
        let unwritable = |error| Failure::Machine(unwritable(&self.path, error).to_string());
        let mut file = self.temporary().map_err(unwritable)?;
        file.write_all(text.as_bytes()).map_err(unwritable)?;
        file.persist(&self.path).map_err(|error| unwritable(error.error))?;
        Ok(())
    }

    fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        // What `File::create` would ask for; the umask takes its share.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.prefix(".democratising-").suffix(".part").tempfile_in(directory(&self.path))
    }
}

/// Whether a regular file of this name may be one that a descriptor leads to. What programs share memory by (`shm_overview(7)`) are files.
fn is_of_system(path: &Path) -> bool {
    path.starts_with("/proc") || path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

/// The directory that a file is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Where a path leads, also that of a file which is still to be; `None` where it leads nowhere.
fn place(path: &Path) -> Option<PathBuf> {
    let new = || Some(directory(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(new)
}

fn not_this(path: &Path, problem: &str) -> Failure {
    Failure::input(path.display(), problem)
}

fn unwritable(path: &Path, error: impl Display) -> Failure {
    Failure::input(path.display(), format!("the file cannot be written: {error}"))
}
