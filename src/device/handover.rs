//! Who has to wait for whom when memory changes hands between streams.
//!
//! A stream is an order of work that the processor only queues. A block that is freed while work on it is still queued may be
//! used again on the same stream at once, since that runs later anyway. Another stream has to wait first, and nobody may
//! take the memory away from under it. This table knows when:
//! 1. A *tick* counts frees. For each frame stand the streams whose blocks were freed in it, and the last tick of such a free.
//! 2. For each stream stand the tick up to which an event was *recorded* behind its frees, and that up to which they have
//!    *passed*, which the processor has seen. For each pair of streams, up to which tick the one has *waited* for the other.
//! 3. A stream *owes* a wait for every other stream of a frame whose frees there it has not waited for and that have not
//!    passed. One event covers everything freed before it, so a batch of frees costs one event and one wait.
//! 4. Frames are told apart by number, modulo the size of the table. Two that share a line make a wait too many at most.
//!
//! Whoever frees enters the tick here before the memory can be found free; whoever takes asks here after it was found. Both
//! happen under locks, so no taker misses a free.

#![forbid(unsafe_code)]

use crate::arena::metadata::{Metadata, NoTable};
use core::ops::Range;

/// The most streams that one table tells apart.
pub const MOST_STREAMS: usize = 128;

/// A stream, as a table knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(u8);

/// A set of streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slots([u64; 2]);

/// What is known of one stream.
#[derive(Clone, Copy, Debug)]
struct Known {
    live: bool,
    /// The tick of its last free.
    freed: u64,
    /// Frees up to this tick are behind an event.
    recorded: u64,
    /// Frees up to this tick are over.
    passed: u64,
}

/// The table of one device.
#[derive(Debug)]
pub struct Handover<M: Metadata> {
    tick: u64,
    streams: [Known; MOST_STREAMS],
    /// Up to which tick a stream (row) has waited for another.
    waited: M::Table<u64>,
    /// The streams of a frame, and its last tick.
    frames: M::Table<[u64; 3]>,
}

impl Slot {
    /// Its number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Slots {
    /// Nobody.
    pub const NONE: Slots = Slots([0; 2]);

    /// One stream.
    pub const fn one(slot: Slot) -> Slots {
        Slots::NONE.and(slot)
    }

    /// These and one more.
    pub const fn and(mut self, slot: Slot) -> Slots {
        self.0[slot.index() / 64] |= 1 << (slot.index() % 64);
        self
    }

    /// These without one.
    pub const fn without(mut self, slot: Slot) -> Slots {
        self.0[slot.index() / 64] &= !(1 << (slot.index() % 64));
        self
    }

    /// One of these, or nobody where it is none.
    pub const fn only(self, slot: Slot) -> Slots {
        let Slots([low, high]) = Slots::one(slot);
        Slots([self.0[0] & low, self.0[1] & high])
    }

    /// All of both.
    pub const fn union(self, other: Slots) -> Slots {
        Slots([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    /// Whether there is nobody.
    pub const fn is_empty(self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Slot> {
        let [low, high] = self.0;
        let bits = |mut word: u64| {
            core::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as u8)?;
                word &= word - 1;
                Some(bit)
            })
        };
        bits(low).chain(bits(high).map(|bit| bit + 64)).map(Slot)
    }
}

impl<M: Metadata> Handover<M> {
    /// A table with a line for each of `frames` frames, rounded up to a power of two.
    ///
    /// # Errors
    /// [`NoTable`] when there is no memory for it.
    pub fn new(meta: &mut M, frames: usize) -> Result<Self, NoTable> {
        let too_many = NoTable { needed_bytes: u64::MAX, left_bytes: None };
        let lines = frames.max(1).checked_next_power_of_two().ok_or(too_many)?;
        let nothing = Known { live: false, freed: 0, recorded: 0, passed: 0 };
        Ok(Handover {
            tick: 0,
            streams: [nothing; MOST_STREAMS],
            waited: meta.table(MOST_STREAMS * MOST_STREAMS)?,
            frames: meta.table(lines)?,
        })
    }

    /// A new stream, or `None` where there are [`MOST_STREAMS`] already, those included that ended with frees under way.
    pub fn enter(&mut self) -> Option<Slot> {
        let at = self.streams.iter().position(|known| !known.live && known.passed >= known.freed)?;
        self.streams[at].live = true;
        self.waited[at * MOST_STREAMS..(at + 1) * MOST_STREAMS].fill(0);
        Some(Slot(at as u8))
    }

    /// The stream that ended with frees under way whose last free is the oldest: a new one gets its slot first when they have passed.
    pub fn next_to_pass(&self) -> Option<Slot> {
        let ended =
            self.streams.iter().enumerate().filter(|(_, known)| !known.live && known.passed < known.freed);
        ended.min_by_key(|(_, known)| known.freed).map(|(at, _)| Slot(at as u8))
    }

    /// The stream ends. Its slot is taken again when its frees have passed.
    pub fn leave(&mut self, slot: Slot) {
        self.streams[slot.index()].live = false;
    }

    /// A block in `frames` is about to become free, after work on it was queued on these streams.
    #[inline]
    pub fn freed(&mut self, on: Slots, frames: Range<u64>) {
        self.tick += 1;
        for slot in on.iter() {
            self.streams[slot.index()].freed = self.tick;
        }
        let mask = self.frames.len() as u64 - 1;
        for frame in frames {
            let line = &mut self.frames[(frame & mask) as usize];
            *line = [line[0] | on.0[0], line[1] | on.0[1], self.tick];
        }
    }

    /// The streams that `by` has to wait for before it may use blocks in `frames` that were found free.
    pub fn owed(&self, by: Slot, frames: Range<u64>) -> Slots {
        self.unsettled(frames, |slot, tick| slot == by || self.waited(by, slot) >= tick)
    }

    /// The streams whose frees in `frames` have not passed.
    pub fn under_way(&self, frames: Range<u64>) -> Slots {
        self.unsettled(frames, |_, _| false)
    }

    /// Every stream, also an ended one, with frees that have not passed.
    pub fn all_under_way(&self) -> Slots {
        let known = self.streams.iter().enumerate();
        let behind = known.filter(|(_, known)| known.passed < known.freed);
        behind.fold(Slots::NONE, |slots, (at, _)| slots.and(Slot(at as u8)))
    }

    fn unsettled(&self, frames: Range<u64>, settled: impl Fn(Slot, u64) -> bool) -> Slots {
        let mask = self.frames.len() as u64 - 1;
        let mut found = Slots::NONE;
        for frame in frames {
            let [low, high, tick] = self.frames[(frame & mask) as usize];
            for slot in Slots([low, high]).iter() {
                let known = &self.streams[slot.index()];
                // Frees of this stream in this frame are no later than either.
                let last = tick.min(known.freed);
                if known.passed < last && !settled(slot, last) {
                    found = found.and(slot);
                }
            }
        }
        found
    }

    fn waited(&self, by: Slot, on: Slot) -> u64 {
        self.waited[by.index() * MOST_STREAMS + on.index()]
    }

    /// Whether frees on the stream came after its last event.
    pub fn needs_event(&self, slot: Slot) -> bool {
        let known = &self.streams[slot.index()];
        known.recorded < known.freed
    }

    /// An event was recorded on the stream just now.
    pub fn recorded(&mut self, slot: Slot) {
        self.streams[slot.index()].recorded = self.tick;
    }

    /// `by` waits for the last event of `on`.
    pub fn waits(&mut self, by: Slot, on: Slot) {
        self.waited[by.index() * MOST_STREAMS + on.index()] = self.streams[on.index()].recorded;
    }

    /// The tick of the last free on any stream.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// The tick that the stream's last event covers.
    pub fn covered(&self, slot: Slot) -> u64 {
        self.streams[slot.index()].recorded
    }

    /// Frees on the stream up to `tick` are over.
    pub fn passed(&mut self, slot: Slot, tick: u64) {
        let known = &mut self.streams[slot.index()];
        known.passed = known.passed.max(tick);
    }

    /// Forgets who freed in `frames`, where all of that has passed.
    pub fn forget(&mut self, frames: Range<u64>) {
        let mask = self.frames.len() as u64 - 1;
        for frame in frames {
            if self.under_way(frame..frame + 1).is_empty() {
                self.frames[(frame & mask) as usize] = [0; 3];
            }
        }
    }
}

#[cfg(all(test, feature = "std", not(democratising_loom)))]
mod tests {
    use super::*;
    use crate::space::MappedTables;
    use std::vec::Vec;

    fn table() -> (Handover<MappedTables>, Slot, Slot) {
        let mut table = Handover::new(&mut MappedTables, 100).unwrap();
        let (a, b) = (table.enter().unwrap(), table.enter().unwrap());
        (table, a, b)
    }

    fn owed(table: &Handover<MappedTables>, by: Slot, frame: u64) -> Vec<Slot> {
        table.owed(by, frame..frame + 1).iter().collect()
    }

    #[test]
    fn only_another_stream_owes_a_wait_and_only_once() {
        let (mut table, a, b) = table();
        table.freed(Slots::one(a), 3..5);
        assert_eq!(
            (owed(&table, a, 3), owed(&table, b, 4), owed(&table, b, 5)),
            (Vec::new(), [a].into(), Vec::new())
        );
        assert!(table.needs_event(a) && !table.needs_event(b));
        table.recorded(a);
        table.waits(b, a);
        assert_eq!((owed(&table, b, 4), table.needs_event(a)), (Vec::new(), false));
        table.freed(Slots::one(a), 9..10);
        assert_eq!((owed(&table, b, 4), owed(&table, b, 9)), (Vec::new(), [a].into()), "only what is new");
        assert_eq!(table.under_way(3..5), Slots::one(a), "waiting on a stream is not passing it");
    }

    #[test]
    fn what_has_passed_is_owed_to_nobody_and_forgotten() {
        let (mut table, a, b) = table();
        table.freed(Slots::one(a).and(b), 7..8);
        table.recorded(a);
        let covered = table.covered(a);
        table.passed(a, covered);
        assert_eq!((table.under_way(7..8), table.all_under_way()), (Slots::one(b), Slots::one(b)));
        table.forget(7..8);
        assert_eq!(owed(&table, a, 7), [b], "b has not passed yet");
        table.recorded(b);
        table.passed(b, table.covered(b));
        table.forget(7..8);
        assert!(table.under_way(7..8).is_empty() && table.all_under_way().is_empty());
    }

    #[test]
    fn the_slot_of_a_stream_that_ended_is_taken_again_only_when_its_frees_have_passed() {
        let mut table = Handover::new(&mut MappedTables, 8).unwrap();
        let slots: Vec<Slot> = core::iter::from_fn(|| table.enter()).collect();
        assert_eq!(slots.len(), MOST_STREAMS);
        let (one, other) = (slots[70], slots[127]);
        table.freed(Slots::one(one), 2..3);
        table.leave(one);
        assert_eq!(table.enter(), None);
        assert_eq!(table.next_to_pass(), Some(one));
        table.freed(Slots::one(other), 3..4);
        assert_eq!(table.all_under_way().only(one), Slots::one(one));
        assert_eq!(table.next_to_pass(), Some(one), "the other one has not ended");
        assert_eq!(owed(&table, other, 2), [one]);
        table.recorded(one);
        table.passed(one, table.covered(one));
        assert_eq!(table.next_to_pass(), None);
        assert_eq!(table.enter(), Some(one));
        assert!(owed(&table, other, 2).is_empty());
        table.freed(Slots::one(one), 2..3);
        assert_eq!(owed(&table, other, 2), [one], "the new stream's own frees");
    }

    #[test]
    fn a_wait_covers_what_was_recorded_and_nothing_later() {
        let (mut table, a, b) = table();
        table.freed(Slots::one(a), 3..4);
        table.recorded(a);
        table.freed(Slots::one(a), 4..5);
        table.waits(b, a);
        assert_eq!((owed(&table, b, 3), owed(&table, b, 4)), (Vec::new(), [a].into()));
    }

    #[test]
    fn a_stream_that_has_the_slot_of_another_has_waited_for_nobody() {
        let (mut table, a, b) = table();
        table.freed(Slots::one(a), 3..4);
        table.recorded(a);
        table.waits(b, a);
        assert!(owed(&table, b, 3).is_empty());
        table.leave(b);
        assert_eq!(table.enter(), Some(b));
        assert_eq!(owed(&table, b, 3), [a]);
    }

    #[test]
    fn each_stream_that_freed_in_a_frame_passes_by_its_own_frees() {
        let (mut table, a, b) = table();
        table.freed(Slots::one(a), 7..8);
        table.recorded(a);
        table.freed(Slots::one(b), 7..8);
        assert_eq!(table.under_way(7..8), Slots::one(a).and(b));
        table.passed(a, table.covered(a));
        assert_eq!(table.under_way(7..8), Slots::one(b), "a freed nothing since");
        table.recorded(b);
        table.passed(b, table.covered(b));
        table.passed(b, 1);
        assert!(table.under_way(7..8).is_empty(), "what has passed stays so, told in whatever order");
    }

    #[test]
    fn frames_that_share_a_line_wait_too_often_and_never_too_rarely() {
        let (mut table, a, b) = table();
        table.freed(Slots::one(a), 1..2);
        assert_eq!(owed(&table, b, 129), [a]);
        assert_eq!(table.owed(b, 1000..1200), Slots::one(a), "more frames than lines");
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let slots: Vec<Slot> = [0, 63, 64, 127].map(Slot).into();
        let set = slots.iter().fold(Slots::NONE, |set, slot| set.and(*slot));
        assert_eq!(set.iter().collect::<Vec<_>>(), slots);
        assert_eq!(set.without(Slot(63)).iter().count(), 3);
        assert_eq!((set.only(Slot(64)), set.only(Slot(65))), (Slots::one(Slot(64)), Slots::NONE));
        assert!(Slots::NONE.is_empty() && !set.is_empty());
    }
}
