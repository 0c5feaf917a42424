//! Copying out of a mapping, where the file lies in large pages: they cost few faults, the processor copies with stores that pass its
//! caches by, and that takes two thirds of what the kernel needs for a read of the same bytes.

use super::parallel::{Share, copy};
use crate::tensor::storage::file::SharedFile;
use core::arch::x86_64::{__m128i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128};
use core::mem::MaybeUninit;
use core::ops::Range;
use crc32fast::Hasher;

/// A page fault for so many bytes is no cost.
const MAPPED_BYTES: usize = 512 << 10;
/// What is summed and then copied. So little that the processor works on the next sum while the stores of the last piece are under way.
const PIECE_BYTES: usize = 1 << 10;
/// So far ahead memory is asked for: the processor itself does not look beyond a page of 4 KiB.
const AHEAD_BYTES: usize = 4 << 10;
/// What is stored in a row: a line of the cache.
const LINE_BYTES: usize = 64;

/// Fills a share out of the mapping and sums it, if it lies in large pages.
pub(super) fn fill(file: &SharedFile, share: &mut Share<'_>, mut hasher: Option<&mut Hasher>) -> bool {
    let range = share.at..share.at + share.to.len();
    if !is_in_large_pages(file, range.clone()) {
        return false;
    }
    for (to, from) in share.to.chunks_mut(PIECE_BYTES).zip(file.bytes()[range].chunks(PIECE_BYTES)) {
        if let Some(hasher) = &mut hasher {
            hasher.update(from);
        }
        stream(from, to);
    }
    fence();
    true
}

/// Maps all pages of a range, and says whether that took few faults: large pages, or pages that were mapped before. `false` also where a
/// page is not in memory, or no more in the file: a read waits for the one with the next ones under way, and has an error for the other.
fn is_in_large_pages(file: &SharedFile, range: Range<usize>) -> bool {
    // A look at the first of them is enough where they are small.
    let first = range.start..range.end.min(range.start + MAPPED_BYTES);
    [first, range].into_iter().all(|range| {
        let most = 2 + (range.len() / MAPPED_BYTES) as i64;
        let Some((small, large)) = faults() else { return false };
        let is_there = file.populate(range).is_ok();
        is_there && faults().is_some_and(|after| after.0 - small <= most && after.1 == large)
    })
}

/// The page faults of this thread so far: those that found the page in memory, and those that waited for a disk.
fn faults() -> Option<(i64, i64)> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: 1. There is room for the answer. 2. It is read only where the call says that it was written.
    unsafe {
        (libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) == 0).then(|| {
            let usage = usage.assume_init();
            (usage.ru_minflt, usage.ru_majflt)
        })
    }
}

/// Copies past the caches, into room for as many bytes.
fn stream(from: &[u8], to: &mut [MaybeUninit<u8>]) {
    let to = &mut to[..from.len()];
    let (head, tail) = to.split_at_mut(to.as_ptr().align_offset(LINE_BYTES).min(to.len()));
    let (from_head, from_tail) = from.split_at(head.len());
    copy(from_head, head);
    let (to_lines, to_rest) = tail.as_chunks_mut::<LINE_BYTES>();
    let (from_lines, from_rest) = from_tail.as_chunks::<LINE_BYTES>();
    for (to, from) in to_lines.iter_mut().zip(from_lines) {
        let (to, from) = (to.as_mut_ptr().cast::<__m128i>(), from.as_ptr().cast::<__m128i>());
        // SAFETY: 1. Both are lines of 64 bytes, which is four times 16, and do not overlap: one is borrowed to be written. 2. The
        // line that is written begins at a multiple of 64. 3. Every x86-64 has these instructions. 4. To ask ahead is no access.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(from.cast::<i8>().wrapping_add(AHEAD_BYTES));
            let line = [0, 1, 2, 3].map(|at| _mm_loadu_si128(from.add(at)));
            for (at, bytes) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(at), bytes);
            }
        }
    }
    copy(from_rest, to_rest);
}

/// Waits until what was copied is where every thread sees it: other stores could come before those past the caches.
fn fence() {
    // SAFETY: 1. Every x86-64 has this instruction.
    unsafe { _mm_sfence() };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_byte_is_copied_wherever_it_starts() {
        let from: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for start in 0..70 {
            for length in [0, 1, 15, 16, 63, 64, 65, 200, 700] {
                let mut to = [MaybeUninit::new(0u8); 1000];
                stream(&from[start..start + length], &mut to[start / 2 + 1..][..length]);
                fence();
                // SAFETY: 1. All were written when the array was made.
                let to = to.map(|byte| unsafe { byte.assume_init() });
                let at = start / 2 + 1;
                assert_eq!(to[at..at + length], from[start..start + length]);
                assert!(to[..at].iter().chain(&to[at + length..]).all(|byte| *byte == 0));
            }
        }
    }
}
