//! Something being read from where it stands, that knows how much is left.

#![forbid(unsafe_code)]

use crate::error::{DemoError, Result};
use std::boxed::Box;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::vec::Vec;

/// Reads from a file, a pipe or memory, looking ahead where that is needed.
pub(super) struct Source<'a> {
    from: Box<dyn Read + 'a>,
    ahead: Vec<u8>,
    at: usize,
    /// What the file holds from here on; `None` where that cannot be known, as in a pipe.
    left_bytes: Option<u64>,
    position_bytes: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(mut file: &'a File) -> Result<Source<'a>> {
        let metadata = file.metadata().map_err(unreadable)?;
        // Files that the kernel makes up, as in /proc, say that they have no bytes, and have some.
        let left_bytes = if metadata.is_file() && metadata.len() > 0 {
            let position = file.stream_position().map_err(unreadable)?;
            Some(metadata.len().saturating_sub(position))
        } else {
            None
        };
        Ok(Source::of(file, left_bytes))
    }

    /// What `from` gives; `left_bytes` of it, where that is known.
    pub(super) fn of(from: impl Read + 'a, left_bytes: Option<u64>) -> Source<'a> {
        Source { from: Box::new(from), ahead: Vec::new(), at: 0, left_bytes, position_bytes: 0 }
    }

    /// Up to `bytes` of what comes next, fewer only at the end. They will be read again.
    pub(super) fn peek(&mut self, bytes: usize) -> Result<&[u8]> {
        let buffered = self.ahead.len() - self.at;
        if let Some(missing @ 1..) = bytes.checked_sub(buffered) {
            // It grows with what comes, not with what is asked for.
            (&mut self.from).take(missing as u64).read_to_end(&mut self.ahead).map_err(unreadable)?;
        }
        let buffered = &self.ahead[self.at..];
        Ok(&buffered[..bytes.min(buffered.len())])
    }

    /// How many of the next `bytes` there are. In a pipe this reads them ahead, as nothing else can tell.
    pub(super) fn available(&mut self, bytes: u64) -> Result<u64> {
        match self.left_bytes {
            Some(left) => Ok(left.min(bytes)),
            None => Ok(self.peek(bytes.try_into().unwrap_or(usize::MAX))?.len() as u64),
        }
    }

    /// How many bytes were read so far.
    pub(super) fn position_bytes(&self) -> u64 {
        self.position_bytes
    }

    /// Fills `bytes`, or says how.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.read_exact(bytes).map_err(unreadable)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut ahead = &self.ahead[self.at..];
        let read = if ahead.is_empty() { self.from.read(to)? } else { ahead.read(to)? };
        if self.at < self.ahead.len() {
            self.at += read;
        }
        self.position_bytes += read as u64;
        self.left_bytes = self.left_bytes.map(|left| left.saturating_sub(read as u64));
        Ok(read)
    }
}

pub(super) fn unreadable(source: io::Error) -> DemoError {
    DemoError::Io { action: "read", path: None, source }
}
