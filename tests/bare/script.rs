//! The randomized script of `tests/spaces/` for a heap on bare metal: no overlap, alignment, bytes intact, the numbers true
//! after every step, bad frees refused, everything returned.

use crate::tally::Tally;
use core::alloc::{GlobalAlloc, Layout};
use core::fmt::Write;
use core::ptr::NonNull;
use democratising::arena::Stats;
use democratising::error::BadFree;
use democratising::lock_api::RawMutex;
use democratising::{FixedHeap, TensorBuf};

/// Numbers that look random and are the same each time (xorshift64*, Vigna 2016).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end.max(1)
    }
}

#[derive(Clone, Copy)]
struct Live {
    at: NonNull<u8>,
    layout: Layout,
    bytes: usize,
    pattern: u8,
}

/// Every byte of a small block; of a large one both ends and a byte of each 4 KiB.
fn edges(bytes: usize) -> impl Iterator<Item = usize> {
    (0..bytes.min(64)).chain((4096..bytes).step_by(4096)).chain(bytes.saturating_sub(64).max(64)..bytes)
}

impl Live {
    fn fill(&self) {
        for at in edges(self.bytes) {
            // SAFETY: 1. The block is live and `at` lies in it.
            unsafe { self.at.add(at).write_volatile(self.pattern ^ at as u8) };
        }
    }

    /// Whether the first `bytes` hold what `fill` wrote.
    fn holds(&self, at: NonNull<u8>, bytes: usize) -> bool {
        edges(self.bytes).filter(|place| *place < bytes).all(|place| {
            // SAFETY: 1. The block is live, `place` lies in it, and `fill` or a move wrote there.
            unsafe { at.add(place).read_volatile() == self.pattern ^ place as u8 }
        })
    }
}

/// What the script found.
struct Findings {
    apart: bool,
    aligned: bool,
    intact: bool,
    counted: bool,
    refused: bool,
    returned: bool,
}

/// The heap under test and the blocks it has handed out, at most `SLOTS` of them.
struct Play<'a, L: RawMutex, const ARENAS: usize, const SLOTS: usize> {
    heap: &'a FixedHeap<L, ARENAS>,
    live: [Option<Live>; SLOTS],
    found: Findings,
    patterns: u8,
}

impl<L: RawMutex, const ARENAS: usize, const SLOTS: usize> Play<'_, L, ARENAS, SLOTS> {
    fn took(&mut self, slot: usize, at: NonNull<u8>, layout: Layout) {
        let start = at.as_ptr() as usize;
        let bytes = self.heap.usable_bytes(at).map_or(0, |bytes| bytes as usize);
        self.found.counted &= bytes >= layout.size();
        self.found.aligned &= start.is_multiple_of(layout.align());
        self.found.apart &= self.live.iter().flatten().all(|other| {
            let there = other.at.as_ptr() as usize;
            start + bytes <= there || there + other.bytes <= start
        });
        self.patterns = self.patterns.wrapping_add(1);
        let block = Live { at, layout, bytes, pattern: self.patterns };
        block.fill();
        self.live[slot] = Some(block);
    }

    fn allocate(&mut self, slot: usize, layout: Layout) {
        let before = self.heap.stats();
        match self.heap.allocate(layout) {
            Ok(block) => self.took(slot, block.addr, layout),
            Err(_) => self.found.counted &= self.heap.stats() == failed_once(before),
        }
    }

    fn free(&mut self, slot: usize, random: &mut Random) {
        let Some(block) = self.live[slot].take() else { return };
        self.found.intact &= block.holds(block.at, block.bytes);
        // SAFETY: 1. The block is used no more.
        let freed = unsafe {
            if random.below(4) == 0 {
                self.heap.free_unsized(block.at)
            } else {
                self.heap.free(block.at, block.layout)
            }
        };
        self.found.returned &= freed.is_ok();
        if random.below(4) == 0 {
            let before = self.heap.stats();
            // SAFETY: 1. It is refused: nothing was handed out since.
            let again = unsafe { self.heap.free(block.at, block.layout) };
            self.found.refused &=
                matches!(again, Err(BadFree::AlreadyFree { .. } | BadFree::Interior { .. }));
            self.found.refused &= self.heap.stats() == before;
        }
    }

    fn realloc(&mut self, slot: usize, bytes: usize) {
        let Some(block) = self.live[slot].take() else { return };
        // SAFETY: 1. The block is used under its new address only, unless there is none.
        let to = unsafe { self.heap.realloc(block.at.as_ptr(), block.layout, bytes) };
        let (at, layout) = match (NonNull::new(to), Layout::from_size_align(bytes, block.layout.align())) {
            (Some(to), Ok(new)) => (to, new),
            _ => (block.at, block.layout),
        };
        self.found.intact &= block.holds(at, block.layout.size().min(layout.size()));
        self.took(slot, at, layout);
    }

    fn misuse(&mut self, slot: usize, random: &mut Random) {
        let Some(block) = self.live[slot] else { return };
        let before = self.heap.stats();
        let mut mine = 0u64;
        let wrong =
            Layout::from_size_align(block.bytes + 1, block.layout.align()).unwrap_or(Layout::new::<u8>());
        // SAFETY: 1. Each is refused.
        let refused = unsafe {
            let inside = block.at.add((1 + random.below(block.bytes - 1)).min(block.bytes - 1));
            matches!(self.heap.free(inside, block.layout), Err(BadFree::Interior { .. }))
                && matches!(self.heap.free(block.at, wrong), Err(BadFree::WrongSize { .. }))
                && self.heap.free(NonNull::from(&mut mine).cast(), Layout::new::<u64>())
                    == Err(BadFree::Foreign)
        };
        self.found.refused &= refused && self.heap.stats() == before;
    }

    fn count(&mut self) {
        let stats = self.heap.stats();
        let bytes: usize = self.live.iter().flatten().map(|block| block.bytes).sum();
        self.found.counted &= stats.in_use_bytes == bytes as u64
            && stats.blocks == self.live.iter().flatten().count() as u64
            && stats.peak_in_use_bytes >= stats.in_use_bytes;
    }
}

fn failed_once(mut stats: Stats) -> Stats {
    stats.failures += 1;
    stats
}

/// Plays `steps` steps with blocks of up to `most_bytes` on a heap that nobody else uses and that holds nothing.
pub fn play<W: Write, L: RawMutex, const ARENAS: usize, const SLOTS: usize>(
    heap: &FixedHeap<L, ARENAS>,
    tally: &mut Tally<W>,
    seed: u64,
    steps: u32,
    most_bytes: usize,
) {
    let mut random = Random::new(seed);
    let before = heap.stats();
    let mut play = Play::<L, ARENAS, SLOTS> {
        heap,
        live: [None; SLOTS],
        found: Findings {
            apart: true,
            aligned: true,
            intact: true,
            counted: before.blocks == 0,
            refused: true,
            returned: true,
        },
        patterns: 0,
    };
    for _ in 0..steps {
        let slot = random.below(SLOTS);
        let bytes = match random.below(8) {
            0 => random.below(most_bytes),
            1 | 2 => random.below(most_bytes / 16),
            _ => random.below(512),
        };
        match (random.below(12), play.live[slot].is_some()) {
            (0, true) => play.misuse(slot, &mut random),
            (1..=3, true) => play.realloc(slot, bytes),
            (_, true) => play.free(slot, &mut random),
            (_, false) => {
                let align = 1 << [0, 3, 3, 4, 6, random.below(13)][random.below(6)];
                let layout = Layout::from_size_align(bytes, align);
                play.allocate(slot, layout.unwrap_or(Layout::new::<u64>()));
            }
        }
        play.count();
    }
    for slot in 0..SLOTS {
        play.free(slot, &mut random);
    }
    play.count();
    let (found, after) = (play.found, heap.stats());
    tally.check("no two blocks overlap", found.apart);
    tally.check("every block is aligned as asked", found.aligned);
    tally.check("every block keeps its bytes", found.intact);
    tally.check("the numbers are true after every step", found.counted);
    tally.check("bad frees are refused and change nothing", found.refused);
    tally.check("every block can be given back", found.returned && heap.live_spans().next().is_none());
    tally.check("all memory is free again", after.largest_free_bytes == before.largest_free_bytes);
    let done = after.allocations - before.allocations;
    let failed = after.failures - before.failures;
    tally.check("the script does what it is for", done > steps as u64 / 4);
    let _ = writeln!(tally.out, "seed {seed}: {done} blocks, {failed} requests refused");
}

/// Takes all of a heap in blocks of one size, and gives it back.
pub fn exhaust<W: Write, L: RawMutex, const ARENAS: usize>(
    heap: &FixedHeap<L, ARENAS>,
    tally: &mut Tally<W>,
    block_bytes: usize,
) {
    let Ok(layout) = Layout::from_size_align(block_bytes, 8) else { return };
    let before = heap.stats();
    // The blocks are a list through their own first words.
    let mut last: Option<NonNull<Option<NonNull<u8>>>> = None;
    let mut count = 0u64;
    while let Ok(block) = heap.allocate(layout) {
        let link = block.addr.cast();
        // SAFETY: 1. The block is live, aligned to 8 and longer than a pointer.
        unsafe { link.write(last.map(NonNull::cast)) };
        last = Some(link);
        count += 1;
    }
    let full = heap.stats();
    tally.check(
        "a full heap says so",
        full.largest_free_bytes < block_bytes as u64 && full.failures > before.failures,
    );
    let usable = before.largest_free_bytes / 100 * 90;
    tally.check("nearly all of a heap can be had", count * block_bytes as u64 >= usable);
    let mut freed = 0;
    while let Some(block) = last {
        // SAFETY: 1. The block is live and holds a link.
        last = unsafe { block.read() }.map(NonNull::cast);
        // SAFETY: 1. Nobody uses the block any more.
        freed += unsafe { heap.free(block.cast(), layout) }.is_ok() as u64;
    }
    let after = heap.stats();
    tally.check(
        "a full heap recovers",
        freed == count && after.largest_free_bytes == before.largest_free_bytes,
    );
}

/// Tensors without `std` and without `alloc`.
pub fn tensors<W: Write, L: RawMutex, const ARENAS: usize>(
    heap: &FixedHeap<L, ARENAS>,
    tally: &mut Tally<W>,
) {
    let before = heap.stats();
    let sum = || -> democratising::Result<f32> {
        let halves = TensorBuf::<f32, _>::from_fn_in(&[8, 16], heap, |i| i as f32 * 0.5)?;
        let mut sums = TensorBuf::<f32, _>::zeros_in(&[8], heap)?;
        for (sum, row) in sums.iter_mut().zip(halves.chunks(16)) {
            *sum = row.iter().sum();
        }
        Ok(sums.iter().sum())
    };
    tally.check("tensors are made, filled and summed", matches!(sum(), Ok(sum) if sum == 4064.0));
    tally.check(
        "a tensor that cannot be is an error",
        TensorBuf::<f64, _>::zeros_in(&[1 << 27], heap).is_err(),
    );
    let after = heap.stats();
    tally.check(
        "tensors give their memory back",
        after.in_use_bytes == before.in_use_bytes && after.allocations > before.allocations,
    );
}
