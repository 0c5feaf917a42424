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

/// The frames of one place, by number, and the live blocks that touch each.
#[derive(Default)]
pub(super) struct Segments {
    frames: BTreeMap<u64, u64>,
    reserved: Option<u64>,
}

fn frames_of(address: u64, bytes: u64) -> Range<u64> {
    address / FRAME_BYTES..(address.saturating_add(bytes.max(1)) - 1) / FRAME_BYTES + 1
}

impl Segments {
    /// A block was taken. Returns the frames that were not backed before, in runs.
    pub(super) fn take(&mut self, address: u64, bytes: u64) -> Vec<Range<u64>> {
        let mut new: Vec<Range<u64>> = Vec::new();
        for frame in frames_of(address, bytes) {
            let before = self.frames.len();
            *self.frames.entry(frame).or_default() += 1;
            if self.frames.len() > before {
                match new.last_mut() {
                    Some(run) if run.end == frame => run.end += 1,
                    _ => new.push(frame..frame + 1),
                }
            }
        }
        new
    }

    /// A block came back.
    pub(super) fn give(&mut self, address: u64, bytes: u64) {
        for frame in frames_of(address, bytes) {
            if let Some(blocks) = self.frames.get_mut(&frame) {
                *blocks = blocks.saturating_sub(1);
            }
        }
    }

    /// So much is reserved from now on.
    pub(super) fn reserve(&mut self, bytes: u64) {
        self.reserved = Some(bytes);
    }

    /// The frames that cannot be backed any more, highest first: more are than is reserved.
    pub(super) fn give_up(&mut self) -> Vec<u64> {
        let most = self.reserved.map_or(usize::MAX, |bytes| (bytes / FRAME_BYTES) as usize);
        let over = self.frames.len().saturating_sub(most);
        if over == 0 {
            return Vec::new();
        }
        let idle = self.frames.iter().rev().filter(|&(_, &blocks)| blocks == 0);
        let gone: Vec<u64> = idle.take(over).map(|(&frame, _)| frame).collect();
        gone.iter().for_each(|frame| {
            self.frames.remove(frame);
        });
        gone
    }

    /// What is backed, in runs.
    pub(super) fn runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for &frame in self.frames.keys() {
            match runs.last_mut() {
                Some(run) if run.end == frame => run.end += 1,
                _ => runs.push(frame..frame + 1),
            }
        }
        runs
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
        assert_eq!(segments.give_up(), [12, 11], "13 is in use");
        assert_eq!(segments.runs(), [10..11, 13..14]);
    }
}
