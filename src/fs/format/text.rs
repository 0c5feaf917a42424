//! Numbers as text: whitespace or commas between them, one row a line.
//!
//! Read byte by byte through one buffer, so that a file of one endless line needs no more memory than its numbers.

#![forbid(unsafe_code)]

use super::wrong;
use crate::error::{DemoError, Result};
use crate::fs::source::{Source, unreadable};
use crate::tensor::Tensor;
use std::format;
use std::io::{BufRead, BufReader};
use std::string::String;
use std::vec::Vec;

/// No number has more characters, not even a double with all its digits.
const MAX_FIELD_BYTES: usize = 2048;

/// A byte order mark, which some programs put before text.
const MARK: &[u8] = b"\xef\xbb\xbf";

pub(in crate::fs) fn read(source: &mut Source<'_>) -> Result<Tensor> {
    let marked = source.peek(MARK.len())? == MARK;
    if marked {
        source.fill(&mut [0; MARK.len()])?;
    }
    let mut table = Table::default();
    let mut reader = BufReader::with_capacity(1 << 16, source);
    loop {
        let bytes = match reader.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        for &byte in bytes {
            table.byte(byte)?;
        }
        let read = bytes.len();
        reader.consume(read);
    }
    table.end_row()?;
    table.finish()
}

/// A table as far as it was read.
struct Table {
    numbers: Vec<f32>,
    /// The field being read.
    field: Vec<u8>,
    line: u64,
    rows: usize,
    /// Numbers in each row, once one row is whole.
    columns: Option<usize>,
    /// Numbers in this row.
    in_row: usize,
    in_comment: bool,
    /// Whether the last thing in this row was a comma.
    after_comma: bool,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            numbers: Vec::new(),
            field: Vec::new(),
            line: 1,
            rows: 0,
            columns: None,
            in_row: 0,
            in_comment: false,
            after_comma: false,
        }
    }
}

impl Table {
    fn byte(&mut self, byte: u8) -> Result<()> {
        match byte {
            b'\n' => {
                self.end_row()?;
                self.line += 1;
            }
            _ if self.in_comment => {}
            b'#' => {
                self.end_field()?;
                self.in_comment = true;
            }
            b',' => {
                self.end_field()?;
                if self.after_comma || self.in_row == 0 {
                    return Err(self.missing());
                }
                self.after_comma = true;
            }
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.end_field()?,
            _ => {
                self.field.push(byte);
                if self.field.len() > MAX_FIELD_BYTES {
                    let problem = format!("a field of more than {MAX_FIELD_BYTES} characters is no number");
                    return Err(self.wrong(self.in_row + 1, problem));
                }
            }
        }
        Ok(())
    }

    fn end_field(&mut self) -> Result<()> {
        if self.field.is_empty() {
            return Ok(());
        }
        let number = match number(&self.field) {
            Ok(number) => number,
            Err(problem) => return Err(self.wrong(self.in_row + 1, problem)),
        };
        if self.numbers.len() == self.numbers.capacity() {
            let more = self.numbers.len().max(1024);
            let bytes = (self.numbers.len() + more) * size_of::<f32>();
            self.numbers.try_reserve(more).map_err(|_| crate::tensor::no_vec(bytes))?;
        }
        self.numbers.push(number);
        self.field.clear();
        self.in_row += 1;
        self.after_comma = false;
        Ok(())
    }

    fn end_row(&mut self) -> Result<()> {
        self.end_field()?;
        if self.after_comma {
            return Err(self.missing());
        }
        self.in_comment = false;
        if self.in_row == 0 {
            return Ok(());
        }
        let columns = *self.columns.get_or_insert(self.in_row);
        if columns != self.in_row {
            let problem = format!("this row has {} numbers, those above have {columns}", self.in_row);
            return Err(wrong("text", format!(" line {}", self.line), problem));
        }
        self.rows += 1;
        self.in_row = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<Tensor> {
        let Some(columns) = self.columns else {
            return Err(wrong("text", String::new(), "it holds no number"));
        };
        // Growing left up to as much again unused; a tensor lives long.
        self.numbers.shrink_to_fit();
        Tensor::new(&[self.rows, columns], self.numbers)
    }

    fn missing(&self) -> DemoError {
        self.wrong(self.in_row + 1, "a number is missing beside a comma")
    }

    fn wrong(&self, field: usize, problem: impl Into<String>) -> DemoError {
        wrong("text", format!(" line {}, field {field}", self.line), problem)
    }
}

/// A finite number of any size would become infinite without a word, so that one is refused.
fn number(field: &[u8]) -> Result<f32, String> {
    let number = core::str::from_utf8(field).ok().and_then(|field| field.parse::<f32>().ok());
    match number {
        Some(number) if number.is_infinite() && field.iter().any(u8::is_ascii_digit) => {
            Err(format!("{} is more than an f32 can hold", shown(field)))
        }
        Some(number) => Ok(number),
        None => Err(format!("{} is no number; begin the line with # to have it skipped", shown(field))),
    }
}

/// The beginning of a field, quoted.
fn shown(field: &[u8]) -> String {
    const SHOWN: usize = 40;
    let text = String::from_utf8_lossy(&field[..field.len().min(SHOWN)]);
    format!("{text:?}{}", if field.len() > SHOWN { ".." } else { "" })
}
