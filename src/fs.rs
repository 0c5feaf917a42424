//! Files: tensors read from them, checkpoints that survive a power loss.
//!
//! 1. A new file becomes visible only when it is whole: it is written under a hidden name beside its target, synced,
//!    renamed over the target, and then the directory is synced (`durable`). Without any one of these steps a power
//!    loss can leave an old, empty or torn file.
//! 2. What a file says of itself is believed only as far as the file goes: nothing is allocated for bytes that are not
//!    there, and every error names the place.
//! 3. A file is recognised by its content, never by its name.

mod background;
mod checkpoint;
mod contents;
mod directory;
mod durable;
mod evictable;
mod format;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod large_pages;
mod load;
mod output;
mod parallel;
mod source;
mod stale;
mod temp;
mod timeline;

pub use background::PendingCommit;
pub use checkpoint::ModelCheckpoint;
pub use directory::{CheckpointDir, Metric};
pub use durable::persist;
pub use evictable::{Evictable, Kept};
pub use load::{Checkpoint, Skipped, TensorInfo};
pub use output::{Format, Progress};
pub use temp::{TempDir, TempFile, descriptors, sweep, temp_dir, temp_dir_in, temp_file, temp_file_in};

use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use format::Ending;
use std::fs::File;
use std::path::Path;

impl Tensor {
    /// Reads a tensor from where the file stands, up to the tensor's end. What it is, its content says:
    ///
    /// - `.npy`, versions 1 to 3, either byte order, C or Fortran order. The file is left standing behind the array, so
    ///   that several in one file are read by as many calls.
    /// - safetensors, `.npz` and PyTorch's `.pt` (of every version) with exactly one tensor. With more,
    ///   [`ModelCheckpoint::load`] gives them by name. No code in a `.pt` is ever run: names that tensors do not need are
    ///   refused.
    /// - text: numbers separated by whitespace or one comma, one row a line. Blank lines are skipped, and so is
    ///   everything from a `#` to the end of its line. It becomes an `F32` tensor of two dimensions, `[rows, columns]`,
    ///   for one row or one column too, so that the shape does not change its rank with the data.
    ///
    /// The elements are copied into memory, but for those of `.npz` and `.pt`, whose files are mapped as [`ModelCheckpoint::load`] maps
    /// them. Pipes work as well as files.
    ///
    /// # Errors
    /// [`DemoError::Format`] with the place in the file and what is wrong there, [`DemoError::Io`] where it cannot be
    /// read, [`DemoError::OutOfMemory`] where it does not fit.
    pub fn from_file(file: &File) -> Result<Tensor> {
        format::read(file, Ending::Anywhere)
    }

    /// Opens a file and reads the one tensor in it, as [`from_file`](Self::from_file) does.
    ///
    /// # Errors
    /// Those of `from_file`, with the path. Also [`DemoError::Format`] where something follows the tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Tensor> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| DemoError::Io {
            action: "open",
            path: Some(path.into()),
            source,
        })?;
        format::read(&file, Ending::OfFile).map_err(|error| at_path(error, path))
    }
}

/// The same error, with the path where it has none yet.
fn at_path(mut error: DemoError, of: &Path) -> DemoError {
    if let DemoError::Io { path: path @ None, .. } | DemoError::Format { path: path @ None, .. } = &mut error
    {
        *path = Some(of.into());
    }
    error
}
