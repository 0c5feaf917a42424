//! Where a run goes: a good fit among what is backed, the cheapest place among the rest, a hidden span.

#![forbid(unsafe_code)]

use super::{BACKED, Backing, FitTable, PARTLY};
use crate::arena::metadata::Metadata;
use crate::size::Span;
use core::ops::{ControlFlow, Range};

/// Spans of the own list that are looked at before the next longer list is.
pub(super) const LOOKED: usize = 4;
/// Spans of about the length that are tried for an alignment before a span that surely holds it is.
const ALIGNED_LOOKED: usize = 4;
/// Free spans that are compared, at both ends, when nothing that is backed fits.
const COMPARED: u32 = 64;
/// Granules that are searched for a hidden span before the lists are.
const WINDOW: u32 = 1024;

/// A place in a free span.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) free: Span,
    pub(super) at: u32,
}

impl<M: Metadata, B: Backing> FitTable<M, B> {
    #[inline]
    pub(super) fn find(&mut self, granules: u32, align: u32, cost: &impl Fn(Span) -> u32) -> Option<Place> {
        let hidden = self.hidden > 0 && granules <= self.hidden_longest;
        if hidden && let Some(place) = self.find_hidden_near(granules, align) {
            return Some(place);
        }
        let listed = if align == 1 {
            let slot = self.lists.fit(BACKED, granules, LOOKED);
            slot.map(|slot| self.span_of(slot)).map(|free| Place { free, at: free.start.0 })
        } else {
            self.find_aligned(granules, align)
        };
        match listed {
            Some(place) => Some(place),
            None if B::SETS == 2 => self.find_cheapest(granules, align, cost),
            None if hidden && !self.is_flat() => self.find_hidden(granules, align),
            None => None,
        }
    }

    /// The place in a free span where a run with an alignment starts.
    #[inline]
    fn place(&self, free: Span, granules: u32, align: u32) -> Option<Place> {
        let at = (self.skew as u64 + free.start.0 as u64).next_multiple_of(align as u64) - self.skew as u64;
        let fits = at + granules as u64 <= free.end() as u64;
        fits.then_some(Place { free, at: at as u32 })
    }

    /// An aligned place among the spans that are backed: in one of about the length, else in one that is long enough
    /// wherever it starts, else in any.
    #[inline(never)]
    fn find_aligned(&self, granules: u32, align: u32) -> Option<Place> {
        let place = |slot| self.place(self.span_of(slot), granules, align);
        let about = self.lists.from(BACKED, granules).take(ALIGNED_LOOKED).find_map(place);
        let surely = || place(self.lists.fit(BACKED, granules.checked_add(align - 1)?, LOOKED)?);
        about.or_else(surely).or_else(|| self.lists.from(BACKED, granules).find_map(place))
    }

    /// Among the first spans of the second set that hold the run, at their start and end, the place that costs least;
    /// the lowest where several do.
    #[cold]
    #[inline(never)]
    fn find_cheapest(&self, granules: u32, align: u32, cost: &impl Fn(Span) -> u32) -> Option<Place> {
        let mut best: Option<(u32, Place)> = None;
        let mut compared = 0;
        for slot in self.lists.from(PARTLY, granules) {
            let free = self.span_of(slot);
            let Some(low) = self.place(free, granules, align) else { continue };
            let mut look = |place: Place| {
                let cost = cost(Span::new(place.at, granules));
                if best.is_none_or(|(least, best)| (cost, place.at) < (least, best.at)) {
                    best = Some((cost, place));
                }
            };
            look(low);
            // The span behind everything is open: its far end is no place that anything else borders on.
            if free.end() < self.granules {
                let high = free.end() - granules;
                let over = ((self.skew as u64 + high as u64) % align as u64) as u32;
                // `low` is aligned and not behind `high`, so the last aligned place up to `high` is not before `low`.
                look(Place { free, at: high - over });
            }
            compared += 1;
            if compared == COMPARED || best.is_some_and(|(least, _)| least == 0) {
                break;
            }
        }
        best.map(|(_, place)| place)
    }

    /// Shows the hidden spans that start in `range`, lowest first, until one is enough.
    #[inline]
    pub(super) fn each_hidden(&self, range: Range<u32>, mut look: impl FnMut(Span) -> ControlFlow<()>) {
        let _ = self.edges.each_free(range, self.granules, |free| {
            if self.slots(free).is_none() { look(free) } else { ControlFlow::Continue(()) }
        });
    }

    /// The best fit among the hidden spans of a window, which moves on. A space without blocks is one window.
    #[inline(never)]
    fn find_hidden_near(&mut self, granules: u32, align: u32) -> Option<Place> {
        let window = if self.is_flat() {
            0..self.granules
        } else {
            let start = if self.cursor < self.granules { self.cursor } else { 0 };
            start..start.saturating_add(WINDOW).min(self.granules)
        };
        let (mut best, mut least) = (None, u32::MAX);
        self.each_hidden(window.clone(), |free| {
            if free.granules >= granules
                && free.granules < least
                && let Some(place) = self.place(free, granules, align)
            {
                (best, least) = (Some(place), free.granules);
                if least == granules {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        self.cursor = best.map_or(window.end, |best| best.at);
        best
    }

    /// The next hidden span that fits, wherever it is.
    #[cold]
    #[inline(never)]
    fn find_hidden(&mut self, granules: u32, align: u32) -> Option<Place> {
        let from = self.cursor.min(self.granules);
        let (mut found, mut longest) = (None, 0);
        for range in [from..self.granules, 0..from] {
            if found.is_none() {
                self.each_hidden(range, |free| {
                    longest = free.granules.max(longest);
                    found = self.place(free, granules, align);
                    if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
            }
        }
        match found {
            Some(place) => self.cursor = place.at,
            None => self.hidden_longest = longest,
        }
        found
    }
}
