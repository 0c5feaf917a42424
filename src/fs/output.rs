//! A file being written: tensors stream into it piece by piece, summed as they pass, without a second copy in memory.

#![forbid(unsafe_code)]

use super::durable::Target;
use super::format::swap_bytes;
use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use std::boxed::Box;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

/// What is summed and then written while it is still in the processor's cache.
const PIECE_BYTES: usize = 256 << 10;

/// How far a checkpoint has been written; told after each piece of at most 256 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The tensor that is being written.
    pub tensor: &'a str,
    /// Bytes of tensors written so far.
    pub written_bytes: u64,
    /// Bytes of all tensors.
    pub total_bytes: u64,
}

/// Who is told of the progress.
pub(super) type Listener = Box<dyn FnMut(Progress<'_>) + Send>;

/// A file being written from its beginning.
pub(super) struct Output<'a> {
    file: &'a File,
    target: &'a Target,
    position_bytes: u64,
    written_bytes: u64,
    total_bytes: u64,
    listener: Option<Listener>,
    /// For elements that do not stand in memory as they do in files.
    piece: Box<[u8]>,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        file: &'a File,
        target: &'a Target,
        total_bytes: u64,
        listener: Option<Listener>,
    ) -> Output<'a> {
        Output {
            file,
            target,
            position_bytes: 0,
            written_bytes: 0,
            total_bytes,
            listener,
            piece: Box::new([]),
        }
    }

    /// Where the next byte will stand.
    pub(super) fn position_bytes(&self) -> u64 {
        self.position_bytes
    }

    pub(super) fn describe<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| self.target.io("write", error))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.target.io("write", error))?;
        self.position_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes over bytes that were written before.
    pub(super) fn rewrite(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let result = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        let result = result.and_then(|()| self.file.seek(SeekFrom::Start(self.position_bytes)));
        self.describe(result).map(drop)
    }

    /// Writes a tensor's elements in row-major order, little-endian; returns their checksum.
    pub(super) fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let element_bytes = tensor.dtype().size_bytes();
        let native = cfg!(target_endian = "little") || element_bytes == 1;
        match tensor.as_bytes() {
            Ok(bytes) if native => {
                for piece in bytes.chunks(PIECE_BYTES) {
                    self.piece(name, piece, &mut hasher)?;
                }
            }
            Ok(_) | Err(DemoError::NotContiguous { .. } | DemoError::WrongDevice { .. }) => {
                let mut piece = core::mem::take(&mut self.piece);
                if piece.is_empty() {
                    piece = std::vec![0; PIECE_BYTES].into();
                }
                let result = tensor.gather_pieces(&mut piece, &mut |bytes| {
                    if !native {
                        swap_bytes(bytes, element_bytes);
                    }
                    self.piece(name, bytes, &mut hasher)
                });
                self.piece = piece;
                result?;
            }
            Err(error) => return Err(error),
        }
        Ok(hasher.finalize())
    }

    fn piece(&mut self, name: &str, bytes: &[u8], hasher: &mut crc32fast::Hasher) -> Result<()> {
        hasher.update(bytes);
        self.write(bytes)?;
        self.written_bytes += bytes.len() as u64;
        if let Some(listener) = &mut self.listener {
            let (written_bytes, total_bytes) = (self.written_bytes, self.total_bytes);
            listener(Progress { tensor: name, written_bytes, total_bytes });
        }
        Ok(())
    }
}

/// The name of a format, as a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Format {
    /// The safetensors format, with checksums that other readers pass over.
    #[default]
    Safetensors,
    /// PyTorch's: what `torch.load(weights_only=True, mmap=True)` takes.
    PyTorch,
}

impl Format {
    /// What a new file of that name is expected to be: `.pt`, `.pth`, `.ckpt` and `.bin` are PyTorch's.
    pub(super) fn of_name(name: &std::path::Path) -> Format {
        let extension = name.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("pt" | "pth" | "ckpt" | "bin") => Format::PyTorch,
            _ => Format::Safetensors,
        }
    }
}
