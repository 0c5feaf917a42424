//! Reading all elements of a file into memory of our own: large reads, several at once.
//!
//! A mapping is the cheapest way to look at some of a file. Who wants all of it in memory that does not go away, or that
//! a device can copy from, reads: a page fault costs more than the copy of its page, but where pages are large (`large_pages.rs`). Memory
//! comes from the process's pool and is not cleared before, and each piece is summed while the processor's cache still has it.

use super::contents::{Entry, Plain};
use super::load::{Checkpoint, Inner};
use crate::device::Device;
#[cfg_attr(not(unix), allow(unused_imports))]
use crate::error::{DemoError, Result};
use crate::sync::{HostLock, Lock};
use crate::tensor::storage::file::SharedFile;
use crate::tensor::storage::unfilled::Unfilled;
use crate::tensor::{DType, Tensor};
use core::mem::MaybeUninit;
use core::ops::Range;
use crc32fast::Hasher;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

/// What one thread takes at a time.
const SHARE_BYTES: usize = 8 << 20;

/// What is on the host at once on its way to another device.
const ON_THE_WAY_BYTES: usize = 128 << 20;

/// What is read by one call, and summed while it is in the cache.
const READ_BYTES: usize = 512 << 10;

/// More threads than this only wait for the same memory.
const MAX_THREADS: usize = 8;

impl Checkpoint {
    /// Reads all tensors into memory of a device, by large reads on several threads; checksums are compared on the way.
    /// Nothing of the file stays mapped for them.
    ///
    /// Tensors that are views of one storage share it on the host here too. On the way to another device 128 MiB are on the host at most, or the
    /// longest tensor.
    ///
    /// A file that was cut short before is an error. One that is cut short meanwhile is one where it is read; where it lies in large
    /// pages (Linux on x86-64) it is copied out of the mapping, and that may stop the process by SIGBUS, as [`Checkpoint`] says.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] where they have no room; [`DemoError::Format`] where one is damaged, or of a dtype that is
    /// unknown here; [`DemoError::DeviceUnavailable`] for a device that cannot hold tensors.
    pub fn load_to(&self, device: &Device) -> Result<BTreeMap<String, Tensor>> {
        let inner = &*self.inner;
        let blocks = blocks(inner);
        let mut tensors = BTreeMap::new();
        for some in groups(&blocks, if device.is_host() { usize::MAX } else { ON_THE_WAY_BYTES }) {
            let storages = read(inner, some).map_err(|error| self.named(error))?;
            for (name, entry) in &inner.entries {
                if let Entry::Plain(plain) = entry
                    && is_bulk(plain)
                    && let Ok(at) = some.binary_search(&Block::of(plain))
                {
                    tensors.insert(name.clone(), plain.seen(storages[at].clone())?.to_device(device)?);
                }
            }
        }
        for name in inner.entries.keys() {
            // Compressed, read already, or nothing that can be: as get() has it.
            if !tensors.contains_key(name) {
                tensors.insert(name.clone(), self.get(name)?.to_device(device)?);
            }
        }
        Ok(tensors)
    }
}

/// Elements of one dtype in one part of the file; several tensors may be views of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Block {
    part: usize,
    start: usize,
    end: usize,
    dtype: &'static str,
}

impl Block {
    fn of(plain: &Plain) -> Block {
        Block { part: plain.part, start: plain.range.start, end: plain.range.end, dtype: plain.dtype.name() }
    }

    fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// What is read here: elements that stand in the file as in memory, and whose bytes need no look.
fn is_bulk(plain: &Plain) -> bool {
    !plain.swapped && plain.dtype != DType::Bool && !plain.range.is_empty()
}

/// The same blocks, so many in each group that they have no more bytes, or one.
fn groups(blocks: &[Block], most_bytes: usize) -> impl Iterator<Item = &[Block]> {
    let mut rest = blocks;
    core::iter::from_fn(move || {
        let mut bytes = 0usize;
        let fits = |block: &&Block| {
            bytes = bytes.saturating_add(block.range().len());
            bytes <= most_bytes
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (group, later) = rest.split_at_checked(count)?;
        rest = later;
        Some(group)
    })
}

/// What is to be read, each once, in the order of the file.
fn blocks(inner: &Inner) -> Vec<Block> {
    let plain = inner.entries.values().filter_map(|entry| match entry {
        Entry::Plain(plain) if is_bulk(plain) => Some(Block::of(plain)),
        _ => None,
    });
    let mut blocks: Vec<_> = plain.collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Some bytes to be read, and where they go.
pub(super) struct Share<'a> {
    block: usize,
    /// In the file.
    pub(super) at: usize,
    pub(super) to: &'a mut [MaybeUninit<u8>],
}

fn read(inner: &Inner, blocks: &[Block]) -> Result<Vec<crate::tensor::storage::Storage>> {
    let file = &*inner.file;
    let mut unfilled = Vec::new();
    for block in blocks {
        unfilled.push(Unfilled::pooled(block.range().len())?);
    }
    let mut shares = Vec::new();
    for (i, (block, to)) in blocks.iter().zip(&mut unfilled).enumerate() {
        let mut at = file.part(block.part).range().start + block.start;
        for to in to.bytes_mut().chunks_mut(SHARE_BYTES) {
            let bytes = to.len();
            shares.push(Share { block: i, at, to });
            at += bytes;
        }
    }

    let threads =
        std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS).min(shares.len());
    let summed = |block: usize| file.part(blocks[block].part).crc32().is_some();
    let waiting = Lock::<HostLock, _>::new(shares.into_iter().enumerate());
    let work = || -> Result<Vec<(usize, usize, Hasher)>> {
        let mut done = Vec::new();
        loop {
            let next = waiting.lock().next();
            let Some((number, mut share)) = next else { return Ok(done) };
            let block = share.block;
            done.push((number, block, fill(file, &mut share, summed(block))?));
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        // This thread works too, and alone where no other can be started.
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let own = work();
        let joined = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        core::iter::once(own).chain(joined).collect()
    });
    let mut sums = Vec::new();
    for result in results {
        sums.extend(result?);
    }
    sums.sort_unstable_by_key(|&(number, ..)| number);
    let mut whole: Vec<Hasher> = blocks.iter().map(|_| Hasher::new()).collect();
    for (_, block, sum) in &sums {
        whole[*block].combine(sum);
    }

    let mut storages = Vec::new();
    for ((block, unfilled), sum) in blocks.iter().zip(unfilled).zip(whole) {
        // A sum of some of a part says nothing of the part.
        if block.range() == (0..file.part(block.part).range().len()) {
            file.settle(block.part, sum.finalize())?;
        } else {
            file.checked(block.part)?;
        }
        let Some(dtype) = DType::from_name(block.dtype) else { unreachable!("the name is a dtype's own") };
        // SAFETY: 1. Each of its bytes was in exactly one share. 2. All shares were taken, and each was filled: an error
        // has returned above. 3. The dtype is not `Bool`, and every pattern is a value of all others.
        storages.push(unsafe { unfilled.filled(dtype) });
    }
    Ok(storages)
}

/// Fills a share with the file's bytes, all of them, and sums them if that is wanted.
fn fill(file: &SharedFile, share: &mut Share<'_>, summed: bool) -> Result<Hasher> {
    let mut hasher = Hasher::new();
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if super::large_pages::fill(file, share, summed.then_some(&mut hasher)) {
        return Ok(hasher);
    }
    let mut at = share.at;
    for to in share.to.chunks_mut(READ_BYTES) {
        let bytes = read_at(file, at, to)?;
        if summed {
            hasher.update(bytes);
        }
        at += bytes.len();
    }
    Ok(hasher)
}

/// The bytes from `at` on, as many as there is room for.
#[cfg(unix)]
fn read_at<'a>(file: &SharedFile, at: usize, to: &'a mut [MaybeUninit<u8>]) -> Result<&'a [u8]> {
    let Some(from) = file.file() else { return Ok(copy(&file.bytes()[at..], to)) };
    let failed = |source| DemoError::Io { action: "read", path: None, source };
    let mut filled = 0;
    while filled < to.len() {
        let read = rustix::io::pread(from, &mut to[filled..], (at + filled) as u64);
        match read.map(|(read, _)| read.len()) {
            Ok(0) => {
                return Err(failed(std::io::Error::new(
                    std::io::ErrorKind::UnexpectedEof,
                    "the file was cut short while it was open",
                )));
            }
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    // SAFETY: 1. The kernel has written each of them: `filled` counts what it said it did.
    Ok(unsafe { core::slice::from_raw_parts(to.as_ptr().cast(), to.len()) })
}

#[cfg(not(unix))]
fn read_at<'a>(file: &SharedFile, at: usize, to: &'a mut [MaybeUninit<u8>]) -> Result<&'a [u8]> {
    Ok(copy(&file.bytes()[at..], to))
}

/// Copies from memory.
pub(super) fn copy<'a>(from: &[u8], to: &'a mut [MaybeUninit<u8>]) -> &'a [u8] {
    let from = &from[..to.len()];
    for (to, &from) in to.iter_mut().zip(from) {
        to.write(from);
    }
    // SAFETY: 1. Each of them was written above: there are as many.
    unsafe { core::slice::from_raw_parts(to.as_ptr().cast(), to.len()) }
}
