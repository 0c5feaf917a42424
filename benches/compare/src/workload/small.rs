//! Small blocks in one thread.
#![forbid(unsafe_code)]

use super::Scale;
use crate::block::Block;
use crate::rng::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;

/// Most requests of a program are for words, nodes and short strings; a few are for buffers.
#[inline]
pub fn common_size(rng: &mut Rng) -> usize {
    match rng.below(16) {
        0..10 => rng.between(8, 96),
        10..15 => rng.size(64, 512),
        _ => rng.size(512, 4096),
    }
}

/// A box of `N` words that the optimiser must make.
#[inline]
fn boxed<const N: usize>(value: u64) -> u64 {
    let words = black_box(Box::new([value; N]));
    words[0].wrapping_add(words[N - 1])
}

/// Boxes whose size is known where they are made, so that the way to the size class can be folded away.
pub fn pairs_fixed(scale: Scale) -> u64 {
    let mut sum = 0u64;
    for round in 0..scale.of(2_200_000) as u64 {
        sum = sum.rotate_left(1).wrapping_add(boxed::<1>(round)).wrapping_add(boxed::<2>(round));
        sum = sum.wrapping_add(boxed::<3>(round)).wrapping_add(boxed::<4>(round));
        sum = sum.wrapping_add(boxed::<7>(round)).wrapping_add(boxed::<12>(round));
        sum = sum.wrapping_add(boxed::<32>(round));
    }
    sum
}

/// Blocks of any small size, each freed before the next.
pub fn pairs_mixed(scale: Scale) -> u64 {
    let mut rng = Rng::new(1);
    let mut sum = 0u64;
    for _ in 0..scale.of(8_000_000) {
        let bytes = rng.size(8, 2048);
        let block = black_box(Block::new(bytes, 8, rng.draw()));
        sum = sum.rotate_left(1).wrapping_add(block.check());
    }
    sum
}

/// Every block lives as long as 4,096 others need to be born.
pub fn fifo(scale: Scale) -> u64 {
    let mut rng = Rng::new(2);
    let mut queue = VecDeque::with_capacity(4096);
    let mut sum = 0u64;
    for _ in 0..scale.of(8_000_000) {
        if queue.len() == 4096 {
            sum = sum.rotate_left(1).wrapping_add(queue.pop_front().map_or(0, |block: Block| block.check()));
        }
        let bytes = rng.size(16, 512);
        queue.push_back(Block::new(bytes, 8, rng.draw()));
    }
    queue.iter().fold(sum, |sum, block| sum.rotate_left(1).wrapping_add(block.check()))
}

/// The last block born is the first to die.
pub fn lifo(scale: Scale) -> u64 {
    let mut rng = Rng::new(3);
    let mut stack: Vec<Block> = Vec::with_capacity(2000);
    let mut sum = 0u64;
    for _ in 0..scale.of(8_000) {
        for _ in 0..rng.between(1, 2000) {
            let bytes = rng.size(8, 512);
            stack.push(Block::new(bytes, 8, rng.draw()));
        }
        while let Some(block) = stack.pop() {
            sum = sum.rotate_left(1).wrapping_add(block.check());
        }
    }
    sum
}

/// `live` blocks of common sizes, of which one at random is replaced, `rounds` times.
pub fn churn_table(seed: u64, live: usize, rounds: usize) -> u64 {
    let mut rng = Rng::new(seed);
    let mut sum = 0u64;
    let mut table: Vec<Block> = Vec::with_capacity(live);
    for _ in 0..live {
        let bytes = common_size(&mut rng);
        table.push(Block::new(bytes, 8, rng.draw()));
    }
    for _ in 0..rounds {
        let at = rng.below(live);
        let bytes = common_size(&mut rng);
        sum = sum.rotate_left(1).wrapping_add(table[at].check());
        table[at] = Block::new(bytes, 8, rng.draw());
    }
    table.iter().fold(sum, |sum, block| sum.rotate_left(1).wrapping_add(block.check()))
}

/// Lives of random length, in one thread.
pub fn churn(scale: Scale) -> u64 {
    churn_table(4, 20_000, scale.of(4_000_000))
}

/// What one size leaves behind must serve the next.
pub fn phases(scale: Scale) -> u64 {
    let mut rng = Rng::new(5);
    let mut sum = 0u64;
    let mut kept: Vec<Block> = Vec::new();
    for phase in 0..scale.of(60) {
        let bytes = [24, 400, 64, 1100, 40, 200, 2000, 96][phase % 8];
        let mut blocks: Vec<Block> =
            (0..8_000_000 / (bytes + 64)).map(|_| Block::new(bytes, 8, rng.draw())).collect();
        // One in a hundred outlives its phase by a few: what holds a slab or a page open in long-running programs.
        kept.extend((0..blocks.len() / 100).map(|_| Block::new(bytes, 8, rng.draw())));
        while !blocks.is_empty() {
            let block = blocks.swap_remove(rng.below(blocks.len()));
            sum = sum.rotate_left(1).wrapping_add(block.check());
        }
        if phase % 4 == 3 {
            sum = kept.drain(..).fold(sum, |sum, block| sum.rotate_left(1).wrapping_add(block.check()));
        }
    }
    sum
}

/// Vector registers, cache lines and now and then a page.
pub fn aligned(scale: Scale) -> u64 {
    let mut rng = Rng::new(6);
    let mut sum = 0u64;
    let mut table: Vec<Option<Block>> = (0..1000).map(|_| None).collect();
    for _ in 0..scale.of(2_500_000) {
        let align = [32, 64, 64, 64, 64, 128, 256, 512][rng.below(8)];
        let align = if rng.below(1000) == 0 { 4096 } else { align };
        let bytes = rng.size(8, 2048);
        let at = rng.below(table.len());
        let block = Block::new(bytes, align, rng.draw());
        sum = sum.wrapping_add((block.address() % align) as u64);
        if let Some(old) = table[at].replace(block) {
            sum = sum.rotate_left(1).wrapping_add(old.check());
        }
    }
    sum
}

/// Small reallocations, none of which finds its neighbour free.
pub fn strings(scale: Scale) -> u64 {
    let mut rng = Rng::new(7);
    let mut sum = 0u64;
    for _ in 0..scale.of(60) {
        let mut strings: Vec<String> = (0..4000).map(|_| String::new()).collect();
        for _ in 0..80_000 {
            let text = &"the quick brown fox jumps over a lazy dog"[..rng.between(1, 40)];
            let string = &mut strings[rng.below(4000)];
            string.push_str(text);
            if string.len() > 600 {
                sum = sum.rotate_left(1).wrapping_add(string.len() as u64);
                string.clear();
                string.shrink_to_fit();
            }
        }
        sum = strings.iter().fold(sum, |sum, string| {
            sum.rotate_left(1)
                .wrapping_add(string.len() as u64 + u64::from(string.as_bytes().last().copied().unwrap_or(0)))
        });
    }
    sum
}

/// The nodes of an ordered map, each value in a box of its own.
pub fn nodes(scale: Scale) -> u64 {
    let mut rng = Rng::new(8);
    let mut sum = 0u64;
    for _ in 0..scale.of(60) {
        let mut map: BTreeMap<u32, Box<[u64; 5]>> = BTreeMap::new();
        for _ in 0..8_000 {
            map.insert(rng.draw() as u32, Box::new([rng.draw(); 5]));
        }
        for _ in 0..8_000 {
            let from = rng.draw() as u32;
            if let Some(key) = map.range(from..).next().map(|(key, _)| *key) {
                let value = map.remove(&key).map_or(0, |value| value[4]);
                sum = sum.rotate_left(1).wrapping_add(value);
                map.insert(from, Box::new([value ^ u64::from(key); 5]));
            }
        }
        sum = map.values().fold(sum, |sum, value| sum.rotate_left(1).wrapping_add(value[0]));
    }
    sum
}
