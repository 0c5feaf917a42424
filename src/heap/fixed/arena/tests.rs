//! The lists of slabs held against what every slab says of itself, which no program outside can see.

#![forbid(unsafe_code)]

use super::super::claim;
use super::super::runs::shadow;
use super::super::slabs::{FIRST, GRANULES, all};
use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// Ranges that have slabs: each class may keep an empty one, or one class of all.
const LONG: usize = 5 << 20;
const SHORT: usize = 512 << 10;

fn arena(bytes: usize) -> FixedArena<true> {
    let mut arena = FixedArena::none();
    claim::divide(vec![MaybeUninit::uninit(); bytes].leak(), &mut arena).unwrap();
    arena
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

/// A block: how far it lies behind the origin.
fn take(arena: &mut FixedArena<true>, bytes: usize) -> Option<usize> {
    let (at, _) = arena.allocate(layout(bytes))?;
    arena.offset(at.as_ptr())
}

/// Leaves so many granules that are free in one run.
fn make_scarce(arena: &mut FixedArena<true>, granules: u32) {
    while arena.runs.longest() > granules {
        arena.runs.take(arena.runs.longest() - granules, 1).unwrap();
    }
}

/// The slabs in the list of a class, the first one first.
fn list(arena: &FixedArena<true>, class: usize) -> Vec<u32> {
    let first = arena.slabs.cuts[class][FIRST];
    let mut listed = Vec::new();
    let mut at = first;
    while at != 0 {
        listed.push(at);
        assert!(listed.len() < 10_000, "a list of class {class} that does not come back to its first");
        let next = arena.runs.shadow.links(at).next;
        assert_eq!(arena.runs.shadow.links(next).prev, at, "class {class}");
        at = if next == first { 0 } else { next };
    }
    listed
}

fn free_slots(arena: &FixedArena<true>, slab: u32) -> u64 {
    shadow::bits(arena.runs.shadow.header(slab))
}

/// Every slab that has a free slot is in the list of its class, once; none but the first of a list is full or empty.
fn audit(arena: &FixedArena<true>, keeps: bool) {
    let mut listed = Vec::new();
    let mut empty = 0;
    for (class, cut) in arena.slabs.cuts.iter().enumerate() {
        for (place, slab) in list(arena, class).into_iter().enumerate() {
            let free = free_slots(arena, slab);
            assert!(place == 0 || (free != 0 && free != all(cut)), "{free:x} of a slab of class {class}");
            empty += (free == all(cut)) as u32;
            listed.push((slab, class));
        }
    }
    assert!(keeps || empty <= 1, "{empty} slabs are empty");
    let mut from = LOWEST;
    while let Some(start) = arena.runs.next_live(from) {
        from = start + 1;
        if let Some(class) = arena.runs.shadow.header(start)[0].checked_sub(shadow::SLAB_BYTE) {
            let in_list = listed.iter().position(|&one| one == (start, class as usize));
            assert!(
                in_list.is_some() || free_slots(arena, start) == 0,
                "a slab of class {class} is in no list"
            );
            in_list.map(|at| listed.swap_remove(at));
        }
    }
    assert_eq!(listed, [], "what is listed is a slab, and listed once");
}

const SIZES: [usize; 6] = [64, 64, 72, 500, 900, 3000];

proptest! {
    #[test]
    fn every_slab_with_a_free_slot_is_in_its_list_and_no_other(
        long in any::<bool>(),
        // Granules that are left free; with so many memory is plenty.
        left in prop_oneof![Just(u32::MAX), 300..3000u32],
        steps in prop::collection::vec((0..8u32, 0..SIZES.len(), any::<u16>()), 1..if cfg!(miri) { 5 } else { 80 }),
    ) {
        let mut arena = arena(if long { LONG } else { SHORT });
        make_scarce(&mut arena, left);
        let mut live: Vec<(usize, usize)> = Vec::new();
        for (what, size, n) in steps {
            let (bytes, n) = (SIZES[size], n as usize);
            match what {
                // As many as some slabs have.
                0..2 => live.extend((0..n % 200).map_while(|_| Some((take(&mut arena, bytes)?, bytes)))),
                2..4 => live.extend(take(&mut arena, bytes).map(|at| (at, bytes))),
                // One, or some that were taken one after the other, or all of a size.
                4..7 if !live.is_empty() => {
                    let at = n % live.len();
                    let end = if what == 4 { at + 1 } else { live.len().min(at + n % 150 + 1) };
                    for (at, bytes) in live.drain(at..end) {
                        arena.free(at, layout(bytes)).unwrap();
                        prop_assert_eq!(arena.free(at, layout(bytes)), None);
                    }
                }
                7 if n % 4 == 0 => live.retain(|&(at, held)| {
                    held != bytes || arena.free(at, layout(bytes)).is_none()
                }),
                _ => {}
            }
            audit(&arena, long);
        }
        for (at, bytes) in live {
            arena.free(at, layout(bytes)).unwrap();
        }
        audit(&arena, long);
        arena.settle();
        prop_assert!(arena.slabs.cuts.iter().all(|cut| cut[FIRST] == 0), "all of them are closed");
    }
}

/// Slabs of one class that are full, lowest first, with their blocks.
fn full_slabs(arena: &mut FixedArena<true>, count: usize) -> (usize, Vec<(u32, Vec<usize>)>) {
    let class = arena.class_of(layout(64)).unwrap();
    let slots = all(&arena.slabs.cuts[class]).count_ones() as usize;
    let slabs = (0..count).map(|_| {
        let blocks: Vec<usize> = (0..slots).map(|_| take(arena, 64).unwrap()).collect();
        (arena.slabs.cuts[class][FIRST], blocks)
    });
    (class, slabs.collect())
}

#[test]
fn where_memory_is_scarce_the_lowest_slabs_serve_first_and_where_it_is_plenty_each_waits_for_its_turn() {
    for is_scarce in [true, false] {
        if !is_scarce && !super::super::COPIES {
            continue;
        }
        let mut arena = arena(LONG);
        if is_scarce {
            make_scarce(&mut arena, 1000);
        }
        let (class, slabs) = full_slabs(&mut arena, 4);
        assert_eq!(list(&arena, class), [slabs[3].0], "the last that was opened");
        let mut order = Vec::new();
        for which in [2, 1, 3, 0] {
            arena.free(slabs[which].1[0], layout(64)).unwrap();
            order = list(&arena, class);
        }
        let [a, b, c, d] = [0, 1, 2, 3].map(|which| slabs[which].0);
        // In front of what lies higher, else second.
        assert_eq!(order, if is_scarce { [a, b, d, c] } else { [c, b, d, a] });
        // Taken off wherever it stands.
        for &block in &slabs[3].1[1..] {
            arena.free(block, layout(64)).unwrap();
        }
        assert_eq!(list(&arena, class), if is_scarce { [a, b, c] } else { [c, b, a] });
        audit(&arena, true);
    }
}

#[test]
fn a_long_range_keeps_an_empty_slab_of_each_class_and_a_short_one_of_the_last() {
    for (bytes, kept) in [(LONG, [true, true]), (SHORT, [false, true])] {
        let mut arena = arena(bytes);
        let classes = [64, 500].map(|bytes| arena.class_of(layout(bytes)).unwrap());
        for _ in 0..3 {
            for bytes in [64, 500, 500] {
                let at = take(&mut arena, bytes).unwrap();
                arena.free(at, layout(bytes)).unwrap();
            }
        }
        assert_eq!(classes.map(|class| arena.slabs.cuts[class][FIRST] != 0), kept);
        // A slab of the one that was full is not empty, and closes nobody's.
        let (_, slabs) = full_slabs(&mut arena, 1);
        arena.free(slabs[0].1[0], layout(64)).unwrap();
        assert_eq!(classes.map(|class| arena.slabs.cuts[class][FIRST] != 0), [true, true]);
    }
}

#[test]
fn a_slab_wastes_the_smallest_share_that_a_slab_of_about_its_length_can() {
    for bytes in [LONG, SHORT] {
        let (arena, least) = (arena(bytes), Plan::of(bytes, true).slab_granules);
        assert!(arena.slabs.cuts.len() > 40);
        for (class, cut) in arena.slabs.cuts.iter().enumerate() {
            let slot = arena.slabs.bytes(class) as u32;
            // Three slots at least, and as many as there are bits at most.
            let least = least.max(3 * slot / 64).min(slot);
            let waste = |slots: u32| (slots * slot).next_multiple_of(64) - slots * slot;
            let granules = |slots: u32| (slots * slot).div_ceil(64);
            let share = |slots: u32| f64::from(waste(slots)) / f64::from(granules(slots));
            let allowed = (1..=64).filter(|&slots| (least..=2 * least).contains(&granules(slots)));
            let smallest = allowed.clone().map(share).fold(1.0, f64::min);
            let fewest = allowed.clone().find(|&slots| share(slots) == smallest).unwrap();
            let slots = all(cut).count_ones();
            assert_eq!((slots, cut[GRANULES]), (fewest, granules(fewest)), "{slot} bytes");
            assert!(cut[GRANULES] >= LEAST && slots >= 3 && slots * slot <= cut[GRANULES] * 64);
        }
    }
}

#[test]
fn a_size_without_a_class_has_none_in_any_range() {
    for bytes in [LONG, SHORT] {
        let arena = arena(bytes);
        for size in [0, 1, 8, 64, 1000, 1024, 1500, 1920, 2048, 2049, 100_000] {
            let class = arena.class_of(layout(size));
            assert!(class.is_none_or(|class| arena.slabs.bytes(class) >= size), "{size}: {class:?}");
        }
        assert_eq!([1920, 2049].map(|size| arena.class_of(layout(size))), [None; 2]);
    }
}
