//! What a process keeps after a peak: 300 MB are allocated, written and freed, and two seconds later its resident
//! memory is read.
#![forbid(unsafe_code)]

use crate::block::Block;
use crate::resident;
use crate::rng::Rng;
use std::io::Result;
use std::thread;
use std::time::{Duration, Instant};

/// The bytes of the peak.
const PEAK_BYTES: usize = 300 << 20;

/// How many blocks one vector holds.
const SHELF_BLOCKS: usize = 1024;

/// The time between the last free and the reading.
const REST: Duration = Duration::from_secs(2);

/// How the peak is made and what the process does afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The name in the table.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    smallest_bytes: usize,
    largest_bytes: usize,
    threads: usize,
    works_on: bool,
}

/// Every shape, in the order of the table.
pub const ALL: [Shape; 4] = [
    Shape {
        name: "small-idle",
        about: "16 B to 1 KiB, then asleep",
        smallest_bytes: 16,
        largest_bytes: 1 << 10,
        threads: 1,
        works_on: false,
    },
    Shape {
        name: "large-idle",
        about: "64 KiB to 16 MiB, then asleep",
        smallest_bytes: 64 << 10,
        largest_bytes: 16 << 20,
        threads: 1,
        works_on: false,
    },
    Shape {
        name: "mixed-working",
        about: "16 B to 16 MiB, then a few small blocks every 10 ms",
        smallest_bytes: 16,
        largest_bytes: 16 << 20,
        threads: 1,
        works_on: true,
    },
    Shape {
        name: "threads-working",
        about: "16 B to 64 KiB in two threads that end, then a few small blocks every 10 ms in the first",
        smallest_bytes: 16,
        largest_bytes: 64 << 10,
        threads: 2,
        works_on: true,
    },
];

/// The shape of that name.
pub fn named(name: &str) -> Option<&'static Shape> {
    ALL.iter().find(|shape| shape.name == name)
}

/// What was resident, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// With the peak's blocks alive.
    pub peak_kib: u64,
    /// Two seconds after the last was freed.
    pub rested_kib: u64,
}

/// Makes the peak, frees it, rests and reads.
pub fn run(shape: &Shape) -> Result<Resident> {
    if shape.threads == 1 {
        drop(peak(shape, 0));
    } else {
        // All peaks stand before the first is freed, each by the thread that made it.
        let ready = std::sync::Barrier::new(shape.threads);
        thread::scope(|scope| {
            for number in 0..shape.threads {
                let ready = &ready;
                scope.spawn(move || {
                    let blocks = peak(shape, number as u64);
                    ready.wait();
                    drop(blocks);
                });
            }
        });
    }
    let freed = Instant::now();
    let mut rng = Rng::new(99);
    while let Some(left) = REST.checked_sub(freed.elapsed()).filter(|left| !left.is_zero()) {
        if shape.works_on {
            let blocks: Vec<Block> = (0..50).map(|_| Block::new(rng.between(16, 512), 8, 1)).collect();
            std::hint::black_box(&blocks);
            drop(blocks);
            thread::sleep(left.min(Duration::from_millis(10)));
        } else {
            thread::sleep(left);
        }
    }
    Ok(Resident { peak_kib: resident::peak_kib()?, rested_kib: resident::now_kib()? })
}

/// One thread's share of the peak, in short vectors: one long vector would be a large block of its own, and moving it
/// a peak above the peak.
fn peak(shape: &Shape, seed: u64) -> Vec<Vec<Block>> {
    let mut rng = Rng::new(90 + seed);
    let mut shelves = Vec::with_capacity(PEAK_BYTES / (SHELF_BLOCKS * shape.smallest_bytes));
    // As many bytes in each doubling as in the next, not as many blocks: else a range this wide is all large blocks.
    let doublings = (shape.largest_bytes / shape.smallest_bytes).ilog2() as usize;
    let share = PEAK_BYTES / shape.threads / doublings;
    let mut used = 0;
    for doubling in 0..doublings {
        let base = shape.smallest_bytes << doubling;
        while used < share * (doubling + 1) {
            let mut shelf = Vec::with_capacity(SHELF_BLOCKS.min(share.div_ceil(base)));
            while shelf.len() < shelf.capacity() && used < share * (doubling + 1) {
                let mut block = Block::new(base + rng.below(base), 8, 1);
                block.touch(0, 1);
                used += block.bytes() + size_of::<Block>();
                shelf.push(block);
            }
            shelves.push(shelf);
        }
    }
    shelves
}

#[cfg(test)]
mod tests {
    use super::{ALL, PEAK_BYTES, peak};
    use crate::block::Block;

    #[test]
    fn a_peak_is_as_large_as_it_says_and_has_every_size() {
        for shape in &ALL {
            let blocks: Vec<Block> = peak(shape, 0).into_iter().flatten().collect();
            let bytes: usize = blocks.iter().map(|block| block.bytes() + size_of::<Block>()).sum();
            let share = PEAK_BYTES / shape.threads;
            let least = share - share / 50;
            assert!((least..share + 2 * shape.largest_bytes).contains(&bytes), "{}: {bytes}", shape.name);
            assert!(blocks.iter().any(|block| block.bytes() < 2 * shape.smallest_bytes), "{}", shape.name);
            assert!(blocks.iter().any(|block| block.bytes() >= shape.largest_bytes / 2), "{}", shape.name);
        }
    }
}
