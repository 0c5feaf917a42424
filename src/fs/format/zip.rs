//! Zip archives, as far as tensors are kept in them: stored and deflated members, sizes of 32 and 64 bits.
//!
//! The table at the end is what counts, as for every reader of the format. Whatever it says is held to the bytes that are
//! there: members lie within the file, and one that claims to unpack to more than its bytes can is refused before
//! anything is taken for it. Crates that read zip were looked at and left: those that are kept well need a newer compiler,
//! and none tells where a stored member's bytes are in a mapping.

#![forbid(unsafe_code)]

use super::wrong;
use crate::error::{DemoError, Result};
use core::ops::Range;
use flate2::read::DeflateDecoder;
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::io::Read;
use std::string::String;
use std::vec::Vec;

pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

const ZIP: &str = "zip";
/// An archive without a member begins with its end.
pub(super) const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END64: &[u8] = b"PK\x06\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;

/// Deflate cannot make more of a byte: 258 bytes for two bits, and a block's head.
const MAX_INFLATION: u64 = 1032;

/// The members of an archive by name.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    members: BTreeMap<String, Member>,
}

/// One member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Where its bytes are in the file, packed or not.
    pub(super) range: Range<usize>,
    pub(super) deflated: bool,
    /// How many bytes it has unpacked.
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

impl<'a> Archive<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Archive<'a>> {
        let (count, table) = table(bytes)?;
        let mut members = BTreeMap::new();
        let mut rest = table;
        for number in 0..count {
            let at = || format!(" member {number}");
            let Some((name, member, after)) =
                entry(bytes, rest).map_err(|problem| wrong(ZIP, at(), problem))?
            else {
                return Err(wrong(
                    ZIP,
                    at(),
                    format!("its table ends before the {count} members that it announces"),
                ));
            };
            rest = after;
            // Folders.
            if name.ends_with('/') {
                continue;
            }
            if members.contains_key(&name) {
                return Err(wrong(ZIP, at(), format!("it has a second {name:?}")));
            }
            members.insert(name, member);
        }
        if rest.starts_with(ENTRY) {
            let problem = format!("its table has more than the {count} members that it announces");
            return Err(wrong(ZIP, format!(" member {count}"), problem));
        }
        apart(&members)?;
        Ok(Archive { bytes, members })
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().map(|(name, member)| (name.as_str(), member))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Member> {
        self.members.get(name)
    }

    /// All bytes of a member that is a table and no tensor: of at most so many, and checked.
    pub(super) fn read(&self, name: &str, most_bytes: u64) -> Result<Vec<u8>> {
        let missing = || wrong(ZIP, String::new(), format!("it has no {name:?}"));
        let member = self.get(name).ok_or_else(missing)?;
        if member.bytes > most_bytes {
            let problem =
                format!("it has {} bytes, more than the {most_bytes} that such a table needs", member.bytes);
            return Err(wrong(ZIP, format!(" {name:?}"), problem));
        }
        let mut all = Vec::new();
        // One more than there may be, so that more is seen.
        let result =
            member.unpacked(&self.bytes[member.range.clone()]).take(member.bytes + 1).read_to_end(&mut all);
        if let Err(error) = result {
            return Err(wrong(ZIP, format!(" {name:?}"), format!("{error}")));
        }
        member.check(name, all.len() as u64, crc32fast::hash(&all))?;
        Ok(all)
    }
}

impl Member {
    /// What its bytes unpack to.
    pub(super) fn unpacked<'b>(&self, bytes: &'b [u8]) -> Unpacked<'b> {
        if self.deflated { Unpacked::Deflated(DeflateDecoder::new(bytes)) } else { Unpacked::Stored(bytes) }
    }

    /// Compares what was unpacked with what was packed.
    pub(super) fn check(&self, name: &str, bytes: u64, crc32: u32) -> Result<()> {
        if bytes != self.bytes {
            let problem = format!("{} bytes were packed, but {bytes} or more are there", self.bytes);
            return Err(wrong(ZIP, format!(" {name:?}"), problem));
        }
        if crc32 != self.crc32 {
            let problem =
                format!("its bytes are damaged: their checksum is {crc32:08x}, {:08x} was saved", self.crc32);
            return Err(wrong(ZIP, format!(" {name:?}"), problem));
        }
        Ok(())
    }
}

/// The bytes of a member as they were before they were packed.
pub(super) enum Unpacked<'a> {
    Stored(&'a [u8]),
    Deflated(DeflateDecoder<&'a [u8]>),
}

impl Read for Unpacked<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Unpacked::Stored(bytes) => bytes.read(to),
            Unpacked::Deflated(decoder) => decoder.read(to),
        }
    }
}

/// How many members there are, and their table.
fn table(bytes: &[u8]) -> Result<(u64, &[u8])> {
    let cut = || wrong(ZIP, String::new(), "it has no table at its end: it is cut short, or no zip archive");
    // A comment of up to 64 KiB may follow the end record.
    let first = bytes.len().saturating_sub(END_BYTES + 0xffff);
    let last = bytes.len().checked_sub(END_BYTES).ok_or_else(cut)?;
    let end = (first..=last)
        .rev()
        .find(|&at| {
            bytes[at..].starts_with(END)
                && usize::from(u16_at(bytes, at + 20)) == bytes.len() - at - END_BYTES
        })
        .ok_or_else(cut)?;
    let mut count = u64::from(u16_at(bytes, end + 10));
    let mut length = u64::from(u32_at(bytes, end + 12));
    let mut start = u64::from(u32_at(bytes, end + 16));
    let locator = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(END64_LOCATOR));
    if let Some(locator) = locator {
        let at = usize::try_from(u64_at(bytes, locator + 8)).ok();
        let record = at.and_then(|at| bytes.get(at..)?.get(..56)).filter(|record| record.starts_with(END64));
        let record = record
            .ok_or_else(|| wrong(ZIP, String::new(), "its 64-bit end record is not where it should be"))?;
        (count, length, start) = (u64_at(record, 32), u64_at(record, 40), u64_at(record, 48));
    }
    let table = usize::try_from(start).ok().zip(usize::try_from(length).ok());
    let table = table.and_then(|(start, length)| bytes.get(start..)?.get(..length));
    let table = table.ok_or_else(|| {
        wrong(
            ZIP,
            String::new(),
            format!("its table of {length} bytes at byte {start} is not within the file"),
        )
    })?;
    Ok((count, table))
}

/// Sees that no byte belongs to two members. Each unpacks to what its bytes can, and all of them together only then to what the file's can.
fn apart(members: &BTreeMap<String, Member>) -> Result<()> {
    let mut in_order: Vec<_> = members.iter().map(|(name, member)| (&member.range, name)).collect();
    in_order.sort_unstable_by_key(|(range, name)| (range.start, range.end, *name));
    match in_order.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => Err(wrong(
            ZIP,
            format!(" {:?}", pair[1].1),
            format!("its bytes are also those of {:?}", pair[0].1),
        )),
        None => Ok(()),
    }
}

type Found<'a> = Option<(String, Member, &'a [u8])>;

/// The first member of a table, and the rest of the table.
fn entry<'a>(bytes: &[u8], table: &'a [u8]) -> Result<Found<'a>, String> {
    if table.len() < ENTRY_BYTES || !table.starts_with(ENTRY) {
        return Ok(None);
    }
    let [name_bytes, extra_bytes, comment_bytes] = [28, 30, 32].map(|at| usize::from(u16_at(table, at)));
    let variable = &table[ENTRY_BYTES..];
    let Some((raw_name, after)) = variable.split_at_checked(name_bytes) else { return Ok(None) };
    let Some((extra, after)) = after.split_at_checked(extra_bytes) else { return Ok(None) };
    let Some((_, rest)) = after.split_at_checked(comment_bytes) else { return Ok(None) };
    let name = String::from_utf8_lossy(raw_name).into_owned();
    let say = |problem: String| format!("{name:?} {problem}");

    if u16_at(table, 8) & 1 != 0 {
        return Err(say("is encrypted".to_owned()));
    }
    let deflated = match u16_at(table, 10) {
        0 => false,
        8 => true,
        method => {
            return Err(say(format!("is packed by method {method}; stored and deflated ones can be read")));
        }
    };
    let crc32 = u32_at(table, 16);
    let narrow = [u32_at(table, 24), u32_at(table, 20), u32_at(table, 42)];
    let [unpacked, packed, local] =
        wide(narrow, extra).ok_or_else(|| say("has no 64-bit sizes where they should be".to_owned()))?;

    // The local header has a name and an extra field of its own lengths.
    let outside = || say(format!("lies outside of the file: {packed} bytes at byte {local}"));
    let local = usize::try_from(local).ok().and_then(|at| Some((at, bytes.get(at..)?.get(..LOCAL_BYTES)?)));
    let (at, header) = local.filter(|(_, header)| header.starts_with(MAGIC)).ok_or_else(outside)?;
    let local_name = bytes[at + LOCAL_BYTES..].get(..usize::from(u16_at(header, 26))).ok_or_else(outside)?;
    if local_name != raw_name {
        let local_name = String::from_utf8_lossy(local_name);
        return Err(say(format!("is called {local_name:?} where its bytes are")));
    }
    let start = at + LOCAL_BYTES + local_name.len() + usize::from(u16_at(header, 28));
    let end = usize::try_from(packed).ok().and_then(|packed| start.checked_add(packed));
    let end = end.filter(|&end| end <= bytes.len()).ok_or_else(outside)?;
    let most =
        if deflated { packed.saturating_mul(MAX_INFLATION).saturating_add(MAX_INFLATION) } else { packed };
    if unpacked > most || (!deflated && unpacked != packed) {
        return Err(say(format!("claims to unpack {packed} bytes to {unpacked}, which cannot be")));
    }
    Ok(Some((name.clone(), Member { range: start..end, deflated, bytes: unpacked, crc32 }, rest)))
}

/// Those of the numbers that do not fit into 32 bits stand in an extra field, one behind the other.
fn wide(narrow: [u32; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    let mut numbers = narrow.map(u64::from);
    if !narrow.contains(&u32::MAX) {
        return Some(numbers);
    }
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let field = extra.get(4..4 + length)?;
        if id == 1 {
            let mut wide = field.chunks_exact(8);
            for number in numbers.iter_mut().filter(|number| **number == u64::from(u32::MAX)) {
                *number = u64_at(wide.next()?, 0);
            }
            return Some(numbers);
        }
        extra = &extra[4 + length..];
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The same error, of the format that the archive is.
pub(super) fn of_format(error: DemoError, name: &'static str) -> DemoError {
    match error {
        DemoError::Format { path, at, problem, .. } => DemoError::Format { format: name, path, at, problem },
        other => other,
    }
}
