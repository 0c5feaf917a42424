//! The corpus, and what comes of it by random damage, through every target.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The heap, which remembers how much was ever held.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: 1. Every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Tables of a file become values of a few times their size; vectors double.
const MOST_HEAP_BYTES: usize = 64 << 20;
const HEAP_PER_BYTE: usize = 512;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// What lengths, counts and offsets are wrong by.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 127, 128, 255, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 60, i64::MAX as u64, u64::MAX];

fn mutate(data: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        match random.below(9) {
            0 | 1 if at < data.len() => data[at] ^= 1 << random.below(8),
            2 if at < data.len() => data[at] = random.next() as u8,
            3 => data.truncate(at),
            4 => {
                let bytes = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)];
                let end = data.len().min(at + width);
                data[at..end].copy_from_slice(&bytes[..end - at]);
            }
            5 => {
                let byte = random.next() as u8;
                data.insert(at, byte);
            }
            6 => {
                let end = data.len().min(at + random.below(16));
                data.drain(at..end);
            }
            7 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                let to = other.len().min(from + random.below(200));
                data.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let end = data.len().min(at + random.below(64));
                let copy = data[at..end].to_vec();
                let to = random.below(data.len() + 1);
                data.splice(to..to, copy);
            }
        }
    }
    data.truncate(1 << 20);
}

fn judge(name: &str, number: u64, data: &[u8]) {
    let target = fuzz_readers::target(name).expect("a folder for each target");
    let (before, began) = (LIVE.load(Relaxed), Instant::now());
    PEAK.store(before, Relaxed);
    let result = std::panic::catch_unwind(|| target(data));
    let held = PEAK.load(Relaxed).saturating_sub(before);
    let slow = began.elapsed() > Duration::from_secs(20);
    if result.is_err() || slow || held > MOST_HEAP_BYTES + data.len() * HEAP_PER_BYTE {
        let kept = std::env::temp_dir().join(format!("crash-{name}-{number}"));
        std::fs::write(&kept, data).expect("room");
        panic!(
            "{name}: took {held} bytes and {:?} for {} bytes, kept in {}",
            began.elapsed(),
            data.len(),
            kept.display()
        );
    }
}

#[test]
fn the_corpus_and_its_mutations_are_read_or_refused() {
    let seconds =
        std::env::var("DEMOCRATISING_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20u64);
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 6, "a folder for each target");
    let share = Duration::from_secs(seconds) / folders.len() as u32;
    let seed =
        std::env::var("DEMOCRATISING_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1u64);
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap().to_string();
        let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        seeds.sort();
        assert!(seeds.len() >= 3, "{name} has a corpus");
        seeds.iter().for_each(|data| judge(&name, 0, data));
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (until, mut count) = (Instant::now() + share, 0);
        while Instant::now() < until {
            let mut data = seeds[random.below(seeds.len())].clone();
            mutate(&mut data, &seeds, &mut random);
            count += 1;
            judge(&name, count, &data);
        }
        println!("{name}: {} files, {count} mutations", seeds.len());
        assert!(count > 20, "{name} was tried {count} times");
    }
}
