//! When the process's memory lies in huge pages: not while a program is small, and from then on all of it; of a compact heap what is full
//! and what comes.
#![cfg(target_os = "linux")]

use democratising::size::{Granule, Span};
use democratising::space::{Mapped, Space};
use std::fs;
use std::ptr::NonNull;

const FRAME: usize = 2 << 20;

/// Whether the kernel makes huge pages of small ones when it is asked to: Linux 6.1 and later, unless somebody forbade it.
fn kernel_collapses() -> bool {
    let len = 2 * FRAME;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: 1. A new private mapping, used nowhere else, and unmapped before the end. 2. The frame lies within it.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        let frame = at.add(at.align_offset(FRAME));
        frame.cast::<u8>().write(1);
        let done = libc::madvise(frame, FRAME, libc::MADV_COLLAPSE) == 0;
        libc::munmap(at, len);
        done
    }
}

/// The bytes in huge pages of the mappings that begin in a range.
fn huge_bytes(from: NonNull<u8>, len: usize) -> usize {
    let range = from.as_ptr().addr()..from.as_ptr().addr() + len;
    let mut inside = false;
    let mut bytes = 0;
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let start = line.split_once('-').and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
        if let Some(start) = start {
            inside = range.contains(&start);
        } else if let Some(kib) = line.strip_prefix("AnonHugePages:").filter(|_| inside) {
            bytes += kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
        }
    }
    bytes
}

/// What the kernel notes of the mapping of an address: `hg` where huge pages are asked for, `nh` where they are forbidden.
fn flags(at: NonNull<u8>) -> String {
    let mut inside = false;
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let range =
            range.map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)));
        if let Some((Ok(start), Ok(end))) = range {
            inside = (start..end).contains(&at.as_ptr().addr());
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.to_owned();
        }
    }
    panic!("nothing is mapped at {at:?}");
}

/// Where the system makes huge pages of all that it can (`always`), it would of the first memory too, and of what lies there in time.
#[test]
fn the_first_memory_is_on_small_pages_whatever_the_system_does_by_itself() {
    let Some(memory) = Memory::reserve() else { return };
    let (start, first) = (memory.start(), if cfg!(feature = "compact") { 4 } else { 2 });
    // SAFETY: 1. In the reservation.
    let behind = |frames: usize| unsafe { start.add(frames * FRAME) };
    let are = |told: [(usize, &str); 4]| {
        for (frames, flag) in told {
            assert!(flags(behind(frames)).contains(flag), "{frames}: {}", flags(behind(frames)));
        }
    };
    let _ = memory.0.commit(memory.frames(0, first)).unwrap();
    are([(0, " nh"), (first - 1, " nh"), (first, " nh"), (63, " nh")]);
    let _ = memory.0.commit(memory.frames(first, 1)).unwrap();
    let flag = if cfg!(feature = "compact") { " nh" } else { " hg" };
    are([(0, flag), (first - 1, flag), (first, " hg"), (63, " hg")]);
}

/// Memory of the process, of which nothing is committed.
struct Memory(Mapped);

impl Memory {
    /// `None`, which is told: nothing is to be seen here.
    fn reserve() -> Option<Memory> {
        if !kernel_collapses() {
            assert!(std::env::var_os("CI").is_none(), "this kernel makes no huge pages: nothing to see here");
            eprintln!("not shown: this kernel makes no huge pages of small ones");
            return None;
        }
        Some(Memory(Mapped::reserve(64 * FRAME).unwrap()))
    }

    fn start(&self) -> NonNull<u8> {
        self.0.addr(self.0.geometry().offset(Granule(0)))
    }

    fn frames(&self, first: usize, frames: usize) -> Span {
        let granules = |frames: usize| self.0.geometry().granules((frames * FRAME) as u64).unwrap();
        Span { start: Granule(granules(first)), granules: granules(frames) }
    }
}

#[cfg(feature = "compact")]
#[test]
fn what_is_full_of_the_first_memory_becomes_huge_pages_once_a_program_has_more_and_keeps_what_it_holds() {
    let Some(memory) = Memory::reserve() else { return };
    let (start, frames) = (memory.start(), |first, frames| memory.frames(first, frames));
    let space = &memory.0;
    // SAFETY: 1. Only pages of committed frames are read and written, by nobody else.
    let page = |number: usize| unsafe { start.add(number << 12) };
    const FULL: usize = 500;
    const HALF: usize = 300;
    let _ = space.commit(frames(0, 3)).unwrap();
    let held = || (0..FULL).chain(512..512 + HALF);
    for number in held() {
        // SAFETY: 1. See above.
        unsafe { page(number).write(number as u8) };
    }
    let _ = space.commit(frames(3, 1)).unwrap();
    assert_eq!(huge_bytes(start, 4 * FRAME), 0, "a small program stays on small pages");

    let _ = space.commit(frames(4, 1)).unwrap();
    assert_eq!(huge_bytes(start, 64 * FRAME), FRAME, "the frame that is full, none that is not");
    for number in 0..1024 {
        // SAFETY: 1. See above.
        let byte = unsafe { page(number).read() };
        assert_eq!(byte, if held().any(|held| held == number) { number as u8 } else { 0 }, "page {number}");
    }
    // SAFETY: 1. See above.
    unsafe { page(4 * 512).write(1) };
    assert_eq!(huge_bytes(start, 64 * FRAME), 2 * FRAME, "what comes is huge from the start");
}

#[cfg(not(feature = "compact"))]
#[test]
fn the_first_memory_becomes_huge_pages_once_a_program_has_more_and_keeps_what_it_holds() {
    let Some(memory) = Memory::reserve() else { return };
    let (start, frames) = (memory.start(), |first, frames| memory.frames(first, frames));
    let space = &memory.0;
    // SAFETY: 1. Only pages of committed frames are read and written, by nobody else.
    let page = |number: usize| unsafe { start.add(number << 12) };
    let _ = space.commit(frames(0, 1)).unwrap();
    for number in 0..200 {
        // SAFETY: 1. See above.
        unsafe { page(number).write(number as u8) };
    }
    let _ = space.commit(frames(1, 1)).unwrap();
    assert_eq!(huge_bytes(start, 2 * FRAME), 0, "a small program stays on small pages");

    let _ = space.commit(frames(2, 1)).unwrap();
    assert_eq!(huge_bytes(start, 64 * FRAME), FRAME, "the frame that is used, and none that is not");
    for number in 0..512 {
        // SAFETY: 1. See above.
        let held = unsafe { page(number).read() };
        assert_eq!(held, if number < 200 { number as u8 } else { 0 }, "page {number}");
    }
    // SAFETY: 1. See above.
    unsafe { page(1024).write(1) };
    assert_eq!(huge_bytes(start, 64 * FRAME), 2 * FRAME, "what comes is huge from the start");
}
