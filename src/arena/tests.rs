//! The arena's own books held against each other, which no program outside can see.

#![forbid(unsafe_code)]

use super::*;
use crate::space::{MappedTables, Simulated};
use core::cell::Cell;
use proptest::prelude::*;
use std::vec::Vec;

type Subject = Arena<Simulated, MappedTables>;

fn subject(slack_permille: u32) -> Subject {
    let mut arena = Arena::new(Simulated::device(64 << 20, 2 << 20), MappedTables).unwrap();
    arena.set_slack(slack_permille);
    arena
}

/// Grants up to `most` bytes, and counts what it granted.
struct Counted {
    held: Cell<u64>,
    most: u64,
}

impl Counted {
    fn upto(most: u64) -> Counted {
        Counted { held: Cell::new(0), most }
    }
}

impl Grant for Counted {
    fn grant(&self, bytes: u64) -> bool {
        let held = self.held.get() + bytes;
        let grants = held <= self.most;
        if grants {
            self.held.set(held);
        }
        grants
    }
    fn returned(&self, bytes: u64) {
        self.held.set(self.held.get() - bytes);
    }
}

fn mib(n: usize) -> Layout {
    Layout::from_size_align(n << 20, 1).unwrap()
}

/// Free and backed by the index's word is free by the index's word and backed by the frames'; the frames' counts are
/// the granules that are live.
fn audit(arena: &Subject) {
    let commit = arena.commit.as_ref().unwrap();
    let per_frame = 1 << commit.shift();
    let mut live = std::vec![false; arena.granules as usize];
    let mut from = Granule(0);
    while let Some(span) = arena.index.next_live(from) {
        live[span.start.0 as usize..span.end() as usize].fill(true);
        from = Granule(span.end());
    }
    let mut idle = 0;
    for frame in 0..arena.granules / per_frame {
        let granules = frame * per_frame..(frame + 1) * per_frame;
        let held = granules.clone().filter(|at| live[*at as usize]).count() as u32;
        let (backed, is_idle, counted) = commit.frame(frame);
        assert_eq!(counted, held, "live granules of frame {frame}");
        assert_eq!(is_idle, backed && held == 0, "frame {frame} is idle");
        assert!(backed || held == 0, "frame {frame} holds granules and is not backed");
        idle += is_idle as u64;
        for at in granules {
            assert_eq!(arena.index.is_ready(at), backed && !live[at as usize], "granule {at}");
        }
    }
    let stats = arena.stats();
    assert_eq!(stats.idle_bytes, idle << 21);
    assert_eq!(stats.reserved_bytes, (stats.creates - stats.unmaps) << 21);
    let counts = arena.space().counts();
    assert_eq!(counts.moved, stats.steals);
    assert_eq!(
        (counts.created - counts.unmapped) << 21,
        stats.reserved_bytes,
        "what the space was asked for is held"
    );
}

proptest! {
    #[test]
    fn the_books_agree_whatever_fails(
        steps in prop::collection::vec((0..10u32, any::<u32>(), 0..20u32), 1..60), slack in 0..2000u32, most_mib in prop_oneof![Just(64u64), 4..60u64],
    ) {
        let (mut arena, grant) = (subject(slack), Counted::upto(most_mib << 20));
        let mut live: Vec<(u64, Layout)> = Vec::new();
        for (what, n, fail_in) in steps {
            arena.space().fail_at(fail_in as usize, n % 3 == 0);
            let layout = Layout::from_size_align((n % (12 << 20)) as usize, 1 << (n % 18)).unwrap();
            match what {
                0..5 => live.extend(arena.allocate(layout, &grant).ok().map(|block| (block.addr, layout))),
                5..8 if !live.is_empty() => {
                    let (addr, layout) = live.swap_remove(n as usize % live.len());
                    arena.free(addr, layout, &grant).unwrap();
                }
                8 if !live.is_empty() => {
                    let which = n as usize % live.len();
                    let (addr, old) = live[which];
                    if arena.resize(addr, old, layout.size(), &grant).unwrap() {
                        live[which].1 = Layout::from_size_align(layout.size(), old.align()).unwrap();
                    }
                }
                9 if n % 2 == 0 => { arena.trim((n % (16 << 20)) as u64, &grant); }
                _ => arena.grow((n % (64 << 20)) as u64, &grant),
            }
            audit(&arena);
            prop_assert_eq!(grant.held.get(), arena.stats().reserved_bytes);
        }
    }
}

/// Four frames, of which two that do not lie side by side are idle.
fn with_two_idle(slack_permille: u32, grant: &Counted) -> Subject {
    let mut arena = subject(slack_permille);
    let blocks: Vec<u64> = (0..4).map(|_| arena.allocate(mib(2), grant).unwrap().addr).collect();
    for addr in blocks.iter().step_by(2) {
        arena.free(*addr, mib(2), grant).unwrap();
    }
    arena
}

#[test]
fn as_many_frames_as_the_slack_allows_are_created_before_one_is_moved() {
    for (slack, moved) in [(0, 2), (30, 2), (250, 1), (499, 1), (500, 0), (2000, 0)] {
        let grant = Counted::upto(u64::MAX);
        let mut arena = with_two_idle(slack, &grant);
        let _live = arena.allocate(mib(4), &grant).unwrap();
        let stats = arena.stats();
        assert_eq!((stats.steals, stats.reserved_bytes), (moved, (6 - moved) << 21), "slack {slack}");
    }
}

#[test]
fn the_last_frames_of_a_budget_are_created_and_what_it_lacks_is_moved() {
    let grant = Counted::upto(14 << 20);
    let mut arena = with_two_idle(1000, &grant);
    // Three frames more than the four are granted, in whatever order.
    let _live = arena.allocate(mib(10), &grant).unwrap();
    assert_eq!((arena.stats().steals, grant.held.get()), (2, 14 << 20));
    assert!(matches!(arena.allocate(mib(2), &grant), Err(NoBlock::OverBudget { .. })));
    audit(&arena);
}

#[test]
fn so_much_is_trimmed_and_no_more() {
    let grant = Counted::upto(u64::MAX);
    let mut arena = subject(0);
    let block = arena.allocate(mib(12), &grant).unwrap();
    arena.free(block.addr, mib(12), &grant).unwrap();
    for (keep_bytes, given) in [(20 << 20, 0), (12 << 20, 0), (7 << 20, 6 << 20), (6 << 20, 0), (1, 6 << 20)]
    {
        assert_eq!(arena.trim(keep_bytes, &grant), given, "{keep_bytes}");
        assert_eq!(grant.held.get(), arena.idle_bytes());
        audit(&arena);
    }
}

#[test]
fn the_least_that_was_idle_is_known_from_the_mark_on() {
    let mut arena = subject(0);
    arena.grow(8 << 20, &Unlimited);
    assert_eq!(arena.idle_low_bytes(), 0, "at first nothing was");
    arena.mark_idle();
    assert_eq!(arena.idle_low_bytes(), 8 << 20);
    let block = arena.allocate(mib(5), &Unlimited).unwrap();
    arena.free(block.addr, mib(5), &Unlimited).unwrap();
    assert_eq!((arena.idle_low_bytes(), arena.idle_bytes()), (2 << 20, 8 << 20));
    arena.trim(0, &Unlimited);
    assert_eq!(arena.idle_low_bytes(), 0);
}

#[test]
fn what_is_free_in_frames_that_are_not_is_forgotten_and_nothing_else() {
    // Frames have 32 granules.
    let mut arena = subject(0);
    let granules = |n: usize| Layout::from_size_align(n << 16, 1).unwrap();
    let blocks =
        [4, 4, 8, 40, 16, 24].map(|n| (arena.allocate(granules(n), &Unlimited).unwrap().addr, granules(n)));
    let purge = |arena: &Subject| {
        let before = arena.space().counts().forgotten;
        let bytes = arena.purge();
        assert_eq!(bytes, (arena.space().counts().forgotten - before) << 16);
        bytes >> 16
    };
    assert_eq!(purge(&arena), 0, "three frames are full");
    // In the middle of a frame; across two frames; a whole frame, which is idle, and a part of the one before it.
    for (which, free) in [(1, 4), (3, 4 + 40), (5, 4 + 40 + 24), (4, 4 + 16)] {
        let (addr, layout) = blocks[which];
        arena.free(addr, layout, &Unlimited).unwrap();
        assert_eq!(purge(&arena), free, "{which}");
    }
    let [whole, part] = [32, 1].map(|n| arena.allocate(granules(n), &Unlimited).unwrap().addr);
    arena.free(whole, granules(32), &Unlimited).unwrap();
    arena.free(part, granules(1), &Unlimited).unwrap();
    assert_eq!(purge(&arena), 4 + 16);
}

#[test]
fn a_request_that_failed_does_not_widen_the_slack() {
    let mut arena = subject(30);
    let blocks: Vec<u64> = (0..4).map(|_| arena.allocate(mib(2), &Unlimited).unwrap().addr).collect();
    arena.space().fail_at(1, true);
    assert!(arena.allocate(mib(40), &Unlimited).is_err());
    arena.space().fail_at(0, false);
    for addr in blocks.iter().step_by(2) {
        arena.free(*addr, mib(2), &Unlimited).unwrap();
    }
    // Four frames were in use at most; were it the 24 of the failed request, two more would be created.
    let _two = arena.allocate(mib(4), &Unlimited).unwrap();
    let stats = arena.stats();
    assert_eq!((stats.steals, stats.reserved_bytes), (2, 8 << 20));
}

#[test]
fn blocks_that_find_no_slab_are_spans_and_come_back_as_such() {
    let geometry = Geometry::spans(4 << 10).slabs(64 << 10, 16);
    let mut bytes = [core::mem::MaybeUninit::uninit(); 48 << 10];
    let space = crate::space::Fixed::with_geometry(&mut bytes, geometry);
    let mut arena = Arena::new(space, MappedTables).unwrap();
    let layout = Layout::new::<u64>();
    let blocks: Vec<_> = core::iter::from_fn(|| arena.allocate(layout, &Unlimited).ok()).collect();
    assert!(blocks.len() >= 11, "{} blocks", blocks.len());
    for block in blocks {
        arena.free(block.addr, layout, &Unlimited).unwrap();
        assert!(matches!(arena.free(block.addr, layout, &Unlimited), Err(BadFree::AlreadyFree { .. })));
    }
    assert_eq!(arena.stats().in_use_bytes, 0);
}
