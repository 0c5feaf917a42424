//! NumPy's `.npy`: a header that is a Python dictionary of three keys, and the bytes of one array.
//!
//! The header is read by a scanner for exactly this dictionary. Parsers of Python literals in general were looked at
//! and left: on a header of nested brackets they need time or stack without bound, and a file may come from anybody.

#![forbid(unsafe_code)]

use super::{Ending, expect_bytes, shape_of_file, swap_bytes, wrong};
use crate::error::{DemoError, Result};
use crate::fs::source::Source;
use crate::size::{MAX_RANK, Shape};
use crate::tensor::layout::Layout;
use crate::tensor::{DType, Extent, Tensor};
use std::borrow::ToOwned;
use std::format;
use std::string::String;
use std::vec::Vec;

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// What NumPy calls the format, in messages.
const NPY: &str = "npy";

/// More than an array of plain numbers can need. Longer headers are those of structured arrays.
const MAX_HEADER_BYTES: usize = 1 << 16;

pub(super) fn read(source: &mut Source<'_>, ending: Ending) -> Result<Tensor> {
    let header = Header::read(source)?;
    let (dtype, swapped) = header.dtype()?;
    let extent = Extent::new(&header.shape, dtype.size_bytes()).map_err(|error| shape_of_file(NPY, error))?;
    expect_bytes(source, NPY, extent.bytes)?;

    let tensor = Tensor::filled(&extent.shape, dtype, |bytes| {
        source.fill(bytes)?;
        if swapped {
            swap_bytes(bytes, dtype.size_bytes());
        }
        Ok(())
    })?;
    if ending == Ending::OfFile && source.available(1)? > 0 {
        let problem = "something follows the array; Tensor::from_file reads one array a call";
        return Err(wrong(NPY, format!(" byte {}", source.position_bytes()), problem));
    }
    // An array in Fortran order is a view with its strides the other way round.
    tensor.with_layout(header.layout(extent.shape)).contiguous()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    const NATIVE: ByteOrder = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };
}

/// What NumPy's name of a type means here.
fn dtype(descr: &str) -> Result<(DType, ByteOrder)> {
    let (order, name) = match descr.as_bytes().first() {
        Some(b'<') => (Some(ByteOrder::Little), &descr[1..]),
        Some(b'>') => (Some(ByteOrder::Big), &descr[1..]),
        Some(b'=') => (Some(ByteOrder::NATIVE), &descr[1..]),
        Some(b'|') => (None, &descr[1..]),
        _ => (Some(ByteOrder::NATIVE), descr),
    };
    let dtype = match name {
        "b1" | "?" => DType::Bool,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "i2" => DType::I16,
        "u2" => DType::U16,
        "i4" => DType::I32,
        "u4" => DType::U32,
        "i8" => DType::I64,
        "u8" => DType::U64,
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        _ => return Err(unsupported(descr, name)),
    };
    match order {
        Some(order) => Ok((dtype, order)),
        None if dtype.size_bytes() == 1 => Ok((dtype, ByteOrder::NATIVE)),
        None => Err(unsupported(descr, "")),
    }
}

fn unsupported(descr: &str, name: &str) -> DemoError {
    let is = match name.as_bytes().first() {
        Some(b'O') => "Python objects, which only Python can read",
        Some(b'c') => "complex numbers; save the real and imaginary parts",
        Some(b'S' | b'a' | b'U') => "strings",
        Some(b'M' | b'm') => "dates or durations; save them as int64",
        Some(b'V') => {
            "raw bytes (NumPy saves bfloat16 and float8 so); save them as float32 or in safetensors"
        }
        Some(b'f') => "floats of a width that no dtype has",
        _ => "nothing that a dtype here is",
    };
    let shown: String = descr.chars().take(40).collect();
    wrong(NPY, String::new(), format!("its elements are {shown:?}: {is}"))
}

pub(super) struct Header {
    descr: String,
    fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

impl Header {
    /// The dtype, and whether the bytes of its elements stand the other way round.
    pub(super) fn dtype(&self) -> Result<(DType, bool)> {
        let (dtype, order) = dtype(&self.descr)?;
        Ok((dtype, order != ByteOrder::NATIVE))
    }

    /// Where element `(i, j, ..)` is among those of the file; the shape is the header's, counted.
    pub(super) fn layout(&self, shape: Shape) -> Layout {
        if !self.fortran_order {
            return Layout::row_major(shape);
        }
        let rank = shape.len();
        let mut lengths = [0; MAX_RANK];
        lengths[..rank].copy_from_slice(&shape);
        lengths[..rank].reverse();
        let reversed = Shape::new(&lengths[..rank]).unwrap_or_default();
        let order: [usize; MAX_RANK] = core::array::from_fn(|dim| rank.saturating_sub(dim + 1));
        Layout::row_major(reversed).permuted(&order[..rank])
    }

    pub(super) fn read(source: &mut Source<'_>) -> Result<Header> {
        let cut = |source: &Source<'_>| {
            wrong(NPY, format!(" byte {}", source.position_bytes()), "it is cut short inside the header")
        };
        let mut start = [0; 8];
        if source.available(start.len() as u64)? < start.len() as u64 {
            return Err(cut(source));
        }
        source.fill(&mut start)?;
        let [.., major, minor] = start;
        let mut length = [0; 4];
        let length_bytes = match (major, minor) {
            (1, 0) => 2,
            (2 | 3, 0) => 4,
            _ => {
                let problem =
                    format!("it is of version {major}.{minor}; versions 1.0, 2.0 and 3.0 are known");
                return Err(wrong(NPY, " byte 6".to_owned(), problem));
            }
        };
        if source.available(length_bytes as u64)? < length_bytes as u64 {
            return Err(cut(source));
        }
        source.fill(&mut length[..length_bytes])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER_BYTES {
            let problem = format!("a header of {length} bytes is more than an array of plain numbers needs");
            return Err(wrong(NPY, " byte 8".to_owned(), problem));
        }
        if source.available(length as u64)? < length as u64 {
            return Err(cut(source));
        }
        let start = source.position_bytes();
        let mut text = std::vec![0; length];
        source.fill(&mut text)?;
        Scanner { text: &text, at: 0, start }.header()
    }
}

/// Reads a header from left to right, never back, never into itself.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the text stands in the file.
    start: u64,
}

impl Scanner<'_> {
    fn header(mut self) -> Result<Header> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.eat(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            let again = match key.as_str() {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                _ => return Err(self.wrong(format!("it has a key {key:?} that no array has"))),
            };
            if again {
                return Err(self.wrong(format!("it has the key {key:?} twice")));
            }
            if !self.eat(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        if self.at < self.text.len() {
            return Err(self.wrong("something follows the dictionary".into()));
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Header { descr, fortran_order, shape }),
            (None, ..) => Err(self.wrong("the key \"descr\" is missing".into())),
            (_, None, _) => Err(self.wrong("the key \"fortran_order\" is missing".into())),
            (.., None) => Err(self.wrong("the key \"shape\" is missing".into())),
        }
    }

    fn descr(&mut self) -> Result<String> {
        self.skip_space();
        match self.text.get(self.at) {
            Some(b'\'' | b'"') => self.string(),
            _ => {
                let rest = String::from_utf8_lossy(&self.text[self.at..]);
                let shown: String = rest.chars().take(40).collect();
                Err(self.wrong(format!("its elements are {shown}..: structured, and no plain numbers")))
            }
        }
    }

    fn string(&mut self) -> Result<String> {
        self.skip_space();
        let Some(&quote @ (b'\'' | b'"')) = self.text.get(self.at) else {
            return Err(self.expected("a string"));
        };
        let text = &self.text[self.at + 1..];
        let Some(length) = text.iter().position(|&byte| byte == quote || byte == b'\\') else {
            return Err(self.wrong("a string without an end".into()));
        };
        if text[length] == b'\\' {
            return Err(self.wrong("a string with an escape, which no array of plain numbers needs".into()));
        }
        self.at += length + 2;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    fn boolean(&mut self) -> Result<bool> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.expected("True or False"))
    }

    fn tuple(&mut self) -> Result<Vec<usize>> {
        let mut lengths = Vec::new();
        self.expect(b'(')?;
        while !self.eat(b')') {
            lengths.push(self.length()?);
            if !self.eat(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(lengths)
    }

    fn length(&mut self) -> Result<usize> {
        self.skip_space();
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit());
        let (mut value, mut count) = (Some(0usize), 0);
        for digit in digits {
            value = value.and_then(|v| v.checked_mul(10)?.checked_add((digit - b'0').into()));
            count += 1;
        }
        if count == 0 {
            return Err(self.expected("a length"));
        }
        let Some(value) = value else {
            return Err(self.wrong("a length is more than can be counted".into()));
        };
        self.at += count;
        // Python 2 wrote long integers so.
        if self.text.get(self.at) == Some(&b'L') {
            self.at += 1;
        }
        Ok(value)
    }

    fn skip_space(&mut self) {
        self.at += self.text[self.at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        let eaten = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(eaten);
        eaten
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.expected(&format!("{:?}", char::from(byte)))) }
    }

    fn expected(&self, what: &str) -> DemoError {
        match self.text.get(self.at) {
            Some(&found) => self.wrong(format!("{what} was expected, not {:?}", char::from(found))),
            None => self.wrong(format!("{what} was expected, not the end of the header")),
        }
    }

    fn wrong(&self, problem: String) -> DemoError {
        wrong(NPY, format!(" byte {}", self.start + self.at as u64), problem)
    }
}
