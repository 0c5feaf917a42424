//! The safetensors format: a length, a JSON header of names, dtypes, shapes and offsets, and the bytes.
//!
//! Types, dtypes and checks of the header are those of the `safetensors` crate. Its functions for whole files are not
//! used: they want all bytes in one buffer, and their sums overflow on hostile offsets.

#![forbid(unsafe_code)]

use super::{expect_bytes, shape_of_file, swap_bytes, wrong};
use crate::error::Result;
use crate::fs::source::Source;
use crate::tensor::{DType, Extent, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value};
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::io::{self, Write};
use std::string::String;
use std::vec::Vec;

/// What the format is called in messages.
pub(in crate::fs) const SAFETENSORS: &str = "safetensors";

/// The header's name for what belongs to no tensor.
pub(in crate::fs) const RESERVED: &str = "__metadata__";

/// The most that readers of the format accept.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The bytes before the header.
pub(in crate::fs) const LENGTH_BYTES: usize = 8;

/// Where the elements begin is a multiple of this, so that the first of a mapped file are aligned for any use.
const DATA_ALIGN_BYTES: usize = crate::tensor::ALIGN_BYTES;

/// Whether a file that begins so is one: no text and no other format has zeros, then a bracket.
pub(super) fn starts(first: &[u8]) -> bool {
    match first.split_first_chunk() {
        Some((length, [b'{', ..])) => u64::from_le_bytes(*length) <= MAX_HEADER_BYTES,
        _ => false,
    }
}

/// Reads the one tensor of a file.
pub(super) fn read(source: &mut Source<'_>) -> Result<Tensor> {
    let mut length = [0; LENGTH_BYTES];
    source.fill(&mut length)?;
    let length = u64::from_le_bytes(length);
    let available = source.available(length)?;
    if available < length {
        let problem =
            format!("it is cut short: its header has {length} bytes, but only {available} are there");
        return Err(wrong(SAFETENSORS, String::new(), problem));
    }
    // `starts` has bounded the length, and the bytes are there.
    let mut header = std::vec![0; length as usize];
    source.fill(&mut header)?;
    let metadata = parse(&header)?;

    let names = metadata.offset_keys();
    let [name] = names.as_slice() else {
        let problem = format!(
            "it holds {} tensors, not one; fs::ModelCheckpoint::load gives each by its name",
            names.len()
        );
        return Err(wrong(SAFETENSORS, String::new(), problem));
    };
    let Some(info) = metadata.info(name) else { unreachable!("the name came from the same header") };
    let (dtype, extent) = extent(name, info)?;
    expect_bytes(source, SAFETENSORS, extent.bytes)?;
    let tensor = Tensor::filled(&extent.shape, dtype, |bytes| {
        source.fill(bytes)?;
        from_little_endian(bytes, dtype);
        Ok(())
    })?;
    if source.available(1)? > 0 {
        let at = format!(" byte {}", source.position_bytes());
        return Err(wrong(SAFETENSORS, at, "bytes follow that belong to no tensor"));
    }
    Ok(tensor)
}

/// The header of a whole file, and where the elements begin.
pub(in crate::fs) fn header_of(file: &[u8]) -> Result<(Metadata, usize)> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        let problem = format!("a file of {} bytes has no room for the header's length", file.len());
        return Err(wrong(SAFETENSORS, String::new(), problem));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        let problem = format!("a header of {length} bytes is more than the {MAX_HEADER_BYTES} of the format");
        return Err(wrong(SAFETENSORS, " byte 0".to_owned(), problem));
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        let problem =
            format!("it is cut short: its header has {length} bytes, but only {} are there", rest.len());
        return Err(wrong(SAFETENSORS, String::new(), problem));
    };
    let metadata = parse(header)?;
    if metadata.data_len() != data.len() {
        let problem =
            format!("its tensors have {} bytes, but {} follow the header", metadata.data_len(), data.len());
        return Err(wrong(SAFETENSORS, String::new(), problem));
    }
    Ok((metadata, LENGTH_BYTES + length as usize))
}

/// Parsing checks that the tensors follow each other without a gap, each as long as its shape says.
fn parse(header: &[u8]) -> Result<Metadata> {
    serde_json::from_slice(header)
        .map_err(|error| wrong(SAFETENSORS, " header".to_owned(), format!("{error}")))
}

/// What a tensor of a header is here.
pub(in crate::fs) fn extent(name: &str, info: &TensorInfo) -> Result<(DType, Extent)> {
    let Some(dtype) = DType::ALL.into_iter().find(|&dtype| in_files(dtype) == info.dtype) else {
        let problem = format!("tensor {name:?} holds {}, which this version does not know", info.dtype);
        return Err(wrong(SAFETENSORS, String::new(), problem));
    };
    let extent =
        Extent::new(&info.shape, dtype.size_bytes()).map_err(|error| shape_of_file(SAFETENSORS, error))?;
    Ok((dtype, extent))
}

fn in_files(dtype: DType) -> Dtype {
    match dtype {
        DType::Bool => Dtype::BOOL,
        DType::U8 => Dtype::U8,
        DType::I8 => Dtype::I8,
        DType::U16 => Dtype::U16,
        DType::I16 => Dtype::I16,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
        DType::U64 => Dtype::U64,
        DType::I64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F8E4M3 => Dtype::F8_E4M3,
        DType::F8E5M2 => Dtype::F8_E5M2,
    }
}

/// Writes a whole file. The same tensors and metadata make the same bytes.
pub(in crate::fs) fn write(
    to: &mut impl Write,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    // Widest first, then by name: every tensor is then aligned for its own dtype wherever the first one is.
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(_, tensor)| std::cmp::Reverse(in_files(tensor.dtype())));

    to.write_all(&header(&sorted, metadata)?)?;
    for (_, tensor) in sorted {
        write_little_endian(to, tensor)?;
    }
    Ok(())
}

/// The length, the header, and spaces up to where the elements begin.
fn header(sorted: &[(&String, &Tensor)], metadata: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let metadata = metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        header.insert(RESERVED.to_owned(), Value::Object(metadata.collect()));
    }
    let mut offset = 0usize;
    for (name, tensor) in sorted {
        let Some(end) = offset.checked_add(tensor.byte_len()) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        let (dtype, shape) = (in_files(tensor.dtype()), tensor.shape().to_vec());
        let info = TensorInfo { dtype, shape, data_offsets: (offset, end) };
        header.insert((*name).clone(), serde_json::to_value(&info)?);
        offset = end;
    }
    let mut bytes = std::vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut bytes, &header)?;
    bytes.resize(bytes.len().next_multiple_of(DATA_ALIGN_BYTES), b' ');
    let length = (bytes.len() - LENGTH_BYTES) as u64;
    if length > MAX_HEADER_BYTES {
        let problem = format!(
            "names, shapes and metadata come to {length} bytes, more than the {MAX_HEADER_BYTES} of the format"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Whether elements look in a file as they do in memory.
pub(in crate::fs) fn is_native(dtype: DType) -> bool {
    cfg!(target_endian = "little") || dtype.size_bytes() == 1
}

/// Makes what was read the machine's own.
pub(in crate::fs) fn from_little_endian(bytes: &mut [u8], dtype: DType) {
    if !is_native(dtype) {
        swap_bytes(bytes, dtype.size_bytes());
    }
}

fn write_little_endian(to: &mut impl Write, tensor: &Tensor) -> io::Result<()> {
    if is_native(tensor.dtype()) {
        return to.write_all(tensor.as_bytes());
    }
    let mut piece = [0; 1 << 12];
    for bytes in tensor.as_bytes().chunks(piece.len()) {
        let piece = &mut piece[..bytes.len()];
        piece.copy_from_slice(bytes);
        swap_bytes(piece, tensor.dtype().size_bytes());
        to.write_all(piece)?;
    }
    Ok(())
}
