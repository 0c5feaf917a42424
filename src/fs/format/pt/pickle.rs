//! Python's pickles, as far as tensors are saved with them: a machine with a stack and a memo that knows its opcodes, and
//! calls nothing.
//!
//! A pickle is a program. Here its calls are looked up in a list of what PyTorch needs to build tensors and dictionaries
//! (`globals`), and answered with plain values; a name that is not in the list is an error, and no code of anybody's is
//! ever run. Everything compound lies in one flat store and is named by number, so that nothing nests in memory however
//! deep a pickle nests. Each opcode makes one value at most, of some hundred bytes, and opcodes are counted; what a call copies
//! of its arguments is counted too. So memory and work are bounded by the file's length whatever the pickle says, and however
//! well it was compressed.

#![forbid(unsafe_code)]

mod stack;

use super::globals::{self, Callable};
use crate::fs::format::shown;
use stack::pairs;
use std::borrow::ToOwned;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

/// What stands on the stack.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// Something that says nothing of tensors: bytes, large integers, sets, devices.
    Opaque,
    Callable(Callable),
    /// What the store has under this number.
    Node(usize),
}

/// What is compound.
#[derive(Debug)]
pub(super) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Dict),
    /// A reference to bytes outside of the pickle: the node of the tuple that is its persistent id.
    Persistent(usize),
    Tensor(Box<Rebuilt>),
}

/// A dictionary, in order, and what was attached to it.
#[derive(Default, Debug)]
pub(super) struct Dict {
    pub(super) items: Vec<(Value, Value)>,
    pub(super) attributes: Option<usize>,
}

/// A call that makes a tensor.
#[derive(Debug)]
pub(super) struct Rebuilt {
    /// The node of its storage's persistent id.
    pub(super) storage: usize,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    /// Where the storage does not say it.
    pub(super) dtype: Option<crate::tensor::DType>,
}

/// What a pickle came to.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) nodes: Vec<Node>,
    pub(super) value: Value,
    /// How many bytes of the input it was.
    pub(super) length: usize,
}

/// What is wrong, and at which byte of the pickle.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) problem: String,
}

/// How many items may be copied for each opcode that may be run. Whoever writes down what is copied once needs one.
const COPIES_PER_STEP: usize = 2;

/// Runs the pickle at the beginning of `bytes`, which come from a file of `file_bytes`: it has an opcode for each at most.
pub(super) fn load(bytes: &[u8], file_bytes: usize) -> Result<Pickle, Wrong> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        nodes: Vec::new(),
        left_steps: file_bytes,
        left_copies: file_bytes.saturating_mul(COPIES_PER_STEP),
    };
    let mut op_at = 0;
    match machine.run(&mut op_at) {
        Ok(value) => Ok(Pickle { nodes: machine.nodes, value, length: machine.at }),
        Err(problem) => Err(Wrong { at: op_at, problem }),
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// How high the stack stood.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    nodes: Vec<Node>,
    left_steps: usize,
    left_copies: usize,
}

type Step<T> = Result<T, String>;

impl Machine<'_> {
    fn run(&mut self, op_at: &mut usize) -> Step<Value> {
        loop {
            *op_at = self.at;
            self.left_steps = self
                .left_steps
                .checked_sub(1)
                .ok_or_else(|| "it has more opcodes than any tensors need".to_owned())?;
            let op = self.byte()?;
            match op {
                b'.' => return self.pop(),
                // PROTO and FRAME tell how it was written; nothing here depends on it.
                0x80 => drop(self.byte()?),
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => match self.marks.last() {
                    Some(&mark) if mark == self.stack.len() => drop(self.marks.pop()),
                    _ => drop(self.pop()?),
                },
                b'1' => drop(self.down_to_mark()?),
                b'2' => {
                    let top = self.top()?.clone();
                    self.stack.push(top);
                }

                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'K' => self.integer(1)?,
                b'M' => self.integer(2)?,
                b'J' => {
                    let number = i32::from_le_bytes(self.array()?);
                    self.stack.push(Value::Int(number.into()));
                }
                0x8a => {
                    let length = self.byte()?.into();
                    self.long(length)?;
                }
                0x8b => {
                    let length = self.length(4)?;
                    self.long(length)?;
                }
                b'I' => self.decimal()?,
                b'L' => self.decimal()?,
                b'G' => {
                    let number = f64::from_be_bytes(self.array()?);
                    self.stack.push(Value::Float(number));
                }
                b'F' => {
                    let text = self.line()?;
                    let number = text.parse().map_err(|_| format!("{} is no number", shown(text)))?;
                    self.stack.push(Value::Float(number));
                }

                b'X' => self.text(4)?,
                0x8c => self.text(1)?,
                0x8d => self.text(8)?,
                // Strings of Python 2, which are texts where they are ASCII.
                b'U' => self.text(1)?,
                b'T' => self.text(4)?,
                b'B' => self.opaque(4)?,
                b'C' => self.opaque(1)?,
                0x8e | 0x96 => self.opaque(8)?,

                b'}' => self.node(Node::Dict(Dict::default())),
                b']' => self.node(Node::List(Vec::new())),
                b')' => self.node(Node::Tuple(Vec::new())),
                0x8f => self.stack.push(Value::Opaque),
                b't' => {
                    let items = self.down_to_mark()?;
                    self.node(Node::Tuple(items));
                }
                0x85..=0x87 => {
                    let items = self.last(usize::from(op - 0x84))?;
                    self.node(Node::Tuple(items));
                }
                b'l' => {
                    let items = self.down_to_mark()?;
                    self.node(Node::List(items));
                }
                b'd' => {
                    let items = pairs(self.down_to_mark()?)?;
                    self.node(Node::Dict(Dict { items, attributes: None }));
                }
                b'a' => {
                    let items = self.last(1)?;
                    self.append(items)?;
                }
                b'e' => {
                    let items = self.down_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let items = self.last(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.down_to_mark()?;
                    self.set_items(items)?;
                }
                // ADDITEMS and FROZENSET: sets are not looked into.
                0x90 => drop(self.down_to_mark()?),
                0x91 => {
                    self.down_to_mark()?;
                    self.stack.push(Value::Opaque);
                }

                b'q' => {
                    let number = self.byte()?.into();
                    self.remember(number)?;
                }
                b'r' => {
                    let number = u32::from_le_bytes(self.array()?);
                    self.remember(number)?;
                }
                0x94 => {
                    let number =
                        u32::try_from(self.memo.len()).map_err(|_| "its memo is too large".to_owned())?;
                    self.remember(number)?;
                }
                b'p' => {
                    let number = self.number_line()?;
                    self.remember(number)?;
                }
                b'h' => {
                    let number = self.byte()?.into();
                    self.recall(number)?;
                }
                b'j' => {
                    let number = u32::from_le_bytes(self.array()?);
                    self.recall(number)?;
                }
                b'g' => {
                    let number = self.number_line()?;
                    self.recall(number)?;
                }

                b'c' => {
                    let (module, name) = (self.line()?.to_owned(), self.line()?.to_owned());
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (module, name) {
                        (Value::Text(module), Value::Text(name)) => self.global(&module, &name)?,
                        _ => return Err("a name is no text".to_owned()),
                    }
                }
                // REDUCE and NEWOBJ: a call with a tuple of arguments.
                b'R' | 0x81 => {
                    let (arguments, callee) = (self.pop()?, self.pop()?);
                    let called = self.call(&callee, &arguments)?;
                    self.stack.push(called);
                }
                b'b' => {
                    let state = self.pop()?;
                    self.build(&state)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.tuple(&id)?;
                    let Value::Node(id) = id else { unreachable!("tuples are nodes") };
                    self.node(Node::Persistent(id));
                }
                _ => return Err(format!("opcode {op:#04x} is none that PyTorch writes for tensors")),
            }
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let callable = globals::find(module, name).ok_or_else(|| {
            let shown: String = format!("{module}.{name}").chars().take(100).collect();
            format!(
                "it asks for {shown}, which no tensor needs, so it is refused (nothing of it was run); save the \
                 tensors alone, as a state_dict"
            )
        })?;
        self.stack.push(Value::Callable(callable));
        Ok(())
    }

    fn tuple(&self, value: &Value) -> Step<&[Value]> {
        match value {
            &Value::Node(node) => match &self.nodes[node] {
                Node::Tuple(items) => Ok(items),
                _ => Err("a tuple was expected".to_owned()),
            },
            _ => Err("a tuple was expected".to_owned()),
        }
    }

    fn call(&mut self, callee: &Value, arguments: &Value) -> Step<Value> {
        let Value::Callable(callable) = *callee else {
            return Err("something is called that cannot be".to_owned());
        };
        let arguments = self.tuple(arguments)?;
        match callable {
            Callable::Opaque => Ok(Value::Opaque),
            Callable::Dict => {
                let list = arguments.first().cloned();
                self.new_dict(list.as_ref())
            }
            Callable::Same => {
                arguments.first().cloned().ok_or_else(|| "a call lacks its argument".to_owned())
            }
            Callable::Tensor { typed } => {
                let rebuilt = self.tensor(arguments, typed)?;
                count_copies(&mut self.left_copies, rebuilt.shape.len() + rebuilt.strides.len())?;
                self.nodes.push(Node::Tensor(Box::new(rebuilt)));
                Ok(Value::Node(self.nodes.len() - 1))
            }
            // (function, type, arguments, state): the tensor behind a subclass or with attributes.
            Callable::FromType => match arguments {
                [Value::Callable(Callable::FromType), ..] => Err("a call calls itself".to_owned()),
                [function, _, inner, ..] => {
                    let (function, inner) = (function.clone(), inner.clone());
                    self.call(&function, &inner)
                }
                _ => Err("a call lacks its arguments".to_owned()),
            },
            Callable::Storage(_) | Callable::DType(_) => Err("a type is called".to_owned()),
        }
    }

    fn new_dict(&mut self, from: Option<&Value>) -> Step<Value> {
        let mut items = Vec::new();
        if let Some(&Value::Node(list)) = from
            && let Node::List(list) = &self.nodes[list]
        {
            count_copies(&mut self.left_copies, list.len())?;
            for pair in list {
                let &Value::Node(pair) = pair else {
                    return Err("a dictionary is made of no pairs".to_owned());
                };
                match &self.nodes[pair] {
                    Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => {
                        items.push((pair[0].clone(), pair[1].clone()));
                    }
                    _ => return Err("a dictionary is made of no pairs".to_owned()),
                }
            }
        }
        self.nodes.push(Node::Dict(Dict { items, attributes: None }));
        Ok(Value::Node(self.nodes.len() - 1))
    }

    fn tensor(&self, arguments: &[Value], typed: bool) -> Step<Rebuilt> {
        let [Value::Node(storage), Value::Int(offset), shape, strides, rest @ ..] = arguments else {
            return Err("a tensor lacks its storage, offset, shape or strides".to_owned());
        };
        if !matches!(self.nodes[*storage], Node::Persistent(_)) {
            return Err("a tensor has no storage of this file".to_owned());
        }
        let dtype = match rest.get(2) {
            Some(Value::Callable(Callable::DType(dtype))) if typed => Some(*dtype),
            _ if typed => return Err("a tensor lacks its dtype".to_owned()),
            _ => None,
        };
        let offset = usize::try_from(*offset).map_err(|_| format!("a tensor begins at element {offset}"))?;
        let (shape, strides) = (self.lengths(shape)?, self.lengths(strides)?);
        Ok(Rebuilt { storage: *storage, offset, shape, strides, dtype })
    }

    fn lengths(&self, tuple: &Value) -> Step<Vec<usize>> {
        let length = |value: &Value| match value {
            Value::Int(length) => usize::try_from(*length).map_err(|_| format!("{length} is no length")),
            _ => Err("a length is no number".to_owned()),
        };
        self.tuple(tuple)?.iter().map(length).collect()
    }

    fn build(&mut self, state: &Value) -> Step<()> {
        if let (&Value::Node(object), &Value::Node(state)) = (self.top()?, state)
            && let Node::Dict(dict) = &mut self.nodes[object]
        {
            dict.attributes = Some(state);
        }
        Ok(())
    }
}

/// Counts what a call copies: any number of calls can name the same tuple or list.
fn count_copies(left: &mut usize, items: usize) -> Step<()> {
    *left = left.checked_sub(items).ok_or("its calls copy the same things again and again, without end")?;
    Ok(())
}
