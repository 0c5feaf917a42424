//! Memory that is free but lies in frames which cannot be given up, since something else in them is live.

#![forbid(unsafe_code)]

use super::metadata::Metadata;
use super::{Arena, SpanIndex};
use crate::size::{Granule, Span};
use crate::space::Space;

impl<S: Space, M: Metadata> Arena<S, M> {
    /// Tells the space of every free granule in a frame that is not idle. Takes as long as there are live spans; the
    /// bytes told of, which may have been told of before.
    pub fn purge(&self) -> u64 {
        let Some(commit) = &self.commit else { return 0 };
        let (mut from, mut bytes) = (0, 0);
        while from < self.granules {
            let live = self.index.next_live(Granule(from)).unwrap_or(Span::new(self.granules, 0));
            if live.start.0 > from {
                let free = Span::new(from, live.start.0 - from);
                for part in commit.shared_parts(free).into_iter().flatten() {
                    self.space.forget(part);
                    bytes += self.geometry.bytes(part.granules);
                }
            }
            if live.is_empty() {
                break;
            }
            from = live.end();
        }
        bytes
    }
}
