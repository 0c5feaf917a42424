//! How full the memory is when the first request fails.

use crate::script::{Action, Live, Random};
use crate::subject::{Kind, Memory, Subject};
use core::alloc::Layout;

/// What a program does until it finds no memory: out of ten actions so many allocate and so many resize, the others free.
#[derive(Clone, Copy)]
pub struct Mix {
    /// The largest block to allocate.
    pub most: usize,
    /// The largest size to resize to.
    pub most_resized: usize,
    /// Of ten actions, those that allocate.
    pub allocate: usize,
    /// Of ten actions, those that resize.
    pub resize: usize,
    /// Whether blocks have alignments beyond a word.
    pub aligned: bool,
}

/// The bytes that the program holds when a request fails.
fn fill(heap: &Subject, mix: Mix, random: &mut Random) -> usize {
    let mut live = Live::default();
    let mut bytes = Vec::new();
    loop {
        let what = random.within(0..10);
        let action = if what < mix.allocate {
            let align = if mix.aligned { random.align() } else { 8 };
            let layout = Layout::from_size_align(random.size(mix.most), align).expect("a layout");
            Action::Allocate(layout)
        } else if live.len() == 0 {
            continue;
        } else if what < mix.allocate + mix.resize {
            Action::Resize(random.within(0..live.len()) as u32, random.within(1..mix.most_resized) as u32)
        } else {
            Action::Free(random.within(0..live.len()) as u32)
        };
        if !live.act(&**heap, action) {
            bytes.push(live.bytes());
            break;
        }
    }
    live.clear(&**heap);
    bytes.iter().sum()
}

/// The share of the memory that is in use at the first failure: the mean of so many rounds on one heap, in percent.
pub fn efficiency(kind: Kind, memory: Memory, mix: Mix, rounds: usize) -> f64 {
    let heap = kind.over(memory);
    let mut random = Random::new(1);
    let used: usize = (0..rounds).map(|_| fill(&heap, mix, &mut random)).sum();
    used as f64 * 100.0 / rounds as f64 / memory.bytes as f64
}

/// The share of the memory that is in use when blocks of one layout no longer fit, in percent.
pub fn same(kind: Kind, memory: Memory, layout: Layout) -> f64 {
    let heap = kind.over(memory);
    let mut live = Live::default();
    while live.act(&*heap, Action::Allocate(layout)) {}
    let used = live.bytes();
    live.clear(&*heap);
    used as f64 * 100.0 / memory.bytes as f64
}

/// What talc's suite calls heap efficiency.
pub const TALC: Mix = Mix { most: 10_000, most_resized: 100_000, allocate: 5, resize: 4, aligned: true };

/// The same sizes without resizes.
pub const WITHOUT_RESIZES: Mix = Mix { resize: 0, allocate: 6, ..TALC };

/// Many sizes for small memory: up to a sixteenth of it, as often resized as freed.
pub const fn mixed(heap_bytes: usize) -> Mix {
    Mix { most: heap_bytes / 16, most_resized: heap_bytes / 16, allocate: 5, resize: 2, aligned: false }
}
