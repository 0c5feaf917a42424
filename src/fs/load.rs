//! A checkpoint that is there: mapped, not read.

use super::at_path;
use super::format::{safetensors, wrong};
use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use crate::tensor::storage::Storage;
use ::safetensors::tensor::Metadata;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
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
/// A file must not be changed in place or cut short while it is mapped: the elements would change, or the process be
/// stopped by SIGBUS. [`ModelCheckpoint::commit`](super::ModelCheckpoint::commit) never does that: it makes a new file,
/// and the mapping keeps the old one.
#[derive(Clone)]
pub struct Checkpoint {
    map: Arc<Mmap>,
    header: Arc<Metadata>,
    /// Sorted.
    names: Arc<[String]>,
    data_bytes: usize,
    path: PathBuf,
}

impl Checkpoint {
    pub(super) fn open(path: &Path) -> Result<Checkpoint> {
        let failed = |action| move |source| DemoError::Io { action, path: Some(path.into()), source };
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("look at"))?;
        if metadata.is_dir() {
            return Err(failed("map")(ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            let problem = "only regular files can be mapped; Tensor::open reads others";
            return Err(failed("map")(io::Error::new(ErrorKind::InvalidInput, problem)));
        }
        // SAFETY: 1. The mapping is private and read-only, so nothing here writes to it. 2. That nobody changes the
        // file meanwhile cannot be seen from here; the type's documentation asks for it. Of the types that are read
        // in place every pattern is a value, so the worst that a change does is to change numbers.
        let map = unsafe { MmapOptions::new().map_copy_read_only(&file) }.map_err(failed("map"))?;
        let (header, data_bytes) = safetensors::header_of(&map).map_err(|error| at_path(error, path))?;
        let mut names = header.offset_keys();
        names.sort_unstable();
        let (map, header, names) = (Arc::new(map), Arc::new(header), names.into());
        Ok(Checkpoint { map, header, names, data_bytes, path: path.into() })
    }

    /// The tensor of that name, sharing the mapping where its elements are aligned for their dtype.
    ///
    /// # Errors
    /// [`DemoError::Name`] where there is none, [`DemoError::Format`] where its dtype is unknown or its elements are no
    /// `bool`s, [`DemoError::OutOfMemory`] where they have to be copied and there is no room.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let Some(info) = self.header.info(name) else {
            return Err(DemoError::Name {
                what: "tensor",
                name: name.into(),
                problem: "is not in the checkpoint; names() lists those that are",
            });
        };
        let tensor = || {
            let (dtype, extent) = safetensors::extent(name, info)?;
            // The header was checked: its offsets lie in the file and are as far apart as the shape says.
            let (start, end) = (self.data_bytes + info.data_offsets.0, self.data_bytes + info.data_offsets.1);
            if end - start != extent.bytes || end > self.map.len() {
                return Err(wrong(safetensors::SAFETENSORS, String::new(), "its offsets fit no tensor"));
            }
            if !safetensors::is_native(dtype) {
                return Tensor::filled(&extent.shape, dtype, |bytes| {
                    bytes.copy_from_slice(&self.map[start..end]);
                    safetensors::from_little_endian(bytes, dtype);
                    Ok(())
                });
            }
            let storage = Storage::mapped(&self.map, start, dtype, extent.elements)?;
            Ok(Tensor::from_storage(extent.shape, storage))
        };
        tensor().map_err(|error| at_path(error, &self.path))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// The text kept under a key, if there is one.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("path", &self.path).field("names", &self.names).finish()
    }
}
