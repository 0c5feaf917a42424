//! Any bytes, as a script for a fixed heap: claims, allocations, frees, resizes and misuse, against a map of what is live.
//!
//! Four bytes are a step: what to do, then a number that says with what. Whatever they say, the heap must keep what it
//! promises; a broken promise is a panic.

use democratising::error::BadFree;
use democratising::heap::OnMisuse;
use democratising::{FixedHeap, SpinLock};
use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::ptr::NonNull;

const RAM: Layout = match Layout::from_size_align(6 << 20, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("that is a layout"),
};

/// Memory for as long as one input is played.
struct Ram(NonNull<u8>);

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: 1. It was allocated so, and its heap is gone.
        unsafe { std::alloc::dealloc(self.0.as_ptr(), RAM) }
    }
}

#[derive(Clone, Copy)]
struct Block {
    at: NonNull<u8>,
    layout: Layout,
    bytes: usize,
    pattern: u8,
}

impl Block {
    /// Both ends and a byte now and then.
    fn places(bytes: usize) -> impl Iterator<Item = usize> {
        (0..bytes.min(16)).chain((64..bytes).step_by(509)).chain(bytes.saturating_sub(8)..bytes)
    }

    fn fill(&self) {
        for place in Self::places(self.bytes) {
            // SAFETY: 1. The block is live and the place lies in it.
            unsafe { self.at.add(place).write(self.pattern ^ place as u8) };
        }
    }

    /// Holds the first bytes to what was written when the block was as long as `self`.
    fn check(&self, at: NonNull<u8>, bytes: usize) {
        for place in Self::places(self.bytes).filter(|place| *place < bytes) {
            // SAFETY: 1. The block at `at` is live and that long.
            let byte = unsafe { at.add(place).read() };
            assert_eq!(byte, self.pattern ^ place as u8, "byte {place} of {self:?}");
        }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:p} for {:?}", self.bytes, self.at, self.layout)
    }
}

struct Play {
    heap: FixedHeap<SpinLock, 3>,
    ram: Ram,
    live: BTreeMap<usize, Block>,
    patterns: u8,
}

/// A layout of a number: sizes of every order, alignments to 4 KiB.
fn layout(number: usize) -> Layout {
    let bytes = match number % 5 {
        0 | 1 => number / 5 % 256,
        2 => number / 5 % 2100,
        3 => number / 5 % 20_000,
        _ => (number / 5) << 4,
    };
    let align = if number.is_multiple_of(7) { 1 << (number / 7 % 13) } else { 8 };
    Layout::from_size_align(bytes, align).expect("a small layout")
}

impl Play {
    fn took(&mut self, at: NonNull<u8>, layout: Layout) {
        let start = at.as_ptr() as usize;
        let bytes = self.heap.usable_bytes(at).expect("a block that is live") as usize;
        assert!(bytes >= layout.size() && start.is_multiple_of(layout.align()));
        let base = self.ram.0.as_ptr() as usize;
        assert!(start >= base && start + bytes <= base + RAM.size(), "outside of all memory");
        if let Some((_, below)) = self.live.range(..start + bytes).next_back() {
            assert!(below.at.as_ptr() as usize + below.bytes <= start, "{below:?} overlaps {start:#x}");
        }
        self.patterns = self.patterns.wrapping_add(37);
        let block = Block { at, layout, bytes, pattern: self.patterns };
        block.fill();
        self.live.insert(start, block);
    }

    fn pick(&self, number: usize) -> Option<Block> {
        self.live.values().nth(number % self.live.len().max(1)).copied()
    }

    fn step(&mut self, what: u8, number: usize) -> Option<()> {
        let heap = &self.heap;
        match what % 16 {
            0 => {
                let at = (number & 0xff) << 14;
                let len = ((number >> 8 & 0xff) + 1) << (6 + (number >> 16) % 11);
                let len = len.min(RAM.size() - at);
                // SAFETY: 1. The memory is the test's; ranges that overlap are refused. 2. The heap goes first.
                let _ = unsafe { heap.claim(self.ram.0.as_ptr().wrapping_add(at), len) };
            }
            1..8 => {
                let layout = layout(number);
                // SAFETY: 1. A layout without bytes gets a block as any other.
                let at = unsafe { heap.alloc(layout) };
                self.took(NonNull::new(at)?, layout);
            }
            8..12 => {
                let block = self.pick(number)?;
                block.check(block.at, block.bytes);
                // SAFETY: 1. It is used no more; a second free is refused.
                let (freed, again) = unsafe {
                    let freed = match what & 1 {
                        0 => heap.free(block.at, block.layout),
                        _ => heap.free_unsized(block.at),
                    };
                    (freed, heap.free(block.at, block.layout))
                };
                assert_eq!(freed, Ok(()), "{block:?}");
                assert!(
                    matches!(again, Err(BadFree::AlreadyFree { .. } | BadFree::Interior { .. })),
                    "{again:?}"
                );
                self.live.remove(&(block.at.as_ptr() as usize));
            }
            12 | 13 => {
                let block = self.pick(number)?;
                let bytes = layout(number / 3).size();
                // SAFETY: 1. The block is used under its new address only, unless there is none.
                let to = unsafe { heap.realloc(block.at.as_ptr(), block.layout, bytes) };
                let Some(to) = NonNull::new(to) else {
                    assert!(bytes > block.layout.size(), "a shrink needs no memory");
                    return None;
                };
                block.check(to, block.layout.size().min(bytes));
                self.live.remove(&(block.at.as_ptr() as usize));
                self.took(to, Layout::from_size_align(bytes, block.layout.align()).ok()?);
            }
            14 => {
                let block = self.pick(number)?;
                let inside =
                    block.at.as_ptr().wrapping_add(1 + number % block.bytes.max(2).saturating_sub(1));
                // SAFETY: 1. Each is refused.
                let refused = unsafe {
                    let longer = Layout::from_size_align(block.bytes + 1, 1).ok()?;
                    [heap.free(NonNull::new(inside)?, block.layout), heap.free(block.at, longer)]
                };
                assert!(refused.iter().all(Result::is_err), "{refused:?} for {block:?}");
            }
            _ => {
                let stats = heap.stats();
                let bytes: usize = self.live.values().map(|block| block.bytes).sum();
                assert_eq!((stats.blocks as usize, stats.in_use_bytes as usize), (self.live.len(), bytes));
                let spans = heap.live_spans();
                let held = spans
                    .map(|span| span.slots.map_or(span.bytes, |slots| slots.slot_bytes * slots.taken as u64));
                assert_eq!(held.sum::<u64>(), stats.in_use_bytes);
            }
        }
        Some(())
    }
}

/// Plays a script and gives everything back.
pub fn play(script: &[u8]) {
    // SAFETY: 1. The layout is not empty.
    let ram = Ram(NonNull::new(unsafe { std::alloc::alloc(RAM) }).expect("memory for a heap"));
    let heap = FixedHeap::empty();
    heap.on_misuse(OnMisuse::Stop);
    let mut play = Play { heap, ram, live: BTreeMap::new(), patterns: 0 };
    for step in script.chunks_exact(4) {
        play.step(step[0], u32::from_le_bytes([step[1], step[2], step[3], 0]) as usize);
    }
    let largest = play.heap.stats().limit_bytes;
    for block in std::mem::take(&mut play.live).into_values() {
        block.check(block.at, block.bytes);
        // SAFETY: 1. It is used no more.
        unsafe { play.heap.free(block.at, block.layout) }.expect("a block that is live");
    }
    let stats = play.heap.stats();
    assert_eq!((stats.blocks, stats.in_use_bytes, play.heap.live_spans().count()), (0, 0, 0));
    assert!(stats.largest_free_bytes <= largest);
}
