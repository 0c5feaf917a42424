//! The buddy tree: address-ordered first fit over exact spans, in O(log granules).
//!
//! A perfect binary tree over aligned buddy halves. Its leaves are words of 64 granules; each node holds the longest
//! prefix, suffix and run of granules of its half that are free and backed. First fit in address order keeps the
//! high frames idle, so the fewest have to be stolen. Where nothing backed fits, the free runs themselves are
//! searched for the place that needs the fewest new frames.
//!
//! Space is used from its low end on, so the tree is no higher than what was ever backed: its root is the least half
//! from the low end that holds all that is ready, and moves up.
//!
//! All zeros is the tree of a space that is free and not backed, so tables that are mapped cost nothing until used.

use super::{NotLive, SpanIndex};
use crate::arena::bits;
use crate::arena::metadata::{Metadata, NoTable};
use crate::size::{Granule, Span};
use core::fmt;
use core::ops::Range;

/// Free runs that are looked at, at both ends, when nothing backed fits.
const RUNS_SEEN: u32 = 64;

/// The free and backed granules of one buddy half: longest prefix, longest suffix, longest run.
type Node = [u32; 3];
const PREFIX: usize = 0;
const SUFFIX: usize = 1;
const RUN: usize = 2;

/// The buddy tree.
pub struct BuddyTree<M: Metadata> {
    /// One bit per granule: part of a live span.
    live: M::Table<u64>,
    /// One bit per granule: a live span starts here.
    starts: M::Table<u64>,
    /// One bit per granule: free and backed.
    ready: M::Table<u64>,
    /// The halves of node `i` are `2 * i` and `2 * i + 1`, of node 1 those of the space; the words start at `leaves`.
    nodes: M::Table<Node>,
    leaves: usize,
    /// A node at the low end. Nothing behind its half is ready or ever was, and the nodes above it and there are zeros.
    root: usize,
    granules: u32,
    skew: u32,
    /// Granules from here on have never been taken.
    high: u32,
}

impl<M: Metadata> fmt::Debug for BuddyTree<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (granules, high) = (&self.granules, &self.high);
        f.debug_struct("BuddyTree").field("granules", granules).field("high", high).finish_non_exhaustive()
    }
}

impl<M: Metadata> SpanIndex<M> for BuddyTree<M> {
    fn new(meta: &mut M, granules: u32, skew: u32) -> Result<Self, NoTable> {
        let words = bits::words(granules).max(1);
        let leaves = words.next_power_of_two();
        Ok(BuddyTree {
            live: meta.table(words)?,
            starts: meta.table(words)?,
            ready: meta.table(words)?,
            nodes: meta.table(2 * leaves)?,
            leaves,
            root: leaves,
            granules,
            skew,
            high: 0,
        })
    }

    #[inline]
    fn take(&mut self, granules: u32, align: u32, cost: &impl Fn(Span) -> u32) -> Option<Span> {
        if granules == 0 || granules > self.granules || !align.is_power_of_two() {
            return None;
        }
        let at = match self.find_ready(granules, align) {
            Some(at) => at,
            None => self.find_cheapest(granules, align, cost)?,
        };
        let end = at + granules;
        bits::set(&mut self.starts, at);
        bits::set_range(&mut self.live, at..end);
        self.set_ready::<false>(at..end);
        self.high = self.high.max(end);
        Some(Span::new(at, granules))
    }

    #[inline]
    fn give(&mut self, span: Span) -> Result<(), NotLive> {
        self.check(span)?;
        bits::clear(&mut self.starts, span.start.0);
        bits::clear_range(&mut self.live, span.start.0..span.end());
        self.set_ready::<true>(span.start.0..span.end());
        Ok(())
    }

    fn extend(&mut self, span: Span, granules: u32) -> bool {
        let Some(end) = span.start.0.checked_add(granules).filter(|&end| end <= self.granules) else {
            return false;
        };
        if self.check(span).is_err() || end < span.end() || bits::any(&self.live, span.end()..end) {
            return false;
        }
        bits::set_range(&mut self.live, span.end()..end);
        self.set_ready::<false>(span.end()..end);
        self.high = self.high.max(end);
        true
    }

    fn cut(&mut self, span: Span, granules: u32) -> Result<(), NotLive> {
        self.check(span)?;
        let end = span.start.0 + granules.clamp(1, span.granules);
        bits::clear_range(&mut self.live, end..span.end());
        self.set_ready::<true>(end..span.end());
        Ok(())
    }

    fn live(&self, start: Granule) -> Result<Span, NotLive> {
        let at = start.0;
        if at >= self.granules {
            return Err(NotLive::Outside);
        }
        if !bits::get(&self.starts, at) {
            return Err(if bits::get(&self.live, at) { NotLive::Inside } else { NotLive::Free });
        }
        // Both at once: a scan for either alone could run far past the other.
        let end = bits::next_set_or_clear(&self.starts, &self.live, at + 1..self.granules);
        Ok(Span::new(at, end - at))
    }

    fn next_live(&self, from: Granule) -> Option<Span> {
        // No live span starts at `high`.
        self.live(Granule(bits::next_set(&self.starts, from.0..self.high))).ok()
    }

    fn backed(&mut self, span: Span) {
        let (mut at, end) = (span.start.0, span.end().min(self.granules));
        while at < end {
            let free = bits::next_clear(&self.live, at..end);
            let until = bits::next_set(&self.live, free..end);
            self.set_ready::<true>(free..until);
            at = until;
        }
    }

    fn unbacked(&mut self, span: Span) {
        self.set_ready::<false>(span.start.0..span.end().min(self.granules));
    }

    fn largest_free(&self) -> u32 {
        self.free_runs().map(|run| run.end - run.start).max().unwrap_or(0)
    }

    fn high_water(&self) -> u32 {
        self.high
    }
}

impl<M: Metadata> BuddyTree<M> {
    /// Whether a granule is free and backed.
    #[cfg(all(test, feature = "std"))]
    pub(crate) fn is_ready(&self, at: u32) -> bool {
        bits::get(&self.ready, at)
    }

    /// Whether exactly `span` is live.
    #[inline]
    fn check(&self, span: Span) -> Result<(), NotLive> {
        let start = span.start.0;
        let end = match start.checked_add(span.granules) {
            Some(end) if end <= self.granules && start < end => end,
            _ => return Err(self.refusal(span)),
        };
        let starts = bits::get(&self.starts, start)
            && bits::all(&self.live, start..end)
            && !bits::any(&self.starts, start + 1..end);
        let ends = end == self.granules || bits::get(&self.starts, end) || !bits::get(&self.live, end);
        if starts && ends { Ok(()) } else { Err(self.refusal(span)) }
    }

    #[cold]
    #[inline(never)]
    fn refusal(&self, span: Span) -> NotLive {
        match self.live(span.start) {
            Ok(held) => NotLive::OtherLength(held.granules),
            Err(why) => why,
        }
    }

    /// The first granule at or behind `at` with the alignment asked for.
    #[inline]
    fn aligned(&self, at: u32, align: u32) -> Option<u32> {
        let up = (self.skew as u64 + at as u64).next_multiple_of(align as u64) - self.skew as u64;
        u32::try_from(up).ok()
    }

    /// The lowest place with `granules` ready granules.
    #[inline]
    fn find_ready(&self, granules: u32, align: u32) -> Option<u32> {
        let at = self.first_ready(granules)?;
        if align == 1 {
            return Some(at);
        }
        let fits = |at: u32| {
            let at = self.aligned(at, align)?;
            let end = at.checked_add(granules).filter(|&end| end <= self.granules)?;
            bits::all(&self.ready, at..end).then_some(at)
        };
        fits(at).or_else(|| fits(self.first_ready(granules.checked_add(align - 1)?)?))
    }

    /// The start of the lowest run of at least `granules` ready granules: down from the root, into the left half if
    /// it holds such a run, else across the middle, else into the right half.
    #[inline]
    fn first_ready(&self, granules: u32) -> Option<u32> {
        if self.nodes[self.root][RUN] < granules {
            return None;
        }
        let (mut node, mut half, mut base) = (self.root, self.words_of_root() as u64 * 64, 0u64);
        while node < self.leaves {
            half /= 2;
            let (left, right) = (self.nodes[2 * node], self.nodes[2 * node + 1]);
            if left[RUN] >= granules {
                node *= 2;
            } else if left[SUFFIX] + right[PREFIX] >= granules {
                return Some((base + half - left[SUFFIX] as u64) as u32);
            } else {
                node = 2 * node + 1;
                base += half;
            }
        }
        // Runs of `granules` ones in a word: and it with itself, shifted, doubling the run that a bit stands for.
        let (mut word, mut run) = (self.ready[node - self.leaves], 1);
        while run < granules {
            let step = run.min(granules - run);
            word &= word >> step;
            run += step;
        }
        Some(base as u32 + word.trailing_zeros())
    }

    /// Among the first free runs that hold `granules`, at their start and end, the place that costs least; the
    /// lowest where several do.
    #[cold]
    #[inline(never)]
    fn find_cheapest(&self, granules: u32, align: u32, cost: &impl Fn(Span) -> u32) -> Option<u32> {
        let mut best: Option<(u32, u32)> = None;
        let mut seen = 0;
        for run in self.free_runs() {
            let Some(low) = self.aligned(run.start, align) else { break };
            if low.checked_add(granules).is_none_or(|end| end > run.end) {
                continue;
            }
            let mut look = |at: u32| {
                let cost = cost(Span::new(at, granules));
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, at));
                }
            };
            look(low);
            // The run behind everything is open: its far end is no place that anything else borders on.
            if run.end < self.granules {
                let high = run.end - granules;
                // `low` is aligned and not behind `high`, so the last aligned place up to `high` is not before `low`.
                look(high - ((self.skew as u64 + high as u64) % align as u64) as u32);
            }
            seen += 1;
            if seen == RUNS_SEEN || best.is_some_and(|(least, _)| least == 0) {
                break;
            }
        }
        best.map(|(_, at)| at)
    }

    /// The maximal free runs, lowest first.
    fn free_runs(&self) -> impl Iterator<Item = Range<u32>> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let start = bits::next_clear(&self.live, at..self.high);
            if start >= self.high {
                let last = start.max(at)..self.granules;
                at = self.granules;
                return (!last.is_empty()).then_some(last);
            }
            let end = bits::next_set(&self.live, start..self.high);
            let end = if end == self.high { self.granules } else { end };
            at = end;
            Some(start..end)
        })
    }

    /// The words of the half that the root stands for.
    #[inline]
    fn words_of_root(&self) -> usize {
        // Both are powers of two.
        self.leaves >> self.root.trailing_zeros()
    }

    /// Moves the root up until its half has a word.
    #[cold]
    #[inline(never)]
    fn raise(&mut self, word: usize) {
        let mut words = self.words_of_root();
        while word >= words {
            self.root /= 2;
            refresh(&mut self.nodes, self.root, words as u32 * 64);
            words *= 2;
        }
    }

    /// Marks `range` ready or not, and refreshes the two boundary paths; between them whole halves are filled, above
    /// them one path goes on until nothing changes.
    #[inline]
    fn set_ready<const READY: bool>(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        let (first, mut last) = (range.start as usize / 64, (range.end - 1) as usize / 64);
        let words = self.words_of_root();
        if READY {
            if last >= words {
                self.raise(last);
            }
            bits::set_range(&mut self.ready, range);
        } else {
            // Nothing behind is.
            if first >= words {
                return;
            }
            last = last.min(words - 1);
            bits::clear_range(&mut self.ready, range.start..range.end.min((words as u32).saturating_mul(64)));
        }
        let (nodes, leaves, root) = (&mut *self.nodes, self.leaves, self.root);
        let whole = |granules: u32| if READY { [granules; 3] } else { [0; 3] };
        nodes[leaves + first] = leaf(self.ready[first]);
        if last > first {
            nodes[leaves + last] = leaf(self.ready[last]);
            nodes[leaves + first + 1..leaves + last].fill(whole(64));
        }
        let (mut left, mut right, mut half) = ((leaves + first) / 2, (leaves + last) / 2, 64u32);
        while left != right {
            refresh(nodes, left, half);
            refresh(nodes, right, half);
            if right - left > 1 {
                nodes[left + 1..right].fill(whole(2 * half));
            }
            (left, right, half) = (left / 2, right / 2, 2 * half);
        }
        while left >= root && refresh(nodes, left, half) {
            left /= 2;
            // Wraps only above the root.
            half = half.wrapping_mul(2);
        }
    }
}

/// Computes a node from its two halves of `half` granules each; whether it changed.
#[inline]
fn refresh(nodes: &mut [Node], node: usize, half: u32) -> bool {
    let [left, right] = nodes[2 * node..2 * node + 2] else { return false };
    let now = [
        if left[PREFIX] == half { half + right[PREFIX] } else { left[PREFIX] },
        if right[SUFFIX] == half { half + left[SUFFIX] } else { right[SUFFIX] },
        left[RUN].max(right[RUN]).max(left[SUFFIX] + right[PREFIX]),
    ];
    let changed = nodes[node] != now;
    nodes[node] = now;
    changed
}

/// The node of one word.
#[inline]
fn leaf(word: u64) -> Node {
    if word == 0 {
        return [0; 3];
    }
    if word == !0 {
        return [64; 3];
    }
    [word.trailing_ones(), word.leading_ones(), longest_run(word)]
}

/// The longest run of ones: double the run while any is left, then halve the step.
#[inline]
fn longest_run(word: u64) -> u32 {
    let (mut runs, mut length) = (word, 1u32);
    loop {
        let longer = runs & (runs >> length);
        if longer == 0 {
            break;
        }
        runs = longer;
        length *= 2;
    }
    let mut step = length / 2;
    while step > 0 {
        let longer = runs & (runs >> step);
        if longer != 0 {
            runs = longer;
            length += step;
        }
        step /= 2;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::{BuddyTree, SpanIndex, longest_run};
    use crate::arena::metadata::Heap;
    use crate::size::Span;
    use proptest::prelude::*;

    /// Granules of 128 words, but for the last few.
    const N: u32 = 128 * 64 - 9;

    proptest! {
        #[test]
        fn the_lowest_run_that_is_ready_is_found_whatever_words_it_spans(
            ranges in prop::collection::vec((0..N, prop_oneof![1..70u32, 60..3000u32], any::<bool>()), 1..12),
        ) {
            let mut tree = BuddyTree::<Heap>::new(&mut Heap, N, 0).unwrap();
            let mut model = std::vec![false; N as usize];
            for (start, granules, ready) in ranges {
                let span = Span::new(start, granules.min(N - start));
                if ready { tree.backed(span) } else { tree.unbacked(span) }
                model[span.start.0 as usize..span.end() as usize].fill(ready);
            }
            let mut runs = std::vec![];
            let mut at = 0;
            for part in model.chunk_by(|a, b| a == b) {
                if part[0] {
                    runs.push((at, part.len() as u32));
                }
                at += part.len() as u32;
            }
            let lengths = runs.iter().flat_map(|run| [run.1, run.1 + 1]).chain([1, 2, 63, 64, 65, N]);
            for wanted in lengths {
                let lowest = runs.iter().find(|run| run.1 >= wanted).map(|run| run.0);
                prop_assert_eq!(tree.first_ready(wanted), lowest, "{} of {:?}", wanted, runs);
            }
        }

        #[test]
        fn the_tree_is_no_higher_than_what_was_ever_ready(
            ranges in prop::collection::vec((prop_oneof![0..N, 0..500u32], 1..600u32, any::<bool>()), 1..12),
        ) {
            let mut tree = BuddyTree::<Heap>::new(&mut Heap, N, 0).unwrap();
            let mut words = 1;
            for (start, granules, ready) in ranges {
                let span = Span::new(start, granules.min(N - start));
                if ready {
                    tree.backed(span);
                    words = words.max(span.end().div_ceil(64).next_power_of_two());
                } else {
                    tree.unbacked(span);
                }
                prop_assert_eq!(tree.words_of_root(), words as usize);
                for above in core::iter::successors(Some(tree.root / 2), |node| Some(node / 2)).take_while(|&node| node > 0) {
                    prop_assert_eq!([tree.nodes[above], tree.nodes[2 * above + 1]], [[0; 3]; 2]);
                }
            }
        }

        #[test]
        fn the_longest_run_of_a_word_is_counted(a in any::<u64>(), b in any::<u64>()) {
            for word in [a, a & b, a | b, a | b | a.rotate_left(3), 1, 1 << 63, !0 >> 1] {
                if word == 0 || word == !0 {
                    continue;
                }
                let (mut best, mut run) = (0, 0);
                for at in 0..64 {
                    run = if word >> at & 1 != 0 { run + 1 } else { 0 };
                    best = best.max(run);
                }
                prop_assert_eq!(longest_run(word), best, "{:b}", word);
            }
        }
    }
}
