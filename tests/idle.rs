//! How much idle memory a pool keeps, on a space that counts what it is asked for.

use democratising::arena::{ByFit, NoBlock};
use democratising::size::{Offset, SizeClass};
use democratising::space::{MappedTables, Simulated, WithIndex};
use democratising::{Pool, PoolConfig, SpinLock};
use std::alloc::Layout;

type Subject = Pool<Simulated, SpinLock, MappedTables>;
const FRAME: usize = 2 << 20;
const FRAMES: u64 = FRAME as u64;

fn pool(config: PoolConfig) -> Subject {
    Pool::new(Simulated::device(1 << 30, FRAME), MappedTables, config.slack_permille(1000)).unwrap()
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 1).unwrap()
}

fn take(pool: &Subject, blocks: usize, bytes: usize) -> Vec<u64> {
    (0..blocks).map(|_| pool.allocate(layout(bytes)).unwrap().addr).collect()
}

fn give(pool: &Subject, blocks: impl IntoIterator<Item = u64>, bytes: usize) {
    for addr in blocks {
        // SAFETY: 1. A simulated block has no bytes that anybody could use.
        unsafe { pool.free(addr, layout(bytes)).unwrap() };
    }
}

fn idle_frames(pool: &Subject) -> u64 {
    pool.idle_bytes() / FRAMES
}

#[test]
fn what_is_idle_beyond_the_bound_goes_as_blocks_come_back() {
    let pool = pool(PoolConfig::DEFAULT.retain_bytes(3 * FRAMES));
    let blocks = take(&pool, 10, FRAME);
    give(&pool, blocks, FRAME);
    assert_eq!((idle_frames(&pool), pool.stats().unmaps), (3, 7));
}

#[test]
fn what_is_soon_needed_again_was_given_up_too_early_and_more_is_kept() {
    let config = PoolConfig::DEFAULT.retain_bytes(2 * FRAMES).retain_most_bytes(6 * FRAMES);
    let pool = pool(config);
    let round = || {
        let blocks = take(&pool, 10, FRAME);
        give(&pool, blocks, FRAME);
        idle_frames(&pool)
    };
    assert_eq!(round(), 2);
    // Eight were given up, and needed again: as many more would be kept, but for the most.
    assert_eq!([round(), round()], [6, 6]);
    // Each decay halves what is kept beyond the bound.
    pool.decay();
    let kept = [round()];
    assert!(kept[0] >= 4, "{kept:?}");
    for _ in 0..10 {
        pool.settle();
        pool.decay();
    }
    assert_eq!(idle_frames(&pool), 0);
    pool.settle();
    assert_eq!(round(), 2, "what was given up before has nothing to do with what is needed now");
}

#[test]
fn what_a_block_leaves_that_becomes_shorter_is_bounded_as_what_comes_back_and_limited_too() {
    let pool = pool(
        PoolConfig::DEFAULT.retain_bytes(2 * FRAMES).retain_most_bytes(6 * FRAMES).ebb_bytes(4 * FRAMES),
    );
    let block = take(&pool, 1, 20 * FRAME)[0];
    let resize = |from: usize, to: usize| {
        // SAFETY: 1. A simulated block has no bytes that anybody could use.
        assert_eq!(unsafe { pool.resize(block, layout(from * FRAME), to * FRAME) }, Ok(true));
    };
    resize(20, 19);
    assert_eq!((idle_frames(&pool), pool.take_ebb()), (1, false));
    resize(19, 9);
    assert_eq!((idle_frames(&pool), pool.stats().unmaps), (2, 9));
    assert!(pool.take_ebb());
    // Nine were given up. Of those three are needed again where it grows, and three more are kept.
    resize(9, 14);
    resize(14, 8);
    assert_eq!(idle_frames(&pool), 5);
    resize(8, 13);
    // What is over a limit goes as soon as it is idle.
    pool.configure(pool.config().max_bytes(4 * FRAMES));
    assert_eq!((pool.stats().reserved_bytes, idle_frames(&pool)), (13 * FRAMES, 0));
    resize(13, 3);
    assert_eq!((pool.stats().reserved_bytes, idle_frames(&pool)), (4 * FRAMES, 1));
}

#[test]
fn a_bound_holds_for_what_comes_back_without_its_size_and_half_of_that_gone_is_an_ebb() {
    let pool = pool(PoolConfig::DEFAULT.retain_bytes(FRAMES).ebb_bytes(4 * FRAMES));
    let give = |blocks: &[u64]| {
        // SAFETY: 1. A simulated block has no bytes that anybody could use.
        blocks.iter().for_each(|&addr| unsafe { pool.free_unsized(addr).unwrap() });
    };
    let blocks = take(&pool, 40, FRAME / 2);
    // Of each frame a block stays, so none is idle.
    let (one, other): (Vec<_>, Vec<_>) = blocks.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    give(&one);
    assert!(!pool.take_ebb(), "just half is not less");
    give(&other[..1]);
    assert!(pool.take_ebb());
    give(&other[1..]);
    assert_eq!((idle_frames(&pool), pool.stats().unmaps), (1, 19));
}

/// What caches take and give back is no less needed than other blocks are.
#[test]
fn what_caches_soon_need_again_was_given_up_too_early_too() {
    let config = PoolConfig::DEFAULT.retain_bytes(2 * FRAMES).retain_most_bytes(6 * FRAMES);
    let pool = pool(config);
    let Err(NoBlock::NoClass { classes, .. }) = pool.refill(SizeClass(255), &mut [Offset(0)]) else {
        panic!("no space has so many");
    };
    let largest = SizeClass(classes as u8 - 1);
    let round = || {
        let mut blocks = Vec::new();
        while pool.stats().reserved_bytes < 10 * FRAMES {
            let mut some = [Offset(0); 8];
            let taken = pool.refill(largest, &mut some).unwrap().blocks;
            // Hardened, places are drawn.
            assert!(
                taken > 0 && (cfg!(feature = "hardened") || some[..taken].is_sorted()),
                "the lowest come first: {some:?}"
            );
            blocks.extend_from_slice(&some[..taken]);
        }
        // SAFETY: 1. A simulated block has no bytes that anybody could use.
        let flushed = unsafe { pool.flush(largest, &blocks) };
        assert_eq!(flushed.refused, None);
        idle_frames(&pool)
    };
    assert_eq!([round(), round(), round()], [2, 6, 6]);
}

#[test]
fn settings_that_are_changed_hold_at_once() {
    let pool = pool(PoolConfig::DEFAULT);
    let blocks = take(&pool, 10, FRAME);
    give(&pool, blocks, FRAME);
    pool.configure(PoolConfig::DEFAULT.retain_bytes(3 * FRAMES));
    assert_eq!((idle_frames(&pool), pool.stats().reserved_bytes), (3, 3 * FRAMES));
    pool.configure(PoolConfig::DEFAULT.initial_bytes(8 * FRAMES));
    assert_eq!((idle_frames(&pool), pool.stats().reserved_bytes), (8, 8 * FRAMES));
    pool.configure(PoolConfig::DEFAULT.initial_bytes(20 * FRAMES).max_bytes(9 * FRAMES));
    assert_eq!(pool.stats().reserved_bytes, 9 * FRAMES, "as far as the limit goes");
}

#[test]
fn how_many_frames_may_be_created_before_idle_ones_are_moved_can_be_changed() {
    for (permille, steals) in [(1000, 0), (0, 2)] {
        let pool = pool(PoolConfig::DEFAULT);
        let blocks = take(&pool, 6, FRAME);
        give(&pool, [blocks[1], blocks[3]], FRAME);
        pool.configure(PoolConfig::DEFAULT.slack_permille(permille));
        take(&pool, 1, 2 * FRAME);
        let stats = pool.stats();
        assert_eq!((stats.steals, stats.reserved_bytes), (steals, (8 - steals) * FRAMES), "{permille}");
    }
}

#[test]
fn what_nobody_needed_between_two_decays_is_given_up() {
    let pool = pool(PoolConfig::DEFAULT);
    let blocks = take(&pool, 10, FRAME);
    give(&pool, blocks, FRAME);
    assert_eq!((pool.decay(), idle_frames(&pool)), (0, 10), "it was needed since the pool was made");
    let four = take(&pool, 4, FRAME);
    give(&pool, four, FRAME);
    assert_eq!((pool.decay(), idle_frames(&pool)), (6 * FRAMES, 4));
}

fn forgotten_halves(pool: &Subject) -> u64 {
    // SAFETY: 1. Numbers are read.
    unsafe { pool.with_space(|space| space.counts().forgotten) * (64 << 10) / (FRAMES / 2) }
}

#[test]
fn what_lies_free_beside_live_blocks_from_one_decay_to_the_next_is_given_back_once() {
    let pool = pool(PoolConfig::DEFAULT.retain_bytes(2 * FRAMES));
    let blocks = take(&pool, 40, FRAME / 2);
    pool.decay();
    // Two blocks a frame, of which one goes.
    give(&pool, blocks.iter().copied().step_by(2), FRAME / 2);
    pool.decay();
    assert_eq!(forgotten_halves(&pool), 0, "it came back since the last decay");
    let four = take(&pool, 4, FRAME / 2);
    give(&pool, four, FRAME / 2);
    assert_eq!((pool.decay(), forgotten_halves(&pool)), (0, 16), "but what was needed meanwhile");
    let told = [0; 3].map(|_| {
        pool.decay();
        forgotten_halves(&pool)
    });
    assert_eq!((told, pool.stats().reserved_bytes), ([20; 3], 20 * FRAMES), "once, and it stays backed");
    let again = take(&pool, 20, FRAME / 2);
    assert_eq!(pool.stats().reserved_bytes, 20 * FRAMES);
    give(&pool, again, FRAME / 2);
    pool.decay();
    pool.decay();
    assert_eq!(forgotten_halves(&pool), 40, "what was used since can be told of again");
}

#[test]
fn what_lies_free_beside_live_blocks_is_left_where_it_is_no_more_than_is_retained_or_an_eighth() {
    for (retain_frames, holes, told) in [(0, 5, 0), (0, 6, 6), (3, 6, 0), (2, 6, 6_u64)] {
        let pool = pool(PoolConfig::DEFAULT.retain_bytes(retain_frames * FRAMES));
        pool.decay();
        let blocks = take(&pool, 50, FRAME / 2);
        give(&pool, blocks.iter().copied().step_by(2).take(holes), FRAME / 2);
        pool.decay();
        pool.decay();
        assert_eq!(forgotten_halves(&pool), told, "{retain_frames} {holes}");
    }
}

#[test]
fn an_ebb_is_told_once_when_half_is_gone_and_much_is_left_over() {
    let pool = pool(PoolConfig::DEFAULT.retain_bytes(0).ebb_bytes(4 * FRAMES));
    // Two blocks a frame, of which one goes: nothing is idle, and half is free.
    let blocks = take(&pool, 40, FRAME / 2);
    assert!(!pool.take_ebb());
    give(&pool, blocks.iter().copied().step_by(2), FRAME / 2);
    assert!(!pool.take_ebb(), "just half is not less");
    give(&pool, [blocks[1]], FRAME / 2);
    assert_eq!((pool.take_ebb(), pool.take_ebb()), (true, false));
    let purged = pool.purge();
    assert_eq!(purged, 19 * FRAMES / 2);
    // SAFETY: 1. Numbers are read.
    assert_eq!(unsafe { pool.with_space(|space| space.counts().forgotten * (64 << 10)) }, purged);
    // And again at a quarter.
    give(&pool, blocks.iter().copied().skip(3).step_by(2).take(10), FRAME / 2);
    assert!(pool.take_ebb());
}

#[test]
fn the_fit_table_purges_too_and_reaches_the_space_below_it() {
    let space = WithIndex::<_, ByFit>::new(Simulated::device(1 << 30, FRAME));
    let pool: Pool<_, SpinLock, MappedTables> = Pool::new(space, MappedTables, PoolConfig::DEFAULT).unwrap();
    let blocks: Vec<u64> = (0..8).map(|_| pool.allocate(layout(FRAME / 2)).unwrap().addr).collect();
    for &addr in blocks.iter().step_by(2) {
        // SAFETY: 1. A simulated block has no bytes that anybody could use.
        unsafe { pool.free(addr, layout(FRAME / 2)).unwrap() };
    }
    assert_eq!(pool.purge(), 2 * FRAMES);
    // SAFETY: 1. Numbers are read.
    let forgotten = unsafe { pool.with_space(|space| space.inner().counts().forgotten) };
    assert_eq!(forgotten * (64 << 10), 2 * FRAMES);
}

#[test]
fn an_ebb_that_a_rise_follows_makes_the_next_one_later() {
    let pool = pool(PoolConfig::DEFAULT.retain_bytes(0).ebb_bytes(2 * FRAMES));
    let mut ebbs = 0;
    let kept = take(&pool, 40, FRAME / 2);
    for round in 0..10 {
        let blocks = take(&pool, 40, FRAME / 2);
        give(&pool, blocks.iter().copied().step_by(2), FRAME / 2);
        give(&pool, blocks.iter().copied().skip(1).step_by(2), FRAME / 2);
        if round == 0 {
            give(&pool, kept.iter().copied().step_by(2), FRAME / 2);
        }
        ebbs += pool.take_ebb() as u32;
    }
    assert!((1..=4).contains(&ebbs), "{ebbs} of 10 times");
}

#[test]
fn without_a_bound_nothing_ebbs_and_nothing_is_given_up() {
    let pool = pool(PoolConfig::DEFAULT);
    let blocks = take(&pool, 100, FRAME);
    give(&pool, blocks, FRAME);
    assert_eq!((pool.take_ebb(), pool.stats().unmaps, idle_frames(&pool)), (false, 0, 100));
}

#[test]
fn a_decay_takes_a_doubt_back() {
    let pool = pool(PoolConfig::DEFAULT.retain_bytes(0).ebb_bytes(2 * FRAMES));
    let kept = take(&pool, 40, FRAME / 2);
    let ebbs = |pool: &Subject| {
        let blocks = take(pool, 60, FRAME / 2);
        give(pool, blocks.iter().copied().step_by(2), FRAME / 2);
        give(pool, blocks.iter().copied().skip(1).step_by(2), FRAME / 2);
        pool.take_ebb()
    };
    give(&pool, kept.iter().copied().step_by(2), FRAME / 2);
    let in_a_row = (0..10).filter(|_| ebbs(&pool)).count();
    for _ in 0..10 {
        pool.decay();
    }
    assert!(in_a_row < 10 && ebbs(&pool), "{in_a_row} before");
}

#[test]
fn a_limit_that_is_lowered_takes_what_is_over_it_of_what_is_idle_and_leaves_the_rest() {
    let pool = pool(PoolConfig::DEFAULT);
    let mut blocks = take(&pool, 10, FRAME);
    give(&pool, blocks.drain(4..), FRAME);
    pool.configure(PoolConfig::DEFAULT.max_bytes(8 * FRAMES));
    assert_eq!((idle_frames(&pool), pool.stats().reserved_bytes), (4, 8 * FRAMES));
    let more = take(&pool, 4, FRAME);
    pool.configure(PoolConfig::DEFAULT.max_bytes(5 * FRAMES));
    // What comes back is given up until it fits.
    give(&pool, more, FRAME);
    assert_eq!((idle_frames(&pool), pool.stats().reserved_bytes), (1, 5 * FRAMES));
    give(&pool, blocks, FRAME);
    assert_eq!((idle_frames(&pool), pool.stats().reserved_bytes), (5, 5 * FRAMES));
}
