//! `ModelCheckpoint`: named tensors in one file, all of them or none.

#![forbid(unsafe_code)]

use super::durable::Target;
use super::format::safetensors;
use super::load::Checkpoint;
use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufWriter};
use std::path::Path;
use std::string::String;
use tempfile::NamedTempFile;

/// A checkpoint being made: named tensors and metadata, written as safetensors by [`commit`](Self::commit).
///
/// Dropped without a commit, it leaves nothing behind. Only a process that is killed leaves its temp file, a hidden
/// `.democratising-*.tmp` beside the target; the target itself is always the old file or the new one, whole.
///
/// ```
/// # fn main() -> democratising::Result<()> {
/// # let directory = democratising::tempfile::tempdir()?;
/// # let path = directory.path().join("model.safetensors");
/// use democratising::{Tensor, fs};
///
/// let weight = Tensor::zeros(&[8, 8])?;
/// fs::ModelCheckpoint::create(&path)?.add("weight", &weight)?.metadata("step", "100")?.commit()?;
///
/// let c = fs::ModelCheckpoint::load(&path)?;
/// assert_eq!(c.get("weight")?, weight);
/// assert_eq!(c.metadata("step"), Some("100"));
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is written until commit() is called"]
pub struct ModelCheckpoint {
    target: Target,
    temp_file: NamedTempFile,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl ModelCheckpoint {
    /// Begins a checkpoint that is to stand at `path`.
    ///
    /// A temp file beside it is created now, so that a directory that cannot be written is known before the training
    /// and not after it. Where a symbolic link stands at `path`, the file that it names is replaced and the link stays.
    /// An existing file keeps its permissions (its owner is whoever writes); a new one gets those that
    /// [`File::create`](std::fs::File::create) gives.
    ///
    /// # Errors
    /// [`DemoError::Io`] where the directory is missing or cannot be written, or something that is no regular file
    /// stands at `path`.
    pub fn create(path: impl AsRef<Path>) -> Result<ModelCheckpoint> {
        let target = Target::resolve(path.as_ref())?;
        let temp_file = target.temp_file()?;
        Ok(ModelCheckpoint { target, temp_file, tensors: BTreeMap::new(), metadata: BTreeMap::new() })
    }

    /// Opens a checkpoint, see [`Checkpoint`].
    ///
    /// # Errors
    /// [`DemoError::Io`] where it cannot be opened, [`DemoError::Format`] where it is no safetensors file.
    pub fn load(path: impl AsRef<Path>) -> Result<Checkpoint> {
        Checkpoint::open(path.as_ref())
    }

    /// Adds a tensor as it is now. Its memory is shared until the commit, not copied.
    ///
    /// # Errors
    /// [`DemoError::Name`] where the name is taken, or reserved by the format.
    pub fn add(mut self, name: impl Into<String>, tensor: &Tensor) -> Result<ModelCheckpoint> {
        let name = name.into();
        if name == safetensors::RESERVED {
            return Err(DemoError::Name {
                what: "tensor",
                name,
                problem: "is reserved by the safetensors format; give it another name",
            });
        }
        match self.tensors.entry(name) {
            Entry::Vacant(place) => {
                place.insert(tensor.clone());
            }
            Entry::Occupied(taken) => {
                let name = taken.key().clone();
                let problem = "is in the checkpoint already; give each tensor a name of its own";
                return Err(DemoError::Name { what: "tensor", name, problem });
            }
        }
        Ok(self)
    }

    /// Adds a piece of text under a key.
    ///
    /// # Errors
    /// [`DemoError::Name`] where the key is taken.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Result<ModelCheckpoint> {
        match self.metadata.entry(key.into()) {
            Entry::Vacant(place) => {
                place.insert(value.into());
            }
            Entry::Occupied(taken) => {
                let name = taken.key().clone();
                let problem = "has a value in the checkpoint already; give each key one value";
                return Err(DemoError::Name { what: "metadata key", name, problem });
            }
        }
        Ok(self)
    }

    /// Writes the file and makes it stand at its path. `Ok` means that it survives a power loss.
    ///
    /// The same tensors and metadata make the same bytes, in whatever order they were added.
    ///
    /// # Errors
    /// [`DemoError::NotDurable`] where the new file is in place, but its directory could not be synced.
    /// [`DemoError::Io`] where anything else failed: then the old file stands unchanged and nothing new is left.
    pub fn commit(self) -> Result<()> {
        let ModelCheckpoint { target, temp_file, tensors, metadata } = self;
        let mut to = BufWriter::with_capacity(1 << 16, temp_file.as_file());
        safetensors::write(&mut to, &tensors, &metadata)
            .and_then(|()| to.into_inner().map_err(io::Error::from))
            .map_err(|e| target.io("write", e))?;
        target.keep_permissions(temp_file.as_file())?;
        target.publish(temp_file)
    }
}

impl std::fmt::Debug for ModelCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelCheckpoint")
            .field("temp_file", &self.temp_file.path())
            .field("tensors", &self.tensors)
            .field("metadata", &self.metadata)
            .finish()
    }
}
