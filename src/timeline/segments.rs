//! Which frames a place's blocks lay in, for viewers that want to see memory in segments.
//!
//! Recorded is how much was reserved, not where. But a block lies in backed frames, and a pool gives up or moves its highest idle
//! frames first: so the frames are known from the blocks, as long as none was backed ahead of them. The sum is never more than what
//! was reserved, as soon as that is known.

#![forbid(unsafe_code)]

use core::ops::Range;
use std::collections::BTreeMap;
use std::vec::Vec;

/// What pools reserve at a time.
pub(super) const FRAME_BYTES: u64 = 2 << 20;

/// The backed frames of one place, in runs by their first: a block can have any number, and costs as much as a small one.
#[derive(Default)]
pub(super) struct Segments {
    runs: BTreeMap<u64, Run>,
    backed: u64,
    reserved: Option<u64>,
}

/// Frames behind each other that equally many live blocks touch. What is alike and adjacent is one run.
struct Run {
    end: u64,
    blocks: u64,
}

fn frames_of(address: u64, bytes: u64) -> Range<u64> {
    address / FRAME_BYTES..(address.saturating_add(bytes.max(1)) - 1) / FRAME_BYTES + 1
}

/// Where frames begin, and their bytes.
pub(super) fn bytes_of(frames: &Range<u64>) -> (u64, u64) {
    (frames.start * FRAME_BYTES, (frames.end - frames.start).saturating_mul(FRAME_BYTES))
}

impl Segments {
    /// A block was taken. Returns the frames that were not backed before, in runs.
    pub(super) fn take(&mut self, address: u64, bytes: u64) -> Vec<Range<u64>> {
        let frames = frames_of(address, bytes);
        self.cut(&frames);
        let mut new = Vec::new();
        let mut at = frames.start;
        for (&start, run) in self.runs.range_mut(frames.clone()) {
            if at < start {
                new.push(at..start);
            }
            at = run.end;
            run.blocks += 1;
        }
        if at < frames.end {
            new.push(at..frames.end);
        }
        for Range { start, end } in new.iter().cloned() {
            self.runs.insert(start, Run { end, blocks: 1 });
            self.backed += end - start;
        }
        self.join(&frames);
        new
    }

    /// A block came back.
    pub(super) fn give(&mut self, address: u64, bytes: u64) {
        let frames = frames_of(address, bytes);
        self.cut(&frames);
        for (_, run) in self.runs.range_mut(frames.clone()) {
            run.blocks = run.blocks.saturating_sub(1);
        }
        self.join(&frames);
    }

    /// So much is reserved from now on.
    pub(super) fn reserve(&mut self, bytes: u64) {
        self.reserved = Some(bytes);
    }

    /// The frames that cannot be backed any more, in runs, highest first: more are than is reserved.
    pub(super) fn give_up(&mut self) -> Vec<Range<u64>> {
        let mut over =
            self.backed.saturating_sub(self.reserved.map_or(u64::MAX, |bytes| bytes / FRAME_BYTES));
        let mut gone: Vec<Range<u64>> = Vec::new();
        if over == 0 {
            return gone;
        }
        for (&start, run) in self.runs.iter().rev().filter(|(_, run)| run.blocks == 0) {
            let frames = run.end - over.min(run.end - start)..run.end;
            over -= frames.end - frames.start;
            gone.push(frames);
            if over == 0 {
                break;
            }
        }
        for frames in &gone {
            self.cut(frames);
            self.runs.remove(&frames.start);
            self.backed -= frames.end - frames.start;
        }
        gone
    }

    /// What is backed, in runs.
    pub(super) fn runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (&start, run) in &self.runs {
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = run.end,
                _ => runs.push(start..run.end),
            }
        }
        runs
    }

    /// Sees that no run reaches over either end of these frames.
    fn cut(&mut self, frames: &Range<u64>) {
        for at in [frames.start, frames.end] {
            if let Some((_, run)) = self.runs.range_mut(..at).next_back()
                && run.end > at
            {
                let behind = Run { end: run.end, blocks: run.blocks };
                run.end = at;
                self.runs.insert(at, behind);
            }
        }
    }

    /// Makes one run of what is alike, within these frames and at their ends.
    fn join(&mut self, frames: &Range<u64>) {
        let starts: Vec<u64> = self.runs.range(frames.start..=frames.end).map(|(&start, _)| start).collect();
        for start in starts {
            let Run { end, blocks } = self.runs[&start];
            if let Some((_, before)) = self.runs.range_mut(..start).next_back()
                && (before.end, before.blocks) == (start, blocks)
            {
                before.end = end;
                self.runs.remove(&start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_frames_go_from_the_top_when_less_is_reserved() {
        let mut segments = Segments::default();
        assert!(segments.take(10 * FRAME_BYTES + 5, 3 * FRAME_BYTES).iter().eq([&(10..14)]));
        assert!(segments.take(13 * FRAME_BYTES, FRAME_BYTES).is_empty(), "it lies in a frame that is there");
        segments.give(10 * FRAME_BYTES + 5, 3 * FRAME_BYTES);
        assert!(segments.give_up().is_empty(), "nobody said what is reserved");
        segments.reserve(2 * FRAME_BYTES);
        assert!(segments.give_up().iter().eq([&(11..13)]), "13 is in use");
        assert_eq!(segments.runs(), [10..11, 13..14]);
    }

    #[test]
    fn runs_say_what_a_count_for_each_frame_would() {
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        let (mut segments, mut model) = (Segments::default(), BTreeMap::<u64, u64>::new());
        let mut reserved = u64::MAX;
        for _ in 0..20_000 {
            let (address, bytes) = (next(40) * FRAME_BYTES / 2, next(12) * FRAME_BYTES / 2);
            match next(5) {
                0 | 1 => {
                    let new: Vec<u64> = segments.take(address, bytes).into_iter().flatten().collect();
                    let wanted = frames_of(address, bytes).filter(|frame| !model.contains_key(frame));
                    assert_eq!(new, wanted.collect::<Vec<_>>());
                    frames_of(address, bytes).for_each(|frame| *model.entry(frame).or_default() += 1);
                }
                2 | 3 => {
                    segments.give(address, bytes);
                    for (_, blocks) in model.range_mut(frames_of(address, bytes)) {
                        *blocks = blocks.saturating_sub(1);
                    }
                }
                _ => {
                    reserved = next(30);
                    segments.reserve(reserved * FRAME_BYTES);
                }
            }
            let over = model.len().saturating_sub(usize::try_from(reserved).unwrap_or(usize::MAX));
            let gone: Vec<u64> = model
                .iter()
                .rev()
                .filter(|(_, blocks)| **blocks == 0)
                .map(|(frame, _)| *frame)
                .take(over)
                .collect();
            model.retain(|frame, _| !gone.contains(frame));
            let given: Vec<u64> = segments.give_up().into_iter().flat_map(|run| run.rev()).collect();
            assert_eq!(given, gone);
            assert!(segments.runs().into_iter().flatten().eq(model.keys().copied()));
            assert!(segments.runs.len() <= model.len());
        }
    }

    #[test]
    fn the_largest_block_there_can_be_is_one_run() {
        let mut segments = Segments::default();
        let new = segments.take(5, u64::MAX - 5);
        assert!(new.iter().eq([&(0..u64::MAX / FRAME_BYTES + 1)]));
        assert_eq!(bytes_of(&new[0]), (0, u64::MAX));
        segments.give(5, u64::MAX - 5);
        segments.reserve(FRAME_BYTES);
        assert_eq!(segments.give_up().len(), 1);
        assert!(segments.runs().iter().eq([&(0..1)]));
    }
}
