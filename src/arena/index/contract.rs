//! The contract of every span index, held against a plain array of granules.

use super::fit::{Backing, Framed, Unframed};
use super::{BuddyTree, FitTable, NotLive, SpanIndex};
use crate::arena::metadata::Heap;
use crate::size::{Granule, Span};
use crate::sync::Cell;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

#[derive(Clone, Debug)]
enum Step {
    Take { granules: u32, align: u32 },
    Give(usize),
    GiveWrong { start: u32, granules: u32 },
    Extend(usize, u32),
    Cut(usize, u32),
    Back { start: u32, granules: u32 },
    Unback { start: u32, granules: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let length = || prop_oneof![6 => 1..8u32, 4 => 1..70u32, 2 => 60..400u32];
    prop_oneof![
        8 => (length(), prop_oneof![4 => Just(0u32), 1 => 0..8u32])
            .prop_map(|(granules, shift)| Step::Take { granules, align: 1 << shift }),
        6 => any::<usize>().prop_map(Step::Give),
        1 => (0..1100u32, 0..400u32).prop_map(|(start, granules)| Step::GiveWrong { start, granules }),
        1 => (any::<usize>(), length()).prop_map(|(which, more)| Step::Extend(which, more)),
        1 => (any::<usize>(), length()).prop_map(|(which, keep)| Step::Cut(which, keep)),
        3 => (0..1000u32, length()).prop_map(|(start, granules)| Step::Back { start, granules }),
        2 => (0..1000u32, length()).prop_map(|(start, granules)| Step::Unback { start, granules }),
    ]
}

/// What a granule is, as plainly as can be.
#[derive(Clone, Copy, PartialEq)]
struct Plainly {
    live: bool,
    ready: bool,
}

/// What an index knows of backing, and so which places come first.
#[derive(Clone, Copy, PartialEq)]
enum Knows {
    /// Every granule.
    Granules,
    /// Whole free runs.
    Runs,
    /// Nothing: everything is taken for backed.
    Nothing,
}

fn hold<I: SpanIndex<Heap>>(knows: Knows, granules: u32, skew: u32, steps: &[Step]) {
    let mut index = I::new(&mut Heap, granules, skew).unwrap();
    let mut model = vec![Plainly { live: false, ready: false }; granules as usize];
    let mut live: Vec<Span> = Vec::new();
    let mut high = 0;
    let range = |span: Span| span.start.0 as usize..span.end() as usize;
    for step in steps {
        match *step {
            Step::Take { granules: wanted, align } => {
                let fits = |at: u32, free: &dyn Fn(Plainly) -> bool| {
                    (at + skew).is_multiple_of(align)
                        && at + wanted <= granules
                        && model[range(Span::new(at, wanted))].iter().all(|g| free(*g))
                };
                let ready = match knows {
                    Knows::Granules => (0..granules).find(|at| fits(*at, &|g| g.ready)),
                    Knows::Runs => ready_runs(&model)
                        .into_iter()
                        .find(|run| run.granules >= wanted)
                        .map(|run| run.start.0),
                    Knows::Nothing => None,
                };
                let free = (0..granules).any(|at| fits(at, &|g| !g.live));
                // As with frames, what is live is backed: a place that is not free would be cheap.
                let cost =
                    |span: Span| model[range(span)].iter().filter(|g| !g.ready && !g.live).count() as u32;
                let taken = index.take(wanted, align, &cost);
                assert_eq!(taken.is_some(), free, "{step:?}: a fit that exists is found, and none other");
                let Some(span) = taken else { continue };
                assert_eq!((span.granules, (span.start.0 + skew) % align), (wanted, 0), "{step:?}: {span}");
                assert!(model[range(span)].iter().all(|g| !g.live), "{step:?}: {span} is not free");
                if align == 1
                    && let Some(lowest) = ready
                {
                    assert!(
                        model[range(span)].iter().all(|g| g.ready),
                        "{step:?}: {lowest} is backed, {span} is not"
                    );
                }
                model[range(span)].fill(Plainly { live: true, ready: false });
                high = high.max(span.end());
                live.push(span);
            }
            Step::Give(which) if !live.is_empty() => {
                let span = live.swap_remove(which % live.len());
                assert_eq!(index.give(span), Ok(()));
                model[range(span)].fill(Plainly { live: false, ready: true });
                assert_eq!(index.give(span), Err(NotLive::Free), "a second free is refused");
            }
            Step::GiveWrong { start, granules: given } => {
                let span = Span::new(start, given);
                if live.contains(&span) {
                    continue;
                }
                let why = index.give(span).unwrap_err();
                let at = model.get(start as usize);
                match live.iter().find(|span| span.start.0 == start) {
                    Some(held) => assert_eq!(why, NotLive::OtherLength(held.granules)),
                    None if at.is_none() => assert_eq!(why, NotLive::Outside),
                    None if at.is_some_and(|g| g.live) => assert_eq!(why, NotLive::Inside),
                    None => assert_eq!(why, NotLive::Free),
                }
            }
            Step::Extend(which, more) if !live.is_empty() => {
                let which = which % live.len();
                let (span, wanted) = (live[which], live[which].granules + more);
                let end = span.start.0 + wanted;
                let free =
                    end <= granules && model[span.end() as usize..end as usize].iter().all(|g| !g.live);
                assert_eq!(index.extend(span, wanted), free);
                if free {
                    live[which].granules = wanted;
                    high = high.max(end);
                    model[range(live[which])].fill(Plainly { live: true, ready: false });
                }
            }
            Step::Cut(which, keep) if !live.is_empty() => {
                let which = which % live.len();
                let span = live[which];
                let keep = keep.min(span.granules);
                assert_eq!(index.cut(span, keep), Ok(()));
                live[which].granules = keep;
                model[span.start.0 as usize + keep as usize..span.end() as usize]
                    .fill(Plainly { live: false, ready: true });
            }
            Step::Back { start, granules: count } => {
                let span = Span::new(start.min(granules), count.min(granules - start.min(granules)));
                index.backed(span);
                model[range(span)].iter_mut().filter(|g| !g.live).for_each(|g| g.ready = true);
            }
            Step::Unback { start, granules: count } => {
                let end = (start + count).min(granules);
                if start >= end || model[start as usize..end as usize].iter().any(|g| g.live) {
                    continue;
                }
                index.unbacked(Span::new(start, end - start));
                model[start as usize..end as usize].iter_mut().for_each(|g| g.ready = false);
            }
            _ => {}
        }
        assert_eq!(index.high_water(), high, "{step:?}");
        let longest = model.split(|g| g.live).map(<[_]>::len).max().unwrap_or(0);
        assert_eq!(index.largest_free() as usize, longest, "{step:?}");
        let mut listed = Vec::new();
        let mut from = Granule(0);
        while let Some(span) = index.next_live(from) {
            listed.push(span);
            from = Granule(span.end());
        }
        let mut expected = live.clone();
        expected.sort_by_key(|span| span.start);
        assert_eq!(listed, expected, "{step:?}");
    }
}

/// The maximal free runs that are backed from end to end.
fn ready_runs(model: &[Plainly]) -> Vec<Span> {
    let mut runs = Vec::new();
    let mut at = 0;
    for run in model.split(|g| g.live) {
        if !run.is_empty() && run.iter().all(|g| g.ready) {
            runs.push(Span::new(at, run.len() as u32));
        }
        at += run.len() as u32 + 1;
    }
    runs
}

/// A small space without frames, cut into blocks of 8 or 64 granules.
enum Blocks<const SHIFT: u32> {}

impl<const SHIFT: u32> Backing for Blocks<SHIFT> {
    const BLOCK_SHIFT: u32 = SHIFT;
    const FLAT_BELOW: u32 = 0;
    const SETS: u32 = 1;
}

/// The granules of a space; the model looks at each after every step.
const MOST: u32 = if cfg!(miri) { 100 } else { 1000 };

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..if cfg!(miri) { 10 } else { 80 })
}

proptest! {
    #[test]
    fn the_buddy_tree_holds_the_contract(granules in 1..MOST, skew in 0..200u32, steps in steps()) {
        hold::<BuddyTree<Heap>>(Knows::Granules, granules, skew, &steps);
    }

    #[test]
    fn the_fit_table_holds_the_contract_where_backing_moves(
        granules in 1..MOST, skew in 0..200u32, steps in steps(),
    ) {
        hold::<FitTable<Heap, Framed>>(Knows::Runs, granules, skew, &steps);
    }

    #[test]
    fn the_fit_table_holds_the_contract_in_one_block(
        granules in 1..MOST, skew in 0..200u32, steps in steps(),
    ) {
        hold::<FitTable<Heap, Unframed>>(Knows::Nothing, granules, skew, &steps);
    }

    #[test]
    fn the_fit_table_holds_the_contract_in_blocks_of_8_32_and_64(
        granules in 1..MOST, skew in 0..200u32, steps in steps(),
    ) {
        hold::<FitTable<Heap, Blocks<3>>>(Knows::Nothing, granules, skew, &steps);
        hold::<FitTable<Heap, Blocks<5>>>(Knows::Nothing, granules, skew, &steps);
        hold::<FitTable<Heap, Blocks<6>>>(Knows::Nothing, granules, skew, &steps);
    }
}

/// Runs a test over every index.
macro_rules! every_index {
    ($($(#[$attribute:meta])* $name:ident)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            rules::$name::<BuddyTree<Heap>>();
            rules::$name::<FitTable<Heap, Framed>>();
            rules::$name::<FitTable<Heap, Unframed>>();
            rules::$name::<FitTable<Heap, Blocks<5>>>();
        }
    )*};
}

every_index! {
    a_zero_length_an_odd_alignment_and_an_empty_space_are_refused_not_served
    a_span_can_be_the_whole_space
    what_is_live_with_another_length_is_not_given_back_nor_lengthened_nor_cut
    what_is_backed_behind_the_end_is_nobodys
    #[cfg_attr(miri, ignore = "safe code, too many spans to interpret")]
    a_space_of_single_holes_is_used_up_to_the_last_granule
    #[cfg_attr(miri, ignore = "safe code, too many spans to interpret")]
    a_fit_among_many_that_are_too_short_is_found
    #[cfg_attr(miri, ignore = "safe code, too many spans to interpret")]
    an_aligned_fit_among_many_that_are_not_is_found
}

/// Rules without frames: every index holds them.
mod rules {
    use super::*;

    pub fn a_zero_length_an_odd_alignment_and_an_empty_space_are_refused_not_served<I: SpanIndex<Heap>>() {
        let mut index = I::new(&mut Heap, 100, 0).unwrap();
        assert_eq!(index.take(0, 1, &|_| 0), None);
        assert_eq!(index.take(1, 3, &|_| 0), None);
        assert_eq!(index.take(101, 1, &|_| 0), None);
        assert_eq!(index.take(u32::MAX, 1 << 31, &|_| 0), None);
        assert_eq!(index.give(Span::new(0, 0)), Err(NotLive::Free));
        assert_eq!(index.give(Span::new(u32::MAX, u32::MAX)), Err(NotLive::Outside));
        assert!(!index.extend(Span::new(u32::MAX, 1), u32::MAX));
        let mut empty = I::new(&mut Heap, 0, 0).unwrap();
        assert_eq!((empty.take(1, 1, &|_| 0), empty.largest_free()), (None, 0));
        assert_eq!(empty.give(Span::new(0, 1)), Err(NotLive::Outside));
        assert_eq!(empty.next_live(Granule(0)), None);
        empty.backed(Span::new(0, 0));
        empty.unbacked(Span::new(0, 0));
    }

    pub fn a_span_can_be_the_whole_space<I: SpanIndex<Heap>>() {
        for granules in [1, 63, 64, 65, 1000, 5000] {
            let mut index = I::new(&mut Heap, granules, 0).unwrap();
            for _ in 0..2 {
                let whole = Span::new(0, granules);
                assert_eq!(index.take(granules, 1, &|_| 1), Some(whole));
                assert_eq!((index.live(Granule(0)), index.largest_free()), (Ok(whole), 0));
                assert_eq!((index.take(1, 1, &|_| 1), index.give(whole)), (None, Ok(())));
            }
        }
    }

    pub fn what_is_live_with_another_length_is_not_given_back_nor_lengthened_nor_cut<I: SpanIndex<Heap>>() {
        let mut index = I::new(&mut Heap, 200, 0).unwrap();
        let [first, second] = [(); 2].map(|()| index.take(70, 1, &|_| 1).unwrap());
        for held in [first, second] {
            for granules in [0, 1, 30, 69, 71, 130] {
                let other = Span { granules, ..held };
                let told = if other.end() > 200 { None } else { Some(NotLive::OtherLength(70)) };
                for why in [index.give(other), index.cut(other, 1)] {
                    assert!(why.is_err() && (told.is_none() || why.err() == told), "{other}: {why:?}");
                }
                assert!(!index.extend(other, granules + 1), "{other}");
                assert_eq!(index.live(held.start), Ok(held));
            }
            assert!(!index.extend(held, 69), "that would be a cut");
            assert_eq!((index.cut(held, 70), index.cut(held, 71)), (Ok(()), Ok(())));
            assert_eq!(index.live(held.start), Ok(held));
        }
        assert_eq!(index.cut(second, 0), Ok(()), "at least one is left");
        assert_eq!(index.live(second.start), Ok(Span { granules: 1, ..second }));
        assert_eq!(index.largest_free(), 129);
    }

    /// The last frame of a space may reach beyond it.
    pub fn what_is_backed_behind_the_end_is_nobodys<I: SpanIndex<Heap>>() {
        for granules in [100, 64, 127] {
            let mut index = I::new(&mut Heap, granules, 0).unwrap();
            index.backed(Span::new(0, 128));
            index.unbacked(Span::new(64, 64));
            index.backed(Span::new(64, 64));
            assert_eq!((index.largest_free(), index.take(granules + 1, 1, &|_| 0)), (granules, None));
            let taken = core::iter::from_fn(|| index.take(1, 1, &|_| 0)).count();
            assert_eq!(taken, granules as usize);
        }
    }

    /// As many holes as a space can have, which would be too many for any pool of records that it could pay for.
    pub fn a_space_of_single_holes_is_used_up_to_the_last_granule<I: SpanIndex<Heap>>() {
        const N: u32 = 9000;
        let mut index = I::new(&mut Heap, N, 0).unwrap();
        index.backed(Span::new(0, N));
        let taken: Vec<Span> = core::iter::from_fn(|| index.take(1, 1, &|_| 0)).collect();
        assert_eq!(taken.len(), N as usize);
        let (even, odd): (Vec<Span>, Vec<Span>) = taken.into_iter().partition(|span| span.start.0 % 2 == 0);
        even.iter().for_each(|span| assert_eq!(index.give(*span), Ok(())));
        assert_eq!((index.largest_free(), index.take(2, 1, &|_| 0)), (1, None));
        let again: Vec<Span> = core::iter::from_fn(|| index.take(1, 1, &|_| 0)).collect();
        assert_eq!(again.len(), even.len());
        again.iter().chain(&odd).for_each(|span| assert_eq!(index.give(*span), Ok(())));
        assert_eq!((index.largest_free(), index.next_live(Granule(0))), (N, None));
    }

    /// Holes of 1,000 to 1,007 granules, which one list of the fit table holds; the longest is somewhere among them.
    pub fn a_fit_among_many_that_are_too_short_is_found<I: SpanIndex<Heap>>() {
        for longest in 0..40 {
            let mut index = I::new(&mut Heap, 41 * 1100, 0).unwrap();
            index.backed(Span::new(0, 41 * 1100));
            let mut holes = Vec::new();
            for n in 0..40 {
                let length = if n == longest { 1007 } else { 1000 + n % 7 };
                holes.push(index.take(length, 1, &|_| 0).unwrap());
                index.take(1, 1, &|_| 0).unwrap();
            }
            while index.take(1, 1, &|_| 0).is_some() {}
            holes.iter().for_each(|hole| index.give(*hole).unwrap());
            assert_eq!(index.take(1008, 1, &|_| 0), None);
            assert_eq!(index.largest_free(), 1007);
            assert_eq!(index.take(1007, 1, &|_| 0), Some(holes[longest as usize]));
            assert_eq!(index.largest_free(), 1006);
        }
    }

    /// Holes of 96 granules from 1 on, and a single one that holds 64 at a multiple of 64.
    pub fn an_aligned_fit_among_many_that_are_not_is_found<I: SpanIndex<Heap>>() {
        let mut index = I::new(&mut Heap, 128 * 60, 0).unwrap();
        index.backed(Span::new(0, 128 * 60));
        let mut holes = Vec::new();
        for n in 0..50 {
            let lead = if n == 33 { 32 } else { 1 };
            index.take(lead, 1, &|_| 0).unwrap();
            holes.push(index.take(96, 1, &|_| 0).unwrap());
            index.take(128 - 96 - lead, 1, &|_| 0);
        }
        while index.take(1, 1, &|_| 0).is_some() {}
        for hole in holes {
            index.give(hole).unwrap();
        }
        assert_eq!(index.take(64, 64, &|_| 0), Some(Span::new(33 * 128 + 64, 64)));
        assert_eq!(index.take(64, 64, &|_| 0), None);
    }
}

fn the_cheapest_place_wins<I: SpanIndex<Heap>>() {
    let mut index = I::new(&mut Heap, 1000, 0).unwrap();
    let spans: Vec<Span> = (0..10).map(|_| index.take(10, 1, &|_| 1).unwrap()).collect();
    for span in spans.iter().step_by(2) {
        index.give(*span).unwrap();
        index.unbacked(*span);
    }
    let cheap = spans[4];
    let cost = |span: Span| if span.start.0 >= cheap.start.0 && span.end() <= cheap.end() { 1 } else { 9 };
    // Both ends of the cheap run cost the same, and the start is lower.
    assert_eq!(index.take(4, 1, &cost), Some(Span { granules: 4, ..cheap }));
    assert_eq!(index.take(4, 1, &|_| 5), Some(Span::new(0, 4)));
    let far = |span: Span| if span.end() == spans[8].end() { 1 } else { 9 };
    assert_eq!(index.take(4, 2, &far), Some(Span::new(spans[8].end() - 4, 4)));
}

#[test]
#[cfg_attr(miri, ignore = "safe code, too many spans to interpret")]
fn the_cheapest_place_wins_and_the_lowest_among_equals() {
    the_cheapest_place_wins::<BuddyTree<Heap>>();
    the_cheapest_place_wins::<FitTable<Heap, Framed>>();
}

/// What a look at a place costs is the space's to say, so places are not compared for ever, nor behind one that costs nothing.
#[test]
fn so_many_places_are_compared_at_most_and_none_behind_one_that_costs_nothing() {
    fn hold<I: SpanIndex<Heap>>() {
        let mut index = I::new(&mut Heap, 5000, 0).unwrap();
        let spans: Vec<Span> = (0..200).map(|_| index.take(10, 1, &|_| 1).unwrap()).collect();
        for span in spans.iter().step_by(2) {
            index.give(*span).unwrap();
            index.unbacked(*span);
        }
        let looks = Cell::new(0);
        let cost = |cost| {
            let looks = &looks;
            looks.set(0);
            move |_| {
                looks.set(looks.get() + 1);
                cost
            }
        };
        let taken = index.take(4, 1, &cost(5)).unwrap();
        // Both ends of so many; and what is left may be looked at.
        assert!((128..=130).contains(&looks.get()), "{} looks", looks.get());
        index.give(taken).unwrap();
        index.unbacked(taken);
        index.take(4, 1, &cost(0)).unwrap();
        assert!(looks.get() <= 4, "{} looks", looks.get());
    }
    hold::<BuddyTree<Heap>>();
    hold::<FitTable<Heap, Framed>>();
}

#[test]
fn the_far_end_of_what_was_never_taken_is_not_considered() {
    fn hold<I: SpanIndex<Heap>>() {
        let mut index = I::new(&mut Heap, 1000, 0).unwrap();
        let cost = |span: Span| if span.end() == 1000 { 1 } else { 5 };
        assert_eq!(index.take(4, 1, &cost), Some(Span::new(0, 4)));
    }
    hold::<BuddyTree<Heap>>();
    hold::<FitTable<Heap, Framed>>();
}

/// Where the lowest run that is backed and long enough does not hold the alignment, one that does wherever it starts is taken.
#[test]
fn the_buddy_tree_takes_what_is_backed_for_an_alignment_too() {
    let mut index = BuddyTree::<Heap>::new(&mut Heap, 1000, 0).unwrap();
    index.backed(Span::new(1, 64));
    index.backed(Span::new(129, 127));
    let backed = |at: &u32| (1..65).contains(at) || (129..256).contains(at);
    let cost = |span: Span| (span.start.0..span.end()).filter(|at| !backed(at)).count() as u32;
    assert_eq!(index.take(64, 64, &cost), Some(Span::new(192, 64)));
}

/// Of holes that are long enough the shortest is taken, wherever it lies.
#[test]
#[cfg_attr(miri, ignore = "safe code, too many spans to interpret")]
fn the_fit_table_takes_the_hole_that_fits_best() {
    fn hold<I: SpanIndex<Heap>>(shortest: u32) {
        // In the table's terms: lists of one length, and lists of several lengths.
        for lengths in [[40, shortest, 30, 12, 33], [900, 300, 2000, 500, 1000]] {
            let mut index = I::new(&mut Heap, 8000, 0).unwrap();
            index.backed(Span::new(0, 8000));
            let holes = lengths.map(|length| {
                let hole = index.take(length, 1, &|_| 0).unwrap();
                index.take(1, 1, &|_| 0).unwrap();
                hole
            });
            holes.iter().for_each(|hole| index.give(*hole).unwrap());
            let mut sorted = holes;
            sorted.sort_by_key(|hole| hole.granules);
            for hole in sorted {
                let taken = index.take(hole.granules - 1, 1, &|_| 0);
                assert_eq!(taken, Some(Span { granules: hole.granules - 1, ..hole }));
                // The granule that is left joins nothing and fits nothing.
                assert!(index.extend(taken.unwrap(), hole.granules));
            }
        }
    }
    hold::<FitTable<Heap, Framed>>(2);
    hold::<FitTable<Heap, Unframed>>(2);
    // Nothing hidden: what lies near is preferred there.
    hold::<FitTable<Heap, Blocks<2>>>(9);
}

/// A hole that is backed in whole is taken before one that fits better and is not.
#[test]
fn what_is_backed_comes_before_what_fits() {
    fn hold<I: SpanIndex<Heap>>() {
        let mut index = I::new(&mut Heap, 1000, 0).unwrap();
        let spans: Vec<Span> = (0..10).map(|n| index.take(10 + n, 1, &|_| 1).unwrap()).collect();
        index.give(spans[2]).unwrap();
        index.give(spans[4]).unwrap();
        index.unbacked(spans[2]);
        assert_eq!(index.take(12, 1, &|_| 1), Some(Span { granules: 12, ..spans[4] }));
        // A part that is backed does not make the whole so; the rest of it does.
        index.backed(Span::new(spans[2].start.0, 5));
        index.give(Span { granules: 12, ..spans[4] }).unwrap();
        index.backed(spans[2]);
        assert_eq!(index.take(12, 1, &|_| 9), Some(spans[2]));
    }
    hold::<BuddyTree<Heap>>();
    hold::<FitTable<Heap, Framed>>();
}
