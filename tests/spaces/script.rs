//! The script, and what must hold after every step.

use crate::touch::{Touch, Zeros};
use democratising::arena::Metadata;
use democratising::error::BadFree;
use democratising::lock_api::RawMutex;
use democratising::pool::{Pool, Stats};
use democratising::space::{Contents, Space};
use proptest::prelude::*;
use std::alloc::Layout;
use std::collections::BTreeMap;

/// One step of the script. Numbers that choose a live block are taken modulo how many there are.
#[derive(Clone, Debug)]
pub enum Step {
    Allocate { bytes: usize, align: usize },
    Free(usize),
    FreeTwice(usize),
    FreeInterior(usize),
    FreeWithWrongSize(usize),
    FreeUnsized(usize),
    Resize(usize, usize),
    Trim(u64),
    Grow(u64),
    Limit(u64),
}

pub fn step(most_bytes: usize) -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        4 => 0..=512usize,
        3 => 0..=most_bytes / 64,
        2 => 0..=most_bytes / 4,
        1 => Just(most_bytes),
        1 => prop_oneof![Just(1usize), Just(4096), Just(65536), Just(65537), Just(2 << 20)],
    ];
    let align = prop_oneof![6 => Just(0u32), 2 => 0..=6u32, 1 => 0..=14u32, 1 => Just(21u32)];
    prop_oneof![
        10 => (bytes.clone(), align).prop_map(|(bytes, shift)| Step::Allocate { bytes, align: 1 << shift }),
        7 => any::<usize>().prop_map(Step::Free),
        1 => any::<usize>().prop_map(Step::FreeTwice),
        1 => any::<usize>().prop_map(Step::FreeInterior),
        1 => any::<usize>().prop_map(Step::FreeWithWrongSize),
        2 => any::<usize>().prop_map(Step::FreeUnsized),
        2 => (any::<usize>(), bytes).prop_map(|(which, bytes)| Step::Resize(which, bytes)),
        1 => (0..64u64 << 20).prop_map(Step::Trim),
        1 => (0..64u64 << 20).prop_map(Step::Grow),
        1 => (0..96u64 << 20).prop_map(Step::Limit),
    ]
}

pub fn script(most_bytes: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(most_bytes), 1..if cfg!(miri) { 10 } else { 120 })
}

pub struct Live<A> {
    addr: A,
    layout: Layout,
    bytes: u64,
    pattern: u8,
}

/// Runs a script and checks after every step what must hold; gives everything back in the end.
pub fn run<S: Space<Addr: Touch>, L: RawMutex, M: Metadata>(pool: &Pool<S, L, M>, script: &[Step]) {
    let mut live: Vec<Live<S::Addr>> = Vec::new();
    let mut taken: BTreeMap<u64, u64> = BTreeMap::new();
    let initial = pool.stats();
    for (n, step) in script.iter().enumerate() {
        let before = pool.stats();
        match *step {
            Step::Allocate { bytes, align } => {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                match pool.allocate(layout) {
                    Ok(block) => {
                        assert!(block.bytes >= bytes as u64, "{block:?} for {layout:?}");
                        let start = block.addr.number();
                        assert_eq!(start % align as u64, 0, "{block:?} for {layout:?}");
                        let below = taken.range(..start + block.bytes).next_back();
                        assert!(
                            below.is_none_or(|(at, len)| at + len <= start),
                            "{block:?} overlaps {below:?}"
                        );
                        if block.contents == Contents::Zeroed {
                            assert!(block.addr.holds_zeros(block.bytes), "{block:?} was said to be zero");
                        }
                        let pattern = n as u8;
                        block.addr.fill(block.bytes, pattern);
                        taken.insert(start, block.bytes);
                        live.push(Live { addr: block.addr, layout, bytes: block.bytes, pattern });
                    }
                    Err(why) => {
                        assert_eq!(
                            unchanged(pool.stats(), before.failures + 1),
                            before_failure(before),
                            "{why}"
                        );
                    }
                }
            }
            Step::Free(which) if !live.is_empty() => {
                let block = live.swap_remove(which % live.len());
                give(pool, &block, &mut taken);
            }
            Step::FreeUnsized(which) if !live.is_empty() => {
                let block = live.swap_remove(which % live.len());
                assert_eq!(pool.usable_bytes(block.addr), Ok(block.bytes));
                // SAFETY: 1. The script uses the block no more.
                unsafe { pool.free_unsized(block.addr) }.unwrap();
                taken.remove(&block.addr.number());
            }
            Step::FreeTwice(which) if !live.is_empty() => {
                let block = live.swap_remove(which % live.len());
                give(pool, &block, &mut taken);
                let before = pool.stats();
                // SAFETY: 1. Nobody uses the block.
                let again = unsafe { pool.free(block.addr, block.layout) };
                // SAFETY: 1. As above.
                let unsized_again = unsafe { pool.free_unsized(block.addr) };
                assert!(matches!(again, Err(BadFree::AlreadyFree { .. })), "{again:?}");
                assert!(matches!(unsized_again, Err(BadFree::AlreadyFree { .. })), "{unsized_again:?}");
                assert_eq!(pool.stats(), before, "a refused free changes nothing");
            }
            Step::FreeInterior(which) if !live.is_empty() => {
                let block = &live[which % live.len()];
                let inside = block.addr.plus(1 + which as u64 % block.bytes.max(2).div_euclid(2));
                if inside.number() < block.addr.number() + block.bytes {
                    // SAFETY: 1. It is refused.
                    let refused = unsafe { pool.free(inside, block.layout) };
                    assert!(refused.is_err(), "{refused:?}");
                    assert_eq!(pool.stats(), before, "a refused free changes nothing");
                }
            }
            Step::FreeWithWrongSize(which) if !live.is_empty() => {
                let block = &live[which % live.len()];
                let wrong = Layout::from_size_align(block.bytes as usize + 1, block.layout.align()).unwrap();
                // SAFETY: 1. It is refused.
                let refused = unsafe { pool.free(block.addr, wrong) };
                assert!(matches!(refused, Err(BadFree::WrongSize { .. })), "{refused:?}");
                assert_eq!(pool.stats(), before, "a refused free changes nothing");
            }
            Step::Resize(which, bytes) if !live.is_empty() => {
                let which = which % live.len();
                let block = &mut live[which];
                let keep = block.bytes.min(bytes.max(1) as u64);
                block.addr.fill(keep, block.pattern);
                // SAFETY: 1. The script uses only what is left.
                if unsafe { pool.resize(block.addr, block.layout, bytes) }.unwrap() {
                    block.layout = Layout::from_size_align(bytes, block.layout.align()).unwrap();
                    block.bytes = pool.usable_bytes(block.addr).unwrap();
                    assert!(block.bytes >= bytes as u64);
                    assert!(block.addr.holds_until(keep.min(block.bytes), keep, block.pattern));
                    let start = block.addr.number();
                    taken.insert(start, block.bytes);
                    let next = taken.range(start + 1..).next();
                    assert!(next.is_none_or(|(at, _)| start + block.bytes <= *at), "grew into {next:?}");
                } else {
                    assert_eq!(pool.stats(), before, "a resize that does not happen changes nothing");
                }
                block.addr.fill(block.bytes, block.pattern);
            }
            Step::Trim(keep_bytes) => {
                let given = pool.trim(keep_bytes);
                let after = pool.stats();
                assert_eq!(after.reserved_bytes + given, before.reserved_bytes);
                assert!(after.idle_bytes <= keep_bytes);
            }
            Step::Grow(bytes) => pool.configure(pool.config().initial_bytes(bytes)),
            Step::Limit(bytes) => {
                pool.configure(pool.config().max_bytes(bytes).initial_bytes(0));
                let after = pool.stats();
                assert_eq!(after.in_use_bytes, before.in_use_bytes, "a limit takes nothing that is live");
                assert!(after.reserved_bytes <= bytes.max(before.reserved_bytes - before.idle_bytes));
            }
            _ => {}
        }
        let stats = pool.stats();
        assert_eq!(stats.blocks as usize, live.len());
        assert_eq!(stats.in_use_bytes, live.iter().map(|block| block.bytes).sum::<u64>());
        assert!(
            stats.idle_bytes <= stats.reserved_bytes && stats.in_use_bytes <= stats.reserved_bytes,
            "{stats:?}"
        );
        assert!(
            stats.peak_in_use_bytes >= stats.in_use_bytes
                && stats.peak_reserved_bytes >= stats.reserved_bytes
        );
    }
    for block in live.drain(..) {
        give(pool, &block, &mut taken);
    }
    let end = pool.stats();
    assert_eq!((end.blocks, end.in_use_bytes), (0, 0));
    assert_eq!(end.largest_free_bytes, initial.largest_free_bytes, "everything is one free run again");
    if end.creates > 0 {
        assert_eq!(end.idle_bytes, end.reserved_bytes, "no frame is held by anything");
        pool.trim(0);
        assert_eq!(pool.stats().reserved_bytes, 0);
    }
}

pub fn give<S: Space<Addr: Touch>, L: RawMutex, M: Metadata>(
    pool: &Pool<S, L, M>,
    block: &Live<S::Addr>,
    taken: &mut BTreeMap<u64, u64>,
) {
    assert!(block.addr.holds(block.bytes, block.pattern), "somebody else wrote into {:?}", block.addr);
    // SAFETY: 1. The script uses the block no more.
    unsafe { pool.free(block.addr, block.layout) }.unwrap();
    taken.remove(&block.addr.number());
}

/// What a request that failed leaves as it was: everything but its own count and that of moves, which did happen.
pub fn unchanged(after: Stats, failures: u64) -> [u64; 8] {
    assert_eq!(after.failures, failures, "a failure is counted once");
    before_failure(after)
}

pub fn before_failure(stats: Stats) -> [u64; 8] {
    [
        stats.in_use_bytes,
        stats.peak_in_use_bytes,
        stats.reserved_bytes,
        stats.peak_reserved_bytes,
        stats.idle_bytes,
        stats.largest_free_bytes,
        stats.blocks,
        stats.allocations,
    ]
}
