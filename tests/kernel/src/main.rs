//! An x86-64 kernel that boots by itself, claims what the memory map calls free, and puts its heap to the test.
//!
//! `cargo run --release` in this folder, with qemu-system-x86_64: exit code 0 says that everything held.

#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod machine;
#[path = "../../bare/script.rs"]
mod script;
#[path = "../../bare/tally.rs"]
mod tally;

use alloc::{boxed::Box, collections::BTreeMap, format, string::String, vec::Vec};
use boot::StartInfo;
use core::fmt::Write;
use democratising::FixedHeap;
use democratising::heap::fixed::NotClaimed;
use machine::{Serial, exit};
use tally::Tally;

type Heap = FixedHeap<democratising::SpinLock, { boot::RANGES }>;

#[global_allocator]
static HEAP: Heap = FixedHeap::empty();

extern "C" fn main(info: *const StartInfo) -> ! {
    let mut tally = Tally::new(Serial);
    tally.check("a heap without memory has none", Vec::<u8>::new().try_reserve(1).is_err());
    // SAFETY: 1. It is what the boot loader handed over, and nothing was written yet.
    let Some(ranges) = (unsafe { boot::free_ranges(info) }) else {
        tally.check("the boot loader hands over a memory map that can be read", false);
        exit(tally.end())
    };
    for (start, bytes) in ranges.into_iter().flatten() {
        // SAFETY: 1. The memory map says that nobody else uses it; it is mapped and not the image.
        let claimed = unsafe { HEAP.claim(start as *mut u8, bytes as usize) };
        let _ = writeln!(tally.out, "claimed {bytes} bytes at {start:#x}: {claimed:?}");
        tally.check("a free range is claimed", claimed.is_ok());
        // SAFETY: 1. It is refused.
        let again = unsafe { HEAP.claim((start + bytes / 2) as *mut u8, 4096) };
        tally.check("and only once", matches!(again, Err(NotClaimed::Overlaps { .. })));
    }
    tally.check("there are several ranges", ranges.iter().flatten().count() >= 2);
    for (seed, most_bytes) in [(1, 4 << 10), (2, 256 << 10), (3, 8 << 20), (4, 64 << 20)] {
        script::play::<_, _, _, 256>(&HEAP, &mut tally, seed, 20_000, most_bytes);
    }
    script::exhaust(&HEAP, &mut tally, 100_000);
    script::exhaust(&HEAP, &mut tally, 4096);
    script::tensors(&HEAP, &mut tally);
    collections(&mut tally);
    let _ = writeln!(tally.out, "{}", HEAP.stats());
    exit(tally.end())
}

fn collections(tally: &mut Tally<Serial>) {
    {
        let squares: BTreeMap<u64, Box<u64>> = (0..1000).map(|i| (i, Box::new(i * i))).collect();
        let text: String = squares.values().take(4).map(|square| format!("{square} ")).collect();
        tally.check("collections work", text == "0 1 4 9 " && *squares[&999] == 998_001);
        let huge = Vec::<u8>::new().try_reserve_exact(1 << 40);
        tally.check("what cannot be is an error, not an end", huge.is_err());
    }
    tally.check("collections give their memory back", HEAP.stats().in_use_bytes == 0);
}
