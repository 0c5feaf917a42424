//! Arenas counted in any geometry that can be made, not only in those that the crate has.

use democratising::Arena;
use democratising::arena::{ByFit, ByTree, IndexKind, LiveSpan, Unlimited};
use democratising::error::BadFree;
use democratising::size::{Geometry, Offset};
use democratising::space::{MappedTables, Simulated, WithIndex};
use proptest::prelude::*;
use std::alloc::Layout;
use std::collections::BTreeMap;

type Subject<I> = Arena<WithIndex<Simulated, I>, MappedTables>;

/// Any geometry whose parts do not contradict each other.
fn geometry() -> impl Strategy<Value = Geometry> {
    (3..=16u32, 0..=7u32, any::<bool>(), 0..=6u32, 3..=9u32, 0..=4u32, 0..=6u32, 0..=4u32).prop_map(
        |(granule, frame, framed, slab, slot, kind, tight, fine)| {
            let mut geometry = Geometry::spans(1 << granule);
            if framed {
                geometry = geometry.framed(1 << (granule + frame));
            }
            if kind > 0 {
                let slab = u32::max(granule + slab % 4, slot + 6 + slab);
                geometry = geometry.slabs(1 << slab, 1 << slot);
                if kind > 2 {
                    geometry = geometry.tight(1 << (slab + 2 - tight));
                }
                if kind % 2 == 0 {
                    geometry = geometry.fine_from(1 << (slot + 3 + fine));
                }
            }
            geometry
        },
    )
}

fn hold<I: IndexKind>(geometry: Geometry, units: u64, steps: &[(u8, u32, u32)]) {
    let unit = geometry.frame_bytes().unwrap_or(geometry.granule_bytes());
    let space_bytes = unit * units;
    let space = WithIndex::<_, I>::new(Simulated::new(space_bytes, geometry));
    let mut arena: Subject<I> = Arena::new(space, MappedTables).unwrap();
    let whole = arena.stats().largest_free_bytes;
    let base = 1u64 << 40;
    let mut live: BTreeMap<u64, (Layout, u64)> = BTreeMap::new();
    for &(what, number, other) in steps {
        let bytes = match number % 6 {
            0..3 => number as u64 / 6 % 5000,
            3 => number as u64 / 6 % (space_bytes / 4 + 1),
            4 => (number as u64 / 6 % 40) * geometry.granule_bytes(),
            _ => number as u64 / 6 % (2 * space_bytes),
        };
        let bytes = bytes.min(isize::MAX as u64);
        let align = 1usize << (other % if other.is_multiple_of(5) { usize::BITS * 5 / 8 - 1 } else { 9 });
        let picked = live.iter().nth(other as usize % live.len().max(1)).map(|(at, block)| (*at, *block));
        match (what % 8, picked) {
            (0..4, _) => {
                let Ok(layout) = Layout::from_size_align(bytes as usize, align) else { continue };
                let before = arena.stats();
                match arena.allocate(layout, &Unlimited) {
                    Ok(block) => {
                        let at = block.addr;
                        assert!(
                            at.is_multiple_of(align as u64) && block.bytes >= bytes.max(1),
                            "{layout:?} {block:?}"
                        );
                        assert!(at >= base && at + block.bytes <= base + space_bytes);
                        let below = live.range(..at + block.bytes).next_back();
                        assert!(
                            below.is_none_or(|(from, (_, bytes))| from + bytes <= at),
                            "{block:?} overlaps {below:?}"
                        );
                        assert_eq!(arena.usable_bytes(at), Ok(block.bytes));
                        live.insert(at, (layout, block.bytes));
                    }
                    Err(_) => {
                        let after = arena.stats();
                        assert_eq!(
                            (after.failures, after.in_use_bytes),
                            (before.failures + 1, before.in_use_bytes)
                        );
                        let granules = bytes.max(1).next_multiple_of(geometry.granule_bytes());
                        if (align as u64) <= geometry.granule_bytes() {
                            assert!(after.largest_free_bytes < granules, "{layout:?}: {after:?}");
                        }
                    }
                }
            }
            (4 | 5, Some((at, (layout, _)))) => {
                if what % 16 < 8 {
                    arena.free(at, layout, &Unlimited).unwrap();
                } else {
                    arena.free_unsized(at, &Unlimited).unwrap();
                }
                for again in [arena.free(at, layout, &Unlimited), arena.free_unsized(at, &Unlimited)] {
                    assert!(matches!(again, Err(BadFree::AlreadyFree { .. })), "{again:?}");
                }
                live.remove(&at);
            }
            (6, Some((at, (layout, had)))) => {
                let done = arena.resize(at, layout, bytes as usize, &Unlimited).unwrap();
                if done {
                    let has = arena.usable_bytes(at).unwrap();
                    assert!(has >= bytes);
                    let behind = live.range(at + 1..).next();
                    assert!(behind.is_none_or(|(behind, _)| at + has <= *behind));
                    live.insert(at, (Layout::from_size_align(bytes as usize, layout.align()).unwrap(), has));
                } else {
                    assert_eq!(arena.usable_bytes(at), Ok(had));
                }
            }
            (7, Some((at, (layout, had)))) => {
                for inside in [1, 7, 8, 16, had / 2, had - 1] {
                    if inside > 0 && inside < had {
                        assert!(arena.free(at + inside, layout, &Unlimited).is_err());
                        assert!(arena.free_unsized(at + inside, &Unlimited).is_err());
                    }
                }
                let wrong = Layout::from_size_align(had as usize + 1, layout.align()).unwrap();
                assert!(arena.free(at, wrong, &Unlimited).is_err());
                arena.trim(number as u64, &Unlimited);
            }
            _ => {}
        }
        let stats = arena.stats();
        let held: u64 = live.values().map(|block| block.1).sum();
        assert_eq!((stats.blocks, stats.in_use_bytes), (live.len() as u64, held));
        let mut from = Offset(0);
        let mut counted = 0;
        while let Some(LiveSpan { offset, bytes, slots, addr, .. }) = arena.live_span(from) {
            counted += slots.map_or(1, |slots| slots.taken) as usize;
            let blocks = live.range(addr..addr + bytes).count();
            assert_eq!(slots.map_or(1, |slots| slots.taken as usize), blocks);
            from = Offset(offset.0 + bytes);
        }
        assert_eq!(counted, live.len());
    }
    for (at, (layout, _)) in live {
        arena.free(at, layout, &Unlimited).unwrap();
    }
    let end = arena.stats();
    assert_eq!((end.blocks, end.in_use_bytes, end.largest_free_bytes), (0, 0, whole));
    assert_eq!(arena.live_span(Offset(0)), None);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("DEMOCRATISING_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(if cfg!(miri) { 1 } else { 100 }),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_arena_keeps_its_promises_in_any_geometry(
        geometry in geometry(), units in 1..400u64, steps in prop::collection::vec(any::<(u8, u32, u32)>(), 1..if cfg!(miri) { 20 } else { 250 }),
    ) {
        hold::<ByTree>(geometry, units, &steps);
        hold::<ByFit>(geometry, units, &steps);
    }
}
