//! Both span indexes in fixed arrays: how full one is when the first request fails, and what an operation takes.
//!
//! `cargo bench -p benches --bench fixed` prints both tables. `cargo bench -p benches --bench fixed -- INDEX HEAP_BYTES MOST_BYTES STEPS` does
//! nothing but so many steps on one heap, for a tool that counts instructions: the difference of two runs is the steps'.

use democratising::arena::{Arena, ByFit, ByTree, IndexKind, Sizing, SpanIndex, Unframed, Unlimited};
use democratising::space::{Fixed, MappedTables, Space, WithIndex};
use std::alloc::Layout;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::Instant;

const HEAPS: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 128 << 20];
const MOST: [usize; 5] = [200, 1_000, 3_000, 10_000, 30_000];
/// Rounds of which the fastest counts, the indexes taking turns.
const ROUNDS: u32 = 7;

/// Numbers that are random enough, and the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize * end) >> 31
    }
}

type Heap<'a, I> = Arena<WithIndex<Fixed<'a>, I>, MappedTables>;

/// The live blocks of a heap, and what they were asked for.
struct Player<'a, I: IndexKind> {
    heap: Heap<'a, I>,
    live: Vec<(NonNull<u8>, Layout)>,
    live_bytes: usize,
    draw: Draw,
    most_bytes: usize,
}

impl<'a, I: IndexKind> Player<'a, I> {
    fn new(bytes: &'a mut [MaybeUninit<u8>], most_bytes: usize, seed: u64) -> Player<'a, I> {
        let space = WithIndex::new(Fixed::new(bytes));
        let heap = Arena::new(space, MappedTables).expect("memory for tables");
        Player { heap, live: Vec::new(), live_bytes: 0, draw: Draw(seed), most_bytes }
    }

    #[inline]
    fn allocate(&mut self) -> bool {
        let layout = Layout::from_size_align(1 + self.draw.below(self.most_bytes), 8).expect("a layout");
        self.put(layout)
    }

    #[inline]
    fn put(&mut self, layout: Layout) -> bool {
        match self.heap.allocate(black_box(layout), &Unlimited) {
            Ok(block) => {
                self.live.push((block.addr, layout));
                self.live_bytes += layout.size();
                true
            }
            Err(_) => false,
        }
    }

    #[inline]
    fn free(&mut self) {
        let which = self.draw.below(self.live.len());
        let (addr, layout) = self.live.swap_remove(which);
        self.live_bytes -= layout.size();
        self.heap.free(black_box(addr), layout, &Unlimited).expect("a block that is live");
    }

    /// In place where that can be done, else by a new block and the old one's free.
    fn resize(&mut self) -> bool {
        let which = self.draw.below(self.live.len());
        let (addr, old) = self.live[which];
        let new = Layout::from_size_align(1 + self.draw.below(self.most_bytes), 8).expect("a layout");
        if self.heap.resize(addr, old, new.size(), &Unlimited).expect("a block that is live") {
            self.live[which].1 = new;
            self.live_bytes = self.live_bytes - old.size() + new.size();
            return true;
        }
        let done = self.put(new);
        if done {
            let (addr, layout) = self.live.swap_remove(which);
            self.live_bytes -= layout.size();
            self.heap.free(addr, layout, &Unlimited).expect("a block that is live");
        }
        done
    }

    /// Allocates and frees, three to two, with a resize in every third step if asked for, until a request fails.
    fn fill(&mut self, resizes: bool) -> usize {
        loop {
            let done = match self.draw.below(if resizes { 15 } else { 10 }) {
                0..6 => self.allocate(),
                6..10 if !self.live.is_empty() => {
                    self.free();
                    true
                }
                10.. if !self.live.is_empty() => self.resize(),
                _ => true,
            };
            if !done {
                return self.live_bytes;
            }
        }
    }

    /// Blocks until the heap is about half full, or many enough.
    fn half_fill(&mut self, heap_bytes: usize) {
        while self.live_bytes < heap_bytes / 2 && self.live.len() < 20_000 && self.allocate() {}
    }

    /// Frees one and allocates one, or resizes, again and again.
    fn churn(&mut self, steps: usize, resizes: bool) {
        for step in 0..steps {
            if resizes && step % 2 == 0 {
                black_box(self.resize());
            } else {
                self.free();
                while !self.allocate() {
                    self.free();
                }
            }
        }
    }
}

fn array(bytes: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); bytes]
}

/// What the tables and the arena itself take beside the array.
fn beside_bytes<I: IndexKind>(heap_bytes: usize) -> usize {
    let mut bytes = array(heap_bytes);
    let space = WithIndex::<_, I>::new(Fixed::new(&mut bytes));
    Heap::<I>::metadata_bytes(&space) as usize + size_of::<Heap<I>>()
}

/// What the tables of the index take of that.
fn index_bytes<I: IndexKind>(heap_bytes: usize) -> usize {
    let mut bytes = array(heap_bytes);
    let space = Fixed::new(&mut bytes);
    let granules = space.geometry().granules(space.len_bytes()).expect("a number of granules");
    let mut sizing = Sizing::default();
    let counted = I::Index::<Sizing>::new(&mut sizing, granules, 0);
    assert!(counted.is_ok(), "counting cannot fail");
    sizing.bytes() as usize
}

/// The share of array and tables in use when the first request fails: the mean of some runs.
fn efficiency<I: IndexKind>(heap_bytes: usize, most_bytes: usize, resizes: bool) -> f64 {
    let runs = (16 << 20 >> heap_bytes.ilog2()).clamp(2, 200);
    let mut bytes = array(heap_bytes);
    let used: usize =
        (0..runs).map(|run| Player::<I>::new(&mut bytes, most_bytes, 1 + run as u64).fill(resizes)).sum();
    used as f64 / runs as f64 / (heap_bytes + beside_bytes::<I>(heap_bytes)) as f64
}

/// Nanoseconds of a step.
fn time<I: IndexKind>(heap_bytes: usize, most_bytes: usize, resizes: bool) -> f64 {
    const STEPS: usize = 100_000;
    let mut bytes = array(heap_bytes);
    let mut player = Player::<I>::new(&mut bytes, most_bytes, 7);
    player.half_fill(heap_bytes);
    player.churn(STEPS / 10, resizes);
    let start = Instant::now();
    player.churn(STEPS, resizes);
    start.elapsed().as_nanos() as f64 / STEPS as f64
}

/// The fastest of some rounds of both, in turns.
fn times(heap_bytes: usize, most_bytes: usize, resizes: bool) -> (f64, f64) {
    (0..ROUNDS).fold((f64::MAX, f64::MAX), |(tree, fit), _| {
        let tree = tree.min(time::<ByTree>(heap_bytes, most_bytes, resizes));
        (tree, fit.min(time::<ByFit<Unframed>>(heap_bytes, most_bytes, resizes)))
    })
}

fn name(bytes: usize) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

fn tables() {
    println!(
        "Bytes beside the array: the index's tables, the slabs' tables, the arena itself; in percent of the array"
    );
    println!("{:>8} {:>18} {:>18} {:>18} {:>14}", "array", "buddy tree", "fit table", "slabs", "arena");
    for heap_bytes in HEAPS.into_iter().chain([1 << 30]) {
        let share = |bytes: usize| format!("{bytes} {:5.2} %", bytes as f64 * 100.0 / heap_bytes as f64);
        let (tree, fit) = (index_bytes::<ByTree>(heap_bytes), index_bytes::<ByFit<Unframed>>(heap_bytes));
        let arena = size_of::<Heap<ByFit<Unframed>>>();
        let slabs = beside_bytes::<ByFit<Unframed>>(heap_bytes) - fit - arena;
        let [tree, fit, slabs, arena] = [tree, fit, slabs, arena].map(share);
        println!("{:>8} {tree:>18} {fit:>18} {slabs:>18} {arena:>14}", name(heap_bytes));
    }
    for resizes in [false, true] {
        let what = if resizes { "with resizes" } else { "without resizes" };
        println!(
            "\nIn use at the first failure, % of array and tables; ns of a step ({what}): buddy tree, fit table"
        );
        println!("{:>8} {:>8} {:>12} {:>12} {:>8} {:>8}", "array", "sizes to", "tree", "fit", "tree", "fit");
        for heap_bytes in HEAPS {
            for most_bytes in MOST.into_iter().filter(|most| most * 8 <= heap_bytes) {
                let tree = efficiency::<ByTree>(heap_bytes, most_bytes, resizes) * 100.0;
                let fit = efficiency::<ByFit<Unframed>>(heap_bytes, most_bytes, resizes) * 100.0;
                let (tree_ns, fit_ns) = times(heap_bytes, most_bytes, resizes);
                println!(
                    "{:>8} {most_bytes:>8} {tree:>10.1} % {fit:>10.1} % {tree_ns:>8.1} {fit_ns:>8.1}",
                    name(heap_bytes)
                );
            }
        }
    }
}

/// Steps alone, for a tool that counts.
fn steps<I: IndexKind>(heap_bytes: usize, most_bytes: usize, steps: usize) {
    let mut bytes = array(heap_bytes);
    let mut player = Player::<I>::new(&mut bytes, most_bytes, 7);
    player.half_fill(heap_bytes);
    player.churn(steps, false);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let number = |at: usize| words.get(at)?.parse::<usize>().ok();
    match (words.first().map(String::as_str), number(1), number(2), number(3)) {
        (None, ..) => tables(),
        (Some("tree"), Some(heap), Some(most), Some(count)) if most > 0 => steps::<ByTree>(heap, most, count),
        (Some("fit"), Some(heap), Some(most), Some(count)) if most > 0 => {
            steps::<ByFit<Unframed>>(heap, most, count);
        }
        _ => {
            eprintln!("usage: fixed [tree|fit HEAP_BYTES MOST_BYTES STEPS]");
            std::process::exit(2);
        }
    }
}
