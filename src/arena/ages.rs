//! Since when free memory has been free: a granule that came back is warm until all cool, and cold from then on.
//!
//! Nothing is noted before they first cool, so that it costs nothing where they never do.

#![forbid(unsafe_code)]

use super::bits;
use super::metadata::{Metadata, NoTable};
use crate::size::Span;
use core::ops::Range;

/// A bit for each granule that came back and was neither handed out nor taken out since. So what has one is free.
pub(super) struct Ages<M: Metadata> {
    /// Of those that came back since they cooled last.
    warm: M::Table<u64>,
    /// Of those that came back before.
    cold: M::Table<u64>,
    /// No word from here on was ever written.
    words: usize,
    /// Whether they ever cool.
    watched: bool,
}

impl<M: Metadata> Ages<M> {
    pub(super) fn new(meta: &mut M, granules: u32) -> Result<Self, NoTable> {
        let words = bits::words(granules);
        Ok(Ages { warm: meta.table(words)?, cold: meta.table(words)?, words: 0, watched: false })
    }

    /// A span came back.
    #[inline]
    pub(super) fn came_back(&mut self, span: Span) {
        if self.watched {
            self.words = self.words.max(bits::words(span.end()));
            bits::set_range(&mut self.warm, span.start.0..span.end());
        }
    }

    /// A span is handed out.
    #[inline]
    pub(super) fn handed_out(&mut self, span: Span) {
        if self.watched {
            bits::clear_range(&mut self.warm, span.start.0..span.end());
            bits::clear_range(&mut self.cold, span.start.0..span.end());
        }
    }

    /// What was warm is cold.
    pub(super) fn cool(&mut self) {
        self.watched = true;
        for (cold, warm) in self.cold[..self.words].iter_mut().zip(&mut self.warm[..self.words]) {
            *cold |= core::mem::take(warm);
        }
    }

    /// Whether a granule is warm, or cold.
    #[cfg(all(test, feature = "std"))]
    pub(super) fn age(&self, granule: u32) -> (bool, bool) {
        (bits::get(&self.warm, granule), bits::get(&self.cold, granule))
    }

    /// The first cold granule from one on.
    pub(super) fn next_cold(&self, from: u32) -> Option<u32> {
        let end = (self.words as u32) << 6;
        let start = bits::next_set(&self.cold, from..end);
        (start < end).then_some(start)
    }

    /// Takes the run of cold granules out that some begin with.
    pub(super) fn take_cold(&mut self, among: Range<u32>) -> Span {
        let end = among.end.min((self.words as u32) << 6);
        let end = bits::next_clear(&self.cold, among.start..end);
        bits::clear_range(&mut self.cold, among.start..end);
        Span::new(among.start, end - among.start)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::space::MappedTables;

    fn take(ages: &mut Ages<MappedTables>, from: u32) -> Option<(u32, u32)> {
        let start = ages.next_cold(from)?;
        let run = ages.take_cold(start..4096.max(start + 100));
        Some((run.start.0, run.granules))
    }

    #[test]
    fn what_came_back_before_they_cooled_and_was_not_handed_out_since_is_cold() {
        let mut ages = Ages::new(&mut MappedTables, 5000).unwrap();
        ages.came_back(Span::new(7, 9));
        ages.cool();
        assert_eq!(take(&mut ages, 0), None, "nothing was noted then");
        ages.came_back(Span::new(100, 50));
        assert_eq!(take(&mut ages, 0), None, "it is warm");
        ages.cool();
        ages.handed_out(Span::new(110, 5));
        ages.came_back(Span::new(112, 3));
        ages.came_back(Span::new(2000, 3000));
        let taken = [105, 0, 0, 0].map(|from| take(&mut ages, from));
        assert_eq!(taken, [Some((105, 5)), Some((100, 5)), Some((115, 35)), None]);
        ages.cool();
        let taken = [0, 0, 4999, 4096, 0].map(|from| take(&mut ages, from));
        assert_eq!(
            taken,
            [Some((112, 3)), Some((2000, 2096)), Some((4999, 1)), Some((4096, 100)), Some((4196, 100))]
        );
    }
}
