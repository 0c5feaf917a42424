//! The spans of a range, held against plain arrays.

#![forbid(unsafe_code)]

use super::*;
use core::mem::MaybeUninit;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const N: u32 = 3000;

fn runs(flat: bool, skew: u32) -> Runs<true> {
    runs_of(N, flat, skew)
}

fn runs_of(granules: u32, flat: bool, skew: u32) -> Runs<true> {
    let asides = if flat || !COPIES { 0 } else { 112 };
    let bytes = vec![MaybeUninit::uninit(); Runs::<true>::table_bytes(granules, flat, asides) + 8].leak();
    let mut runs = Runs::none();
    runs.open(&mut Borrowed::new(bytes), granules, skew, flat, asides).unwrap();
    runs
}

#[test]
fn so_many_spans_are_set_aside_in_all_whatever_their_lengths_and_come_back_as_one_run() {
    if !COPIES {
        return;
    }
    let mut runs = runs_of(100_000, false, 0);
    for lengths in [1, 7] {
        let length = |i: u32| i % lengths;
        let spans: Vec<u32> =
            (0..aside::MOST + 20).map(|i| runs.take(LEAST + length(i), 1).unwrap()).collect();
        let mut set_aside = vec![0; lengths as usize];
        for (i, &start) in (0..).zip(&spans) {
            if runs.set_aside(start as usize, length(i) as usize) {
                set_aside[length(i) as usize] += 1;
            } else {
                assert!(give(&mut runs, start, LEAST + length(i)));
            }
        }
        assert_eq!(set_aside.iter().sum::<u32>(), aside::MOST);
        // Whatever is taken makes room for as much, and no more.
        for _ in 0..3 {
            let taken = runs.take_aside(0).unwrap();
            assert!(runs.set_aside(taken as usize, 0));
        }
        let more = runs.take(LEAST, 1).unwrap();
        assert!(!runs.set_aside(more as usize, 0));
        assert!(give(&mut runs, more, LEAST));
        assert!(runs.give_asides() && !runs.give_asides());
        assert_eq!(runs.longest(), 100_000);
    }
}

#[test]
fn nothing_is_set_aside_where_memory_is_not_plenty_and_what_was_is_merged_by_and_by() {
    if !COPIES {
        return;
    }
    let mut runs = runs_of(100_000, false, 0);
    let lengths = [0, 3, 3, 50, 111];
    let spans = lengths.map(|length| runs.take(LEAST + length, 1).unwrap() as usize);
    let other = runs.take(LEAST, 1).unwrap();
    let come_and_go = |runs: &mut Runs<true>| {
        for _ in 0..60 {
            let start = runs.take(300, 1).unwrap();
            assert!(runs.give_plainly(start as usize, 300));
        }
    };
    for (start, length) in spans.into_iter().zip(lengths) {
        assert!(runs.set_aside(start, length as usize));
    }
    come_and_go(&mut runs);
    // While memory is plenty they stay, the last of a length first.
    for which in [4, 3, 2, 1, 0] {
        assert_eq!(runs.take_aside(lengths[which] as usize), Some(spans[which] as u32));
    }
    for (start, length) in spans.into_iter().zip(lengths) {
        assert!(runs.set_aside(start, length as usize));
    }
    let most = runs.take(60_000, 1).unwrap();
    assert!(!runs.set_aside(other as usize, 0));
    come_and_go(&mut runs);
    assert_eq!(lengths.map(|length| runs.take_aside(length as usize)), [None; 5]);
    assert!(!runs.give_asides() && give(&mut runs, other, LEAST) && give(&mut runs, most, 60_000));
    assert_eq!(runs.longest(), 100_000);
}

/// Where nothing that is free holds the alignment, what is said of that length without one is not wrong for it.
#[test]
fn an_aligned_hole_is_found_wherever_it_stands_and_what_is_not_aligned_serves_others() {
    // Holes of 96 granules, of which one holds 64 at a multiple of 64.
    for which in 0..12 {
        let mut runs = runs_of(12 * 128, false, 0);
        let holes: Vec<u32> = (0..12)
            .map(|n| {
                let lead = if n == which { 32 } else { 16 };
                runs.take(lead, 1).unwrap();
                let hole = runs.take(96, 1).unwrap();
                assert!(n == which || runs.take(16, 1).is_some());
                hole
            })
            .collect();
        assert_eq!(runs.longest(), 0);
        holes.iter().for_each(|&hole| runs.free(hole, 96));
        assert_eq!(runs.take(64, 64), Some(LOWEST + which * 128 + 64));
        assert_eq!(runs.take(64, 64), None);
        assert!(runs.take(64, 1).is_some() && runs.take(96, 1).is_some());
    }
}

#[test]
fn a_small_range_takes_the_hole_that_fits_best_and_the_lowest_of_these() {
    let mut runs = runs(true, 0);
    let holes = [40, 20, 30, 20].map(|granules| {
        let hole = runs.take(granules, 1).unwrap();
        runs.take(1, 1).unwrap();
        (hole, granules)
    });
    holes.iter().for_each(|&(hole, granules)| runs.free(hole, granules));
    let takes = [(15, 1), (20, 3), (21, 2), (21, 0)];
    for (granules, hole) in takes {
        assert_eq!(runs.take(granules, 1), Some(holes[hole].0), "{granules}");
    }
}

#[test]
fn what_a_small_range_had_no_room_for_it_has_where_a_block_became_shorter() {
    let mut runs = runs(true, 0);
    let block = runs.take(100, 1).unwrap();
    runs.take(N - 100, 1).unwrap();
    assert_eq!(runs.take(50, 1), None);
    assert!(runs.resize_flat(block, 100, 50, false));
    assert_eq!(runs.take(50, 1), Some(block + 50));
}

#[test]
fn the_links_of_a_slab_and_its_mark_leave_each_other_alone() {
    const FAR: u32 = shadow::MOST_GRANULES - 1;
    let mut runs = runs(false, 0);
    let place = LOWEST + 100;
    let shadow = &mut runs.shadow;
    *shadow.header_mut(place) = [0; LEAST as usize];
    shadow.header_mut(place)[0] = shadow::SLAB_BYTE | 127;
    shadow::set_bits(shadow.header_mut(place), !0);
    let links = [(LOWEST, FAR), (FAR, LOWEST), (1 << 25, 1 << 24), (1 << 24, 1 << 25), (77, 77)];
    for has_stayed in [false, true] {
        if has_stayed {
            shadow::let_stay(shadow.header_mut(place));
            assert_eq!(shadow.links(place), shadow::Links { next: 77, prev: 77 });
        }
        for (next, prev) in links {
            shadow.set_links(place, shadow::Links { next, prev });
            assert_eq!(shadow.links(place), shadow::Links { next, prev });
            let header = shadow.header(place);
            assert_eq!((shadow::has_stayed(header), shadow::bits(header)), (has_stayed, !0));
            // As of anything that is live.
            assert!(header[0] == shadow::SLAB_BYTE | 127 && header[15] < 0x80);
        }
    }
}

fn give(runs: &mut Runs<true>, start: u32, granules: u32) -> bool {
    let is_live = runs.live(start) == Some(granules);
    if is_live {
        runs.free(start, granules);
    }
    is_live
}

#[derive(Clone, Debug)]
enum Step {
    Take { granules: u32, align: u32 },
    Give(usize),
    GiveWrong { start: u32, granules: u32 },
    Extend(usize, u32),
    Cut(usize, u32),
    GiveAsides,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (16..200u32, prop_oneof![4 => Just(0u32), 1 => 0..7u32])
            .prop_map(|(granules, shift)| Step::Take { granules, align: 1 << shift }),
        6 => any::<usize>().prop_map(Step::Give),
        2 => (0..LOWEST + N, 1..200u32).prop_map(|(start, granules)| Step::GiveWrong { start, granules }),
        2 => (any::<usize>(), 1..100u32).prop_map(|(which, more)| Step::Extend(which, more)),
        2 => (any::<usize>(), 16..100u32).prop_map(|(which, keep)| Step::Cut(which, keep)),
        1 => Just(Step::GiveAsides),
    ]
}

/// The runs of free granules.
fn free(model: &[bool]) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    let mut at = 0;
    for part in model.chunk_by(|a, b| a == b) {
        if !part[0] {
            found.push((at, part.len() as u32));
        }
        at += part.len() as u32;
    }
    found
}

proptest! {
    /// Free runs of a few lengths that one list has, and of others: what a request is cut from is the shortest of its list that holds
    /// it, else one of the next list that is not empty.
    #[test]
    fn the_best_fit_of_a_list_is_found(
        base in 64..6000u32, spread in 1..200u32, gives in prop::collection::vec((any::<u16>(), any::<bool>()), 1..if cfg!(miri) { 8 } else { 40 }),
        wants in prop::collection::vec(any::<u16>(), 20),
    ) {
        let mut runs = runs_of(1 << 18, false, 0);
        let length = |number: u16| base + u32::from(number) % spread;
        // A block between any two, so that nothing merges.
        let mut spans: Vec<(u32, u32)> = gives
            .iter()
            .map(|&(number, _)| {
                let start = runs.take(length(number), 1).unwrap();
                runs.take(LEAST, 1).unwrap();
                (start, length(number))
            })
            .collect();
        // Nothing else is free.
        while let Some(rest) = Some(runs.longest()).filter(|rest| *rest > 0) {
            runs.take(rest, 1).unwrap();
        }
        let mut free: Vec<(u32, u32)> = Vec::new();
        for (place, &(number, back)) in gives.iter().enumerate() {
            runs.free(spans[place].0, spans[place].1);
            free.push(spans[place]);
            if back {
                let taken = runs.take(length(number), 1).unwrap();
                let which = free.iter().position(|&(start, _)| start == taken).unwrap();
                // The rest of it, if there is one, stays with it.
                let (start, has) = free.swap_remove(which);
                if has > length(number) {
                    runs.free(start, length(number));
                    free.push((start, has));
                } else {
                    spans[place].1 = 0;
                }
            }
            prop_assert_eq!(runs.longest(), free.iter().map(|span| span.1).max().unwrap_or(0));
            for &want in &wants {
                let want = length(want);
                let list = |length| List::of(length);
                let own = free.iter().map(|span| span.1).filter(|&has| has >= want && list(has) == list(want)).min();
                let next = free.iter().map(|span| span.1).filter(|&has| has >= want).min();
                let found = runs.would_cut(want);
                match own {
                    Some(best) => prop_assert_eq!(found, Some(best)),
                    // Where code is dear there are no lists: the best of all.
                    None if !COPIES => prop_assert_eq!(found, next),
                    None => prop_assert_eq!(found.map(list), next.map(list)),
                }
            }
        }
        // All of them go again, in any order.
        for &which in wants.iter().cycle() {
            if free.is_empty() {
                break;
            }
            let has = free[which as usize % free.len()].1;
            let taken = runs.take(has, 1).unwrap();
            let place = free.iter().position(|&(start, length)| start == taken && length == has);
            prop_assert!(place.is_some(), "{} of {:?}", taken, free);
            free.swap_remove(place.unwrap());
            prop_assert_eq!(runs.longest(), free.iter().map(|span| span.1).max().unwrap_or(0));
        }
    }

    /// Held against a plain array of granules, by their numbers: no run is handed out twice, a fit that exists is found, nothing else is freed.
    #[test]
    fn runs_are_what_a_plain_array_says(
        flat in any::<bool>(), skew in 0..64u32, steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut runs = runs(flat, skew);
        let mut model = [false; (LOWEST + N) as usize];
        model[..LOWEST as usize].fill(true);
        let mut live: Vec<(u32, u32)> = Vec::new();
        // Whether spans may be set aside: then what is free need not be found.
        let mut aside = false;
        let mut high = LOWEST;
        for step in steps {
            match step {
                Step::Take { granules, align } => {
                    let fits = free(&model).into_iter().any(|(start, has)| {
                        (start..=start + has - granules.min(has))
                            .any(|at| (at - LOWEST + skew).is_multiple_of(align) && at + granules <= start + has)
                    });
                    let mut plain = || {
                        runs.take_aside((granules - LEAST) as usize).or_else(|| runs.take_plainly(granules as usize))
                    };
                    let plain = if align == 1 { plain() } else { None };
                    let taken = plain.or_else(|| runs.take(granules, align)).or_else(|| {
                        aside &= !runs.give_asides();
                        runs.take(granules, align)
                    });
                    prop_assert_eq!(taken.is_some(), fits);
                    if let Some(start) = taken {
                        prop_assert!((start - LOWEST + skew).is_multiple_of(align));
                        let range = start as usize..(start + granules) as usize;
                        prop_assert!(model[range.clone()].iter().all(|used| !used));
                        model[range].fill(true);
                        live.push((start, granules));
                        high = high.max(start + granules);
                    }
                }
                Step::Give(which) if !live.is_empty() => {
                    let (start, granules) = live.swap_remove(which % live.len());
                    let (at, length) = (start as usize, (granules - LEAST) as usize);
                    let set_aside = runs.set_aside(at, length);
                    prop_assert!(set_aside || runs.give_plainly(at, granules as usize) || give(&mut runs, start, granules));
                    prop_assert!(!runs.set_aside(at, length));
                    prop_assert!(!give(&mut runs, start, granules));
                    prop_assert!(!runs.give_plainly(at, granules as usize));
                    aside |= set_aside;
                    model[start as usize..(start + granules) as usize].fill(false);
                }
                Step::GiveWrong { start, granules } if !live.contains(&(start, granules)) => {
                    prop_assert!(!give(&mut runs, start, granules));
                    prop_assert!(!runs.give_plainly(start as usize, granules as usize));
                    prop_assert!(!runs.set_aside(start as usize, (granules.wrapping_sub(LEAST)) as usize));
                }
                Step::Extend(which, more) if !live.is_empty() => {
                    let at = which % live.len();
                    let (start, granules) = live[at];
                    let end = (start + granules) as usize;
                    let fits = model.get(end..end + more as usize).is_some_and(|behind| behind.iter().all(|used| !used));
                    let extend = |runs: &mut Runs<true>| match flat {
                        true => runs.resize_flat(start, granules, granules + more, false),
                        false => runs.extend(start, granules, granules + more),
                    };
                    let extended = extend(&mut runs) || (runs.give_asides() && extend(&mut runs));
                    prop_assert_eq!(extended, fits);
                    if fits {
                        model[end..end + more as usize].fill(true);
                        live[at].1 += more;
                        high = high.max(start + granules + more);
                    }
                }
                Step::Cut(which, keep) if !live.is_empty() => {
                    let at = which % live.len();
                    let (start, granules) = live[at];
                    if keep < granules {
                        match flat {
                            true => assert!(runs.resize_flat(start, granules, keep, false)),
                            false => runs.cut(start, granules, keep),
                        }
                        model[(start + keep) as usize..(start + granules) as usize].fill(false);
                        live[at].1 = keep;
                    }
                }
                Step::GiveAsides => {
                    runs.give_asides();
                    aside = false;
                }
                _ => {}
            }
            for (start, granules) in &live {
                prop_assert_eq!(runs.live(*start), Some(*granules));
            }
            prop_assert_eq!(LOWEST + runs.high_water(), high);
            let mut starts: Vec<u32> = live.iter().map(|span| span.0).collect();
            starts.sort_unstable();
            let mut from = 0;
            for start in starts {
                prop_assert_eq!(runs.next_live(from), Some(start));
                from = start + 1;
            }
            prop_assert_eq!(runs.next_live(from), None);
            let longest = free(&model).into_iter().map(|(_, has)| has).max().unwrap_or(0);
            if flat || !aside {
                prop_assert_eq!(runs.longest(), if flat || longest >= LEAST { longest } else { 0 });
            }
        }
        for (start, granules) in live {
            prop_assert!(give(&mut runs, start, granules));
        }
        runs.give_asides();
        prop_assert_eq!(runs.longest(), N);
    }
}
