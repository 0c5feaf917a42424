//! What PyTorch wrote before 1.6, and still does when asked to: five pickles, then the storages' bytes.

#![forbid(unsafe_code)]

use super::pickle::{Node, Pickle, Value};
use super::{MAX_PICKLE_BYTES, PT, Storages, assemble, load, storage_id, wrong};
use crate::error::Result;
use crate::fs::contents::Contents;
use crate::tensor::storage::file::Part;
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

/// The first pickle: one number of ten bytes that nothing else begins with.
pub(in crate::fs::format) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The version that the second pickle names, the only one there was.
const VERSION: i64 = 1001;

pub(in crate::fs::format) fn contents(bytes: &[u8]) -> Result<Contents> {
    let mut at = MAGIC.len();
    let mut next = || -> Result<Pickle> {
        let end = bytes.len().min(at.saturating_add(MAX_PICKLE_BYTES as usize));
        let pickle = load(&bytes[at..end], bytes.len())?;
        at += pickle.length;
        Ok(pickle)
    };
    let version = next()?;
    if !matches!(version.value, Value::Int(VERSION)) {
        let problem = format!("its version is {:?}, not {VERSION}", version.value);
        return Err(wrong(PT, String::new(), problem));
    }
    let big = is_big_endian(&next()?);
    let object = next()?;
    let keys = next()?;

    let dtypes = element_bytes(&object)?;
    let mut places = BTreeMap::new();
    let mut parts = Vec::new();
    let list = match keys.value {
        Value::Node(list) => match &keys.nodes[list] {
            Node::List(list) => list.as_slice(),
            _ => &[],
        },
        _ => &[],
    };
    for key in list {
        let Value::Text(key) = key else {
            return Err(wrong(PT, String::new(), "the key of a storage is no text"));
        };
        let cut = || wrong(PT, format!(" byte {at}"), format!("it is cut short in storage {key:?}"));
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
        let count = if big { u64::from_be_bytes(*count) } else { u64::from_le_bytes(*count) };
        let element_bytes = dtypes.get(&**key).copied();
        let Some(element_bytes) = element_bytes else {
            return Err(wrong(PT, format!(" byte {at}"), format!("storage {key:?} belongs to no tensor")));
        };
        let start = at + 8;
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(element_bytes));
        let end = length.and_then(|length| start.checked_add(length)).filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(cut)?;
        places.insert((**key).to_owned(), parts.len());
        parts.push(Part::new(format!(" storage {key:?}"), start..end, None));
        at = end;
    }
    let mut storages = Storages { parts, known: BTreeMap::new(), big, len: bytes.len() };
    assemble(&object, &mut storages, |key, _| {
        places.get(key).copied().ok_or_else(|| format!("the file has no storage {key:?}"))
    })
}

/// How large the elements of each storage are, by its key.
fn element_bytes(object: &Pickle) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for (node, _) in object.nodes.iter().enumerate().filter(|(_, node)| matches!(node, Node::Persistent(_))) {
        let id = storage_id(object, node).map_err(|problem| wrong(PT, String::new(), problem))?;
        found.insert(id.key.to_owned(), id.dtype.map_or(1, |dtype| dtype.size_bytes()));
    }
    Ok(found)
}

/// What the third pickle says of the machine that wrote it.
fn is_big_endian(system: &Pickle) -> bool {
    let Value::Node(node) = system.value else { return false };
    let Node::Dict(dict) = &system.nodes[node] else { return false };
    dict.items.iter().any(|(key, value)| {
        matches!((key, value), (Value::Text(key), Value::Bool(false)) if &**key == "little_endian")
    })
}
