//! A checkpoint that is there: mapped, where its format allows, not read.

use super::at_path;
use super::contents::{Contents, Entry};
use super::format::{self, shown, wrong};
use crate::error::{DemoError, Result};
use crate::pool::budget::scope::{self, Kind};
use crate::tensor::storage::file::{Bytes, SharedFile};
use crate::tensor::{DType, Tensor};
use memmap2::MmapOptions;
use std::collections::BTreeMap;
use std::format;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

/// A loaded checkpoint: the names are read, the elements are mapped into memory as they are used.
///
/// Its tensors share the mapping and keep it alive; changing one changes a copy, never the file. Dropping everything
/// unmaps it.
///
/// Opening reads the header alone, whatever the file's size, but for `.npy` and text: those are one tensor, which is copied into
/// memory. The checksum of a tensor is compared when its elements are
/// first asked for (by `as_slice`, `iter`, `to_vec`, ..), so that nobody sees a damaged one; [`verify`](Self::verify)
/// compares all of them. Files of other programs have checksums where their format does: `.npz` and `.pt` do, safetensors
/// has none of its own.
///
/// A file must not be changed in place or cut short while it is mapped: elements that were checked would change, or the
/// process be stopped by SIGBUS. A file that was cut short before a tensor's elements were first asked for is an error.
/// [`ModelCheckpoint::commit`](super::ModelCheckpoint::commit) never changes a file: it makes a new one, and the mapping
/// keeps the old one.
#[derive(Clone)]
pub struct Checkpoint {
    pub(super) inner: Arc<Inner>,
    /// Newer files that were passed over, see [`skipped`](Self::skipped).
    pub(super) skipped: Arc<[Skipped]>,
}

pub(super) struct Inner {
    pub(super) file: Arc<SharedFile>,
    pub(super) format: &'static str,
    /// By name.
    pub(super) entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    path: PathBuf,
}

/// A file that [`CheckpointDir::latest_valid`](super::CheckpointDir::latest_valid) passed over.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The step that its name tells.
    pub step: u64,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: DemoError,
}

/// What a file says of one of its tensors.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The type of its elements.
    pub dtype: DType,
    /// The lengths of its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The bytes of all its elements.
    pub bytes: u64,
    /// The CRC-32 that was saved with it, or with the storage that it is a view of, where the file has one.
    pub crc32: Option<u32>,
}

impl Checkpoint {
    pub(super) fn open(path: &Path, checksums: bool) -> Result<Checkpoint> {
        let failed = |action| move |source| DemoError::Io { action, path: Some(path.into()), source };
        // Before it is opened: to open a pipe is to wait for who writes into it.
        regular(&fs::metadata(path).map_err(failed("open"))?).map_err(failed("map"))?;
        let file = File::open(path).map_err(failed("open"))?;
        regular(&file.metadata().map_err(failed("look at"))?).map_err(failed("map"))?;
        let bytes = map(file).map_err(failed("map"))?;
        let contents = format::contents(bytes.all(), checksums).map_err(|error| at_path(error, path))?;
        Ok(Checkpoint::of(bytes, contents, Some(path)))
    }

    /// What was understood of these bytes.
    pub(super) fn of(bytes: Bytes, contents: Contents, path: Option<&Path>) -> Checkpoint {
        let Contents { format, parts, entries, metadata } = contents;
        let file = SharedFile::new(bytes, format, path.map(PathBuf::from), parts);
        let path = path.unwrap_or(Path::new("")).into();
        let inner = Inner { file, format, entries, metadata, path };
        Checkpoint { inner: Arc::new(inner), skipped: Arc::new([]) }
    }

    /// The tensor of that name, sharing the mapping where its elements are aligned for their dtype.
    ///
    /// # Errors
    /// [`DemoError::Name`] where there is none. [`DemoError::Format`] where its dtype is unknown. Where the elements have to
    /// be copied, that also for a checksum that is wrong and for elements that are no `bool`s, and
    /// [`DemoError::OutOfMemory`] where there is no room.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let Some(entry) = self.inner.entries.get(name) else {
            return Err(DemoError::Name {
                what: "tensor",
                name: name.into(),
                problem: "is not in the checkpoint; names() lists those that are",
            });
        };
        entry.tensor(&self.inner.file, self.inner.format).map_err(|error| self.named(of_tensor(name, error)))
    }

    /// The names of all tensors, sorted. Those of nested dictionaries and lists are joined by dots; a tensor that a file
    /// holds without a name has the empty one. What cannot be read as a tensor here, as an array of strings in an `.npz`, is among
    /// them: [`info`](Self::info) has nothing of it, and [`get`](Self::get) says why.
    pub fn names(&self) -> Vec<&str> {
        self.inner.entries.keys().map(String::as_str).collect()
    }

    /// What the file says of a tensor, without touching its elements; `None` where there is no such name, or its dtype is
    /// unknown here.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        let entry = self.inner.entries.get(name)?;
        let (dtype, shape) = entry.kind()?;
        let elements = shape.iter().fold(1u64, |n, &length| n.saturating_mul(length as u64));
        Some(TensorInfo {
            dtype,
            shape: shape.to_vec(),
            bytes: elements.saturating_mul(dtype.size_bytes() as u64),
            crc32: entry.part().and_then(|part| self.inner.file.part(part).crc32()),
        })
    }

    /// The text kept under a key, if there is one. Of a `.pt` file, numbers and texts that stand beside the tensors.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.inner.metadata.get(key).map(String::as_str)
    }

    /// All metadata, by key.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inner.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// What the file is: `"safetensors"`, `"npz"`, `"pt"`, ..
    pub fn format(&self) -> &'static str {
        self.inner.format
    }

    /// The file, as it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Reads all elements and compares every checksum that the file has, those of tensors that nothing here holds too.
    ///
    /// # Errors
    /// [`DemoError::Format`] naming the first tensor that is damaged, or of which the file says what cannot be, [`DemoError::OutOfMemory`] where compressed ones have
    /// no room.
    pub fn verify(&self) -> Result<()> {
        self.inner.entries.keys().try_for_each(|name| self.verify_one(name))
    }

    /// Reads the elements of one tensor and compares its checksum.
    ///
    /// # Errors
    /// Those of [`verify`](Self::verify), and [`DemoError::Name`] where there is no such tensor.
    pub fn verify_one(&self, name: &str) -> Result<()> {
        match self.inner.entries.get(name) {
            // Whether anything here can hold it is another question.
            Some(Entry::Foreign(foreign)) => {
                foreign.check(&self.inner.file).map_err(|error| self.named(error))
            }
            Some(Entry::Plain(plain)) => {
                self.inner.file.checked(plain.part).map(drop).map_err(|error| self.named(error))
            }
            _ => self.get(name).map(drop),
        }
    }

    /// The newer files that were passed over when this one was found by
    /// [`CheckpointDir::latest_valid`](super::CheckpointDir::latest_valid), and why.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The one tensor of a file that is taken for one.
    pub(super) fn only(&self) -> Result<Tensor> {
        let names = self.names();
        let [name] = names.as_slice() else {
            let problem = format!(
                "it holds {} tensors, not one; fs::ModelCheckpoint::load gives each by its name",
                names.len()
            );
            return Err(wrong(self.inner.format, String::new(), problem));
        };
        self.get(name)
    }

    pub(super) fn named(&self, error: DemoError) -> DemoError {
        if self.inner.path.as_os_str().is_empty() { error } else { at_path(error, &self.inner.path) }
    }
}

/// The error with the tensor that it is of, where it names none.
fn of_tensor(name: &str, error: DemoError) -> DemoError {
    let shown = shown(name);
    match error {
        DemoError::Format { format, path, at, problem }
            if !name.is_empty() && !at.contains(&shown) && !problem.contains(&shown) =>
        {
            DemoError::Format { format, path, at: format!(" tensor {shown}{at}"), problem }
        }
        other => other,
    }
}

/// Refuses what cannot be mapped.
fn regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        let problem = "only regular files can be mapped; Tensor::open reads others";
        return Err(io::Error::new(ErrorKind::InvalidInput, problem));
    }
    Ok(())
}

/// Maps a whole file.
pub(super) fn map(file: File) -> io::Result<Bytes> {
    // SAFETY: 1. The mapping is private and read-only, so nothing here writes to it. 2. That nobody changes the
    // file meanwhile cannot be seen from here; the type's documentation asks for it. Of the types that are read
    // in place every pattern is a value, so the worst that a change does is to change numbers.
    let map = unsafe { MmapOptions::new().map_copy_read_only(&file) }?;
    let _charged = scope::charge(Kind::MappedBytes, map.len() as u64)
        .map_err(|refused| io::Error::new(ErrorKind::OutOfMemory, refused))?;
    Ok(Bytes::Mapped { map, file, _charged })
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.inner.path)
            .field("format", &self.inner.format)
            .field("names", &self.names())
            .finish()
    }
}
