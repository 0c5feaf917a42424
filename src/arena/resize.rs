//! Making a block longer or shorter where it stands.

#![forbid(unsafe_code)]

use super::index::{NotLive, SpanIndex};
use super::metadata::Metadata;
use super::{Arena, Grant, refused};
use crate::error::BadFree;
use crate::size::Span;
use crate::space::Space;
use core::alloc::Layout;

impl<S: Space, M: Metadata> Arena<S, M> {
    /// Makes the block at `addr`, allocated with `old`, one of `new_bytes` where it stands. `false`: it stays as it is.
    ///
    /// # Errors
    /// [`BadFree`] when it is not live, or not of that size.
    pub fn resize(
        &mut self,
        addr: S::Addr,
        old: Layout,
        new_bytes: usize,
        grant: &impl Grant,
    ) -> Result<bool, BadFree> {
        let at = self.space.offset(addr).ok_or(BadFree::Foreign)?;
        let new_class = self.class(new_bytes as u64, old.align() as u64);
        if let Some(held) = self.find_slab(at).map(|found| found.class()) {
            if self.class(old.size() as u64, old.align() as u64) != Some(held) {
                return Err(self.wrong_size(at, old.size() as u64));
            }
            let taken = self.slabs.as_ref().and_then(|slabs| slabs.taken(at));
            return match taken {
                Some(Err(why)) => Err(refused(at, why)),
                _ => Ok(new_class == Some(held)),
            };
        }
        let start = self.start_of_span(at)?;
        let had = self.geometry.granules(old.size().max(1) as u64).unwrap_or(u32::MAX);
        let Some(wants) = self.geometry.granules(new_bytes.max(1) as u64) else { return Ok(false) };
        let span = match self.index.live(start) {
            Ok(span) if span.granules == had => span,
            Ok(span) => {
                return Err(self.not_live(at, old.size() as u64, NotLive::OtherLength(span.granules)));
            }
            Err(why) => return Err(self.not_live(at, old.size() as u64, why)),
        };
        if wants < had {
            self.cut_span(span, wants, grant);
        } else if wants > had && !self.extend_span(span, wants, grant) {
            return Ok(false);
        }
        let (had, wants) = (self.geometry.bytes(had), self.geometry.bytes(wants));
        self.stats.in_use_bytes = self.stats.in_use_bytes - had + wants;
        self.stats.peak_in_use_bytes = self.stats.peak_in_use_bytes.max(self.stats.in_use_bytes);
        Ok(true)
    }

    fn cut_span(&mut self, span: Span, granules: u32, grant: &impl Grant) {
        let cut = self.index.cut(span, granules);
        debug_assert_eq!(cut, Ok(()));
        let rest = Span::new(span.start.0 + granules, span.granules - granules);
        match &mut self.commit {
            Some(commit) => commit.vacate(rest),
            None => grant.returned(self.geometry.bytes(rest.granules)),
        }
    }

    fn extend_span(&mut self, span: Span, granules: u32, grant: &impl Grant) -> bool {
        let more = Span::new(span.end(), granules - span.granules);
        let Some(commit) = &mut self.commit else { return self.extend_unframed(span, more, grant) };
        if !self.index.extend(span, granules) {
            return false;
        }
        let backed = commit.back(&self.space, &mut self.index, grant, more).is_ok();
        if !backed {
            let cut = self.index.cut(Span { start: span.start, granules }, span.granules);
            debug_assert_eq!(cut, Ok(()));
            commit.forget_missing(&mut self.index, more);
        }
        backed
    }

    /// As in `take_unframed` the grant comes first: what it refuses leaves no trace in the index's high-water mark.
    fn extend_unframed(&mut self, span: Span, more: Span, grant: &impl Grant) -> bool {
        let more_bytes = self.geometry.bytes(more.granules);
        if !grant.grant(more_bytes) {
            return false;
        }
        let extended = self.index.extend(span, span.granules + more.granules);
        if !extended {
            grant.returned(more_bytes);
        }
        extended
    }
}
