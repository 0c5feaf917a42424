//! The contract of every span index, held against a plain array of granules.

use super::{BuddyTree, NotLive, SpanIndex};
use crate::arena::metadata::{Metadata, NoTable, Plain};
use crate::size::{Granule, Span};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// Tables on the system's heap.
struct Heap;

impl Metadata for Heap {
    type Table<T: Plain> = Vec<T>;
    fn table<T: Plain>(&mut self, len: usize) -> Result<Vec<T>, NoTable> {
        Ok(zeros(len))
    }
}

fn zeros<T: Plain>(len: usize) -> Vec<T> {
    let mut bytes = vec![core::mem::MaybeUninit::<u8>::uninit(); (len + 1) * size_of::<T>()];
    crate::arena::metadata::Borrowed::new(&mut bytes)
        .table::<T>(len)
        .map(|table| table.to_vec())
        .unwrap_or_default()
}

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

fn hold<I: SpanIndex<Heap>>(granules: u32, skew: u32, steps: &[Step]) {
    let mut index = I::new(&mut Heap, granules, skew).unwrap();
    let mut model = vec![Plainly { live: false, ready: false }; granules as usize];
    let mut live: Vec<Span> = Vec::new();
    let range = |span: Span| span.start.0 as usize..span.end() as usize;
    for step in steps {
        match *step {
            Step::Take { granules: wanted, align } => {
                let fits = |at: u32, free: &dyn Fn(Plainly) -> bool| {
                    (at + skew) % align == 0
                        && at + wanted <= granules
                        && model[range(Span::new(at, wanted))].iter().all(|g| free(*g))
                };
                let ready: Vec<u32> = (0..granules).filter(|at| fits(*at, &|g| g.ready)).collect();
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
                    && let Some(lowest) = ready.first()
                {
                    assert!(
                        model[range(span)].iter().all(|g| g.ready),
                        "{step:?}: {lowest} is backed, {span} is not"
                    );
                }
                model[range(span)].fill(Plainly { live: true, ready: false });
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

proptest! {
    #[test]
    fn the_buddy_tree_holds_the_contract(
        granules in 1..1000u32, skew in 0..200u32, steps in prop::collection::vec(step(), 1..80),
    ) {
        hold::<BuddyTree<Heap>>(granules, skew, &steps);
    }
}

#[test]
fn a_zero_length_an_odd_alignment_and_an_empty_space_are_refused_not_served() {
    let mut index = BuddyTree::new(&mut Heap, 100, 0).unwrap();
    assert_eq!(index.take(0, 1, &|_| 0), None);
    assert_eq!(index.take(1, 3, &|_| 0), None);
    assert_eq!(index.take(u32::MAX, 1 << 31, &|_| 0), None);
    assert_eq!(index.give(Span::new(0, 0)), Err(NotLive::Free));
    assert_eq!(index.give(Span::new(u32::MAX, u32::MAX)), Err(NotLive::Outside));
    let mut empty = BuddyTree::new(&mut Heap, 0, 0).unwrap();
    assert_eq!((empty.take(1, 1, &|_| 0), empty.largest_free()), (None, 0));
    assert_eq!(empty.give(Span::new(0, 1)), Err(NotLive::Outside));
}

#[test]
fn the_cheapest_place_wins_and_the_lowest_among_equals() {
    let mut index = BuddyTree::new(&mut Heap, 1000, 0).unwrap();
    let spans: Vec<Span> = (0..10).map(|_| index.take(10, 1, &|_| 0).unwrap()).collect();
    for span in spans.iter().step_by(2) {
        index.give(*span).unwrap();
        index.unbacked(*span);
    }
    let cheap = spans[4];
    let cost = |span: Span| if span.start.0 >= cheap.start.0 && span.end() <= cheap.end() { 1 } else { 9 };
    // Both ends of the cheap run cost the same, and the start is lower.
    assert_eq!(index.take(4, 1, &cost), Some(Span { granules: 4, ..cheap }));
    assert_eq!(index.take(4, 1, &|_| 5), Some(Span::new(0, 4)));
}
