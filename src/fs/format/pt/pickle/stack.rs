//! What a pickle's opcodes are made of: taking bytes from the input, and values from and to the stack and the memo.

#![forbid(unsafe_code)]

use super::{Machine, Node, Step, Value};
use crate::fs::format::shown;
use std::borrow::ToOwned;
use std::format;
use std::string::String;
use std::vec::Vec;

impl Machine<'_> {
    // ---- input ----

    pub(super) fn take(&mut self, count: usize) -> Step<&[u8]> {
        let Some(taken) = self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) else {
            return Err(format!("it is cut short: {count} bytes were to follow"));
        };
        self.at += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Step<u8> {
        self.array().map(|[byte]| byte)
    }

    /// An unsigned number of so many bytes that counts bytes to follow.
    pub(super) fn length(&mut self, bytes: usize) -> Step<usize> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "it is cut short".to_owned())
    }

    pub(super) fn line(&mut self) -> Step<&str> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err("it is cut short: a line does not end".to_owned());
        };
        self.at += length + 1;
        let line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]);
        core::str::from_utf8(line).map_err(|_| "a line is no text".to_owned())
    }

    pub(super) fn number_line(&mut self) -> Step<u32> {
        let line = self.line()?;
        line.parse().map_err(|_| format!("{} is no number of the memo", shown(line)))
    }

    // ---- values ----

    pub(super) fn integer(&mut self, bytes: usize) -> Step<()> {
        let number = self.length(bytes)?;
        self.stack.push(Value::Int(number as i64));
        Ok(())
    }

    /// A signed number of any length, little-endian.
    pub(super) fn long(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        let value = match bytes {
            [] => Value::Int(0),
            [.., last] if bytes.len() <= 8 => {
                let mut wide = [if *last >= 0x80 { 0xff } else { 0 }; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }

    /// A number as text; `01` and `00` are booleans of protocol 1.
    pub(super) fn decimal(&mut self) -> Step<()> {
        let line = self.line()?;
        let value = match line.strip_suffix('L').unwrap_or(line) {
            "01" => Value::Bool(true),
            "00" => Value::Bool(false),
            digits => match digits.parse() {
                Ok(number) => Value::Int(number),
                Err(_) if digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => Value::Opaque,
                Err(_) => return Err(format!("{} is no number", shown(line))),
            },
        };
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn text(&mut self, length_bytes: usize) -> Step<()> {
        let length = self.length(length_bytes)?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    pub(super) fn opaque(&mut self, length_bytes: usize) -> Step<()> {
        let length = self.length(length_bytes)?;
        self.take(length)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    pub(super) fn node(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    // ---- stack ----

    /// What is below the last mark is out of reach.
    pub(super) fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop(&mut self) -> Step<Value> {
        let floor = self.floor();
        if self.stack.len() <= floor {
            return Err("its stack is empty where something is taken from it".to_owned());
        }
        self.stack.pop().ok_or_else(|| "its stack is empty".to_owned())
    }

    pub(super) fn top(&self) -> Step<&Value> {
        self.stack[self.floor()..].last().ok_or_else(|| "its stack is empty".to_owned())
    }

    pub(super) fn last(&mut self, count: usize) -> Step<Vec<Value>> {
        match self.stack.len().checked_sub(count) {
            Some(at) if at >= self.floor() => Ok(self.stack.split_off(at)),
            _ => Err("its stack is empty where something is taken from it".to_owned()),
        }
    }

    pub(super) fn down_to_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| "a mark is missing".to_owned())?;
        Ok(self.stack.split_off(mark))
    }

    pub(super) fn append(&mut self, items: Vec<Value>) -> Step<()> {
        match self.top()? {
            Value::Opaque => Ok(()),
            &Value::Node(list) => match &mut self.nodes[list] {
                Node::List(list) => {
                    list.extend(items);
                    Ok(())
                }
                _ => Err("something is appended to what is no list".to_owned()),
            },
            _ => Err("something is appended to what is no list".to_owned()),
        }
    }

    pub(super) fn set_items(&mut self, items: Vec<Value>) -> Step<()> {
        let items = pairs(items)?;
        match self.top()? {
            Value::Opaque => Ok(()),
            &Value::Node(dict) => match &mut self.nodes[dict] {
                Node::Dict(dict) => {
                    dict.items.extend(items);
                    Ok(())
                }
                _ => Err("items are set in what is no dictionary".to_owned()),
            },
            _ => Err("items are set in what is no dictionary".to_owned()),
        }
    }

    pub(super) fn remember(&mut self, number: u32) -> Step<()> {
        let top = self.top()?.clone();
        self.memo.insert(number, top);
        Ok(())
    }

    pub(super) fn recall(&mut self, number: u32) -> Step<()> {
        let value = self.memo.get(&number).ok_or_else(|| format!("its memo has no {number}"))?;
        self.stack.push(value.clone());
        Ok(())
    }
}

pub(super) fn pairs(items: Vec<Value>) -> Step<Vec<(Value, Value)>> {
    if items.len() % 2 == 1 {
        return Err("a key has no value".to_owned());
    }
    let mut items = items.into_iter();
    Ok(core::iter::from_fn(|| items.next().zip(items.next())).collect())
}
