//! A file that tensors share: its bytes, and what is still to be checked of them.
//!
//! A part of a file is checked when its elements are first wanted, not when the file is opened: opening stays as cheap as
//! reading the header, and no element is seen that was not checked. The check reads every byte of the part once, which
//! brings it into memory for the reader who comes after.

#![forbid(unsafe_code)]

use super::resident;
use crate::error::{DemoError, Result};
use crate::pool::budget::scope::Holding;
use crate::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};
use core::ops::Range;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::Mmap;
use std::borrow::ToOwned;
use std::format;
use std::fs::File;
#[cfg(target_os = "linux")]
use std::io;
use std::path::PathBuf;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

/// The bytes of a whole file, shared by its tensors.
pub(crate) struct SharedFile {
    bytes: Bytes,
    format: &'static str,
    path: Option<PathBuf>,
    parts: Vec<Part>,
}

/// Where a file's bytes are.
pub(crate) enum Bytes {
    /// Mapped, with the file to ask how long it is now. Charged until it is unmapped.
    Mapped { map: Mmap, file: File, _charged: Holding },
    /// Read: a pipe cannot be mapped.
    Read(Vec<u8>),
}

impl Bytes {
    pub(crate) fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped { map, .. } => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}

/// A part of a file that is checked as one.
pub(crate) struct Part {
    /// What it is, for messages: ` tensor "w"`.
    what: String,
    range: Range<usize>,
    /// Its checksum as it was saved, where the file has one.
    crc32: Option<u32>,
    state: AtomicU8,
    /// Whether it was looked at since its pages were last given up: then they are in memory, as far as anybody can tell.
    looked_at: AtomicBool,
}

/// What is read at once of pages that could not be mapped.
#[cfg(target_os = "linux")]
const UNMAPPED_BYTES: usize = 64 << 10;

const UNCHECKED: u8 = 0;
const SOUND: u8 = 1;
const DAMAGED: u8 = 2;

impl Part {
    pub(crate) fn new(what: String, range: Range<usize>, crc32: Option<u32>) -> Part {
        Part { what, range, crc32, state: AtomicU8::new(UNCHECKED), looked_at: AtomicBool::new(false) }
    }

    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    pub(crate) fn crc32(&self) -> Option<u32> {
        self.crc32
    }
}

impl SharedFile {
    /// The parts lie within the bytes.
    pub(crate) fn new(
        bytes: Bytes,
        format: &'static str,
        path: Option<PathBuf>,
        parts: Vec<Part>,
    ) -> Arc<SharedFile> {
        debug_assert!(parts.iter().all(|part| bytes.all().get(part.range()).is_some()));
        let file = Arc::new(SharedFile { bytes, format, path, parts });
        if let Bytes::Mapped { .. } = file.bytes {
            resident::remember(&file);
        }
        file
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.all()
    }

    pub(crate) fn part(&self, part: usize) -> &Part {
        &self.parts[part]
    }

    /// The bytes of a part, for a reader who checks what comes out of them.
    pub(crate) fn part_unchecked(&self, part: usize) -> &[u8] {
        &self.bytes()[self.parts[part].range()]
    }

    /// The file itself, where it is one that can be read at any place.
    #[cfg(unix)]
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.bytes {
            Bytes::Mapped { file, .. } => Some(file),
            Bytes::Read(_) => None,
        }
    }

    /// The bytes of a part, checked.
    ///
    /// # Errors
    /// [`DemoError::Format`] where they are not what was saved, or are no more there.
    pub(crate) fn checked(&self, at: usize) -> Result<&[u8]> {
        let part = &self.parts[at];
        // Relaxed, here and where it is read: it says nothing of the bytes. Looked at first, since a look changes nobody's cache line.
        if !part.looked_at.load(Relaxed) {
            part.looked_at.store(true, Relaxed);
        }
        // Acquire: pairs with the Release below, though there is nothing to see but the file, which nobody writes.
        match part.state.load(Acquire) {
            SOUND => Ok(&self.bytes()[part.range()]),
            DAMAGED => Err(self.damaged(part)),
            _ => self.check(part),
        }
    }

    #[cold]
    fn check(&self, part: &Part) -> Result<&[u8]> {
        self.still_there(part)?;
        let bytes = &self.bytes()[part.range()];
        if part.crc32.is_some_and(|saved| crc32fast::hash(bytes) != saved) {
            part.state.store(DAMAGED, Release);
            return Err(self.damaged(part));
        }
        part.state.store(SOUND, Release);
        Ok(bytes)
    }

    /// Marks a part as checked by somebody who read the same bytes.
    pub(crate) fn settle(&self, at: usize, crc32: u32) -> Result<()> {
        let part = &self.parts[at];
        if part.crc32.is_some_and(|saved| crc32 != saved) {
            part.state.store(DAMAGED, Release);
            return Err(self.damaged(part));
        }
        Ok(())
    }

    /// The bytes of mapped parts that were looked at since they were last given up.
    pub(super) fn looked_at_bytes(&self) -> u64 {
        let Bytes::Mapped { .. } = self.bytes else { return 0 };
        let looked_at = self.parts.iter().filter(|part| part.looked_at.load(Relaxed));
        looked_at.map(|part| part.range.len() as u64).sum()
    }

    /// Gives up the pages of parts that were looked at, about as many as are wanted; returns their bytes. They come again from the disk.
    pub(super) fn page_out(&self, target_bytes: u64) -> u64 {
        #[cfg(target_os = "linux")]
        if let Bytes::Mapped { map, .. } = &self.bytes {
            let looked_at = |part: &&Part| !part.range.is_empty() && part.looked_at.load(Relaxed);
            let mut given = 0;
            for part in self.parts.iter().filter(looked_at) {
                if given >= target_bytes {
                    break;
                }
                // First: who looks meanwhile says so again.
                part.looked_at.store(false, Relaxed);
                if resident::page_out(&map[part.range()]) {
                    given += part.range.len() as u64;
                }
            }
            return given;
        }
        let _ = target_bytes;
        0
    }

    /// A file cut short since it was mapped would stop the process when its end is touched; as far as that can be known
    /// before, it is an error.
    fn still_there(&self, part: &Part) -> Result<()> {
        let Bytes::Mapped { file, .. } = &self.bytes else { return Ok(()) };
        let length = file.metadata().map_err(|source| DemoError::Io {
            action: "look at",
            path: self.path.clone(),
            source,
        })?;
        if length.len() < part.range.end as u64 {
            return Err(self.cut(part, length.len()));
        }
        #[cfg(target_os = "linux")]
        if part.crc32.is_some() && !part.range.is_empty() {
            // Every page at once, instead of one fault for every few. It also tells of pages that are gone without
            // stopping the process; systems before Linux 5.14 do not know it, and fault page by page as ever.
            if let Err(error) = self.populate(part.range())
                && error.raw_os_error() == Some(libc::EFAULT)
            {
                return self.unmapped(file, part);
            }
        }
        Ok(())
    }

    /// What is wrong with pages that could not be mapped, as reading them tells: the file ends before them, or the disk fails. Where nothing is,
    /// they can be mapped by now.
    #[cfg(target_os = "linux")]
    #[cold]
    fn unmapped(&self, file: &File, part: &Part) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let mut piece = std::vec![0; UNMAPPED_BYTES];
        let mut at = part.range.start;
        while at < part.range.end {
            let most = piece.len().min(part.range.end - at);
            match file.read_at(&mut piece[..most], at as u64) {
                Ok(0) => return Err(self.cut(part, at as u64)),
                Ok(read) => at += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(DemoError::Io { action: "read", path: self.path.clone(), source }),
            }
        }
        Ok(())
    }

    /// Brings bytes into memory and maps their pages. Not known to systems before Linux 5.14.
    #[cfg(target_os = "linux")]
    pub(crate) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        match &self.bytes {
            Bytes::Mapped { map, .. } => map.advise_range(Advice::PopulateRead, range.start, range.len()),
            Bytes::Read(_) => Ok(()),
        }
    }

    #[cold]
    fn cut(&self, part: &Part, length_bytes: u64) -> DemoError {
        let problem = format!(
            "the file was cut short while it was open: {length_bytes} bytes are left, and this ends at {}; load it \
             again, or from a copy",
            part.range.end
        );
        self.wrong(part, problem)
    }

    #[cold]
    fn damaged(&self, part: &Part) -> DemoError {
        let problem = match part.crc32 {
            Some(saved) => {
                format!(
                    "its bytes are damaged: they do not have the checksum {saved:08x} that was saved with them"
                )
            }
            None => "its bytes are damaged".to_owned(),
        };
        self.wrong(part, problem)
    }

    fn wrong(&self, part: &Part, problem: String) -> DemoError {
        DemoError::Format { format: self.format, path: self.path.clone(), at: part.what.clone(), problem }
    }
}
