//! Writing safetensors: the header with room for the checksums, the tensors as they stream by, then the checksums.

#![forbid(unsafe_code)]

use super::{
    CHECKSUM_DIGITS, CHECKSUMS, DATA_ALIGN_BYTES, LENGTH_BYTES, MAX_HEADER_BYTES, RESERVED, in_files,
    place_of,
};
use crate::error::Result;
use crate::fs::output::Output;
use crate::tensor::Tensor;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::io;
use std::string::String;
use std::vec::Vec;

/// Writes a whole file. The same tensors and metadata make the same bytes.
pub(in crate::fs) fn write(
    to: &mut Output<'_>,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    // Widest first, then by name: every tensor is then aligned for its own dtype wherever the first one is. Those
    // without elements come first, since offsets cannot tell where among others they stand.
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(_, tensor)| (!tensor.is_empty(), std::cmp::Reverse(in_files(tensor.dtype()))));
    // All of them stand at offset 0, and readers sort those by name.
    let empty = sorted.partition_point(|(_, tensor)| tensor.is_empty());
    sorted[..empty].sort_by_key(|(name, _)| *name);

    let mut digits = std::vec![b'0'; (CHECKSUM_DIGITS + 1) * (sorted.len() + 1) - 1];
    digits.iter_mut().skip(CHECKSUM_DIGITS).step_by(CHECKSUM_DIGITS + 1).for_each(|space| *space = b' ');
    let text = String::from_utf8_lossy(&digits).into_owned();
    let (mut bytes, length) = to.describe(header(&sorted, metadata, &text))?;
    to.write(&bytes)?;

    let mut checksums = Vec::new();
    for (name, tensor) in sorted {
        checksums.push(to.tensor(name, tensor)?);
    }
    let Some(at) = place_of(&bytes[LENGTH_BYTES..LENGTH_BYTES + length], &text).map(|at| at + LENGTH_BYTES)
    else {
        unreachable!("the header was made with this text in it")
    };
    for (i, crc32) in checksums.into_iter().enumerate() {
        put(&mut bytes, at + (i + 1) * (CHECKSUM_DIGITS + 1), crc32);
    }
    let own = crc32fast::hash(&bytes[LENGTH_BYTES..]);
    put(&mut bytes, at, own);
    to.rewrite(0, &bytes)
}

fn put(bytes: &mut [u8], at: usize, crc32: u32) {
    bytes[at..at + CHECKSUM_DIGITS].copy_from_slice(format!("{crc32:08x}").as_bytes());
}

/// The length, the header, and spaces up to where the elements begin; and how long the header is.
fn header(
    sorted: &[(&String, &Tensor)],
    metadata: &BTreeMap<String, String>,
    checksums: &str,
) -> io::Result<(Vec<u8>, usize)> {
    let texts = metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    let mut texts: Map<String, Value> = texts.collect();
    texts.insert(CHECKSUMS.to_owned(), Value::from(checksums));
    let mut header = Map::new();
    header.insert(RESERVED.to_owned(), Value::Object(texts));
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
    let length = bytes.len() - LENGTH_BYTES;
    if length as u64 > MAX_HEADER_BYTES {
        let problem = format!(
            "names, shapes and metadata come to {length} bytes, more than the {MAX_HEADER_BYTES} of the format"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    bytes[..LENGTH_BYTES].copy_from_slice(&(length as u64).to_le_bytes());
    Ok((bytes, length))
}
