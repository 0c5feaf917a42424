//! Large blocks: tensors, buffers, vectors that grow.
#![forbid(unsafe_code)]

use super::Scale;
use super::threads::in_two;
use crate::block::{Block, Zeroed};
use crate::rng::Rng;
use std::hint::black_box;

const SMALLEST: usize = 64 << 10;
const LARGEST: usize = 16 << 20;

/// `steps` tensors of which the last few live, as the layers of a network; `touch` makes each and sums what it read.
fn layers(seed: u64, steps: usize, live: usize, mut make: impl FnMut(usize, u8) -> (Block, u64)) -> u64 {
    let mut rng = Rng::new(seed);
    let mut sum = 0u64;
    let mut blocks: Vec<Block> = Vec::with_capacity(live);
    for step in 0..steps {
        let bytes = rng.size(SMALLEST, LARGEST) & !7;
        let (block, read) = make(bytes, step as u8);
        sum = sum.rotate_left(1).wrapping_add(read);
        if blocks.len() < live {
            blocks.push(block);
        } else {
            let at = rng.below(live);
            sum = sum.rotate_left(1).wrapping_add(blocks[at].check());
            blocks[at] = block;
        }
    }
    blocks.iter().fold(sum, |sum, block| sum.rotate_left(1).wrapping_add(block.check()))
}

fn written(bytes: usize, value: u8) -> (Block, u64) {
    let mut block = Block::new(bytes, 64, bytes as u64);
    black_box(&mut block).fill(value);
    let read = block.check();
    (block, read)
}

/// The results of an operation: nobody wants them cleared, everybody writes them in full.
pub fn tensors(scale: Scale) -> u64 {
    layers(10, scale.of(200), 8, written)
}

/// The same in two threads.
pub fn tensors_two(scale: Scale) -> u64 {
    in_two(|thread| layers(12 + thread, scale.of(200), 4, written))
}

/// Accumulators: zero to begin with, read and written in full. An allocator may skip the clearing of fresh memory and
/// pays with page faults, or clear what it kept and pays with time: what the sum costs is what is measured.
pub fn tensors_zeroed(scale: Scale) -> u64 {
    layers(11, scale.of(300), 8, |bytes, value| {
        let mut block = Zeroed::new(bytes);
        let read = black_box(&mut block).accumulate(u64::from(value) + 1);
        (block.into_block(), read)
    })
}

/// Buffers of readers and writers that are rarely used to their end.
pub fn buffers(scale: Scale) -> u64 {
    let mut rng = Rng::new(13);
    let mut sum = 0u64;
    let mut table: Vec<Option<Block>> = (0..64).map(|_| None).collect();
    for step in 0..scale.of(30_000) {
        let bytes = rng.size(16 << 10, 1 << 20);
        let mut block = Block::new(bytes, 8, 0);
        block.touch(0, step as u8);
        block.stamp(rng.draw());
        if let Some(old) = table[rng.below(64)].replace(block) {
            sum = sum.rotate_left(1).wrapping_add(old.check());
        }
    }
    table.iter().flatten().fold(sum, |sum, block| sum.rotate_left(1).wrapping_add(block.check()))
}

/// What `Vec` asks for: twice as much each time, by `realloc`.
pub fn vec_growth(scale: Scale) -> u64 {
    let mut sum = 0u64;
    for round in 0..scale.of(60) as u64 {
        let mut vectors: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
        for value in 0..(1 << 20) {
            vectors[(value & 3 == 0) as usize].push(value ^ round);
        }
        let [first, second] = black_box(&vectors);
        sum = sum.rotate_left(1).wrapping_add(first[first.len() / 2]).wrapping_add(second[second.len() - 1]);
        sum = sum.wrapping_add((first.len() * 3 + second.len()) as u64);
    }
    sum
}

/// Growth in uneven steps with others alive around it, so that the neighbour is sometimes taken, then a shrink to fit.
pub fn realloc(scale: Scale) -> u64 {
    let mut rng = Rng::new(14);
    let mut sum = 0u64;
    let mut others: Vec<Option<Block>> = (0..4).map(|_| None).collect();
    for round in 0..scale.of(40) {
        let mut block = Block::new(SMALLEST, 8, round as u64);
        while block.bytes() < LARGEST {
            let before = block.bytes();
            let grown = before + before / 4 + rng.below(before);
            block.resize(grown.min(LARGEST), rng.draw());
            block.touch(before.next_multiple_of(4096), round as u8);
            block.stamp(round as u64);
            if rng.below(3) == 0 {
                let bytes = rng.size(SMALLEST, 1 << 20);
                others[rng.below(4)] = Some(Block::new(bytes, 8, rng.draw()));
            }
        }
        block.resize(LARGEST / 8, rng.draw());
        sum = sum.rotate_left(1).wrapping_add(block.check()).wrapping_add(sum_of_live(&others));
    }
    sum
}

fn sum_of_live(blocks: &[Option<Block>]) -> u64 {
    blocks.iter().flatten().fold(0, |sum, block| sum.wrapping_add(block.check()))
}
