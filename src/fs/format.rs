//! What a file is, by its content, and how to read it.

#![forbid(unsafe_code)]

pub(super) mod npy;
pub(super) mod safetensors;
pub(super) mod text;

use super::source::Source;
use crate::error::{DemoError, Result};
use crate::tensor::Tensor;
use std::format;
use std::fs::File;
use std::string::String;

/// Where a tensor may end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Wherever it does.
    Anywhere,
    /// Where the file ends.
    OfFile,
}

/// How many bytes tell what a file is.
const TELLING_BYTES: usize = 9;

pub(super) fn read(file: &File, ending: Ending) -> Result<Tensor> {
    let mut source = Source::new(file)?;
    let first = source.peek(TELLING_BYTES)?;
    if first.starts_with(npy::MAGIC) {
        return npy::read(&mut source, ending);
    }
    if safetensors::starts(first) {
        return safetensors::read(&mut source);
    }
    if first.starts_with(b"PK\x03\x04") {
        return Err(wrong(
            "tensor",
            String::new(),
            "it is a zip archive, as PyTorch's .pt and NumPy's .npz are, which this version does not read; \
             save it as .safetensors or .npy",
        ));
    }
    if first.iter().any(|&byte| byte < b' ' && !byte.is_ascii_whitespace() && byte != 0x0b) {
        return Err(wrong(
            "tensor",
            String::new(),
            format!("it is no npy, safetensors or text; it begins with {:02x?}", first),
        ));
    }
    text::read(&mut source)
}

/// A file that is not what it says it is.
pub(super) fn wrong(format: &'static str, at: String, problem: impl Into<String>) -> DemoError {
    DemoError::Format { format, path: None, at, problem: problem.into() }
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
