//! What lives in an arena, span by span: for post-mortems.

#![forbid(unsafe_code)]

use super::Arena;
use super::index::SpanIndex;
use super::metadata::Metadata;
use crate::size::{Granule, Offset};
use crate::space::Space;

/// A span that is live: one large block, or a slab of small ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LiveSpan<A> {
    /// Where it starts.
    pub addr: A,
    /// How far that is from the start of its space.
    pub offset: Offset,
    /// Its length.
    pub bytes: u64,
    /// What it is cut into, where it is a slab.
    pub slots: Option<LiveSlots>,
}

/// The slots of a live slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LiveSlots {
    /// The bytes of each.
    pub slot_bytes: u64,
    /// How many of them are taken.
    pub taken: u32,
}

impl<S: Space, M: Metadata> Arena<S, M> {
    /// The first live span that starts at or behind `from`.
    pub fn live_span(&self, from: Offset) -> Option<LiveSpan<S::Addr>> {
        let from = self.geometry.granules(from.0).filter(|&from| from < self.granules)?;
        let span = self.index.next_live(Granule(from))?;
        let offset = self.geometry.offset(span.start);
        let slots = self.slabs.as_ref().and_then(|slabs| {
            let found = slabs.find(offset)?;
            Some(LiveSlots { slot_bytes: slabs.slot_bytes(found.class()), taken: found.taken() })
        });
        Some(LiveSpan {
            addr: self.space.addr(offset),
            offset,
            bytes: self.geometry.bytes(span.granules),
            slots,
        })
    }

    /// Bytes of live blocks, each counted with all that it can use.
    #[inline]
    pub fn in_use_bytes(&self) -> u64 {
        self.stats.in_use_bytes
    }
}
