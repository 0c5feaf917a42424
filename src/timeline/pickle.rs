//! The few words of Python's pickles that a snapshot is written in: protocol 2, of which nothing but plain data can come.

#![forbid(unsafe_code)]

use std::io::{self, Write};

/// Writes one value behind the other; containers are opened and ended by their own calls.
pub(super) struct Pickle<'a, W: Write> {
    out: &'a mut W,
}

impl<'a, W: Write> Pickle<'a, W> {
    pub(super) fn begin(out: &'a mut W) -> io::Result<Self> {
        out.write_all(b"\x80\x02")?;
        Ok(Pickle { out })
    }

    pub(super) fn end(self) -> io::Result<()> {
        self.out.write_all(b".")
    }

    /// A string.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        let length = u32::try_from(text.len()).map_err(|_| io::Error::other("a name of 4 GiB"))?;
        self.out.write_all(b"X")?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(text.as_bytes())
    }

    /// An integer: in four bytes where it fits, else as a long of nine, whose last says that it is not negative.
    pub(super) fn number(&mut self, number: u64) -> io::Result<()> {
        if let Ok(small) = i32::try_from(number) {
            self.out.write_all(b"J")?;
            return self.out.write_all(&small.to_le_bytes());
        }
        self.out.write_all(b"\x8a\x09")?;
        self.out.write_all(&number.to_le_bytes())?;
        self.out.write_all(b"\0")
    }

    pub(super) fn truth(&mut self, value: bool) -> io::Result<()> {
        self.out.write_all(if value { b"\x88" } else { b"\x89" })
    }

    /// A list of what `items` writes.
    pub(super) fn list(&mut self, items: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.out.write_all(b"](")?;
        items(self)?;
        self.out.write_all(b"e")
    }

    /// A dictionary of the keys and values that `items` writes in turn.
    pub(super) fn dict(&mut self, items: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.out.write_all(b"}(")?;
        items(self)?;
        self.out.write_all(b"u")
    }

    /// An entry of a dictionary.
    pub(super) fn text_at(&mut self, key: &str, text: &str) -> io::Result<()> {
        self.text(key)?;
        self.text(text)
    }

    /// An entry of a dictionary.
    pub(super) fn number_at(&mut self, key: &str, number: u64) -> io::Result<()> {
        self.text(key)?;
        self.number(number)
    }
}
