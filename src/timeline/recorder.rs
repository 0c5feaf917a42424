//! The ring of events, and what must be known of those that fell out of it.

#![forbid(unsafe_code)]

use super::names::Names;
use super::stacks::{Callers, Stacks};
use super::{Action, Event, Options, Place, RECORDER, Timeline};
use crate::sync::Cell;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime};
use std::vec::Vec;

/// What happened, without when and by whom.
pub(super) struct Happening<'a> {
    pub(super) action: Action,
    pub(super) place: Place,
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) more: u64,
    pub(super) stream: u64,
    pub(super) name: &'a str,
}

#[derive(Clone)]
pub(super) struct Recorder {
    /// Which recording of the process it is: threads are numbered anew in each.
    number: u64,
    began: Instant,
    began_unix_ns: u64,
    /// As large as it will ever be, from the start.
    ring: Vec<Event>,
    capacity: usize,
    stack_depth: usize,
    /// The oldest event of a full ring.
    oldest: usize,
    dropped: u64,
    /// Of the events that were dropped: blocks that they left live, and what was reserved.
    before: HashMap<(Place, u64), Event>,
    reserved: BTreeMap<Place, u64>,
    names: Names,
    threads: Names,
    stacks: Stacks,
}

/// Events that could not be recorded: those of a thread that is recording one at that moment.
static MISSED: AtomicU64 = AtomicU64::new(0);

static RECORDINGS: AtomicU64 = AtomicU64::new(0);

std::thread_local! {
    /// Whether this thread records: what its own bookkeeping sets off is not recorded in turn, nor waits for itself.
    static RECORDS: Cell<bool> = const { Cell::new(false) };
    /// The recording that this thread has a number in, and the number.
    static THREAD: Cell<(u64, u32)> = const { Cell::new((u64::MAX, 0)) };
}

/// Works on the recording, if one is under way and this thread is not at it already.
pub(super) fn alone<T>(work: impl FnOnce(&mut Recorder) -> T) -> Option<T> {
    // At a thread's end its variables are gone, and nothing is recorded.
    if RECORDS.try_with(|records| records.replace(true)).unwrap_or(true) {
        MISSED.fetch_add(1, Relaxed);
        return None;
    }
    let done = RECORDER.lock().as_mut().map(work);
    RECORDS.set(false);
    done
}

/// Records, if a recording is under way.
#[cold]
#[inline(never)]
pub(super) fn record(what: Happening<'_>) {
    alone(|recorder| recorder.push(what));
}

impl Recorder {
    /// `None`: there is no memory for so many events, or nobody could want so few or many.
    pub(super) fn new(options: Options) -> Option<Recorder> {
        let Options { capacity, stack_depth } = options;
        let mut ring = Vec::new();
        ring.try_reserve_exact((1..=1 << 28).contains(&capacity).then_some(capacity)?).ok()?;
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        MISSED.store(0, Relaxed);
        Some(Recorder {
            number: RECORDINGS.fetch_add(1, Relaxed),
            began: Instant::now(),
            began_unix_ns: unix.as_nanos().min(u64::MAX as u128) as u64,
            ring,
            capacity,
            stack_depth,
            oldest: 0,
            dropped: 0,
            before: HashMap::new(),
            reserved: BTreeMap::new(),
            names: Names::default(),
            threads: Names::default(),
            stacks: Stacks::default(),
        })
    }

    fn push(&mut self, what: Happening<'_>) {
        let stack = match what.action {
            Action::Allocate | Action::OutOfMemory => self.stacks.number(&Callers::here(self.stack_depth)),
            _ => super::NO_STACK,
        };
        let event = Event {
            time_ns: self.began.elapsed().as_nanos() as u64,
            address: what.address,
            bytes: what.bytes,
            more: what.more,
            stream: what.stream,
            thread: self.thread(),
            name: self.names.number(what.name),
            stack,
            place: what.place,
            action: what.action,
        };
        if self.ring.len() < self.capacity {
            self.ring.push(event);
            return;
        }
        let fell = core::mem::replace(&mut self.ring[self.oldest], event);
        self.oldest = (self.oldest + 1) % self.capacity;
        self.dropped += 1;
        match fell.action {
            Action::Allocate => {
                self.before.insert((fell.place, fell.address), fell);
            }
            Action::Free => {
                self.before.remove(&(fell.place, fell.address));
            }
            Action::Reserve => {
                self.reserved.insert(fell.place, fell.bytes);
            }
            _ => {}
        }
    }

    fn thread(&mut self) -> u32 {
        let (recording, number) = THREAD.get();
        if recording == self.number {
            return number;
        }
        let thread = std::thread::current();
        let number = match thread.name() {
            Some(name) => self.threads.number(name),
            None => self.threads.number(&std::format!("{:?}", thread.id())),
        };
        THREAD.set((self.number, number));
        number
    }

    /// `None`: there is no memory for it.
    pub(super) fn copy(&self) -> Option<Recorder> {
        let mut ring = Vec::new();
        ring.try_reserve_exact(self.ring.len()).ok()?;
        ring.extend_from_slice(&self.ring);
        let empty = Vec::new();
        let Recorder { ref before, ref reserved, ref names, ref threads, ref stacks, .. } = *self;
        let copy = Recorder {
            ring: empty,
            before: before.clone(),
            reserved: reserved.clone(),
            names: names.clone(),
            threads: threads.clone(),
            stacks: stacks.clone(),
            ..*self
        };
        Some(Recorder { ring, ..copy })
    }

    pub(super) fn into_timeline(mut self) -> Timeline {
        self.ring.rotate_left(self.oldest);
        // Blocks of which nothing is known but their free were there before.
        let unknown = self.names.number("(before the recording)");
        let mut taken: HashMap<(Place, u64), bool> = HashMap::new();
        for event in &self.ring {
            let key = (event.place, event.address);
            match event.action {
                Action::Allocate => {
                    taken.insert(key, true);
                }
                Action::Free if taken.insert(key, false).is_none() => {
                    let action = Action::Allocate;
                    let was = Event { time_ns: 0, name: unknown, stack: super::NO_STACK, action, ..*event };
                    self.before.entry(key).or_insert(was);
                }
                _ => {}
            }
        }
        let mut before: Vec<Event> = self.before.into_values().collect();
        before.sort_unstable_by_key(|event| (event.place, event.address));
        Timeline {
            began_unix_ns: self.began_unix_ns,
            dropped: self.dropped + MISSED.load(Relaxed),
            reserved: self.reserved.into_iter().collect(),
            before,
            events: self.ring,
            names: self.names.into_vec(),
            threads: self.threads.into_vec(),
            stacks: self.stacks.into_vec(),
        }
    }
}
