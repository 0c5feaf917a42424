//! What a file of any format holds: its tensors by name, where their bytes are, and its metadata.

#![forbid(unsafe_code)]

use super::format::npz;
use crate::error::{DemoError, Result};
use crate::tensor::layout::Layout;
use crate::tensor::storage::Storage;
use crate::tensor::storage::file::{Part, SharedFile};
use crate::tensor::{DType, Tensor};
use core::ops::Range;
use std::collections::BTreeMap;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

/// A file that was understood, without reading its elements.
pub(super) struct Contents {
    /// What the format is called in messages.
    pub(super) format: &'static str,
    /// What is checked as one.
    pub(super) parts: Vec<Part>,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
pub(super) enum Entry {
    /// Its elements stand in the file as they do in memory, or with their bytes the other way round.
    Plain(Plain),
    /// Its elements are compressed.
    Packed(npz::Packed),
    /// It was read already.
    Ready(Tensor),
    /// It is of a kind that nothing here holds.
    Foreign(Foreign),
    /// What the file says of it cannot be: why.
    Damaged(String),
}

/// A tensor that nothing here holds, or something that is none.
pub(super) struct Foreign {
    /// Why it cannot be had.
    pub(super) problem: String,
    /// The part of the file that it is in, where that is known: those bytes can be damaged all the same.
    pub(super) part: Option<usize>,
    /// Where they are compressed, and have a checksum of what they unpack to.
    pub(super) compressed: Option<npz::Compressed>,
}

impl Foreign {
    /// Compares the checksums that its bytes have.
    pub(super) fn check(&self, file: &SharedFile) -> Result<()> {
        let Some(part) = self.part else { return Ok(()) };
        let bytes = file.checked(part)?;
        self.compressed.as_ref().map_or(Ok(()), |compressed| compressed.check(bytes))
    }
}

/// Elements in a file.
#[derive(Clone)]
pub(super) struct Plain {
    pub(super) part: usize,
    /// Within the part: whole elements.
    pub(super) range: Range<usize>,
    pub(super) dtype: DType,
    /// Where the tensor's elements are among those of the range; checked against it.
    pub(super) layout: Layout,
    /// Whether the bytes of each element have to be turned around.
    pub(super) swapped: bool,
    /// Whether the tensor is handed out in row-major order whatever the file's is.
    pub(super) row_major: bool,
}

impl Entry {
    /// What the tensor is, where that is known.
    pub(super) fn kind(&self) -> Option<(DType, &[usize])> {
        match self {
            Entry::Plain(plain) => Some((plain.dtype, plain.layout.shape())),
            Entry::Packed(packed) => Some((packed.dtype, &packed.shape)),
            Entry::Ready(tensor) => Some((tensor.dtype(), tensor.shape())),
            Entry::Foreign(_) | Entry::Damaged(_) => None,
        }
    }

    /// The part of the file that it is in, where it has one.
    pub(super) fn part(&self) -> Option<usize> {
        match self {
            Entry::Plain(plain) => Some(plain.part),
            Entry::Packed(packed) => Some(packed.part),
            Entry::Foreign(foreign) => foreign.part,
            Entry::Ready(_) | Entry::Damaged(_) => None,
        }
    }

    pub(super) fn tensor(&self, file: &Arc<SharedFile>, format: &'static str) -> Result<Tensor> {
        match self {
            Entry::Plain(plain) => {
                let storage =
                    Storage::in_file(file, plain.part, plain.range.clone(), plain.dtype, plain.swapped)?;
                plain.seen(storage)
            }
            Entry::Packed(packed) => packed.tensor(file.part_unchecked(packed.part)),
            Entry::Ready(tensor) => Ok(tensor.clone()),
            Entry::Foreign(Foreign { problem, .. }) | Entry::Damaged(problem) => {
                Err(DemoError::Format { format, path: None, at: String::new(), problem: problem.clone() })
            }
        }
    }
}

impl Plain {
    /// The tensor, of a storage with the elements of the range.
    pub(super) fn seen(&self, storage: Storage) -> Result<Tensor> {
        let tensor = Tensor::view_of(storage, self.layout);
        if self.row_major { tensor.contiguous() } else { Ok(tensor) }
    }
}
