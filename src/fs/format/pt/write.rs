//! Writing `.pt` files that `torch.load(weights_only=True, mmap=True)` takes: stored members, each storage's bytes at a
//! multiple of 64, checksums filled in when the bytes have passed.

#![forbid(unsafe_code)]

use super::globals::{DTYPES, STORAGES};
use super::{MAX_PICKLE_BYTES, METADATA};
use crate::error::Result;
use crate::fs::output::Output;
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::format;
use std::io;
use std::string::{String, ToString};
use std::vec::Vec;

/// What the bytes of members are aligned to, as PyTorch does it.
const ALIGN_BYTES: u64 = 64;

/// From this many bytes on, sizes and offsets stand in 64-bit fields.
const WIDE: u64 = u32::MAX as u64;

/// Writes a whole file.
pub(in crate::fs) fn write(
    to: &mut Output<'_>,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let pickle = to.describe(pickle(tensors, metadata))?;
    let mut zip = Zip { to, members: Vec::new() };
    zip.member("data.pkl", &pickle)?;
    zip.member(".format_version", b"1")?;
    zip.member("byteorder", b"little")?;
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        zip.tensor(number, name, tensor)?;
    }
    zip.member("version", b"3\n")?;
    zip.finish()
}

/// The archive as far as it is written.
struct Zip<'a, 'b> {
    to: &'a mut Output<'b>,
    members: Vec<Member>,
}

struct Member {
    name: String,
    header_at: u64,
    bytes: u64,
    crc32: u32,
}

impl Zip<'_, '_> {
    fn member(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.begin(name, bytes.len() as u64, crc32fast::hash(bytes))?;
        self.to.write(bytes)
    }

    fn tensor(&mut self, number: usize, name: &str, tensor: &Tensor) -> Result<()> {
        self.begin(&format!("data/{number}"), tensor.byte_len() as u64, 0)?;
        let crc32 = self.to.tensor(name, tensor)?;
        if let Some(member) = self.members.last_mut() {
            member.crc32 = crc32;
            let at = member.header_at + 14;
            self.to.rewrite(at, &crc32.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes the local header, with as much padding that the bytes begin aligned.
    fn begin(&mut self, name: &str, bytes: u64, crc32: u32) -> Result<()> {
        let name = format!("archive/{name}");
        let header_at = self.to.position_bytes();
        let mut extra = wide(&[bytes, bytes]);
        let fixed = header_at + 30 + name.len() as u64 + extra.len() as u64 + 4;
        let padding = fixed.next_multiple_of(ALIGN_BYTES) - fixed;
        extra.extend(b"FB");
        extra.extend((padding as u16).to_le_bytes());
        extra.resize(extra.len() + padding as usize, b'Z');

        let mut header = Vec::from(super::super::zip::MAGIC);
        header.extend(common(&name, bytes, crc32, extra.len()));
        header.extend(name.bytes());
        header.extend(extra);
        self.to.write(&header)?;
        self.members.push(Member { name, header_at, bytes, crc32 });
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let Zip { to, members } = self;
        let start = to.position_bytes();
        for member in &members {
            let extra = wide(&[member.bytes, member.bytes, member.header_at]);
            let mut entry = Vec::from(b"PK\x01\x02\x2d\x00");
            entry.extend(common(&member.name, member.bytes, member.crc32, extra.len()));
            // No comment, disk 0, no attributes.
            entry.extend([0; 10]);
            entry.extend(narrow(member.header_at));
            entry.extend(member.name.bytes());
            entry.extend(extra);
            to.write(&entry)?;
        }
        let end = to.position_bytes();
        let (count, length) = (members.len() as u64, end - start);
        let mut record = Vec::new();
        if count >= 0xffff || start >= WIDE || length >= WIDE {
            record.extend(b"PK\x06\x06");
            record.extend(44u64.to_le_bytes());
            record.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for number in [count, count, length, start] {
                record.extend(number.to_le_bytes());
            }
            record.extend(b"PK\x06\x07\0\0\0\0");
            record.extend(end.to_le_bytes());
            record.extend(1u32.to_le_bytes());
        }
        record.extend(b"PK\x05\x06\0\0\0\0");
        let few = (count.min(0xffff) as u16).to_le_bytes();
        record.extend(few);
        record.extend(few);
        record.extend(narrow(length));
        record.extend(narrow(start));
        record.extend([0; 2]);
        to.write(&record)
    }
}

/// What local headers and table entries share: version, flags (names are UTF-8), stored, no time, checksum, sizes, lengths.
fn common(name: &str, bytes: u64, crc32: u32, extra_bytes: usize) -> Vec<u8> {
    let mut header = Vec::from([45, 0, 0, 8, 0, 0, 0, 0, 0x21, 0]);
    header.extend(crc32.to_le_bytes());
    header.extend(narrow(bytes));
    header.extend(narrow(bytes));
    header.extend((name.len() as u16).to_le_bytes());
    header.extend((extra_bytes as u16).to_le_bytes());
    header
}

fn narrow(number: u64) -> [u8; 4] {
    (number.min(WIDE) as u32).to_le_bytes()
}

/// The field for those of the numbers that need 64 bits.
fn wide(numbers: &[u64]) -> Vec<u8> {
    let wide: Vec<u64> = numbers.iter().copied().filter(|&number| number >= WIDE).collect();
    if wide.is_empty() {
        return Vec::new();
    }
    let mut field = Vec::from(1u16.to_le_bytes());
    field.extend((8 * wide.len() as u16).to_le_bytes());
    field.extend(wide.into_iter().flat_map(u64::to_le_bytes));
    field
}

/// An `OrderedDict` of the tensors, with the metadata attached to it, in protocol 2. What could not be read back is refused.
fn pickle(tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let refused = |problem| Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    for (name, tensor) in tensors {
        if let Some(length) = tensor.shape().iter().find(|&&length| i64::try_from(length).is_err()) {
            return refused(format!(
                "tensor {name:?} has a length of {length}, and PyTorch's end at {}; save it as safetensors",
                i64::MAX
            ));
        }
    }
    // Before the pickle is made, which would need as much memory again.
    let texts = metadata.iter().map(|(key, value)| key.len() + value.len());
    let texts = texts.chain(tensors.keys().map(String::len)).fold(0, usize::saturating_add);
    let too_long = |bytes: u64| {
        format!(
            "names, shapes and metadata come to {bytes} bytes, more than the {MAX_PICKLE_BYTES} that are read back; save it as \
             safetensors, or large texts elsewhere"
        )
    };
    if texts as u64 > MAX_PICKLE_BYTES {
        return refused(too_long(texts as u64));
    }
    let mut p = Vec::from(b"\x80\x02ccollections\nOrderedDict\n)R(");
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut p, name);
        rebuilt(&mut p, &number.to_string(), tensor);
    }
    p.push(b'u');
    if !metadata.is_empty() {
        p.extend(b"}");
        text(&mut p, METADATA);
        p.extend(b"}(");
        for (key, value) in metadata {
            text(&mut p, key);
            text(&mut p, value);
        }
        p.extend(b"usb");
    }
    p.push(b'.');
    match p.len() as u64 {
        ..=MAX_PICKLE_BYTES => Ok(p),
        bytes => refused(too_long(bytes)),
    }
}

/// A call that makes the tensor of a storage.
fn rebuilt(p: &mut Vec<u8>, key: &str, tensor: &Tensor) {
    let dtype = tensor.dtype();
    let class = STORAGES.iter().find(|(_, of)| *of == dtype).map(|(name, _)| *name);
    p.extend(match class {
        Some(_) => b"ctorch._utils\n_rebuild_tensor_v2\n((",
        None => b"ctorch._utils\n_rebuild_tensor_v3\n((",
    });
    text(p, "storage");
    match class {
        Some(class) => p.extend(format!("ctorch\n{class}\n").bytes()),
        // Dtypes that came later have no storage class: their bytes are counted.
        None => p.extend(b"ctorch.storage\nUntypedStorage\n"),
    }
    text(p, key);
    text(p, "cpu");
    number(p, if class.is_some() { tensor.len() } else { tensor.byte_len() });
    p.extend(b"tQ");
    number(p, 0);
    tuple(p, tensor.shape().iter().copied());
    // Those of a tensor without elements mean nothing, and may be more than can be counted.
    let mut strides = Vec::new();
    let mut step = 1usize;
    for &length in tensor.shape().iter().rev() {
        strides.push(step);
        step = step.saturating_mul(length.max(1)).min(isize::MAX as usize);
    }
    tuple(p, strides.into_iter().rev());
    // Needs no gradient, has no hooks.
    p.extend(b"\x89ccollections\nOrderedDict\n)R");
    if class.is_none() {
        let name = DTYPES.iter().find(|(_, of)| *of == dtype).map_or("uint8", |(name, _)| name);
        p.extend(format!("ctorch\n{name}\n").bytes());
    }
    p.extend(b"tR");
}

fn text(p: &mut Vec<u8>, text: &str) {
    p.push(b'X');
    p.extend((text.len() as u32).to_le_bytes());
    p.extend(text.bytes());
}

fn number(p: &mut Vec<u8>, number: usize) {
    match i32::try_from(number) {
        Ok(number) => {
            p.push(b'J');
            p.extend(number.to_le_bytes());
        }
        Err(_) => {
            p.extend([0x8a, 8]);
            // The sign bit is clear: longer lengths were refused, and no tensor has as many elements or bytes.
            p.extend((number as u64).to_le_bytes());
        }
    }
}

fn tuple(p: &mut Vec<u8>, numbers: impl Iterator<Item = usize>) {
    p.push(b'(');
    numbers.for_each(|n| number(p, n));
    p.push(b't');
}

const _: () = assert!(DTYPES.len() == DType::ALL.len());
