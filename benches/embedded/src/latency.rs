//! How long single operations take where memory is arranged to make them long.
//!
//! Each pattern is played several times from the start. Every allocator does the same each time, so the least of an operation's
//! times is its own; what the machine does besides is gone.

use crate::script::{Action, Live, random_actions};
use crate::subject::{Kind, Memory, Subject};
use core::alloc::Layout;
use std::time::Instant;

/// The nanoseconds of operations, sorted.
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// What so many of a thousand operations stay below.
    pub fn permille(&self, permille: usize) -> u32 {
        self.0[(self.0.len() - 1) * permille / 1000]
    }
}

/// A pattern: what comes before, and what is timed.
pub struct Pattern {
    /// What it is called.
    pub name: &'static str,
    /// Whether requests may find nothing.
    full: bool,
    before: Vec<Action>,
    timed: Vec<Action>,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("a layout")
}

/// The places in the list of live blocks that are to be freed so that every second of `blocks` goes.
fn every_second(blocks: usize) -> impl Iterator<Item = Action> {
    every_second_from(0, blocks)
}

/// The same, the first of each two or the second.
fn every_second_from(side: u32, blocks: usize) -> impl Iterator<Item = Action> {
    // The last takes the place of the one that goes, so places are freed from the end.
    (0..blocks / 2).rev().map(move |pair| Action::Free(2 * pair as u32 + side))
}

/// The patterns, with so many holes where there are holes.
pub fn patterns(holes: usize) -> Vec<Pattern> {
    // A block of 2,048 bytes, a small one that keeps the next apart, and so on: holes of 2,048 once every second is gone.
    let comb = |bytes: usize| -> Vec<Action> {
        (0..2 * holes).map(|_| Action::Allocate(layout(bytes))).chain(every_second(2 * holes)).collect()
    };
    let again = |bytes: usize| {
        (0..64).flat_map(move |_| [Action::Allocate(layout(bytes)), Action::Free(holes as u32)])
    };
    // The last hole is a little longer than the others, and nothing is free behind them.
    let full = || {
        let holes = holes - holes / 16;
        let comb = (1..2 * holes).map(|_| 4_096).chain([4_160]);
        let rest = [1 << 20, 64 << 10, 8 << 10, 4_096, 1_000, 100].map(|bytes| [bytes; 200]);
        let all = comb.chain(rest.into_iter().flatten()).map(|bytes| Action::Allocate(layout(bytes)));
        all.chain(every_second_from(1, 2 * holes)).collect()
    };
    vec![
        Pattern {
            name: "full memory, holes a little too short but for one",
            full: true,
            before: full(),
            timed: [4_130; 8].map(|bytes| Action::Allocate(layout(bytes))).into(),
        },
        Pattern {
            name: "holes a little too short",
            full: false,
            before: comb(2_048),
            timed: again(2_056).chain(again(2_080)).collect(),
        },
        Pattern {
            name: "holes a little too short, large",
            full: false,
            before: comb(4_032),
            timed: again(4_040).chain(again(4_072)).collect(),
        },
        Pattern {
            name: "holes that are long enough",
            full: false,
            before: comb(2_048),
            timed: again(2_000).collect(),
        },
        Pattern {
            name: "a block between free neighbours",
            full: false,
            before: comb(2_048),
            timed: (0..holes as u32).rev().take(1_000).map(Action::Free).collect(),
        },
        Pattern {
            name: "small blocks, every second gone",
            full: false,
            before: comb(24),
            timed: again(24).chain(again(32)).collect(),
        },
        Pattern {
            name: "random actions to 3,000",
            full: false,
            before: random_actions(1, 20_000, 3_000, false),
            timed: random_actions_on(3_000),
        },
    ]
}

/// Random actions that go on where those before ended.
fn random_actions_on(most: usize) -> Vec<Action> {
    random_actions(1, 120_000, most, false).split_off(20_000)
}

/// The least that each operation of a pattern took.
pub fn latencies(kind: Kind, memory: Memory, pattern: &Pattern, rounds: usize) -> Option<Latencies> {
    let mut least = vec![u32::MAX; pattern.timed.len()];
    for _ in 0..rounds {
        let heap: Subject = kind.over(memory);
        let mut live = Live::with_room(pattern.before.len() + pattern.timed.len());
        if !pattern.before.iter().all(|action| live.act(&*heap, *action) || pattern.full) {
            return None;
        }
        for (action, least) in pattern.timed.iter().zip(&mut least) {
            let began = Instant::now();
            let done = live.act(&*heap, *action);
            let took = began.elapsed().as_nanos() as u32;
            if !done && !pattern.full {
                return None;
            }
            *least = (*least).min(took);
        }
        live.clear(&*heap);
    }
    least.sort_unstable();
    Some(Latencies(least))
}
