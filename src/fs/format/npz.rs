//! NumPy's `.npz`: a zip archive of `.npy` files, as `numpy.savez` and `numpy.savez_compressed` write it.

#![forbid(unsafe_code)]

use super::npy::Header;
use super::zip::{Archive, Member};
use super::{shape_of_file, swap_bytes, wrong};
use crate::error::Result;
use crate::fs::contents::{Contents, Entry, Foreign, Plain};
use crate::fs::source::Source;
use crate::size::Shape;
use crate::tensor::layout::Layout;
use crate::tensor::storage::file::Part;
use crate::tensor::{DType, Extent, Tensor};
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::io::{self, Read};
use std::string::String;
use std::vec::Vec;

pub(super) const NPZ: &str = "npz";

/// An array whose bytes are compressed.
pub(in crate::fs) struct Packed {
    pub(in crate::fs) part: usize,
    pub(in crate::fs) dtype: DType,
    pub(in crate::fs) shape: Shape,
    /// Where the array's elements are among those of the member.
    layout: Layout,
    swapped: bool,
    header_bytes: u64,
    name: String,
    member: Member,
    checksums: bool,
}

pub(super) fn contents(bytes: &[u8], archive: &Archive<'_>, checksums: bool) -> Result<Contents> {
    let mut parts = Vec::new();
    let mut entries = BTreeMap::new();
    for (file_name, member) in archive.members() {
        let name = file_name.strip_suffix(".npy").unwrap_or(file_name).to_owned();
        let packed = &bytes[member.range.clone()];
        let part = parts.len();
        let entry = match array(member, packed, part, &name, checksums) {
            Ok(entry) => entry,
            // An archive may hold other things beside its arrays.
            Err(error) => Entry::Foreign(Foreign {
                problem: format!("{name:?} is no array that can be read: {error}"),
                part: Some(part),
                compressed: (checksums && member.deflated)
                    .then(|| Compressed { name: name.clone(), member: member.clone() }),
            }),
        };
        // What is packed is checked as it is unpacked.
        let crc32 = (checksums && !member.deflated).then_some(member.crc32);
        parts.push(Part::new(format!(" array {name:?}"), member.range.clone(), crc32));
        entries.insert(name, entry);
    }
    if !entries.values().any(|entry| entry.kind().is_some()) {
        let problem =
            "it is a zip archive without an array of NumPy or a data.pkl of PyTorch that can be read";
        let why = entries.values().find_map(|entry| match entry {
            Entry::Foreign(Foreign { problem: why, .. }) => Some(format!("{problem}: {why}")),
            _ => None,
        });
        return Err(wrong(NPZ, String::new(), why.unwrap_or_else(|| problem.to_owned())));
    }
    Ok(Contents { format: NPZ, parts, entries, metadata: BTreeMap::new() })
}

fn array(member: &Member, packed: &[u8], part: usize, name: &str, checksums: bool) -> Result<Entry> {
    let mut source = Source::of(member.unpacked(packed), Some(member.bytes));
    let header = Header::read(&mut source)?;
    let (dtype, swapped) = header.dtype()?;
    let extent = Extent::new(&header.shape, dtype.size_bytes()).map_err(|error| shape_of_file(NPZ, error))?;
    let header_bytes = source.position_bytes();
    if member.bytes - header_bytes != extent.bytes as u64 {
        let problem = format!(
            "its elements have {} bytes, but {} are there",
            extent.bytes,
            member.bytes - header_bytes
        );
        return Err(wrong(NPZ, String::new(), problem));
    }
    let layout = header.layout(extent.shape);
    if member.deflated {
        let (name, member) = (name.to_owned(), member.clone());
        let shape = extent.shape;
        return Ok(Entry::Packed(Packed {
            part,
            dtype,
            shape,
            layout,
            swapped,
            header_bytes,
            name,
            member,
            checksums,
        }));
    }
    let start = header_bytes as usize;
    let range = start..start + extent.bytes;
    Ok(Entry::Plain(Plain { part, range, dtype, layout, swapped, row_major: true }))
}

impl Packed {
    /// Unpacks the elements. The archive has bounded them by what is packed.
    pub(in crate::fs) fn tensor(&self, packed: &[u8]) -> Result<Tensor> {
        let failed = |error: io::Error| wrong(NPZ, format!(" array {:?}", self.name), format!("{error}"));
        let mut from =
            Counted { from: self.member.unpacked(packed), hasher: crc32fast::Hasher::new(), bytes: 0 };
        io::copy(&mut (&mut from).take(self.header_bytes), &mut io::sink()).map_err(failed)?;
        let flat = Shape::new(&[self.layout.elements()]).unwrap_or_default();
        let tensor = Tensor::filled(&flat, self.dtype, |bytes| {
            from.read_exact(bytes).map_err(failed)?;
            if from.read(&mut [0]).map_err(failed)? > 0 {
                return Err(wrong(
                    NPZ,
                    format!(" array {:?}", self.name),
                    "it unpacks to more bytes than it says",
                ));
            }
            if self.checksums {
                self.member.check(&self.name, from.bytes, from.hasher.clone().finalize())?;
            }
            if self.swapped {
                swap_bytes(bytes, self.dtype.size_bytes());
            }
            Ok(())
        })?;
        tensor.with_layout(self.layout).contiguous()
    }
}

/// What is compressed and no array.
pub(in crate::fs) struct Compressed {
    name: String,
    member: Member,
}

impl Compressed {
    /// Unpacks it for its checksum alone.
    pub(in crate::fs) fn check(&self, packed: &[u8]) -> Result<()> {
        let mut from =
            Counted { from: self.member.unpacked(packed), hasher: crc32fast::Hasher::new(), bytes: 0 };
        // One more than there may be, so that more is seen.
        io::copy(&mut (&mut from).take(self.member.bytes + 1), &mut io::sink())
            .map_err(|error| wrong(NPZ, format!(" {:?}", self.name), format!("{error}")))?;
        self.member.check(&self.name, from.bytes, from.hasher.finalize())
    }
}

/// Counts and sums what is read.
struct Counted<R> {
    from: R,
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        self.hasher.update(&to[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
