//! Where spans start: two bits per granule, side by side, so that both are one load.

#![forbid(unsafe_code)]

use crate::arena::bits;
use crate::arena::metadata::{Metadata, NoTable};
use crate::size::Span;
use core::ops::{ControlFlow, Range};

/// The starts of 64 granules: live spans, free spans. No granule is the start of both.
type Word = [u64; 2];
const LIVE: usize = 0;
const FREE: usize = 1;

/// The first granule of every span, and whether that span is live or free.
pub(super) struct Edges<M: Metadata> {
    words: M::Table<Word>,
}

impl<M: Metadata> Edges<M> {
    pub(super) fn new(meta: &mut M, granules: u32) -> Result<Self, NoTable> {
        Ok(Edges { words: meta.table(bits::words(granules))? })
    }

    /// Whether there is a bit for every granule: a table that is only counted has none.
    pub(super) fn is_real(&self, granules: u32) -> bool {
        self.words.len() >= bits::words(granules)
    }

    /// Whether a live span starts at `at`.
    #[inline]
    pub(super) fn is_live(&self, at: u32) -> bool {
        self.words[at as usize / 64][LIVE] >> (at % 64) & 1 != 0
    }

    /// Whether a free span starts at `at`.
    #[inline]
    pub(super) fn is_free(&self, at: u32) -> bool {
        self.words[at as usize / 64][FREE] >> (at % 64) & 1 != 0
    }

    /// A live span starts at `at`.
    #[inline]
    pub(super) fn set_live(&mut self, at: u32) {
        let (word, bit) = (&mut self.words[at as usize / 64], 1 << (at % 64));
        *word = [word[LIVE] | bit, word[FREE] & !bit];
    }

    /// A free span starts at `at`.
    #[inline]
    pub(super) fn set_free(&mut self, at: u32) {
        let (word, bit) = (&mut self.words[at as usize / 64], 1 << (at % 64));
        *word = [word[LIVE] & !bit, word[FREE] | bit];
    }

    /// No span starts at `at` any more.
    #[inline]
    pub(super) fn clear(&mut self, at: u32) {
        let (word, bit) = (&mut self.words[at as usize / 64], 1 << (at % 64));
        *word = [word[LIVE] & !bit, word[FREE] & !bit];
    }

    /// The first start of a span behind `at` in the same 64 granules.
    #[inline]
    pub(super) fn next_in_word(&self, at: u32) -> Option<u32> {
        let word = &self.words[at as usize / 64];
        let behind = (word[LIVE] | word[FREE]) & (!1 << (at % 64));
        (behind != 0).then(|| at / 64 * 64 + behind.trailing_zeros())
    }

    /// The last start of a span up to `at` in the same 64 granules.
    #[inline]
    pub(super) fn last_in_word(&self, at: u32) -> Option<u32> {
        let word = &self.words[at as usize / 64];
        let before = (word[LIVE] | word[FREE]) << (63 - at % 64);
        (before != 0).then(|| at - before.leading_zeros())
    }

    /// The first start of a span in `range`, or its end.
    #[inline]
    pub(super) fn next(&self, range: Range<u32>) -> u32 {
        self.first(range, |word| word[LIVE] | word[FREE])
    }

    /// The first start of a live span in `range`, or its end.
    pub(super) fn next_live(&self, range: Range<u32>) -> u32 {
        self.first(range, |word| word[LIVE])
    }

    /// Shows the free spans that start in `range`, lowest first, until one is enough. All of them end at another edge or
    /// at `granules`. One pass: a word is read once, and only the starts of free spans are stopped at.
    #[inline]
    pub(super) fn each_free(
        &self,
        range: Range<u32>,
        granules: u32,
        mut look: impl FnMut(Span) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if range.is_empty() {
            return ControlFlow::Continue(());
        }
        let (first, last) = (range.start / 64, (range.end - 1) / 64);
        // A free span whose end is in none of the words so far.
        let mut open = None;
        for (word, at) in self.words[first as usize..=last as usize].iter().zip(first..) {
            let (base, either) = (at * 64, word[LIVE] | word[FREE]);
            if either == 0 {
                continue;
            }
            if let Some(start) = open.take() {
                look(Span::new(start, base + either.trailing_zeros() - start))?;
            }
            let mut free = word[FREE];
            if at == first {
                free &= !0 << (range.start % 64);
            }
            if at == last {
                free &= !0 >> (63 - (range.end - 1) % 64);
            }
            while free != 0 {
                let bit = free.trailing_zeros();
                let behind = either & (!1 << bit);
                if behind == 0 {
                    open = Some(base + bit);
                    break;
                }
                look(Span::new(base + bit, behind.trailing_zeros() - bit))?;
                free &= free - 1;
            }
        }
        match open {
            Some(start) => look(Span::new(start, self.next((last + 1) * 64..granules) - start)),
            None => ControlFlow::Continue(()),
        }
    }

    #[inline]
    fn first(&self, range: Range<u32>, pick: impl Fn(&Word) -> u64) -> u32 {
        if range.is_empty() {
            return range.end;
        }
        let (first, last) = (range.start as usize / 64, (range.end - 1) as usize / 64);
        let rest = pick(&self.words[first]) >> (range.start % 64);
        if rest != 0 {
            return (range.start + rest.trailing_zeros()).min(range.end);
        }
        let found = self.words[first + 1..=last].iter().zip(first + 1..).find(|(word, _)| pick(word) != 0);
        found.map_or(range.end, |(word, at)| (at as u32 * 64 + pick(word).trailing_zeros()).min(range.end))
    }

    /// The last start of a span in `range`.
    #[inline]
    pub(super) fn last(&self, range: Range<u32>) -> Option<u32> {
        if range.is_empty() {
            return None;
        }
        let (first, last) = (range.start as usize / 64, (range.end - 1) as usize / 64);
        let either = |word: &Word| word[LIVE] | word[FREE];
        let rest = either(&self.words[last]) << (63 - (range.end - 1) % 64);
        let at = if rest != 0 {
            range.end - 1 - rest.leading_zeros()
        } else {
            let at = first + self.words[first..last].iter().rposition(|word| either(word) != 0)?;
            at as u32 * 64 + either(&self.words[at]).ilog2()
        };
        (at >= range.start).then_some(at)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::arena::metadata::Borrowed;
    use core::mem::MaybeUninit;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn edges_are_found_from_both_sides(
            set in prop::collection::vec((0u32..300, any::<bool>()), 0..12), a in 0u32..300, b in 0u32..300,
        ) {
            let mut bytes = [MaybeUninit::uninit(); 128];
            let mut edges = Edges::<Borrowed>::new(&mut Borrowed::new(&mut bytes), 300).unwrap();
            let mut model = [None; 300];
            for (at, live) in set {
                if live { edges.set_live(at) } else { edges.set_free(at) }
                model[at as usize] = Some(live);
                if at % 7 == 0 {
                    edges.clear(at);
                    model[at as usize] = None;
                }
            }
            let range = a.min(b)..a.max(b);
            let first = |wanted: &dyn Fn(Option<bool>) -> bool| {
                range.clone().find(|at| wanted(model[*at as usize])).unwrap_or(range.end)
            };
            prop_assert_eq!(edges.next(range.clone()), first(&|edge| edge.is_some()));
            prop_assert_eq!(edges.next_live(range.clone()), first(&|edge| edge == Some(true)));
            let mut free = std::vec::Vec::new();
            let _ = edges.each_free(range.clone(), 300, |span| {
                free.push((span.start.0, span.end()));
                ControlFlow::Continue(())
            });
            let end = |at: u32| (at + 1..300).find(|at| model[*at as usize].is_some()).unwrap_or(300);
            let starts = range.clone().filter(|at| model[*at as usize] == Some(false));
            prop_assert_eq!(free, starts.map(|at| (at, end(at))).collect::<std::vec::Vec<_>>());
            prop_assert_eq!(edges.last(range.clone()), range.clone().rev().find(|at| model[*at as usize].is_some()));
            for at in 0..300 {
                let word = at / 64 * 64;
                let edge = |at: &u32| *at < 300 && model[*at as usize].is_some();
                prop_assert_eq!(edges.next_in_word(at), (at + 1..word + 64).find(edge));
                prop_assert_eq!(edges.last_in_word(at), (word..at + 1).rev().find(edge));
                prop_assert_eq!(edges.is_live(at), model[at as usize] == Some(true));
                prop_assert_eq!(edges.is_free(at), model[at as usize] == Some(false));
            }
        }
    }
}
