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

    /// Tells the space of free granules in frames that are not idle that came back before they last [cooled](Self::cool), and were not handed out
    /// since: of so many runs from a granule on that it does not take long. Where it goes on, if it does.
    pub(crate) fn purge_cold(&mut self, from: Granule) -> Option<Granule> {
        const RUNS: usize = 64;
        let commit = self.commit.as_mut()?;
        let mut from = from.0;
        for _ in 0..RUNS {
            let run = commit.take_cold(from)?;
            self.space.forget(run);
            from = run.end();
        }
        Some(Granule(from))
    }

    /// What is free now is cold from here on, until it is handed out.
    pub(crate) fn cool(&mut self) {
        if let Some(commit) = &mut self.commit {
            commit.cool();
        }
    }
}
