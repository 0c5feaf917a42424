//! What happened in one memory, block by block: as it was recorded, or as it would be here.

#![forbid(unsafe_code)]

use crate::args::{Permille, SpaceKind};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::replay::Outcome;
use crate::report::Record;
use crate::target::{self, Setup, Target};
use crate::timeline::{Recorder, Sample};
use crate::trace::{self, Trace};
use crate::units::round;
use democratising::timeline::{Action, Place, Timeline};
use std::collections::HashMap;
use std::convert::identity;

/// The unit of backing, here and on every device.
pub const FRAME_BYTES: u64 = 2 << 20;

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A block of `block_bytes` for a request of `bytes`, for one of the holders.
    Take { address: u64, bytes: u64, block_bytes: u64, holder: u32 },
    /// The block of the so-manieth `Take` came back.
    Give(u32),
    /// So much is reserved now.
    Reserve(u64),
    /// A request failed.
    Fail(u64),
}

/// What happened in one memory.
pub struct Story {
    /// "resnet50_train", "run.timeline, cuda:0".
    pub title: String,
    /// What kind of memory it is, and whether it happened or was replayed.
    pub memory: String,
    pub steps: Vec<Step>,
    pub holders: Vec<String>,
    /// Texts, each before a step.
    pub marks: Vec<(u64, String)>,
    /// Whether it has frames, and what is reserved is known.
    pub is_reserved: bool,
    pub steals: u64,
}

/// What somebody holds at an instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    pub holder: String,
    pub bytes: u64,
    pub blocks: u64,
}

impl Story {
    /// One for each memory of a recording.
    pub fn recorded(name: &str, timeline: &Timeline) -> Vec<Story> {
        timeline.places().into_iter().map(|place| Story::in_place(name, timeline, place)).collect()
    }

    fn in_place(name: &str, timeline: &Timeline, place: Place) -> Story {
        let mut story = Story {
            title: format!("{name}, {place}"),
            memory: format!("{place}, as recorded"),
            steps: Vec::new(),
            holders: Vec::new(),
            marks: Vec::new(),
            is_reserved: place != Place::Heap,
            steals: 0,
        };
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let mut live: HashMap<u64, u32> = HashMap::new();
        let mut takes = 0;
        story.steps.extend(timeline.reserved_before(place).map(Step::Reserve));
        let before = timeline.before().iter().filter(|event| event.place == place);
        let events =
            timeline.events().iter().filter(|event| event.place == place || event.action == Action::Mark);
        for event in before.chain(events) {
            match event.action {
                Action::Allocate => {
                    let holder = *numbers.entry(event.name).or_insert_with(|| {
                        story.holders.push(timeline.name(event.name).to_owned());
                        story.holders.len() as u32 - 1
                    });
                    let (address, bytes, block_bytes) = (event.address, event.bytes, event.more);
                    story.steps.push(Step::Take { address, bytes, block_bytes, holder });
                    live.insert(address, takes);
                    takes += 1;
                }
                Action::Free => story.steps.extend(live.remove(&event.address).map(Step::Give)),
                Action::Reserve => {
                    story.steals = story.steals.saturating_add(event.more);
                    story.steps.push(Step::Reserve(event.bytes));
                }
                Action::OutOfMemory => story.steps.push(Step::Fail(event.bytes)),
                Action::Mark => {
                    story.marks.push((story.steps.len() as u64, timeline.name(event.name).to_owned()));
                }
                _ => {}
            }
        }
        story
    }

    /// A trace, played on simulated memory of a device. Its blocks are known by their sizes alone.
    pub fn replayed(trace: Trace, progress: &mut Progress) -> Result<Story, Failure> {
        let setup = Setup {
            slack: Permille(30),
            frame_bytes: FRAME_BYTES,
            limit_bytes: None,
            demand_bytes: trace.demand_bytes,
        };
        let mut target = target::simulated(&setup, identity)?;
        let mut handles: Vec<Option<(u64, u32)>> = vec![None; trace.sizes.len()];
        let mut story = Story {
            title: trace.name.clone(),
            memory: format!("{}, replayed", setup.describe(SpaceKind::Simulated, None)),
            steps: Vec::with_capacity(trace.events.len()),
            holders: Vec::new(),
            marks: Vec::new(),
            is_reserved: true,
            steals: 0,
        };
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let (mut takes, mut reserved) = (0, 0);
        let mut marks = trace.marks.iter().peekable();
        for (event, number) in trace.events.iter().zip(0u64..) {
            while let Some(mark) = marks.next_if(|mark| mark.event <= number) {
                story.marks.push((story.steps.len() as u64, mark.text.clone()));
            }
            match event.action() {
                trace::Action::Allocate(id) => {
                    let bytes = trace.sizes[id];
                    let before = target.figures().in_use_bytes;
                    match target.allocate(bytes) {
                        None => story.steps.push(Step::Fail(bytes)),
                        Some(address) => {
                            let shift = u64::BITS - bytes.max(1).leading_zeros() - 1;
                            let holder = *numbers.entry(shift).or_insert_with(|| {
                                story.holders.push(format!("blocks from {}", round(1 << shift)));
                                story.holders.len() as u32 - 1
                            });
                            let after = target.figures();
                            let block_bytes = after.in_use_bytes - before;
                            if after.reserved_bytes != reserved {
                                reserved = after.reserved_bytes;
                                story.steps.push(Step::Reserve(reserved));
                            }
                            story.steps.push(Step::Take { address, bytes, block_bytes, holder });
                            handles[id] = Some((address, takes));
                            takes += 1;
                        }
                    }
                }
                trace::Action::Free(id) => {
                    if let Some((address, take)) = handles[id].take() {
                        let refused = |why: &dyn std::fmt::Display| {
                            Failure::Machine(format!("{}: block {id} cannot be freed: {why}", trace.name))
                        };
                        target.free(address, trace.sizes[id]).map_err(|why| refused(&why))?;
                        story.steps.push(Step::Give(take));
                    }
                }
            }
            if number % (1 << 14) == 0 {
                progress.show(|| format!("replaying {}", trace.name));
            }
        }
        story.steals = target.figures().steals;
        Ok(story)
    }

    /// As `replay` reports it, with its curves.
    pub fn record(&self) -> Record {
        let mut recorder = Recorder::new(self.steps.len() as u64);
        let mut outcome = Outcome {
            events: self.steps.len() as u64,
            peak_requested_bytes: 0,
            peak_reserved_bytes: 0,
            creates: 0,
            steals: self.steals,
            ns_per_event: None,
            failures: 0,
            live_at_end_bytes: 0,
            timeline: None,
        };
        let mut takes: Vec<(u64, u64)> = Vec::new();
        let (mut requested, mut held, mut reserved) = (0u64, 0u64, 0u64);
        for (step, done) in self.steps.iter().zip(1..) {
            match *step {
                Step::Take { bytes, block_bytes, .. } => {
                    takes.push((bytes, block_bytes));
                    requested = requested.saturating_add(bytes);
                    held = held.saturating_add(block_bytes);
                }
                Step::Give(take) => {
                    let (bytes, block_bytes) = takes.get(take as usize).copied().unwrap_or_default();
                    requested = requested.saturating_sub(bytes);
                    held = held.saturating_sub(block_bytes);
                }
                Step::Reserve(bytes) => {
                    let created = bytes.saturating_sub(reserved) / FRAME_BYTES;
                    outcome.creates = outcome.creates.saturating_add(created);
                    reserved = bytes;
                }
                Step::Fail(_) => outcome.failures += 1,
            }
            outcome.peak_requested_bytes = outcome.peak_requested_bytes.max(requested);
            outcome.peak_reserved_bytes = outcome.peak_reserved_bytes.max(reserved);
            let free_bytes = reserved.saturating_sub(held);
            recorder
                .record(done, Sample { reserved_bytes: reserved, requested_bytes: requested, free_bytes });
        }
        outcome.live_at_end_bytes = requested;
        outcome.timeline = Some(recorder.finish());
        Record {
            trace: self.title.clone(),
            space: "recorded".into(),
            memory: self.memory.clone(),
            reserved_bytes: None,
            outcome,
        }
    }

    /// After how many steps most was requested, how much that was, and who held it, largest first.
    pub fn peak(&self) -> (u64, u64, Vec<Held>) {
        let (mut requested, mut most, mut at) = (0u64, 0u64, 0u64);
        let mut takes: Vec<u64> = Vec::new();
        for (step, done) in self.steps.iter().zip(1..) {
            match *step {
                Step::Take { bytes, .. } => {
                    takes.push(bytes);
                    requested = requested.saturating_add(bytes);
                }
                Step::Give(take) => {
                    requested = requested.saturating_sub(takes.get(take as usize).copied().unwrap_or(0));
                }
                _ => {}
            }
            if requested > most {
                (most, at) = (requested, done);
            }
        }
        (at, most, self.holders_after(at))
    }

    /// Who holds what after so many steps, largest first.
    pub fn holders_after(&self, steps: u64) -> Vec<Held> {
        let mut held: Vec<Held> =
            self.holders.iter().map(|holder| Held { holder: holder.clone(), bytes: 0, blocks: 0 }).collect();
        let mut takes: Vec<(u64, u32)> = Vec::new();
        for step in self.steps.iter().take(steps as usize) {
            match *step {
                Step::Take { bytes, holder, .. } => {
                    takes.push((bytes, holder));
                    let held = &mut held[holder as usize];
                    (held.bytes, held.blocks) = (held.bytes.saturating_add(bytes), held.blocks + 1);
                }
                Step::Give(take) => {
                    let (bytes, holder) = takes[take as usize];
                    let held = &mut held[holder as usize];
                    (held.bytes, held.blocks) = (held.bytes.saturating_sub(bytes), held.blocks - 1);
                }
                _ => {}
            }
        }
        held.retain(|held| held.blocks > 0);
        held.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.holder.cmp(&b.holder)));
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_replayed_has_the_sums_of_the_trace() {
        let text = "a 0 3000000\nm second\na 1 100\nf 0\na 2 5000000\nf 1\nf 2\n";
        let lines = crate::input::Lines::of("test".into(), std::io::Cursor::new(text)).unwrap();
        let trace = Trace::from_lines("small".into(), lines, &mut Progress::hidden()).unwrap();
        let story = Story::replayed(trace, &mut Progress::hidden()).unwrap();
        let (_, most, held) = story.peak();
        assert_eq!(most, 5_000_100);
        assert_eq!(
            held.iter().map(|held| (held.bytes, held.blocks)).collect::<Vec<_>>(),
            [(5_000_000, 1), (100, 1)]
        );
        assert_eq!(story.holders_after(story.steps.len() as u64), []);
        assert_eq!(story.marks[0].1, "second");
        let outcome = story.record().outcome;
        assert_eq!((outcome.peak_requested_bytes, outcome.live_at_end_bytes), (5_000_100, 0));
        assert!(
            outcome.peak_reserved_bytes >= 5_000_100
                && outcome.peak_reserved_bytes.is_multiple_of(FRAME_BYTES)
        );
    }
}
