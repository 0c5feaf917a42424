//! `ModelCheckpoint`: named tensors in one file, all of them or none.

#![forbid(unsafe_code)]

use super::background::PendingCommit;
use super::durable::Target;
use super::format::{pt, safetensors};
use super::load::Checkpoint;
use super::output::{Format, Listener, Output, Progress};
use super::temp;
use crate::error::{DemoError, Result};
use crate::pool::budget::scope::Holding;
use crate::tensor::Tensor;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::string::String;
use tempfile::NamedTempFile;

/// A checkpoint being made: named tensors and metadata, written by [`commit`](Self::commit).
///
/// It is written as safetensors, or as PyTorch's format where the name ends in `.pt`, `.pth`, `.ckpt` or `.bin`, unless
/// [`format`](Self::format) says otherwise; loading goes by the content. Every tensor has a checksum in either.
///
/// Dropped without a commit, it leaves nothing behind. Only a process that is killed leaves its temp file, a hidden
/// `.democratising-*.tmp` beside the target, which the next checkpoint in that directory removes; the target itself is
/// always the old file or the new one, whole.
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
    format: Format,
    listener: Option<Listener>,
    /// Given back after the temp file is closed.
    charge: Holding,
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
        let charge = temp::charge("create a temp file beside", path.as_ref())?;
        target.sweep();
        let temp_file = target.temp_file()?;
        let format = Format::of_name(path.as_ref());
        let (tensors, metadata) = (BTreeMap::new(), BTreeMap::new());
        Ok(ModelCheckpoint { target, temp_file, tensors, metadata, format, listener: None, charge })
    }

    /// Opens a checkpoint of any format, recognised by its content: safetensors, `.npz`, PyTorch's `.pt` of every version,
    /// `.npy` and text. See [`Checkpoint`].
    ///
    /// # Errors
    /// [`DemoError::Io`] where it cannot be opened, [`DemoError::Format`] where it is nothing of these or damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Checkpoint> {
        Checkpoint::open(path.as_ref(), true)
    }

    /// The same without comparing any checksum, for files that are known to be damaged, or that another program changed
    /// while it kept our checksums.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), but for damage.
    pub fn load_unchecked(path: impl AsRef<Path>) -> Result<Checkpoint> {
        Checkpoint::open(path.as_ref(), false)
    }

    /// Chooses the format, whatever the name says.
    pub fn format(mut self, format: Format) -> ModelCheckpoint {
        self.format = format;
        self
    }

    /// Calls `listener` after each piece that was written, from the thread that writes.
    pub fn on_progress(mut self, listener: impl FnMut(Progress<'_>) + Send + 'static) -> ModelCheckpoint {
        self.listener = Some(Box::new(listener));
        self
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
    /// [`DemoError::Name`] where the key is taken, or begins with `democratising.`: there the checksums are kept.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Result<ModelCheckpoint> {
        let key = key.into();
        if key.starts_with(safetensors::OWN_KEYS) {
            return Err(DemoError::Name {
                what: "metadata key",
                name: key,
                problem: "begins with \"democratising.\", which is kept for checksums; choose another one",
            });
        }
        match self.metadata.entry(key) {
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
    /// The tensors are written as they lie in memory, a piece at a time, without a second copy. The same tensors and
    /// metadata make the same bytes, in whatever order they were added.
    ///
    /// # Errors
    /// [`DemoError::NotDurable`] where the new file is in place, but its directory could not be synced.
    /// [`DemoError::Io`] where anything else failed, [`DemoError::Format`] where a tensor is in a file whose bytes are
    /// damaged: then the old file stands unchanged and nothing new is left.
    pub fn commit(self) -> Result<()> {
        let ModelCheckpoint { target, temp_file, tensors, metadata, format, listener, charge: _charge } =
            self;
        // Views of few elements can come to more than can be counted.
        let bytes = tensors.values().map(|tensor| tensor.byte_len() as u64);
        let total_bytes = bytes.fold(0, u64::saturating_add);
        let mut to = Output::new(temp_file.as_file(), &target, total_bytes, listener);
        match format {
            Format::Safetensors => safetensors::write::write(&mut to, &tensors, &metadata)?,
            Format::PyTorch => pt::write::write(&mut to, &tensors, &metadata)?,
        }
        to.finish()?;
        target.keep_permissions(temp_file.as_file())?;
        target.publish(temp_file)
    }

    /// Commits on another thread, with the tensors as they are now: they share their memory with the caller's until one
    /// side changes it, and that side then gets a copy from the pool (copy on write).
    ///
    /// At most one is under way in the process. A second call waits for the first to end, so that checkpoints cannot pile
    /// up faster than the disk takes them; so it is not to be called by a listener of another one's progress.
    ///
    /// ```
    /// # fn main() -> democratising::Result<()> {
    /// # let directory = democratising::tempfile::tempdir()?;
    /// # let path = directory.path().join("model.safetensors");
    /// use democratising::{Tensor, fs};
    ///
    /// let mut weight = Tensor::zeros(&[256, 256])?;
    /// let pending = fs::ModelCheckpoint::create(&path)?.add("weight", &weight)?.commit_async()?;
    /// weight.as_mut_slice::<f32>()?.fill(1.0); // training goes on
    /// pending.wait()?;
    /// assert_eq!(fs::ModelCheckpoint::load(&path)?.get("weight")?, Tensor::zeros(&[256, 256])?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DemoError::Io`] where no thread can be started. What [`commit`](Self::commit) says comes from
    /// [`PendingCommit::wait`].
    pub fn commit_async(self) -> Result<PendingCommit> {
        PendingCommit::start(self)
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
