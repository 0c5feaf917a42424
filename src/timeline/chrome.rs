//! As a trace in the JSON of Chrome's trace viewer, which Perfetto reads too.
//!
//! 1. Each place is a process of the trace; its counters are what is reserved, and what blocks hold, in all and by scope.
//! 2. Each block is an asynchronous slice from its allocation to its free, named after its scope. One that is live at the end ends there.
//! 3. Running out of memory, collections and marks are instants.

#![forbid(unsafe_code)]

use super::{Action, Event, Place, Timeline};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::format;
use std::io::{self, BufWriter, Write};
use std::string::ToString;

/// As many scopes get a counter of their own: those that ever held most.
const COUNTED: usize = 20;

impl Timeline {
    /// Writes it for <https://ui.perfetto.dev> and chrome://tracing.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_chrome(&self, out: &mut impl Write) -> io::Result<()> {
        let mut trace = Trace { out: BufWriter::new(out), first: true };
        write!(
            trace.out,
            "{{\"displayTimeUnit\":\"ns\",\"otherData\":{},\"traceEvents\":[",
            json!({
                "program": "democratising", "dropped events": self.dropped, "began (ns since 1970)": self.began_unix_ns,
            })
        )?;
        let mut places = self.places();
        if self.events.iter().any(|event| !event.action.is_of_a_place()) && !places.contains(&Place::Heap) {
            places.push(Place::Heap);
        }
        for &place in &places {
            trace.meta("process_name", place, None, &format!("memory: {place}"))?;
            for (thread, name) in self.threads.iter().enumerate() {
                trace.meta("thread_name", place, Some(thread), name)?;
            }
        }
        let counted = self.counted();
        let mut live: HashMap<(Place, u64), (Event, u64)> = HashMap::new();
        let mut held = Held::default();
        let mut slices = 0;
        for event in &self.before {
            slices += 1;
            live.insert((event.place, event.address), (*event, slices));
            held.change(event, true);
            trace.slice(self, "b", slices, event, 0, false)?;
        }
        for &place in &places {
            held.reserved.insert(place, self.reserved_before(place).unwrap_or(0));
            trace.counters(self, &held, place, None, &counted, 0)?;
        }
        for event in &self.events {
            let (place, at) = (event.place, event.time_ns);
            match event.action {
                Action::Allocate => {
                    slices += 1;
                    live.insert((place, event.address), (*event, slices));
                    held.change(event, true);
                    trace.slice(self, "b", slices, event, at, false)?;
                    trace.counters(self, &held, place, Some(event.name), &counted, at)?;
                }
                Action::Free => {
                    if let Some((taken, slice)) = live.remove(&(place, event.address)) {
                        held.change(&taken, false);
                        trace.slice(self, "e", slice, &taken, at, false)?;
                        trace.counters(self, &held, place, Some(taken.name), &counted, at)?;
                    }
                }
                Action::Reserve => {
                    held.reserved.insert(place, event.bytes);
                    trace.counters(self, &held, place, None, &counted, at)?;
                }
                Action::OutOfMemory => {
                    trace.instant(event, "out of memory", json!({ "bytes": event.bytes }))?
                }
                Action::Collect => {
                    trace.instant(
                        event,
                        "collected",
                        json!({ "bytes": event.bytes, "nanoseconds": event.more }),
                    )?;
                }
                Action::Mark => trace.instant(event, self.name(event.name), json!({}))?,
            }
        }
        let end = self.events.last().map_or(0, |event| event.time_ns);
        let mut left: std::vec::Vec<(Event, u64)> = live.into_values().collect();
        left.sort_unstable_by_key(|&(_, slice)| slice);
        left.iter().try_for_each(|(event, slice)| trace.slice(self, "e", *slice, event, end, true))?;
        trace.out.write_all(b"\n]}\n")?;
        trace.out.flush()
    }

    /// The names of the scopes that held most at their peak.
    fn counted(&self) -> std::vec::Vec<u32> {
        let (mut held, mut peak): (Held, HashMap<u32, u64>) = Default::default();
        let mut live: HashMap<(Place, u64), Event> = HashMap::new();
        for event in self.before.iter().chain(&self.events) {
            match event.action {
                Action::Allocate => {
                    live.insert((event.place, event.address), *event);
                    held.change(event, true);
                    let now = held.by_scope.get(&(event.place, event.name)).copied().unwrap_or(0);
                    let most = peak.entry(event.name).or_default();
                    *most = now.max(*most);
                }
                Action::Free => {
                    if let Some(taken) = live.remove(&(event.place, event.address)) {
                        held.change(&taken, false);
                    }
                }
                _ => {}
            }
        }
        let mut names: std::vec::Vec<u32> = peak.keys().copied().collect();
        names.sort_unstable_by_key(|name| (core::cmp::Reverse(peak[name]), *name));
        names.truncate(COUNTED);
        names
    }
}

/// What is held at a moment.
#[derive(Default)]
struct Held {
    reserved: BTreeMap<Place, u64>,
    requested: BTreeMap<Place, u64>,
    by_scope: HashMap<(Place, u32), u64>,
}

impl Held {
    fn change(&mut self, event: &Event, up: bool) {
        for sum in [
            self.requested.entry(event.place).or_default(),
            self.by_scope.entry((event.place, event.name)).or_default(),
        ] {
            *sum = if up { sum.saturating_add(event.bytes) } else { sum.saturating_sub(event.bytes) };
        }
    }
}

struct Trace<W: Write> {
    out: W,
    first: bool,
}

/// The number of a place as a process.
fn process(place: Place) -> u64 {
    match place {
        Place::Pool => 1,
        Place::Heap => 2,
        Place::Cuda(ordinal) => 3 + ordinal as u64,
    }
}

/// Microseconds, to the nanosecond.
fn microseconds(ns: u64) -> Value {
    json!(ns as f64 / 1000.0)
}

impl<W: Write> Trace<W> {
    fn put(&mut self, event: &Value) -> io::Result<()> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut self.out, event).map_err(io::Error::from)
    }

    fn meta(&mut self, what: &str, place: Place, thread: Option<usize>, name: &str) -> io::Result<()> {
        self.put(&json!({
            "ph": "M", "name": what, "pid": process(place), "tid": thread.unwrap_or(0), "args": { "name": name },
        }))
    }

    fn slice(
        &mut self,
        timeline: &Timeline,
        phase: &str,
        slice: u64,
        event: &Event,
        at: u64,
        is_left: bool,
    ) -> io::Result<()> {
        let args = match phase {
            "b" => json!({
                "bytes": event.bytes, "in the block": event.more, "address": format!("{:#x}", event.address),
                "stream": event.stream,
                "callers": timeline.stack(event.stack).iter().map(|frame| frame.function.as_str()).collect::<std::vec::Vec<_>>(),
            }),
            _ if is_left => json!({ "live at the end": true }),
            _ => json!({}),
        };
        self.put(&json!({
            "ph": phase, "cat": "block", "id": format!("{slice:#x}"), "name": timeline.name(event.name), "pid": process(event.place),
            "tid": event.thread, "ts": microseconds(at), "args": args,
        }))
    }

    /// The counters of a place, and of one scope in it or of all that are counted.
    fn counters(
        &mut self,
        timeline: &Timeline,
        held: &Held,
        place: Place,
        scope: Option<u32>,
        counted: &[u32],
        at: u64,
    ) -> io::Result<()> {
        let of = |sums: &BTreeMap<Place, u64>| sums.get(&place).copied().unwrap_or(0);
        self.put(&json!({
            "ph": "C", "name": "memory", "pid": process(place), "ts": microseconds(at),
            "args": { "reserved": of(&held.reserved), "requested": of(&held.requested) },
        }))?;
        let scopes = counted.iter().filter(|&&name| scope.is_none_or(|scope| scope == name));
        for &name in scopes {
            if let Some(bytes) = held.by_scope.get(&(place, name)) {
                self.put(&json!({
                    "ph": "C", "name": format!("scope {}", timeline.name(name)), "pid": process(place), "ts": microseconds(at),
                    "args": { "requested": bytes },
                }))?;
            }
        }
        Ok(())
    }

    fn instant(&mut self, event: &Event, name: &str, args: Value) -> io::Result<()> {
        let scope = if event.action.is_of_a_place() { "p" } else { "g" };
        self.put(&json!({
            "ph": "i", "s": scope, "cat": event.action.word().to_string(), "name": name, "pid": process(event.place), "tid": event.thread,
            "ts": microseconds(event.time_ns), "args": args,
        }))
    }
}
