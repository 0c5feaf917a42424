//! A set of frames that knows its highest member: a bitmap with a summary bit per word, three levels high.

#![forbid(unsafe_code)]

use super::bits;
use super::metadata::{Metadata, NoTable};
use core::ops::Range;

/// Which frames are in the set.
pub(super) struct FrameSet<M: Metadata> {
    /// Level 0 has a bit per frame, each level above one per word that is not zero.
    levels: [M::Table<u64>; 3],
    len: u32,
}

impl<M: Metadata> FrameSet<M> {
    pub(super) fn new(meta: &mut M, frames: u32) -> Result<Self, NoTable> {
        let words = bits::words(frames).max(1);
        let above = bits::words(words as u32);
        let top = bits::words(above as u32);
        Ok(FrameSet { levels: [meta.table(words)?, meta.table(above)?, meta.table(top)?], len: 0 })
    }

    /// How many frames are in the set.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    #[inline]
    pub(super) fn insert(&mut self, frame: u32) {
        self.len += !bits::get(&self.levels[0], frame) as u32;
        let mut at = frame;
        for level in &mut self.levels {
            bits::set(level, at);
            at /= 64;
        }
    }

    #[inline]
    pub(super) fn remove(&mut self, frame: u32) {
        self.len -= bits::get(&self.levels[0], frame) as u32;
        let mut at = frame;
        for level in &mut self.levels {
            bits::clear(level, at);
            if level[at as usize / 64] != 0 {
                break;
            }
            at /= 64;
        }
    }

    pub(super) fn insert_range(&mut self, frames: Range<u32>) {
        if frames.is_empty() {
            return;
        }
        self.len += frames.len() as u32 - bits::count(&self.levels[0], frames.clone());
        let (mut start, mut last) = (frames.start, frames.end - 1);
        for level in &mut self.levels {
            bits::set_range(level, start..last + 1);
            (start, last) = (start / 64, last / 64);
        }
    }

    pub(super) fn remove_range(&mut self, frames: Range<u32>) {
        if frames.is_empty() {
            return;
        }
        self.len -= bits::count(&self.levels[0], frames.clone());
        bits::clear_range(&mut self.levels[0], frames.clone());
        let (mut start, mut last) = (frames.start, frames.end - 1);
        for low in 0..2 {
            (start, last) = (start / 64, last / 64);
            for word in start..=last {
                if self.levels[low][word as usize] == 0 {
                    bits::clear(&mut self.levels[low + 1], word);
                }
            }
        }
    }

    #[inline]
    pub(super) fn contains(&self, frame: u32) -> bool {
        bits::get(&self.levels[0], frame)
    }

    #[inline]
    pub(super) fn contains_all(&self, frames: Range<u32>) -> bool {
        bits::all(&self.levels[0], frames)
    }

    /// How many of `frames` are in the set.
    #[inline]
    pub(super) fn count(&self, frames: Range<u32>) -> u32 {
        bits::count(&self.levels[0], frames)
    }

    /// The first frame of `frames` that is not in the set, or the range's end.
    pub(super) fn next_missing(&self, frames: Range<u32>) -> u32 {
        bits::next_clear(&self.levels[0], frames)
    }

    /// The first frame of `frames` that is in the set, or the range's end.
    pub(super) fn next(&self, frames: Range<u32>) -> u32 {
        bits::next_set(&self.levels[0], frames)
    }

    /// The highest frame of the set.
    pub(super) fn last(&self) -> Option<u32> {
        let top = &self.levels[2];
        let word = top.iter().rposition(|&word| word != 0)?;
        let mut at = word as u32 * 64 + top[word].ilog2();
        for level in self.levels[..2].iter().rev() {
            at = at * 64 + level[at as usize].ilog2();
        }
        Some(at)
    }

    /// The highest frame of the set below `end`.
    fn last_before(&self, end: u32) -> Option<u32> {
        let mut end = end;
        for (height, level) in self.levels.iter().enumerate() {
            let lower = level.get(end as usize / 64).map_or(0, |word| word & !(u64::MAX << (end % 64)));
            let found = match lower {
                0 if height == 2 => {
                    let words = &level[..level.len().min(end as usize / 64)];
                    let word = words.iter().rposition(|&word| word != 0)?;
                    word as u32 * 64 + words[word].ilog2()
                }
                0 => {
                    end /= 64;
                    continue;
                }
                lower => end / 64 * 64 + lower.ilog2(),
            };
            let below = self.levels[..height].iter().rev();
            return Some(below.fold(found, |at, level| at * 64 + level[at as usize].ilog2()));
        }
        None
    }

    /// The longest run of the set that ends with its highest frame, at most `most` frames.
    pub(super) fn last_run(&self, most: u32) -> Option<Range<u32>> {
        Some(self.run_to(self.last()?, most))
    }

    /// The same below `end`.
    pub(super) fn last_run_before(&self, end: u32, most: u32) -> Option<Range<u32>> {
        Some(self.run_to(self.last_before(end)?, most))
    }

    fn run_to(&self, last: u32, most: u32) -> Range<u32> {
        let mut first = last;
        while first > 0 && last - first + 1 < most && self.contains(first - 1) {
            first -= 1;
        }
        first..last + 1
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::arena::metadata::Borrowed;
    use core::mem::MaybeUninit;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_frame_set_does_what_a_sorted_set_does(
            steps in prop::collection::vec((any::<bool>(), 0u32..9000, 0u32..300), 1..60)
        ) {
            let mut bytes = [MaybeUninit::uninit(); 4096];
            let mut set = FrameSet::<Borrowed>::new(&mut Borrowed::new(&mut bytes), 9300).unwrap();
            let mut model = BTreeSet::new();
            for (insert, start, len) in steps {
                let frames = start..start + len;
                match (insert, len) {
                    (true, 1) => set.insert(start),
                    (false, 1) => set.remove(start),
                    (true, _) => set.insert_range(frames.clone()),
                    (false, _) => set.remove_range(frames.clone()),
                }
                if insert { model.extend(frames.clone()) } else { model.retain(|frame| !frames.contains(frame)) }
                prop_assert_eq!(set.len() as usize, model.len());
                prop_assert_eq!(set.last(), model.last().copied());
                prop_assert_eq!(set.contains_all(frames.clone()), frames.clone().all(|frame| model.contains(&frame)));
                for end in [0, 1, frames.start, frames.end, start / 64 * 64, 4096, 4097, u32::MAX] {
                    let below = model.range(..end).next_back().copied();
                    prop_assert_eq!(set.last_run_before(end, 1), below.map(|last| last..last + 1));
                }
                if let Some(run) = set.last_run(7) {
                    prop_assert!(run.len() <= 7 && run.clone().all(|frame| model.contains(&frame)));
                    prop_assert!(run.len() == 7 || run.start == 0 || !model.contains(&(run.start - 1)));
                }
            }
        }
    }
}
