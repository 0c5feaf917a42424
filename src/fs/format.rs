//! What a file is, by its content, and how to read it.

#![forbid(unsafe_code)]

pub(super) mod npy;
pub(super) mod npz;
pub(super) mod pt;
pub(super) mod safetensors;
pub(super) mod text;
pub(super) mod zip;

use super::contents::{Contents, Entry};
use super::load::{Checkpoint, map};
use super::source::{Source, unreadable};
use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use crate::tensor::storage::file::Bytes;
use std::collections::BTreeMap;
use std::format;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::string::String;
use std::vec::Vec;

/// Where a tensor may end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Wherever it does.
    Anywhere,
    /// Where the file ends.
    OfFile,
}

/// How many bytes tell what a file is.
const TELLING_BYTES: usize = 16;

/// What a file begins as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Npy,
    Safetensors,
    Zip,
    LegacyPt,
    Text,
    Nothing,
}

impl Kind {
    fn of(first: &[u8]) -> Kind {
        if first.starts_with(npy::MAGIC) {
            Kind::Npy
        } else if safetensors::starts(first) {
            Kind::Safetensors
        } else if first.starts_with(zip::MAGIC) || first.starts_with(zip::END) {
            Kind::Zip
        } else if first.starts_with(pt::legacy::MAGIC) {
            Kind::LegacyPt
        } else if first.iter().any(|&byte| byte < b' ' && !byte.is_ascii_whitespace() && byte != 0x0b) {
            Kind::Nothing
        } else {
            Kind::Text
        }
    }
}

/// Reads the one tensor that is there.
pub(super) fn read(file: &File, ending: Ending) -> Result<Tensor> {
    let mut source = Source::new(file)?;
    let first = source.peek(TELLING_BYTES)?;
    match Kind::of(first) {
        Kind::Npy => npy::read(&mut source, ending),
        Kind::Safetensors => safetensors::read(&mut source),
        Kind::Text => text::read(&mut source),
        Kind::Zip | Kind::LegacyPt => {
            let bytes = all(file, source)?;
            let contents = contents(bytes.all(), true)?;
            Checkpoint::of(bytes, contents, None).only()
        }
        Kind::Nothing => Err(nothing("tensor", first)),
    }
}

/// A file that begins as none that is read here.
fn nothing(format: &'static str, first: &[u8]) -> DemoError {
    let problem =
        format!("it is no npy, npz, safetensors, PyTorch file or text; it begins with {first:02x?}");
    wrong(format, String::new(), problem)
}

/// All bytes of a file, for formats whose table stands at the end.
fn all(mut file: &File, mut source: Source<'_>) -> Result<Bytes> {
    let peeked_bytes = source.peek(TELLING_BYTES)?.len() as u64;
    let regular = file.metadata().map_err(unreadable)?.is_file();
    if regular && file.stream_position().map_err(unreadable)? == peeked_bytes {
        let bytes = map(file.try_clone().map_err(unreadable)?).map_err(unreadable)?;
        file.seek(SeekFrom::End(0)).map_err(unreadable)?;
        return Ok(bytes);
    }
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(Bytes::Read(bytes))
}

/// What a whole file holds.
pub(super) fn contents(bytes: &[u8], checksums: bool) -> Result<Contents> {
    match Kind::of(&bytes[..bytes.len().min(TELLING_BYTES)]) {
        Kind::Zip => {
            let archive = zip::Archive::open(bytes)?;
            match pt::folder(&archive) {
                Some(folder) => pt::contents(bytes, &archive, folder, checksums),
                None => npz::contents(bytes, &archive, checksums),
            }
        }
        Kind::LegacyPt => pt::legacy::contents(bytes),
        Kind::Npy => {
            let mut source = Source::of(bytes, Some(bytes.len() as u64));
            Ok(one("npy", npy::read(&mut source, Ending::OfFile)?))
        }
        Kind::Text if bytes.is_empty() => Err(wrong("checkpoint", String::new(), "the file is empty")),
        Kind::Text if !is_cut(bytes) => {
            let mut source = Source::of(bytes, Some(bytes.len() as u64));
            Ok(one("text", text::read(&mut source)?))
        }
        Kind::Nothing if safetensors::is_unlike(bytes) => {
            Err(nothing("checkpoint", &bytes[..bytes.len().min(TELLING_BYTES)]))
        }
        // The most common format says best what is wrong with one that is damaged, or cut to a few bytes.
        Kind::Safetensors | Kind::Text | Kind::Nothing => safetensors::contents(bytes, checksums),
    }
}

/// Whether so few bytes are rather the first of a header's length than a text.
fn is_cut(bytes: &[u8]) -> bool {
    bytes.len() < safetensors::LENGTH_BYTES && core::str::from_utf8(bytes).is_err()
}

/// A file that is one tensor without a name.
fn one(format: &'static str, tensor: Tensor) -> Contents {
    let entries = BTreeMap::from([(String::new(), Entry::Ready(tensor))]);
    Contents { format, parts: Vec::new(), entries, metadata: BTreeMap::new() }
}

/// A file that is not what it says it is.
pub(super) fn wrong(format: &'static str, at: String, problem: impl Into<String>) -> DemoError {
    DemoError::Format { format, path: None, at: short(at), problem: short(problem.into()) }
}

/// The most bytes of a message: what a file says of itself can be of any length.
const MOST_SAID_BYTES: usize = 4000;

fn short(mut text: String) -> String {
    if text.len() > MOST_SAID_BYTES {
        let end = (0..=MOST_SAID_BYTES).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        text.shrink_to_fit();
        text.push_str("..");
    }
    text
}

/// A text of a file, quoted; of a long one the beginning.
pub(super) fn shown(text: &str) -> String {
    const SHOWN: usize = 500;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}..", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The same as an error of the file, where a shape that the file asks for cannot be.
pub(super) fn shape_of_file(format: &'static str, error: DemoError) -> DemoError {
    match error {
        DemoError::ImpossibleShape { .. } => wrong(format, String::new(), format!("{error}")),
        other => other,
    }
}

/// Sees that the elements are there before memory is taken for them.
pub(super) fn expect_bytes(source: &mut Source<'_>, format: &'static str, bytes: usize) -> Result<()> {
    let available = source.available(bytes as u64)?;
    if available < bytes as u64 {
        return Err(wrong(
            format,
            String::new(),
            format!("it is cut short: its elements have {bytes} bytes, but only {available} are there"),
        ));
    }
    Ok(())
}

/// Turns the bytes of every element around.
pub(super) fn swap_bytes(bytes: &mut [u8], element_bytes: usize) {
    if element_bytes > 1 {
        bytes.chunks_exact_mut(element_bytes).for_each(<[u8]>::reverse);
    }
}
