//! Which frames are backed, which are idle, and where backing comes from: created, or stolen from the highest idle frame.

#![forbid(unsafe_code)]

use super::ages::Ages;
use super::bits;
use super::frames::FrameSet;
use super::index::SpanIndex;
use super::metadata::{Metadata, NoTable};
use super::stats::Stats;
use crate::size::Span;
use crate::space::{Contents, Space, SpaceError};
use core::ops::Range;

/// Who must agree before frames are created: a budget, or nobody.
pub trait Grant {
    /// Whether `bytes` more may be backed. A yes is held until [`Grant::returned`].
    fn grant(&self, bytes: u64) -> bool;
    /// `bytes` that were granted are no longer backed.
    fn returned(&self, bytes: u64);
}

/// Grants everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlimited;

impl Grant for Unlimited {
    fn grant(&self, _bytes: u64) -> bool {
        true
    }
    fn returned(&self, _bytes: u64) {}
}

/// Why a span could not be backed. Everything is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotBacked {
    /// The grant was refused, and not enough frames were idle.
    Refused { asked_bytes: u64 },
    /// The space could not do it.
    Space(SpaceError),
}

/// The backing of one space.
pub(super) struct Commit<M: Metadata> {
    /// log2 of the granules of a frame.
    shift: u32,
    frames: u32,
    frame_bytes: u64,
    /// Frames that are backed.
    backed: FrameSet<M>,
    /// Frames that are backed and hold no live granule.
    idle: FrameSet<M>,
    /// Live granules of each frame.
    live: M::Table<u32>,
    /// One bit per granule: zero since it was backed, or until it was handed out.
    clean: M::Table<u64>,
    /// Whether the space has ever told that what it backs is zero; without, `clean` is never looked at.
    zeroes: bool,
    /// Since when what is free has been free.
    ages: Ages<M>,
    /// Frames with a live granule, and the most there ever were.
    used: u32,
    used_peak: u32,
    /// Live granules.
    occupied: u32,
    /// The fewest idle frames since `mark_idle`.
    idle_low: u32,
    /// How many more frames than `used_peak` may be backed before one is stolen, in thousandths.
    slack_permille: u32,
    creates: u64,
    steals: u64,
    unmaps: u64,
    peak_backed: u32,
}

impl<M: Metadata> Commit<M> {
    pub(super) fn new(
        meta: &mut M,
        granules: u32,
        shift: u32,
        frame_bytes: u64,
        slack_permille: u32,
    ) -> Result<Self, NoTable> {
        let frames = granules.div_ceil(1 << shift);
        Ok(Commit {
            shift,
            frames,
            frame_bytes,
            backed: FrameSet::new(meta, frames)?,
            idle: FrameSet::new(meta, frames)?,
            live: meta.table(frames as usize)?,
            clean: meta.table(bits::words(granules))?,
            zeroes: false,
            ages: Ages::new(meta, granules)?,
            used: 0,
            used_peak: 0,
            occupied: 0,
            idle_low: 0,
            slack_permille,
            creates: 0,
            steals: 0,
            unmaps: 0,
            peak_backed: 0,
        })
    }

    /// The frames that a span touches.
    #[inline]
    fn frames_of(&self, span: Span) -> Range<u32> {
        let last = span.end() - 1;
        span.start.0 >> self.shift..(last >> self.shift) + 1
    }

    fn span_of(&self, frames: Range<u32>) -> Span {
        Span::new(frames.start << self.shift, (frames.len() as u32) << self.shift)
    }

    /// The frames of a span that would have to be backed.
    #[inline]
    pub(super) fn missing(&self, span: Span) -> u32 {
        let frames = self.frames_of(span);
        frames.len() as u32 - self.backed.count(frames)
    }

    /// Counts the granules of a span as live in its frames. Always paired with [`Commit::unoccupy`].
    #[inline]
    fn occupy(&mut self, span: Span) {
        let frames = self.frames_of(span);
        let (first, last) = (frames.start, frames.end - 1);
        let size = 1u32 << self.shift;
        let lead = (span.end().min((first + 1) << self.shift)) - span.start.0;
        self.occupied += span.granules;
        self.used += (self.live[first as usize] == 0) as u32;
        self.live[first as usize] += lead;
        self.idle.remove(first);
        if last > first {
            self.used += (self.live[last as usize] == 0) as u32;
            self.live[last as usize] += span.end() - (last << self.shift);
            self.idle.remove(last);
            if last > first + 1 {
                self.used += last - first - 1;
                self.live[first as usize + 1..last as usize].fill(size);
                self.idle.remove_range(first + 1..last);
            }
        }
        self.used_peak = self.used_peak.max(self.used);
        self.idle_low = self.idle_low.min(self.idle.len());
    }

    /// A span comes back that was handed out, and may hold anything.
    #[inline]
    pub(super) fn vacate(&mut self, span: Span) {
        if self.zeroes {
            bits::clear_range(&mut self.clean, span.start.0..span.end());
        }
        self.ages.came_back(span);
        self.unoccupy(span);
    }

    /// Takes the granules of a span off the counts of its frames; frames that are backed and hold nothing are idle.
    #[inline]
    fn unoccupy(&mut self, span: Span) {
        let frames = self.frames_of(span);
        let (first, last) = (frames.start, frames.end - 1);
        let lead = (span.end().min((first + 1) << self.shift)) - span.start.0;
        self.occupied -= span.granules;
        self.leave(first, lead);
        if last > first {
            self.leave(last, span.end() - (last << self.shift));
            if last > first + 1 {
                self.used -= last - first - 1;
                self.live[first as usize + 1..last as usize].fill(0);
                if self.backed.contains_all(first + 1..last) {
                    self.idle.insert_range(first + 1..last);
                } else {
                    // Only on the way back from a span that could not be backed.
                    (first + 1..last)
                        .filter(|&frame| self.backed.contains(frame))
                        .for_each(|frame| self.idle.insert(frame));
                }
            }
        }
    }

    #[inline]
    fn leave(&mut self, frame: u32, granules: u32) {
        self.live[frame as usize] -= granules;
        if self.live[frame as usize] == 0 {
            self.used -= 1;
            if self.backed.contains(frame) {
                self.idle.insert(frame);
            }
        }
    }

    /// Backs every frame of a span that was taken just now, and tells what its bytes hold.
    ///
    /// # Errors
    /// [`NotBacked`] when that failed: what was created for it is given up again, frames that were moved stay where
    /// they are, idle. The caller gives the span back and then calls [`Commit::forget_missing`].
    #[inline]
    pub(super) fn back<S: Space>(
        &mut self,
        space: &S,
        index: &mut impl SpanIndex<M>,
        grant: &impl Grant,
        span: Span,
    ) -> Result<Contents, NotBacked> {
        let used_peak = self.used_peak;
        self.occupy(span);
        let frames = self.frames_of(span);
        if !self.backed.contains_all(frames.clone())
            && let Err(error) = self.back_missing(space, index, grant, frames)
        {
            self.unoccupy(span);
            self.used_peak = used_peak;
            return Err(error);
        }
        self.ages.handed_out(span);
        Ok(self.contents(span))
    }

    #[cold]
    #[inline(never)]
    fn back_missing<S: Space>(
        &mut self,
        space: &S,
        index: &mut impl SpanIndex<M>,
        grant: &impl Grant,
        frames: Range<u32>,
    ) -> Result<(), NotBacked> {
        let missing = frames.len() as u32 - self.backed.count(frames.clone());
        // Up to `slack` more frames than were ever in use at once are created; from there on idle ones are moved.
        let most = self.used_peak as u64 * (1000 + self.slack_permille as u64) / 1000;
        let room = if self.slack_permille == 0 { 0 } else { most.saturating_sub(self.backed.len() as u64) };
        let to_steal = missing.saturating_sub(room.min(u32::MAX as u64) as u32).min(self.idle.len());
        let to_steal = if to_steal > 0 && !self.victims_rest(space, to_steal) { 0 } else { to_steal };
        let created = self.create(space, grant, frames.clone(), missing - to_steal);
        // What could not be created is stolen, whatever the slack.
        let to_steal = missing - created.count;
        let stolen = match created.refusal {
            Some(why) if self.idle.len() < to_steal => Err(why),
            _ => self.steal(space, index, created.end..frames.end).map_err(NotBacked::Space),
        };
        if let Err(why) = stolen {
            self.give_up(space, index, grant, frames.start..created.end);
            return Err(why);
        }
        let mut at = frames.start;
        while let Some(run) = self.missing_run(at..created.end) {
            at = run.end;
            self.gained(index, run, created.contents);
        }
        self.creates += created.count as u64;
        self.peak_backed = self.peak_backed.max(self.backed.len());
        Ok(())
    }

    /// Whether the frames that would be moved first can be, without waiting for anybody.
    fn victims_rest<S: Space>(&self, space: &S, frames: u32) -> bool {
        self.idle.last_run(frames).is_none_or(|run| space.at_rest(self.span_of(run)))
    }

    /// The first run of frames in `frames` that are not backed.
    fn missing_run(&self, frames: Range<u32>) -> Option<Range<u32>> {
        let start = self.backed.next_missing(frames.clone());
        (start < frames.end).then(|| start..self.backed.next(start..frames.end))
    }

    /// Commits the first `count` missing frames of `frames`, run by run; where a run is refused, frame by frame, so
    /// that the last byte of a budget can be used. They are not counted as backed yet.
    fn create<S: Space>(&mut self, space: &S, grant: &impl Grant, frames: Range<u32>, count: u32) -> Created {
        let mut made = Created { end: frames.start, count: 0, contents: Contents::Zeroed, refusal: None };
        while made.count < count {
            let Some(run) = self.missing_run(made.end..frames.end) else { break };
            let run = run.start..run.end.min(run.start + (count - made.count));
            let mut step = run.len() as u32;
            let mut at = run.start;
            while at < run.end {
                match self.create_run(space, grant, at..at + step) {
                    Ok(contents) => {
                        at += step;
                        made.end = at;
                        made.count += step;
                        if contents == Contents::Unknown {
                            made.contents = Contents::Unknown;
                        }
                    }
                    Err(_) if step > 1 => step = 1,
                    Err(why) => {
                        made.refusal = Some(why);
                        return made;
                    }
                }
            }
        }
        made
    }

    fn create_run<S: Space>(
        &self,
        space: &S,
        grant: &impl Grant,
        run: Range<u32>,
    ) -> Result<Contents, NotBacked> {
        let asked_bytes = run.len() as u64 * self.frame_bytes;
        if !grant.grant(asked_bytes) {
            return Err(NotBacked::Refused { asked_bytes });
        }
        space.commit(self.span_of(run)).map_err(|why| {
            grant.returned(asked_bytes);
            NotBacked::Space(why)
        })
    }

    /// Gives up what `create` committed in `frames`. What the space keeps of it is backed.
    #[cold]
    fn give_up<S: Space>(
        &mut self,
        space: &S,
        index: &mut impl SpanIndex<M>,
        grant: &impl Grant,
        frames: Range<u32>,
    ) {
        let mut at = frames.start;
        while let Some(run) = self.missing_run(at..frames.end) {
            at = run.end;
            space.decommit(self.span_of(run.clone()));
            let mut from = run.start;
            while from < run.end {
                let kept = self.kept(space, from..run.end);
                grant.returned((kept.start - from) as u64 * self.frame_bytes);
                from = kept.end;
                if !kept.is_empty() {
                    self.creates += kept.len() as u64;
                    self.gained(index, kept, Contents::Unknown);
                }
            }
        }
        self.peak_backed = self.peak_backed.max(self.backed.len());
    }

    /// The first of these frames, given up a moment ago, that the space keeps; or none, at their end.
    fn kept<S: Space>(&self, space: &S, frames: Range<u32>) -> Range<u32> {
        let kept = space.kept(self.span_of(frames.clone()));
        kept.map_or(frames.end..frames.end, |kept| self.frames_of(kept))
    }

    /// Moves the highest idle frames to the missing ones of `frames`, in runs where victims lie side by side.
    fn steal<S: Space>(
        &mut self,
        space: &S,
        index: &mut impl SpanIndex<M>,
        frames: Range<u32>,
    ) -> Result<(), SpaceError> {
        while let Some(run) = self.missing_run(frames.clone()) {
            let Some(victims) = self.idle.last_run(run.len() as u32) else {
                return Err(SpaceError::new(run.len() as u64 * self.frame_bytes, 0));
            };
            let run = run.start..run.start + victims.len() as u32;
            let contents = space.rehome(self.span_of(victims.clone()), self.span_of(run.clone()))?;
            self.steals += run.len() as u64;
            self.lost(index, victims);
            self.gained(index, run, contents);
        }
        Ok(())
    }

    /// `run`, which holds live granules or was idle a moment ago, is backed from now on.
    fn gained(&mut self, index: &mut impl SpanIndex<M>, run: Range<u32>, contents: Contents) {
        let span = self.span_of(run.clone());
        self.backed.insert_range(run.clone());
        match contents {
            Contents::Zeroed => {
                bits::set_range(&mut self.clean, span.start.0..span.end());
                self.zeroes = true;
            }
            Contents::Unknown if self.zeroes => bits::clear_range(&mut self.clean, span.start.0..span.end()),
            Contents::Unknown => {}
        }
        // Only the first and the last frame of a span can hold anything that is free.
        index.backed(self.span_of(run.start..run.start + 1));
        if run.len() > 1 {
            index.backed(self.span_of(run.end - 1..run.end));
        }
    }

    /// `run`, idle, is no longer backed.
    fn lost(&mut self, index: &mut impl SpanIndex<M>, run: Range<u32>) {
        self.idle.remove_range(run.clone());
        self.backed.remove_range(run.clone());
        index.unbacked(self.span_of(run));
    }

    /// After a span that could not be backed was given back: those of its frames that have no backing.
    #[cold]
    pub(super) fn forget_missing(&mut self, index: &mut impl SpanIndex<M>, span: Span) {
        let frames = self.frames_of(span);
        let mut at = frames.start;
        while let Some(run) = self.missing_run(at..frames.end) {
            at = run.end;
            index.unbacked(self.span_of(run));
        }
    }

    /// What a span holds that is handed out now.
    #[inline]
    fn contents(&self, span: Span) -> Contents {
        let zeroed = self.zeroes && bits::all(&self.clean, span.start.0..span.end());
        if zeroed { Contents::Zeroed } else { Contents::Unknown }
    }

    /// The first granules of a live span, or of its end, that held anything but zeros when it was handed out.
    #[cold]
    pub(super) fn unclean(&self, span: Span) -> Option<Span> {
        if !self.zeroes {
            return Some(span);
        }
        let start = bits::next_clear(&self.clean, span.start.0..span.end());
        let end = bits::next_set(&self.clean, start..span.end());
        (start < end).then(|| Span::new(start, end - start))
    }

    /// Backs the lowest frames that are not, until `bytes` are backed in all, as far as that can be done.
    #[cold]
    pub(super) fn grow<S: Space>(
        &mut self,
        space: &S,
        index: &mut impl SpanIndex<M>,
        grant: &impl Grant,
        bytes: u64,
    ) {
        let wanted = bytes.div_ceil(self.frame_bytes).min(self.frames as u64) as u32;
        while self.backed.len() < wanted {
            let Some(run) = self.missing_run(0..self.frames) else { break };
            let run = run.start..run.end.min(run.start + (wanted - self.backed.len()));
            let Ok(contents) = self.create_run(space, grant, run.clone()) else { break };
            self.creates += run.len() as u64;
            self.idle.insert_range(run.clone());
            for frame in run {
                self.gained(index, frame..frame + 1, contents);
            }
        }
        self.peak_backed = self.peak_backed.max(self.backed.len());
    }

    /// Gives the highest idle frames up until at most `keep_bytes` are idle; returns the bytes given up. In the place of what the space
    /// keeps others go.
    #[cold]
    pub(super) fn trim<S: Space>(
        &mut self,
        space: &S,
        index: &mut impl SpanIndex<M>,
        grant: &impl Grant,
        keep_bytes: u64,
    ) -> u64 {
        let keep = (keep_bytes / self.frame_bytes).min(u32::MAX as u64) as u32;
        let (mut trimmed, mut end) = (0, self.frames);
        while self.idle.len() > keep {
            let Some(run) = self.idle.last_run_before(end, self.idle.len() - keep) else { break };
            end = run.start;
            space.decommit(self.span_of(run.clone()));
            let mut from = run.start;
            while from < run.end {
                let kept = self.kept(space, from..run.end);
                if from < kept.start {
                    self.lost(index, from..kept.start);
                    trimmed += kept.start - from;
                }
                from = kept.end;
            }
        }
        self.unmaps += trimmed as u64;
        let bytes = trimmed as u64 * self.frame_bytes;
        if trimmed > 0 {
            grant.returned(bytes);
        }
        bytes
    }

    /// The parts of a free run that lie in backed frames of which something else is live: at its start and at its end.
    pub(super) fn shared_parts(&self, free: Span) -> [Option<Span>; 2] {
        let frames = self.frames_of(free);
        let part = |frame: u32| {
            let start = free.start.0.max(frame << self.shift);
            let end = free.end().min((frame + 1) << self.shift);
            // What is live is backed.
            (self.live[frame as usize] > 0).then(|| Span::new(start, end - start))
        };
        let (first, last) = (frames.start, frames.end - 1);
        [part(first), if last > first { part(last) } else { None }]
    }

    /// Free granules of frames of which something is live.
    pub(super) fn spare(&self) -> u32 {
        (self.used << self.shift) - self.occupied
    }

    /// Takes the first cold run from a granule on out of the ages, in a frame of which something is live.
    pub(super) fn take_cold(&mut self, from: u32) -> Option<Span> {
        let mut from = from;
        loop {
            let start = self.ages.next_cold(from)?;
            let frame = start >> self.shift;
            let end = (frame + 1) << self.shift;
            if self.live[frame as usize] > 0 {
                return Some(self.ages.take_cold(start..end));
            }
            from = end;
        }
    }

    /// What came back up to now is cold from here on.
    pub(super) fn cool(&mut self) {
        self.ages.cool();
    }

    pub(super) fn idle_low_bytes(&self) -> u64 {
        self.idle_low.min(self.idle.len()) as u64 * self.frame_bytes
    }

    pub(super) fn mark_idle(&mut self) {
        self.idle_low = self.idle.len();
    }

    pub(super) fn set_slack(&mut self, permille: u32) {
        self.slack_permille = permille;
    }

    /// Tells the backing's part of the numbers.
    pub(super) fn tell(&self, stats: &mut Stats) {
        stats.reserved_bytes = self.backed_bytes();
        stats.peak_reserved_bytes = self.peak_backed as u64 * self.frame_bytes;
        stats.idle_bytes = self.idle_bytes();
        (stats.creates, stats.steals, stats.unmaps) = (self.creates, self.steals, self.unmaps);
    }

    pub(super) fn backed_bytes(&self) -> u64 {
        self.backed.len() as u64 * self.frame_bytes
    }

    /// log2 of the granules of a frame.
    #[cfg(all(test, feature = "std"))]
    pub(super) fn shift(&self) -> u32 {
        self.shift
    }

    /// Whether a frame is backed, whether it is idle, and its live granules.
    #[cfg(all(test, feature = "std"))]
    pub(super) fn frame(&self, frame: u32) -> (bool, bool, u32) {
        (self.backed.contains(frame), self.idle.contains(frame), self.live[frame as usize])
    }

    /// Whether a granule is warm, or cold.
    #[cfg(all(test, feature = "std"))]
    pub(super) fn age(&self, granule: u32) -> (bool, bool) {
        self.ages.age(granule)
    }

    #[inline]
    pub(super) fn idle_bytes(&self) -> u64 {
        self.idle.len() as u64 * self.frame_bytes
    }

    pub(super) fn unmaps(&self) -> u64 {
        self.unmaps
    }

    #[inline]
    pub(super) fn creates(&self) -> u64 {
        self.creates
    }
}

/// What `create` did: the first `count` missing frames before `end` are committed.
struct Created {
    end: u32,
    count: u32,
    contents: Contents,
    refusal: Option<NotBacked>,
}
