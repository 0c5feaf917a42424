//! Walking over what lives in a fixed heap.

#![forbid(unsafe_code)]

use super::FixedHeap;
use crate::arena::LiveSpan;
use crate::size::Offset;
use core::fmt;
use core::ptr::NonNull;
use lock_api::RawMutex;

/// The live spans of a [`FixedHeap`], by range and address; see [`FixedHeap::live_spans`].
pub struct LiveSpans<'a, L: RawMutex, const ARENAS: usize, const SLABS: bool> {
    heap: &'a FixedHeap<L, ARENAS, SLABS>,
    claim: usize,
    from: Offset,
}

impl<'a, L: RawMutex, const ARENAS: usize, const SLABS: bool> LiveSpans<'a, L, ARENAS, SLABS> {
    pub(super) fn of(heap: &'a FixedHeap<L, ARENAS, SLABS>) -> Self {
        LiveSpans { heap, claim: 0, from: Offset(0) }
    }
}

impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> fmt::Debug for LiveSpans<'_, L, ARENAS, SLABS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSpans")
            .field("range", &self.claim)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> Iterator for LiveSpans<'_, L, ARENAS, SLABS> {
    type Item = LiveSpan<NonNull<u8>>;

    fn next(&mut self) -> Option<LiveSpan<NonNull<u8>>> {
        let (claim, span) = self.heap.held().live_span(self.claim, self.from)?;
        (self.claim, self.from) = (claim, Offset(span.offset.0 + span.bytes));
        Some(span)
    }
}
