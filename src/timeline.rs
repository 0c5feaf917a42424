//! What happened to memory, recorded while a program runs: which block was taken and given back, when, where, for whom.
//!
//! It is off until [`start`]; then the last [`Options::capacity`] events are kept, and older ones are dropped, counted, and
//! remembered as far as their blocks are still live. What is recorded is saved, and exported for the tools that people have.
//!
//! ```
//! use democratising::{Tensor, pool::budget::scope::Scope, timeline::{self, Action, Options}};
//!
//! timeline::start(Options::new())?;
//! let tensor = Scope::new("step 1").run(|| Tensor::zeros(&[1 << 20]))?;
//! timeline::mark("forward is over");
//! drop(tensor);
//! let timeline = timeline::stop()?;
//!
//! let taken = timeline.events().iter().find(|event| event.action == Action::Allocate && event.bytes == 4 << 20).unwrap();
//! assert_eq!(timeline.name(taken.name), "step 1");
//! timeline.write_chrome(&mut Vec::new())?; // for Perfetto and chrome://tracing
//! timeline.write_pytorch(&mut Vec::new())?; // for python -m torch.cuda._memory_viz
//! timeline.write_dhat(&mut Vec::new())?; // for DHAT's viewer
//! # Ok::<(), democratising::DemoError>(())
//! ```
//!
//! 1. Recorded is what tensors and [`MemoryPool`](crate::MemoryPool) take from the pool of the host and from those of devices, and
//!    the vectors that tensors adopt. Blocks of [`Global`](crate::Global) are not: their fast path stays as it is.
//! 2. While it is off, an allocation costs one load and one branch more. While it is on, one lock that all threads share, and
//!    some 110 ns.
//! 3. What it needs is taken at the start, and from the program's allocator, never from a pool that it records. Beside the
//!    events that is a table of names, which ends at 65,536, and what is live of the events that were dropped.
//! 4. A fork's child goes on with a recording of its own.

#![forbid(unsafe_code)]

mod chrome;
mod dhat;
mod event;
mod file;
mod names;
mod pickle;
mod pytorch;
mod recorder;
mod segments;
mod stacks;
mod tell;

pub use event::{Action, Event, NO_STACK, Place};
pub use stacks::Frame;
pub(crate) use tell::{allocated, backed, collected, freed, out_of_memory, refused, wants_backing};

use crate::error::{DemoError, Result};
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::forks::ForkLock;
use recorder::Recorder;
use std::string::String;
use std::vec::Vec;

/// Whether a recording is under way.
static ON: AtomicBool = AtomicBool::new(false);

static RECORDER: ForkLock<Option<Recorder>> = ForkLock::new(None);

/// Whether anything is to be recorded.
#[inline]
pub fn is_recording() -> bool {
    // Relaxed: whoever sees it late loses an event at the edge; the lock orders the rest.
    ON.load(Relaxed)
}

/// What a recording keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "nothing is recorded before `start`"]
pub struct Options {
    capacity: usize,
    stack_depth: usize,
}

impl Options {
    /// 262,144 events, which take 15 MiB, and no stacks.
    pub const fn new() -> Options {
        Options { capacity: 1 << 18, stack_depth: 0 }
    }

    /// How many events are kept: from 1 to 2^28. Each takes 56 bytes, from the start on.
    pub const fn capacity(mut self, events: usize) -> Options {
        self.capacity = events;
        self
    }

    /// Keeps up to `depth` callers of each allocation, which takes some microseconds each. 0 keeps none.
    #[cfg(feature = "backtrace")]
    pub const fn stacks(mut self, depth: usize) -> Options {
        self.stack_depth = depth;
        self
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

/// Begins to record.
///
/// # Errors
/// [`DemoError::InvalidConfig`] when a recording is under way already, when the capacity cannot be, and when there is no memory for it.
pub fn start(options: Options) -> Result<()> {
    let problem = match options.capacity {
        1..=0x1000_0000 => "there is no memory for so many events of 56 bytes; choose fewer",
        _ => "a recording keeps from 1 to 268435456 events",
    };
    let refused = |problem| DemoError::InvalidConfig {
        name: "timeline::Options::capacity",
        value: std::format!("{}", options.capacity),
        problem,
    };
    let recorder = Recorder::new(options).ok_or_else(|| refused(problem))?;
    let mut held = RECORDER.lock();
    if held.is_some() {
        drop(held);
        // Not under the lock: dropping the new one frees its memory.
        drop(recorder);
        return Err(DemoError::InvalidConfig {
            name: "timeline::start",
            value: String::from("a second recording"),
            problem: "one is under way already; call timeline::stop first",
        });
    }
    *held = Some(recorder);
    // Not under the lock: what is forgotten has one of its own, and a fork may hold that and wait for this one.
    drop(held);
    tell::forget();
    let held = RECORDER.lock();
    // Somebody may have ended it already.
    ON.store(held.is_some(), Relaxed);
    Ok(())
}

/// Ends the recording, and returns it.
///
/// # Errors
/// [`DemoError::InvalidConfig`] when none is under way.
pub fn stop() -> Result<Timeline> {
    let mut held = RECORDER.lock();
    ON.store(false, Relaxed);
    let taken = held.take();
    drop(held);
    taken.map(Recorder::into_timeline).ok_or_else(not_recording)
}

/// What was recorded until now. It goes on; whoever records meanwhile waits for the copy.
///
/// # Errors
/// [`DemoError::InvalidConfig`] when no recording is under way, or there is no memory for a copy.
pub fn snapshot() -> Result<Timeline> {
    let copy = recorder::alone(|recorder| recorder.copy());
    match copy {
        Some(Some(copy)) => Ok(copy.into_timeline()),
        Some(None) => Err(DemoError::InvalidConfig {
            name: "timeline::snapshot",
            value: String::from("a copy of the events"),
            problem: "there is no memory for it; call timeline::stop, which needs no copy",
        }),
        None => Err(not_recording()),
    }
}

fn not_recording() -> DemoError {
    DemoError::InvalidConfig {
        name: "timeline",
        value: String::from("no recording"),
        problem: "none is under way; call timeline::start first",
    }
}

/// Puts a mark with a text into the recording, if one is under way: "epoch 3", "request 17 begins".
pub fn mark(text: &str) {
    tell::mark(text);
}

/// A recording that has ended, or a copy of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    began_unix_ns: u64,
    dropped: u64,
    reserved: Vec<(Place, u64)>,
    before: Vec<Event>,
    events: Vec<Event>,
    names: Vec<String>,
    threads: Vec<String>,
    stacks: Vec<Vec<Frame>>,
}

impl Timeline {
    /// What happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The blocks that were live when the first of [`events`](Self::events) happened, as they were allocated; by place and address.
    /// Those of which nothing was recorded but their free have the [`name`](Self::name) "(before the recording)".
    pub fn before(&self) -> &[Event] {
        &self.before
    }

    /// What was reserved when the first of [`events`](Self::events) happened, where that is known.
    pub fn reserved_before(&self, place: Place) -> Option<u64> {
        self.reserved.iter().find(|(of, _)| *of == place).map(|&(_, bytes)| bytes)
    }

    /// How many events happened before these and are not kept, and how many could not be recorded.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// When it began: nanoseconds since 1970.
    pub fn began_unix_ns(&self) -> u64 {
        self.began_unix_ns
    }

    /// A scope's name, or the text of a mark: what [`Event::name`] stands for.
    pub fn name(&self, name: u32) -> &str {
        self.names.get(name as usize).map_or("", |name| name)
    }

    /// The name of a thread: what [`Event::thread`] stands for.
    pub fn thread(&self, thread: u32) -> &str {
        self.threads.get(thread as usize).map_or("", |name| name)
    }

    /// The callers of an allocation, innermost first: what [`Event::stack`] stands for. Empty where none were kept.
    pub fn stack(&self, stack: u32) -> &[Frame] {
        self.stacks.get(stack as usize).map_or(&[], |frames| frames)
    }

    /// Every place that something happened in.
    pub fn places(&self) -> Vec<Place> {
        let all = self.before.iter().chain(&self.events).filter(|event| event.action.is_of_a_place());
        let mut places: Vec<Place> = all.map(|event| event.place).collect();
        places.extend(self.reserved.iter().map(|&(place, _)| place));
        places.sort_unstable();
        places.dedup();
        places
    }
}
