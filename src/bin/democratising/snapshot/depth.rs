//! How deep a pickle nests, known before whoever builds it: that recurses, and a small file could nest deeper than any stack.
//!
//! 1. A scan runs ahead over the same bytes. It keeps a height for each list, tuple, set and dictionary, and nothing of what is in them.
//! 2. Heights only add up where what was named or put somewhere does not change any more, and a number of the memo stays what it was. Picklers
//!    write so, but for what holds itself; anything else is refused.
//! 3. Opcodes are those that the reader knows; at any other it would end too.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, Read};

/// How deep lists, tuples, sets and dictionaries may nest: a snapshot needs eight.
const MOST_DEEP: u32 = 100;

/// Passes a pickle on, up to where it nests too deep.
pub struct Shallow<R> {
    pickle: R,
    scan: Scan,
}

impl<R> Shallow<R> {
    pub fn new(pickle: R) -> Shallow<R> {
        Shallow { pickle, scan: Scan::default() }
    }
}

impl<R: Read> Read for Shallow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.pickle.read(buffer)?;
        self.scan
            .take(&buffer[..count])
            .map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
        Ok(count)
    }
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Default)]
enum Next {
    #[default]
    Opcode,
    Skipped(u64),
    /// A little-endian number.
    Number {
        left: u32,
        shift: u32,
        number: u64,
        is: Is,
    },
    Decimal {
        number: u32,
        is: Is,
    },
    Lines(u32),
    Nothing,
}

/// What a number is.
#[derive(Clone, Copy)]
enum Is {
    /// How many bytes follow.
    Length,
    /// Where the top of the stack is remembered.
    Put,
    /// What is recalled.
    Get,
}

/// A list, tuple, set or dictionary.
struct Node {
    height: u32,
    /// Whether it is named or in another one, so that it may not change.
    is_fixed: bool,
}

/// On the stack and in the memo: a node, or what holds nothing.
type Item = Option<usize>;

#[derive(Default)]
struct Scan {
    next: Next,
    nodes: Vec<Node>,
    stack: Vec<Item>,
    /// How high the stack stood.
    marks: Vec<usize>,
    memo: HashMap<u32, Item>,
}

type Step<T> = Result<T, &'static str>;

const SHORT: &str = "its stack is empty where something is taken from it";
const DEEP: &str = "what it holds nests more than 100 deep";
const CHANGED: &str = "it changes what it has named before, as no snapshot does";

impl Scan {
    fn take(&mut self, mut bytes: &[u8]) -> Step<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.next {
                Next::Opcode => self.opcode(byte)?,
                Next::Skipped(left) => {
                    let now = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.skip(left - now as u64);
                    bytes = &bytes[now..];
                    continue;
                }
                Next::Number { left, shift, number, is } => {
                    let number = number | u64::from(byte) << shift;
                    match left {
                        1 => self.number(number, is)?,
                        _ => self.next = Next::Number { left: left - 1, shift: shift + 8, number, is },
                    }
                }
                Next::Decimal { number, is } => match byte {
                    b'\n' => self.number(number.into(), is)?,
                    b'0'..=b'9' => {
                        let number =
                            number.checked_mul(10).and_then(|ten| ten.checked_add((byte - b'0').into()));
                        let number = number.ok_or("a number of its memo is too large")?;
                        self.next = Next::Decimal { number, is };
                    }
                    _ => return Err("a number of its memo is none"),
                },
                Next::Lines(left) => {
                    if byte == b'\n' {
                        self.next = if left == 1 { Next::Opcode } else { Next::Lines(left - 1) };
                    }
                }
                Next::Nothing => return Ok(()),
            }
            bytes = rest;
        }
        Ok(())
    }

    fn opcode(&mut self, op: u8) -> Step<()> {
        match op {
            b'.' => self.next = Next::Nothing,
            // The version, and a frame.
            0x80 => self.skip(1),
            0x95 => self.skip(8),
            b'(' => {
                // The reader takes some kilobytes for each.
                if self.marks.len() >= MOST_DEEP as usize {
                    return Err(DEEP);
                }
                self.marks.push(self.stack.len());
            }
            b'0' if self.stack.len() == self.floor() => drop(self.down_to_mark()?),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.down_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.fix(top);
                self.stack.push(top);
            }

            b'p' | b'g' => self.next = Next::Decimal { number: 0, is: memo(op == b'p') },
            b'q' | b'h' => self.expect(1, memo(op == b'q')),
            b'r' | b'j' => self.expect(4, memo(op == b'r')),
            0x94 => self.put(self.memo.len() as u32)?,

            b'N' | 0x88 | 0x89 => self.stack.push(None),
            b'K' => self.plain(Next::Skipped(1)),
            b'M' => self.plain(Next::Skipped(2)),
            b'J' => self.plain(Next::Skipped(4)),
            b'G' => self.plain(Next::Skipped(8)),
            b'I' | b'L' | b'F' | b'S' | b'V' => self.plain(Next::Lines(1)),
            b'c' => self.plain(Next::Lines(2)),
            0x8a | b'C' | b'U' | 0x8c => self.plain(length(1)),
            0x8b | b'T' | b'B' | b'X' => self.plain(length(4)),
            0x8d | 0x8e | 0x96 => self.plain(length(8)),
            0x93 => {
                self.last(2)?;
                self.stack.push(None);
            }

            b')' | b']' | b'}' | 0x8f => self.node(&[])?,
            0x85..=0x87 => {
                let items = self.last(usize::from(op - 0x84))?;
                self.node(&items)?;
            }
            b't' | b'l' | b'd' | 0x91 => {
                let items = self.down_to_mark()?;
                self.node(&items)?;
            }
            b'a' => {
                let items = self.last(1)?;
                self.put_in(&items)?;
            }
            b's' => {
                let items = self.last(2)?;
                self.put_in(&items)?;
            }
            b'e' | b'u' | 0x90 => {
                let items = self.down_to_mark()?;
                self.put_in(&items)?;
            }

            // A call gives what holds at most what its arguments did; an object gives a dictionary; a state takes its object's place.
            b'R' => {
                let items = self.last(2)?;
                self.node(&items)?;
            }
            b'i' => {
                self.down_to_mark()?;
                self.node(&[])?;
                self.next = Next::Lines(2);
            }
            b'o' => {
                self.down_to_mark()?;
                self.pop()?;
                self.node(&[])?;
            }
            0x81 | 0x92 => {
                self.last(if op == 0x81 { 2 } else { 3 })?;
                self.node(&[])?;
            }
            b'b' => {
                let state = self.pop()?;
                self.pop()?;
                self.stack.push(state);
            }
            _ => return Err("it has an opcode that no snapshot has"),
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) {
        self.next = if bytes == 0 { Next::Opcode } else { Next::Skipped(bytes) };
    }

    fn expect(&mut self, bytes: u32, is: Is) {
        self.next = Next::Number { left: bytes, shift: 0, number: 0, is };
    }

    /// Something that holds nothing, of which more bytes follow.
    fn plain(&mut self, next: Next) {
        self.stack.push(None);
        self.next = next;
    }

    fn number(&mut self, number: u64, is: Is) -> Step<()> {
        self.next = Next::Opcode;
        match is {
            Is::Length => self.skip(number),
            Is::Put => self.put(number as u32)?,
            Is::Get => {
                let item = *self.memo.get(&(number as u32)).ok_or("its memo lacks a number")?;
                self.fix(item);
                self.stack.push(item);
            }
        }
        Ok(())
    }

    fn put(&mut self, number: u32) -> Step<()> {
        let top = self.top()?;
        match self.memo.insert(number, top) {
            None => Ok(()),
            Some(_) => Err(CHANGED),
        }
    }

    fn fix(&mut self, item: Item) {
        if let Some(node) = item {
            self.nodes[node].is_fixed = true;
        }
    }

    /// The height of what holds these, which may not change from here on.
    fn above(&mut self, items: &[Item]) -> Step<u32> {
        items.iter().for_each(|&item| self.fix(item));
        let height = items.iter().flatten().map(|&node| self.nodes[node].height).max().unwrap_or(0) + 1;
        if height > MOST_DEEP { Err(DEEP) } else { Ok(height) }
    }

    fn node(&mut self, items: &[Item]) -> Step<()> {
        let height = self.above(items)?;
        self.stack.push(Some(self.nodes.len()));
        self.nodes.push(Node { height, is_fixed: false });
        Ok(())
    }

    /// Puts these into what is on top of the stack.
    fn put_in(&mut self, items: &[Item]) -> Step<()> {
        let height = self.above(items)?;
        let Some(node) = self.top()? else { return Err("something is put into what holds nothing") };
        let node = &mut self.nodes[node];
        if node.is_fixed {
            return Err(CHANGED);
        }
        node.height = node.height.max(height);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Item> {
        self.stack[self.floor()..].last().copied().ok_or(SHORT)
    }

    fn pop(&mut self) -> Step<Item> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn last(&mut self, count: usize) -> Step<Vec<Item>> {
        match self.stack.len().checked_sub(count) {
            Some(at) if at >= self.floor() => Ok(self.stack.split_off(at)),
            _ => Err(SHORT),
        }
    }

    fn down_to_mark(&mut self) -> Step<Vec<Item>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }
}

fn memo(is_put: bool) -> Is {
    if is_put { Is::Put } else { Is::Get }
}

fn length(bytes: u32) -> Next {
    Next::Number { left: bytes, shift: 0, number: 0, is: Is::Length }
}

const _: () = assert!(MOST_DEEP == 100, "the message above names the number");

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of it, whether it comes at once or byte by byte.
    fn scanned(pickle: &[u8]) -> Step<()> {
        let at_once = Scan::default().take(pickle);
        let mut scan = Scan::default();
        assert_eq!(pickle.chunks(1).try_for_each(|byte| scan.take(byte)), at_once);
        at_once
    }

    #[test]
    fn a_pickle_may_nest_a_hundred_deep_and_no_deeper() {
        for deep in [99, 100, 101, 100_000] {
            let wanted = if deep <= 100 { Ok(()) } else { Err(DEEP) };
            let lists = [&vec![b']'; deep], &vec![b'a'; deep - 1], &b"."[..]].concat();
            let tuples = [&b")"[..], &vec![0x85; deep - 1], b"."].concat();
            let dictionaries = [&b"}N".repeat(deep - 1), &b"}"[..], &vec![b's'; deep - 1], b"."].concat();
            // Each in the next by the memo alone.
            let mut named = b"]r\0\0\0\x000".to_vec();
            for number in 1..deep as u32 {
                named.push(b']');
                for (op, number) in [(b'r', number), (b'j', number - 1)] {
                    named.push(op);
                    named.extend(number.to_le_bytes());
                }
                named.extend(b"a0");
            }
            for pickle in [lists, tuples, dictionaries, named] {
                assert_eq!(scanned(&pickle), wanted, "{deep}");
            }
        }
        assert_eq!(scanned(&[b'('; 1000]), Err(DEEP));
    }

    #[test]
    fn what_is_named_may_be_named_again_and_not_change() {
        assert_eq!(scanned(b"\x80\x02](}q\x01(X\x01\0\0\0aK\x05uh\x01h\x01e."), Ok(()));
        assert_eq!(scanned(b"]p1\n(g1\ne."), Err(CHANGED), "it holds itself");
        assert_eq!(scanned(b"]q\x01]q\x01."), Err(CHANGED));
        assert_eq!(scanned(b"]q\x00]q\x01a0h\x01]a."), Err(CHANGED));
        assert_eq!(scanned(b"]2]a."), Err(CHANGED));
        assert_eq!(scanned(b"]\x94}\x94Nh\x00s."), Ok(()));
    }

    #[test]
    fn texts_and_numbers_are_passed_over_whatever_is_in_them() {
        let deep = vec![b']'; 300];
        let mut pickle = b"\x80\x04\x95\0\0\0\0\0\0\0\0]X\x2c\x01\0\0".to_vec();
        pickle.extend(&deep);
        pickle.extend(b"a\x8e\x2c\x01\0\0\0\0\0\0");
        pickle.extend(&deep);
        pickle.extend(b"aV]]]]\na\x8c\0aG]]]]]]]]acos\nsystem\n)Ra.");
        pickle.extend(&deep);
        assert_eq!(scanned(&pickle), Ok(()));
    }
}
