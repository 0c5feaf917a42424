//! The safetensors format: a length, a JSON header of names, dtypes, shapes and offsets, and the bytes.
//!
//! Types, dtypes and checks of the header are those of the `safetensors` crate. Its functions for whole files are not
//! used: they want all bytes in one buffer, and their sums overflow on hostile offsets.
//!
//! The format has no checksums, but room for texts: ours stand there under [`CHECKSUMS`], and other readers read such a
//! file as any other. First is that of the header itself (with zeros in its place), then those of the tensors in the order
//! of their bytes; each is a CRC-32 of eight digits, so that they can be filled in once the bytes are written.

#![forbid(unsafe_code)]

pub(in crate::fs) mod write;

use super::{expect_bytes, shape_of_file, shown, swap_bytes, wrong};
use crate::error::Result;
use crate::fs::contents::{Contents, Entry, Foreign, Plain};
use crate::fs::source::Source;
use crate::tensor::layout::Layout;
use crate::tensor::storage::file::Part;
use crate::tensor::{DType, Extent, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

/// What the format is called in messages.
pub(in crate::fs) const SAFETENSORS: &str = "safetensors";

/// The header's name for what belongs to no tensor.
pub(in crate::fs) const RESERVED: &str = "__metadata__";

/// The metadata that belongs to this crate: programs choose other keys.
pub(in crate::fs) const OWN_KEYS: &str = "democratising.";

/// The metadata that holds the checksums.
const CHECKSUMS: &str = "democratising.crc32";

/// How long one is.
const CHECKSUM_DIGITS: usize = 8;

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

/// Whether a file is none, not one that is damaged or cut: its header would be longer than the file, and begins as none.
pub(super) fn is_unlike(file: &[u8]) -> bool {
    match file.split_first_chunk() {
        Some((length, rest @ [begin, ..])) => {
            *begin != b'{' && u64::from_le_bytes(*length) > rest.len() as u64
        }
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
    let saved = checksums(&header, &metadata)?;
    let tensor = Tensor::filled(&extent.shape, dtype, |bytes| {
        source.fill(bytes)?;
        let found = crc32fast::hash(bytes);
        if let Some(&saved) = saved.as_ref().and_then(|saved| saved.first()).filter(|&&saved| saved != found)
        {
            let problem =
                format!("its bytes are damaged: their checksum is {found:08x}, {saved:08x} was saved");
            return Err(wrong(SAFETENSORS, format!(" tensor {name:?}"), problem));
        }
        from_little_endian(bytes, dtype);
        Ok(())
    })?;
    if source.available(1)? > 0 {
        let at = format!(" byte {}", source.position_bytes());
        return Err(wrong(SAFETENSORS, at, "bytes follow that belong to no tensor"));
    }
    Ok(tensor)
}

/// What a whole file holds.
pub(in crate::fs) fn contents(file: &[u8], check: bool) -> Result<Contents> {
    let (header, data) = split(file)?;
    let metadata = parse(header)?;
    if metadata.data_len() != data.len() {
        let problem =
            format!("its tensors have {} bytes, but {} follow the header", metadata.data_len(), data.len());
        return Err(wrong(SAFETENSORS, String::new(), problem));
    }
    let saved = if check { checksums(header, &metadata)? } else { None };

    let start = file.len() - data.len();
    let mut parts = Vec::new();
    let mut entries = BTreeMap::new();
    for (name, info) in in_order(&metadata) {
        let (from, to) = info.data_offsets;
        let crc32 = saved.as_ref().and_then(|saved| saved.get(parts.len()).copied());
        let entry = match extent(&name, info) {
            Ok((dtype, extent)) if extent.bytes == to - from => {
                let layout = Layout::row_major(extent.shape);
                let (part, range, swapped) = (parts.len(), 0..extent.bytes, !is_native(dtype));
                Entry::Plain(Plain { part, range, dtype, layout, swapped, row_major: true })
            }
            Ok(_) => Entry::Damaged(format!("tensor {} has offsets that fit no tensor", shown(&name))),
            Err(crate::error::DemoError::Format { problem, .. }) => {
                Entry::Foreign(Foreign { problem, part: Some(parts.len()), compressed: None })
            }
            Err(error) => return Err(error),
        };
        parts.push(Part::new(format!(" tensor {name:?}"), start + from..start + to, crc32));
        entries.insert(name, entry);
    }
    let texts = metadata.metadata().iter().flatten();
    let texts = texts.filter(|(key, _)| !key.starts_with(OWN_KEYS));
    let metadata = texts.map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok(Contents { format: SAFETENSORS, parts, entries, metadata })
}

/// The header and the data of a whole file.
fn split(file: &[u8]) -> Result<(&[u8], &[u8])> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        let problem = format!("a file of {} bytes has no room for the header's length", file.len());
        return Err(wrong(SAFETENSORS, String::new(), problem));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        let problem = format!("a header of {length} bytes is more than the {MAX_HEADER_BYTES} of the format");
        return Err(wrong(SAFETENSORS, " byte 0".to_owned(), problem));
    }
    rest.split_at_checked(length as usize).ok_or_else(|| {
        let problem =
            format!("it is cut short: its header has {length} bytes, but only {} are there", rest.len());
        wrong(SAFETENSORS, String::new(), problem)
    })
}

/// The tensors in the order of their bytes. Those without any stand before the others at their place.
fn in_order(metadata: &Metadata) -> Vec<(String, &TensorInfo)> {
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_unstable_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    tensors
}

/// The checksums of the tensors, in the order of their bytes, where the file has them; the header's own is compared.
fn checksums(header: &[u8], metadata: &Metadata) -> Result<Option<Vec<u32>>> {
    let damaged = |problem| wrong(SAFETENSORS, " header".to_owned(), problem);
    let count = metadata.tensors().len();
    let Some(text) = metadata.metadata().as_ref().and_then(|texts| texts.get(CHECKSUMS)) else {
        let mut texts = metadata.metadata().iter().flatten();
        let lost = texts.find(|(_, text)| numbers(text).is_some_and(|numbers| numbers.len() == count + 1));
        return match lost {
            Some((key, _)) => Err(damaged(format!(
                "it is damaged: metadata {key:?} is a checksum for the header and each of its tensors, which stand under \
                 {CHECKSUMS:?}; ModelCheckpoint::load_unchecked reads it all the same"
            ))),
            None => Ok(None),
        };
    };
    let all = numbers(text);
    let Some(([saved, tensors @ ..], at)) = all.as_deref().zip(place_of(header, text)) else {
        return Err(damaged("it is damaged: its checksums are none".to_owned()));
    };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..at]);
    hasher.update(&[b'0'; CHECKSUM_DIGITS]);
    hasher.update(&header[at + CHECKSUM_DIGITS..]);
    let found = hasher.finalize();
    if found != *saved {
        let problem = format!(
            "it is damaged, or another program changed it and kept our checksums: its checksum is {found:08x}, \
             {saved:08x} was saved; ModelCheckpoint::load_unchecked reads it all the same"
        );
        return Err(damaged(problem));
    }
    if tensors.len() != count {
        return Err(damaged(format!("it has {} checksums for its tensors", tensors.len())));
    }
    Ok(Some(tensors.to_vec()))
}

/// The checksums that a text is made of, if it is made of them.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let number = |digits: &str| {
        let all = digits.len() == CHECKSUM_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        all.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    text.split(' ').map(number).collect()
}

/// Where the checksums stand in the header, behind their key. Digits and spaces stand in JSON as they are, and quotes within a
/// text do not: nothing else in it looks so.
fn place_of(header: &[u8], text: &str) -> Option<usize> {
    let key = format!("\"{CHECKSUMS}\":\"");
    let whole = format!("{key}{text}\"");
    let at = header.windows(whole.len()).position(|window| window == whole.as_bytes())?;
    Some(at + key.len())
}

/// Parsing checks that the tensors follow each other without a gap, each as long as its shape says.
fn parse(header: &[u8]) -> Result<Metadata> {
    serde_json::from_slice(header)
        .map_err(|error| wrong(SAFETENSORS, " header".to_owned(), format!("{error}")))
}

/// What a tensor of a header is here.
fn extent(name: &str, info: &TensorInfo) -> Result<(DType, Extent)> {
    let Some(dtype) = DType::ALL.into_iter().find(|&dtype| in_files(dtype) == info.dtype) else {
        let problem =
            format!("tensor {} holds {}, which this version does not know", shown(name), info.dtype);
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

/// Whether elements look in a file as they do in memory.
pub(in crate::fs) fn is_native(dtype: DType) -> bool {
    cfg!(target_endian = "little") || dtype.size_bytes() == 1
}

/// Makes what was read the machine's own.
fn from_little_endian(bytes: &mut [u8], dtype: DType) {
    if !is_native(dtype) {
        swap_bytes(bytes, dtype.size_bytes());
    }
}
