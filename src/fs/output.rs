//! A file being written: tensors stream into it piece by piece, summed as they pass, without a second copy in memory.
//!
//! All but the last write end at a multiple of the length of a huge page. Linux then keeps the file in huge pages where its
//! file system can (ext4 from 6.16 on, XFS), and whoever maps it has one page fault for each of them.

#![forbid(unsafe_code)]

use super::durable::Target;
use super::format::swap_bytes;
use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use std::boxed::Box;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::vec::Vec;

/// What is written at once: a huge page of most processors.
const UNIT_BYTES: usize = 2 << 20;

/// What is gathered at once of elements that do not stand in memory as they do in files.
const GATHERED_BYTES: usize = 256 << 10;

/// How far a checkpoint has been written; told after each piece of at most 2 MiB.
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
    /// In the file.
    handed_bytes: u64,
    /// What comes behind these.
    waiting: Vec<u8>,
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
            handed_bytes: 0,
            waiting: Vec::new(),
            written_bytes: 0,
            total_bytes,
            listener,
            piece: Box::new([]),
        }
    }

    /// Where the next byte will stand.
    pub(super) fn position_bytes(&self) -> u64 {
        self.handed_bytes + self.waiting.len() as u64
    }

    /// From there to the end of the unit that it is in.
    fn room_bytes(&self) -> usize {
        UNIT_BYTES - (self.position_bytes() % UNIT_BYTES as u64) as usize
    }

    pub(super) fn describe<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| self.target.io("write", error))
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room_bytes();
            if self.waiting.is_empty() && bytes.len() >= room {
                let whole = bytes.len() - (bytes.len() - room) % UNIT_BYTES;
                self.hand(&bytes[..whole])?;
                bytes = &bytes[whole..];
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.waiting.extend_from_slice(now);
            if now.len() == room {
                self.hand_waiting()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn hand(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.file.write_all(bytes);
        self.describe(result)?;
        self.handed_bytes += bytes.len() as u64;
        Ok(())
    }

    fn hand_waiting(&mut self) -> Result<()> {
        let result = self.file.write_all(&self.waiting);
        self.describe(result)?;
        self.handed_bytes += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Writes over bytes that were written before.
    pub(super) fn rewrite(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let handed = self.handed_bytes.saturating_sub(at).min(bytes.len() as u64) as usize;
        let (handed, waiting) = bytes.split_at(handed);
        if !handed.is_empty() {
            let result = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(handed));
            let result = result.and_then(|()| self.file.seek(SeekFrom::Start(self.handed_bytes)));
            self.describe(result)?;
        }
        if !waiting.is_empty() {
            let at = (at + handed.len() as u64 - self.handed_bytes) as usize;
            self.waiting[at..at + waiting.len()].copy_from_slice(waiting);
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.hand_waiting()
    }

    /// Writes a tensor's elements in row-major order, little-endian; returns their checksum.
    pub(super) fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let element_bytes = tensor.dtype().size_bytes();
        let native = cfg!(target_endian = "little") || element_bytes == 1;
        match tensor.as_bytes() {
            Ok(bytes) if native => {
                let mut left = bytes;
                while !left.is_empty() {
                    let (piece, later) = left.split_at(self.room_bytes().min(left.len()));
                    self.piece(name, piece, &mut hasher)?;
                    left = later;
                }
            }
            Ok(_) | Err(DemoError::NotContiguous { .. } | DemoError::WrongDevice { .. }) => {
                let mut piece = core::mem::take(&mut self.piece);
                let wanted = if tensor.device().is_host() { GATHERED_BYTES } else { UNIT_BYTES };
                if piece.len() < wanted {
                    piece = std::vec![0; wanted].into();
                }
                let result = tensor.gather_pieces(&mut piece[..wanted], &mut |bytes| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_written_and_rewritten_stands_in_the_file_and_whole_units_went_there_first(
            writes in prop::collection::vec((0usize..5 << 20, 0u64..5 << 20, 0usize..3 << 20), 1..5),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            let target = Target::resolve(&path).unwrap();
            let mut file = File::create(&path).unwrap();
            let mut to = Output::new(&file, &target, 0, None);
            let mut model: Vec<u8> = Vec::new();
            for (at, (bytes, from, length)) in writes.into_iter().enumerate() {
                let written = std::vec![at as u8; bytes];
                to.write(&written).unwrap();
                model.extend(&written);
                let from = from.min(model.len() as u64);
                let length = length.min(model.len() - from as usize);
                let over = std::vec![0x80 | at as u8; length];
                to.rewrite(from, &over).unwrap();
                model[from as usize..from as usize + length].copy_from_slice(&over);
                prop_assert_eq!(to.position_bytes(), model.len() as u64);
                prop_assert_eq!((&file).stream_position().unwrap(), (model.len() / UNIT_BYTES * UNIT_BYTES) as u64);
            }
            to.finish().unwrap();
            file.rewind().unwrap();
            prop_assert!(std::fs::read(&path).unwrap() == model);
        }
    }
}
