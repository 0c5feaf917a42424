//! Which parts of a new block hold zeros already: of a large one most, where the little that was used before is in its way.

#![forbid(unsafe_code)]

use super::metadata::Metadata;
use super::{Arena, SpanIndex};
use crate::size::Span;
use crate::space::Space;
use core::ops::Range;

impl<S: Space, M: Metadata> Arena<S, M> {
    /// The first of these bytes of the live block at `addr` that may have held anything but zeros when it was handed out, up to the
    /// next that were zeros; `None`: all were.
    #[cold]
    pub(crate) fn unclean(&self, addr: S::Addr, bytes: Range<u64>) -> Option<Range<u64>> {
        if bytes.is_empty() {
            return None;
        }
        let at = self.space.offset(addr).filter(|&at| self.find_slab(at).is_none());
        let (Some(at), Some(commit)) = (at, &self.commit) else { return Some(bytes) };
        let first = self.geometry.granule(at);
        let Ok(live) = self.index.live(first) else { return Some(bytes) };
        let (from, to) = (bytes.start >> self.geometry.granule_shift(), self.geometry.granules(bytes.end)?);
        let from = u32::try_from(from).ok()?;
        let asked = Span::new(first.0 + from, to.min(live.granules).checked_sub(from)?);
        let found = commit.unclean(asked)?;
        let byte = |granule: u32| self.geometry.bytes(granule - first.0);
        Some(byte(found.start.0).max(bytes.start)..byte(found.end()).min(bytes.end))
    }
}
