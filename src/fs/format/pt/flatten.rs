//! Names for what is nested: `{"model": {"w": tensor}, "epoch": 3}` becomes the tensor `model.w` and the metadata `epoch`.

#![forbid(unsafe_code)]

use super::METADATA;
use super::pickle::{Node, Pickle, Value};
use crate::fs::format::shown;
use std::borrow::{Cow, ToOwned};
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};

/// How deep dictionaries may nest.
const MAX_DEPTH: usize = 64;

/// The most bytes of names and values. One value can stand at many places in a pickle, so its length bounds nothing.
const MAX_BYTES: usize = 64 << 20;

/// The most places that are looked at.
const MAX_PLACES: usize = 1 << 20;

/// The most bytes of keys that are looked at and of names that are made on the way to values.
const MAX_PASSED_BYTES: usize = 16 * MAX_BYTES;

const AGAIN: &str = "it names the same things again and again, without end";

/// What is nowhere nested any more.
#[derive(Default)]
pub(super) struct Flat {
    /// The nodes of tensors.
    pub(super) tensors: BTreeMap<String, usize>,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) fn flatten(pickle: &Pickle) -> Result<Flat, String> {
    let mut walk = Walk {
        pickle,
        flat: Flat::default(),
        left_bytes: MAX_BYTES,
        left_places: MAX_PLACES,
        left_passed_bytes: MAX_PASSED_BYTES,
    };
    walk.value(&pickle.value, "", 0)?;
    if let Value::Node(top) = pickle.value {
        walk.own_metadata(top);
    }
    Ok(walk.flat)
}

struct Walk<'a> {
    pickle: &'a Pickle,
    flat: Flat,
    left_bytes: usize,
    left_places: usize,
    left_passed_bytes: usize,
}

impl Walk<'_> {
    fn value(&mut self, value: &Value, name: &str, depth: usize) -> Result<(), String> {
        let node = match value {
            Value::Node(node) => *node,
            Value::Bool(x) => return self.text(name, x.to_string()),
            Value::Int(x) => return self.text(name, x.to_string()),
            Value::Float(x) => return self.text(name, format!("{x:?}")),
            Value::Text(x) => return self.text(name, (**x).to_owned()),
            Value::None | Value::Opaque | Value::Callable(_) => return Ok(()),
        };
        if depth == MAX_DEPTH {
            return Err(format!("its dictionaries are nested more than {MAX_DEPTH} deep"));
        }
        let pickle = self.pickle;
        match &pickle.nodes[node] {
            Node::Tensor(_) => {
                self.spend(name.len())?;
                if self.flat.tensors.insert(name.to_owned(), node).is_some() {
                    return Err(format!("two tensors come to the name {}", shown(name)));
                }
            }
            Node::Dict(dict) => {
                self.visit(dict.items.len())?;
                for (key, _) in &dict.items {
                    self.pass(if let Value::Text(key) = key { key.len() } else { 0 })?;
                }
                for (key, value) in latest(&dict.items) {
                    let name = self.below(name, &key)?;
                    self.value(value, &name, depth + 1)?;
                }
            }
            Node::List(items) | Node::Tuple(items) => {
                self.visit(items.len())?;
                for (i, value) in items.iter().enumerate() {
                    let name = self.below(name, &i.to_string())?;
                    self.value(value, &name, depth + 1)?;
                }
            }
            Node::Persistent(_) => {}
        }
        Ok(())
    }

    fn text(&mut self, name: &str, text: String) -> Result<(), String> {
        self.spend(name.len() + text.len())?;
        self.flat.metadata.insert(name.to_owned(), text);
        Ok(())
    }

    fn below(&mut self, name: &str, key: &str) -> Result<String, String> {
        self.pass(name.len() + key.len())?;
        Ok(if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") })
    }

    /// Counts what a container holds before anything is made of it: it can be named at any number of places.
    fn visit(&mut self, places: usize) -> Result<(), String> {
        self.left_places = self.left_places.checked_sub(places).ok_or(AGAIN)?;
        Ok(())
    }

    fn pass(&mut self, bytes: usize) -> Result<(), String> {
        self.left_passed_bytes = self.left_passed_bytes.checked_sub(bytes).ok_or(AGAIN)?;
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.left_bytes = self.left_bytes.checked_sub(bytes).ok_or("its names come to more than 64 MiB")?;
        Ok(())
    }

    /// What this crate has attached to the outermost dictionary.
    fn own_metadata(&mut self, top: usize) {
        let attribute = |node: usize, wanted: &str| match &self.pickle.nodes[node] {
            Node::Dict(dict) => dict.items.iter().find_map(|(key, value)| match (key, value) {
                (Value::Text(key), Value::Node(value)) if &**key == wanted => Some(*value),
                _ => None,
            }),
            _ => None,
        };
        let Node::Dict(dict) = &self.pickle.nodes[top] else { return };
        let Some(own) = dict.attributes.and_then(|attributes| attribute(attributes, METADATA)) else {
            return;
        };
        let Node::Dict(own) = &self.pickle.nodes[own] else { return };
        for (key, value) in &own.items {
            if let (Value::Text(key), Value::Text(value)) = (key, value) {
                self.flat.metadata.insert((**key).to_owned(), (**value).to_owned());
            }
        }
    }
}

/// The items of a dictionary with their keys as text; of a key that was set again, the last one.
fn latest(items: &[(Value, Value)]) -> BTreeMap<Cow<'_, str>, &Value> {
    let mut found = BTreeMap::new();
    for (i, (key, value)) in items.iter().enumerate() {
        let key = match key {
            Value::Text(text) => Cow::Borrowed(&**text),
            Value::Int(x) => Cow::Owned(x.to_string()),
            Value::Bool(x) => Cow::Owned(x.to_string()),
            Value::Float(x) => Cow::Owned(format!("{x:?}")),
            _ => Cow::Owned(format!("<{i}>")),
        };
        found.insert(key, value);
    }
    found
}
