//! The arena's own books held against each other, which no program outside can see.

#![forbid(unsafe_code)]

use super::*;
use crate::space::{MappedTables, Simulated};
use proptest::prelude::*;
use std::vec::Vec;

type Subject = Arena<Simulated, MappedTables>;

fn subject(slack_permille: u32) -> Subject {
    let mut arena = Arena::new(Simulated::device(64 << 20, 2 << 20), MappedTables).unwrap();
    arena.set_slack(slack_permille);
    arena
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
        steps in prop::collection::vec((0..10u32, any::<u32>(), 0..20u32), 1..60), slack in 0..2000u32,
    ) {
        let mut arena = subject(slack);
        let mut live: Vec<(u64, Layout)> = Vec::new();
        for (what, n, fail_in) in steps {
            arena.space().fail_at(fail_in as usize, n % 3 == 0);
            let layout = Layout::from_size_align((n % (12 << 20)) as usize, 1 << (n % 18)).unwrap();
            match what {
                0..5 => live.extend(arena.allocate(layout, &Unlimited).ok().map(|block| (block.addr, layout))),
                5..8 if !live.is_empty() => {
                    let (addr, layout) = live.swap_remove(n as usize % live.len());
                    arena.free(addr, layout, &Unlimited).unwrap();
                }
                8 if !live.is_empty() => {
                    let which = n as usize % live.len();
                    let (addr, old) = live[which];
                    if arena.resize(addr, old, layout.size(), &Unlimited).unwrap() {
                        live[which].1 = Layout::from_size_align(layout.size(), old.align()).unwrap();
                    }
                }
                9 if n % 2 == 0 => { arena.trim((n % (16 << 20)) as u64, &Unlimited); }
                _ => arena.grow((n % (64 << 20)) as u64, &Unlimited),
            }
            audit(&arena);
        }
    }
}

#[test]
fn a_request_that_failed_does_not_widen_the_slack() {
    let mut arena = subject(30);
    let mib = |n: usize| Layout::from_size_align(n << 20, 1).unwrap();
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
