//! Small blocks in several threads.
//!
//! Every checksum is a sum over threads, so that the order in which they run does not show.
#![forbid(unsafe_code)]

use super::Scale;
use super::small::{churn_table, common_size};
use crate::block::Block;
use crate::handoff::Handoff;
use crate::rng::Rng;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;

/// Runs `work` in two threads, numbered 0 and 1, and adds up what they return.
pub fn in_two(work: impl Fn(u64) -> u64 + Sync) -> u64 {
    thread::scope(|scope| {
        let other = scope.spawn(|| work(1));
        let own = work(0);
        own.wrapping_add(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn sum_of<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> u64 {
    blocks.into_iter().fold(0, |sum, block| sum.wrapping_add(block.check()))
}

/// Threads that never meet: they should not slow each other down.
pub fn churn_two(scale: Scale) -> u64 {
    in_two(|thread| churn_table(40 + thread, 10_000, scale.of(2_500_000)))
}

/// A table of a session's blocks outlives every thread that works on it: each generation of two threads replaces many
/// blocks, most of them made by threads that have ended, leaves half of its table to the other lane, and ends.
pub fn server(scale: Scale) -> u64 {
    const LIVE: usize = 2000;
    let table = |lane: u64| -> Vec<Block> {
        let mut rng = Rng::new(50 + lane);
        (0..LIVE).map(|_| Block::new(common_size(&mut rng), 8, rng.draw())).collect()
    };
    let mut lanes = [table(0), table(1)];
    let total = AtomicU64::new(0);
    for generation in 0..scale.of(150) as u64 {
        thread::scope(|scope| {
            for (lane, table) in lanes.iter_mut().enumerate() {
                let total = &total;
                scope.spawn(move || {
                    let mut rng = Rng::new(1000 + generation * 2 + lane as u64);
                    let mut sum = 0u64;
                    for _ in 0..16_000 {
                        let at = rng.below(LIVE);
                        let bytes = common_size(&mut rng);
                        sum = sum.wrapping_add(table[at].check());
                        table[at] = Block::new(bytes, 8, rng.draw());
                    }
                    total.fetch_add(sum, Ordering::Relaxed);
                });
            }
        });
        let [first, second] = &mut lanes;
        first[..LIVE / 2].swap_with_slice(&mut second[..LIVE / 2]);
    }
    lanes.iter().fold(total.into_inner(), |sum, table| sum.wrapping_add(sum_of(table)))
}

/// Every block is freed by a thread that allocates none.
pub fn producer_consumer(scale: Scale) -> u64 {
    let queue = Handoff::new(32);
    thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            let mut sum = 0u64;
            while let Some(batch) = queue.take() {
                let batch: Vec<Block> = batch;
                sum = sum.wrapping_add(sum_of(&batch));
            }
            sum
        });
        let mut rng = Rng::new(60);
        for _ in 0..scale.of(12_000) {
            let mut batch = Vec::with_capacity(200);
            for _ in 0..200 {
                let bytes = rng.size(16, 512);
                batch.push(Block::new(bytes, 8, rng.draw()));
            }
            queue.give(batch);
        }
        queue.close();
        consumer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Both threads allocate, and both free only what came from the other.
pub fn exchange(scale: Scale) -> u64 {
    let desks: [Mutex<Vec<Block>>; 2] = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];
    let turn = Barrier::new(2);
    let rounds = scale.of(2_000);
    in_two(|thread| {
        let mut rng = Rng::new(70 + thread);
        let mut sum = 0u64;
        for _ in 0..rounds {
            let mut batch = Vec::with_capacity(1000);
            for _ in 0..1000 {
                let bytes = rng.size(16, 512);
                batch.push(Block::new(bytes, 8, rng.draw()));
            }
            let desk = |number: u64| desks[number as usize].lock().unwrap_or_else(PoisonError::into_inner);
            *desk(thread) = batch;
            turn.wait();
            let received = std::mem::take(&mut *desk(1 - thread));
            turn.wait();
            sum = sum.wrapping_add(sum_of(&received));
        }
        sum
    })
}

/// What a thread costs that allocates a little, keeps a little for its parent, and ends. Two are alive at a time.
pub fn thread_churn(scale: Scale) -> u64 {
    let mut sum = 0u64;
    let mut left: Vec<Block> = Vec::new();
    for pair in 0..scale.of(1500) as u64 {
        let work = |thread: u64| {
            let mut rng = Rng::new(8000 + pair * 2 + thread);
            let mut blocks: Vec<Block> = Vec::new();
            for _ in 0..300 {
                let bytes = common_size(&mut rng);
                blocks.push(Block::new(bytes, 8, rng.draw()));
                if rng.below(3) == 0 {
                    let at = rng.below(blocks.len());
                    blocks.swap_remove(at);
                }
            }
            blocks.truncate(20);
            blocks
        };
        thread::scope(|scope| {
            let threads = [0, 1].map(|thread| scope.spawn(move || work(thread)));
            for thread in threads {
                left.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
        if left.len() > 1000 {
            sum = left.drain(..).fold(sum, |sum, block| sum.wrapping_add(block.check()));
        }
    }
    sum.wrapping_add(sum_of(&left))
}

/// Two blocks of one cache line go to two threads. An allocator that gives each thread back the block that it freed
/// makes them share the line for good, although no thread ever asked for a shared one.
pub fn false_sharing(scale: Scale) -> u64 {
    let neighbours: Vec<[Mutex<Option<Block>>; 2]> = (0..scale.of(100) as u64)
        .map(|pair| [0, 1].map(|half| Mutex::new(Some(Block::new(8, 8, pair * 2 + half)))))
        .collect();
    let turn = Barrier::new(2);
    in_two(|thread| {
        let mut sum = 0u64;
        for pair in &neighbours {
            let own = pair[thread as usize].lock().unwrap_or_else(PoisonError::into_inner).take();
            turn.wait();
            sum = sum.wrapping_add(own.as_ref().map_or(0, Block::check));
            drop(own);
            for round in 0..10 {
                let mut block = Block::new(8, 8, round);
                for value in 0..60_000 {
                    black_box(&mut block).stamp(value ^ round);
                }
                sum = sum.wrapping_add(block.check());
            }
        }
        sum
    })
}
