//! Numbers as text: whitespace or commas between them, one row a line. A first line of names is skipped.
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

/// The first line is kept up to this length, until it is known whether it names columns. A longer one is numbers.
const MAX_HEADER_BYTES: usize = 1 << 20;

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

/// How many columns a line names, if no field of it is a number. Fields stand between commas, or between blanks where there is no comma;
/// both may be part of a quoted one.
fn columns_named(line: &[u8]) -> Option<usize> {
    let (mut fields, mut words) = (std::vec![Vec::new()], std::vec![Vec::new()]);
    let mut quoted = false;
    for &byte in line {
        quoted ^= byte == b'"';
        match byte {
            b',' if !quoted => fields.push(Vec::new()),
            _ if byte.is_ascii_whitespace() && !quoted => words.push(Vec::new()),
            _ => {
                fields.last_mut()?.push(byte);
                words.last_mut()?.push(byte);
            }
        }
    }
    if fields.len() == 1 {
        words.retain(|word| !word.is_empty());
        fields = words;
    }
    let begins_a_number = |byte: &u8| byte.is_ascii_digit() || b"+-.".contains(byte);
    let is_name = |field: &Vec<u8>| {
        field.first().is_some_and(|first| !begins_a_number(first)) && number(field).is_err()
    };
    // A table written with its row numbers has no name for these.
    let fits = |field: &Vec<u8>| field.is_empty() || is_name(field);
    (fields.iter().all(fits) && fields.iter().any(is_name)).then_some(fields.len())
}

/// A table as far as it was read.
struct Table {
    numbers: Vec<f32>,
    /// The first line with anything in it, as long as it is not known whether it names the columns.
    first: Option<Vec<u8>>,
    /// Whether it did.
    named: bool,
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
            first: Some(Vec::new()),
            named: false,
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
        let Some(first) = &mut self.first else { return self.take(byte) };
        if byte == b'\n' {
            self.end_first()?;
            return self.take(byte);
        }
        if self.in_comment || byte == b'#' {
            self.in_comment = true;
            return Ok(());
        }
        first.push(byte);
        if first.len() > MAX_HEADER_BYTES {
            return self.as_numbers();
        }
        Ok(())
    }

    /// The first line has ended, unless it was empty.
    fn end_first(&mut self) -> Result<()> {
        self.in_comment = false;
        let Some(first) = &self.first else { return Ok(()) };
        if first.iter().all(|byte| byte.is_ascii_whitespace()) {
            self.first = Some(Vec::new());
            return Ok(());
        }
        match columns_named(first) {
            Some(columns) => {
                (self.columns, self.named, self.first) = (Some(columns), true, None);
                Ok(())
            }
            None => self.as_numbers(),
        }
    }

    /// The first line names no columns.
    fn as_numbers(&mut self) -> Result<()> {
        self.first.take().into_iter().flatten().try_for_each(|byte| self.take(byte))
    }

    fn take(&mut self, byte: u8) -> Result<()> {
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
        self.end_first()?;
        self.end_field()?;
        if self.after_comma {
            return Err(self.missing());
        }
        if self.in_row == 0 {
            return Ok(());
        }
        let columns = *self.columns.get_or_insert(self.in_row);
        if columns != self.in_row {
            let before = if self.named { "the first line names" } else { "those above have" };
            let problem = format!("this row has {} numbers, {before} {columns}", self.in_row);
            return Err(wrong("text", format!(" line {}", self.line), problem));
        }
        self.rows += 1;
        self.in_row = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<Tensor> {
        let Some(columns) = self.columns.filter(|_| self.rows > 0) else {
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
