//! PyTorch's `.pt`: a zip archive with a pickle that says what there is, and one member for the bytes of each storage.
//!
//! Nested dictionaries and lists become names joined by dots; what stands beside the tensors becomes metadata.

#![forbid(unsafe_code)]

mod flatten;
mod globals;
pub(super) mod legacy;
mod pickle;
pub(in crate::fs) mod write;

use super::zip::{Archive, of_format};
use super::{shown, wrong};
use crate::error::Result;
use crate::fs::contents::{Contents, Entry, Foreign, Plain};
use crate::size::MAX_RANK;
use crate::tensor::layout::Layout;
use crate::tensor::storage::file::Part;
use crate::tensor::{DType, Extent};
use flatten::Flat;
use globals::Callable;
use pickle::{Node, Pickle, Rebuilt, Value};
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

pub(super) const PT: &str = "pt";

/// The most that the pickle may have: that of 200,000 tensors has some forty megabytes. Writing holds to it too.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// The longest key of a storage: PyTorch numbers them. Any number of tensors can name the same one.
const MAX_KEY_BYTES: usize = 256;

/// How large a view may be that shows the same elements again and again: a few bytes of a file could ask for any number.
const MAX_BROADCAST_BYTES: usize = 64 << 20;

/// The attribute under which this crate keeps metadata, out of the way of whoever reads the dictionary.
pub(super) const METADATA: &str = "democratising_metadata";

/// The folder that the archive's files are in, where it is one of PyTorch's.
pub(super) fn folder<'a>(archive: &'a Archive<'_>) -> Option<&'a str> {
    let mut folders = archive.members().filter_map(|(name, _)| name.strip_suffix("data.pkl"));
    folders.find(|folder| folder.is_empty() || folder.find('/') == Some(folder.len() - 1))
}

pub(super) fn contents(
    bytes: &[u8],
    archive: &Archive<'_>,
    folder: &str,
    checksums: bool,
) -> Result<Contents> {
    let pickle_name = format!("{folder}data.pkl");
    let text = archive.read(&pickle_name, MAX_PICKLE_BYTES).map_err(|error| of_format(error, PT))?;
    let order_name = format!("{folder}byteorder");
    let big = match archive.get(&order_name) {
        Some(_) => archive.read(&order_name, 16).map_err(|error| of_format(error, PT))?.starts_with(b"big"),
        None => false,
    };
    let pickle = load(&text, bytes.len())?;
    let mut storages = Storages { parts: Vec::new(), known: BTreeMap::new(), big, len: bytes.len() };
    assemble(&pickle, &mut storages, |key, storages| {
        let name = format!("{folder}data/{key}");
        let Some(member) = archive.get(&name) else { return Err(format!("it has no {name:?}")) };
        if member.deflated {
            return Err(format!("{name:?} is compressed, which PyTorch does not read either; save it again"));
        }
        // PyTorch can be told to leave the checksums out.
        let crc32 = (checksums && member.crc32 != 0).then_some(member.crc32);
        storages.parts.push(Part::new(format!(" storage {key:?}"), member.range.clone(), crc32));
        Ok(storages.parts.len() - 1)
    })
}

fn load(text: &[u8], file_bytes: usize) -> Result<Pickle> {
    pickle::load(text, file_bytes)
        .map_err(|error| wrong(PT, format!(" byte {} of its pickle", error.at), error.problem))
}

/// The storages that tensors refer to, by their keys.
struct Storages {
    parts: Vec<Part>,
    known: BTreeMap<String, Result<usize, String>>,
    big: bool,
    /// The file's length.
    len: usize,
}

/// Makes entries of everything that a pickle holds; `place` finds the part of a storage by its key.
fn assemble(
    pickle: &Pickle,
    storages: &mut Storages,
    place: impl Fn(&str, &mut Storages) -> Result<usize, String>,
) -> Result<Contents> {
    let Flat { tensors, metadata } =
        flatten::flatten(pickle).map_err(|problem| wrong(PT, String::new(), problem))?;
    let mut entries = BTreeMap::new();
    for (name, node) in tensors {
        let Node::Tensor(rebuilt) = &pickle.nodes[node] else { continue };
        let entry = match entry(pickle, rebuilt, storages, &place) {
            Ok(plain) => Entry::Plain(plain),
            Err(Refused::Foreign(problem, part)) => Entry::Foreign(Foreign {
                problem: format!("tensor {}: {problem}", shown(&name)),
                part,
                compressed: None,
            }),
            Err(Refused::Damaged(problem)) => Entry::Damaged(format!("tensor {}: {problem}", shown(&name))),
        };
        entries.insert(name, entry);
    }
    let parts = core::mem::take(&mut storages.parts);
    Ok(Contents { format: PT, parts, entries, metadata })
}

/// What the persistent id of a storage says.
struct StorageId<'a> {
    dtype: Option<DType>,
    key: &'a str,
    /// Where a view of another storage begins, in elements.
    offset: usize,
}

fn storage_id<'a>(pickle: &'a Pickle, node: usize) -> Result<StorageId<'a>, String> {
    let Node::Persistent(id) = pickle.nodes[node] else { return Err("it has no storage".to_owned()) };
    let Node::Tuple(id) = &pickle.nodes[id] else { return Err("it has no storage".to_owned()) };
    let [
        Value::Text(kind),
        Value::Callable(Callable::Storage(dtype)),
        Value::Text(key),
        _,
        Value::Int(_),
        rest @ ..,
    ] = id.as_slice()
    else {
        return Err("its storage is none that this version knows".to_owned());
    };
    if &**kind != "storage" {
        return Err(format!("its bytes are in a {}, which this version does not know", shown(kind)));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(format!("its storage has a key of {} bytes, which PyTorch does not give", key.len()));
    }
    let offset = match rest.first() {
        Some(&Value::Node(view)) => match &pickle.nodes[view] {
            Node::Tuple(view) => match view.as_slice() {
                [_, Value::Int(offset), _] => {
                    usize::try_from(*offset).map_err(|_| "its storage begins before itself".to_owned())?
                }
                _ => return Err("its storage is a view of another kind".to_owned()),
            },
            _ => return Err("its storage is a view of another kind".to_owned()),
        },
        _ => 0,
    };
    Ok(StorageId { dtype: *dtype, key, offset })
}

/// Why there is no tensor.
enum Refused {
    /// Nothing here holds such a one; the part that its bytes are in, where that is known.
    Foreign(String, Option<usize>),
    /// What the file says of it cannot be.
    Damaged(String),
}

fn entry(
    pickle: &Pickle,
    rebuilt: &Rebuilt,
    storages: &mut Storages,
    place: &impl Fn(&str, &mut Storages) -> Result<usize, String>,
) -> Result<Plain, Refused> {
    let id = storage_id(pickle, rebuilt.storage).map_err(|problem| Refused::Foreign(problem, None))?;
    let part = match storages.known.get(id.key) {
        Some(known) => known.clone(),
        None => {
            let part = place(id.key, storages);
            storages.known.insert(id.key.to_owned(), part.clone());
            part
        }
    };
    let part = part.map_err(Refused::Damaged)?;
    let foreign = |problem| Refused::Foreign(problem, Some(part));
    let dtype = rebuilt.dtype.or(id.dtype).ok_or_else(|| foreign("nothing says its dtype".to_owned()))?;
    let range = storages.parts[part].range();
    debug_assert!(range.end <= storages.len);
    let extent =
        Extent::new(&rebuilt.shape, dtype.size_bytes()).map_err(|error| foreign(format!("{error}")))?;
    let elements = range.len() / dtype.size_bytes();
    let layout = rebuilt
        .offset
        .checked_add(id.offset)
        .and_then(|offset| Layout::checked(extent.shape, &rebuilt.strides, offset, elements));
    let Some(layout) = layout else {
        return Err(Refused::Damaged(format!(
            "shape {:?} with strides {:?} from element {} on is not within the {elements} elements of its storage",
            rebuilt.shape,
            &rebuilt.strides[..rebuilt.strides.len().min(MAX_RANK)],
            rebuilt.offset
        )));
    };
    if extent.elements > elements && extent.bytes > MAX_BROADCAST_BYTES {
        return Err(foreign(format!(
            "one element stands for many: the {elements} of its storage are to make {}, which would take {} bytes; save \
             it without expand()",
            extent.elements, extent.bytes
        )));
    }
    let swapped = dtype.size_bytes() > 1 && storages.big != cfg!(target_endian = "big");
    let range = 0..elements * dtype.size_bytes();
    Ok(Plain { part, range, dtype, layout, swapped, row_major: false })
}
