//! PyTorch's memory snapshots (`torch.cuda.memory._dump_snapshot`) as traces, one for each device. They are pickles; of what stands in
//! them nothing is executed, and what is not needed (stacks, segments' blocks that are free) is passed over.
//!
//! 1. The history is a ring: it may begin in the middle of a run. What is freed in it without having been allocated, and what is
//!    live at its end without that, was live before it began: such blocks come first, and the history behind a mark.
//! 2. A block can be used again when its free is completed, which is later than it was requested where other streams use it.
//! 3. What the run reserved is counted backwards from the segments at the end.

#![forbid(unsafe_code)]

mod depth;

use crate::failure::Failure;
use crate::trace::{Reading, Trace};
use depth::Shallow;
use serde::Deserialize;
use serde_pickle::DeOptions;
use std::collections::HashMap;
use std::io::Read;

#[derive(Deserialize)]
struct Snapshot {
    segments: Vec<Segment>,
    #[serde(default)]
    device_traces: Vec<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(default)]
    device: usize,
    address: u64,
    total_size: u64,
    #[serde(default)]
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    size: u64,
    requested_size: Option<u64>,
    state: String,
}

#[derive(Deserialize)]
struct Entry {
    action: String,
    #[serde(default)]
    addr: u64,
    #[serde(default)]
    size: u64,
}

/// The traces of a snapshot, in the order of the devices that have a history.
pub fn read(name: &str, place: &str, pickle: impl Read) -> Result<Vec<Trace>, Failure> {
    // The reader counts how often what is shared is named, and takes what is shared within a shared stack, which comes up more
    // often, for a circle. Only stacks are shared so, and they are passed over.
    let options = DeOptions::new().replace_unresolved_globals().replace_recursive_structures();
    let snapshot: Snapshot = serde_pickle::from_reader(Shallow::new(pickle), options).map_err(|error| {
        Failure::input(place, format!("it is a pickle, but no memory snapshot of PyTorch's: {error}"))
    })?;
    let with_history = snapshot.device_traces.iter().filter(|entries| !entries.is_empty()).count();
    let devices = snapshot.device_traces.iter().enumerate().filter(|(_, entries)| !entries.is_empty());
    let mut traces = devices
        .map(|(device, entries)| {
            let name = if with_history == 1 { name.to_owned() } else { format!("{name} cuda:{device}") };
            let segments = snapshot.segments.iter().filter(|segment| segment.device == device);
            trace(name, entries, segments.collect())
                .map_err(|problem| Failure::input(place, format!("the history of cuda:{device}: {problem}")))
        })
        .collect::<Result<Vec<Trace>, Failure>>()?;
    // A device may have segments alone, or a request that failed.
    traces.retain(|trace| !trace.events.is_empty());
    if traces.is_empty() {
        let advice = "call torch.cuda.memory._record_memory_history() before what is to be recorded";
        return Err(Failure::input(
            place,
            format!("no block comes or goes in the snapshot's history; {advice}"),
        ));
    }
    Ok(traces)
}

fn trace(name: String, entries: &[Entry], segments: Vec<&Segment>) -> Result<Trace, String> {
    let mut reading = Reading::new(name);
    let mut live: HashMap<u64, u64> = HashMap::new();
    let mut next = 0;
    let mut take = |reading: &mut Reading, live: &mut HashMap<u64, u64>, at: u64, bytes: u64| {
        if live.insert(at, next).is_some() {
            return Err(format!("{at:#x} is allocated while it is live"));
        }
        next += 1;
        reading.allocate(next - 1, bytes)
    };
    for (at, bytes) in before(entries, &segments) {
        take(&mut reading, &mut live, at, bytes)?;
    }
    reading.mark(b"the history begins");
    for entry in entries {
        match entry.action.as_str() {
            "alloc" => take(&mut reading, &mut live, entry.addr, entry.size)?,
            "free_completed" => {
                let id =
                    live.remove(&entry.addr).ok_or_else(|| format!("{:#x} is freed twice", entry.addr))?;
                reading.free(id)?;
            }
            _ => {}
        }
    }
    let mut trace = reading.finish();
    trace.reserved_bytes = Some(reserved(entries, &segments));
    Ok(trace)
}

/// What was live before the history began, by address.
fn before(entries: &[Entry], segments: &[&Segment]) -> Vec<(u64, u64)> {
    let mut since: HashMap<u64, bool> = HashMap::new();
    let mut found = Vec::new();
    for entry in entries {
        match entry.action.as_str() {
            "alloc" => {
                since.insert(entry.addr, true);
            }
            "free_completed" if since.insert(entry.addr, false).is_none() => {
                found.push((entry.addr, entry.size));
            }
            _ => {}
        }
    }
    for segment in segments {
        let mut at = segment.address;
        for block in &segment.blocks {
            if block.state.starts_with("active") && !since.contains_key(&at) {
                found.push((at, block.requested_size.unwrap_or(block.size)));
            }
            at = at.saturating_add(block.size);
        }
    }
    found.sort_unstable();
    found
}

/// The most that was reserved during the history.
fn reserved(entries: &[Entry], segments: &[&Segment]) -> u64 {
    let at_end = segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.total_size));
    let (mut most, mut now) = (at_end, at_end);
    for entry in entries.iter().rev() {
        match entry.action.as_str() {
            "segment_alloc" | "segment_map" => now = now.saturating_sub(entry.size),
            "segment_free" | "segment_unmap" => now = now.saturating_add(entry.size),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Action;
    use serde_json::{Value, json};

    const MIB: u64 = 1 << 20;

    fn pickled(snapshot: &Value) -> Vec<u8> {
        serde_pickle::to_vec(snapshot, Default::default()).unwrap()
    }

    fn event(action: &str, addr: u64, size: u64) -> Value {
        json!({ "action": action, "addr": addr, "size": size, "stream": 0, "frames": [{ "name": "forward", "line": 3 }] })
    }

    fn segment(device: u64, address: u64, blocks: &[(u64, &str)]) -> Value {
        let total: u64 = blocks.iter().map(|(size, _)| size).sum();
        let blocks: Vec<Value> = blocks
            .iter()
            .map(|(size, state)| json!({ "size": size, "requested_size": size - 100, "state": state }))
            .collect();
        json!({ "device": device, "address": address, "total_size": total, "stream": 0, "blocks": blocks })
    }

    #[test]
    fn what_was_live_before_the_history_comes_first() {
        let snapshot = json!({
            "segments": [segment(0, 1 << 40, &[(2 * MIB, "active_allocated"), (MIB, "inactive"), (MIB, "active_allocated")])],
            "device_traces": [[
                event("free_requested", 5 << 40, MIB),
                event("free_completed", 5 << 40, MIB),
                event("segment_free", 5 << 40, 20 * MIB),
                event("segment_alloc", 1 << 40, 4 * MIB),
                event("alloc", (1 << 40) + 3 * MIB, MIB - 100),
            ], []],
        });
        let traces = read("run", "run.pickle", &pickled(&snapshot)[..]).unwrap();
        let [trace] = &traces[..] else { panic!("{} traces", traces.len()) };
        assert_eq!((trace.name.as_str(), &trace.sizes[..]), ("run", &[2 * MIB - 100, MIB, MIB - 100][..]));
        let actions: Vec<Action> = trace.events.iter().map(|event| event.action()).collect();
        assert_eq!(actions, [Action::Allocate(0), Action::Allocate(1), Action::Free(1), Action::Allocate(2)]);
        assert_eq!(trace.marks[0].event, 2);
        assert_eq!(trace.reserved_bytes, Some(20 * MIB), "before the first segment went");
    }

    #[test]
    fn every_device_has_a_trace_of_its_own() {
        let history = |at: u64| vec![event("alloc", at, MIB), event("free_completed", at, MIB)];
        let snapshot = json!({ "segments": [], "device_traces": [history(1 << 40), [], history(2 << 40)] });
        let traces = read("run", "run.pickle", &pickled(&snapshot)[..]).unwrap();
        let names: Vec<&str> = traces.iter().map(|trace| trace.name.as_str()).collect();
        assert_eq!(names, ["run cuda:0", "run cuda:2"]);
    }

    #[test]
    fn a_snapshot_that_cannot_be_played_says_why() {
        let refused =
            |snapshot: &Value| read("run", "run.pickle", &pickled(snapshot)[..]).unwrap_err().to_string();
        let none = refused(&json!({ "segments": [], "device_traces": [[]] }));
        assert!(none.contains("_record_memory_history"), "{none}");
        let failed = json!({ "action": "oom", "size": MIB, "device_free": 0 });
        let segments =
            json!({ "segments": [], "device_traces": [[failed, event("segment_alloc", 1 << 40, MIB)]] });
        let no_blocks = refused(&segments);
        assert!(no_blocks.contains("no block comes or goes"), "{no_blocks}");
        let other = refused(&json!({ "weights": [1, 2, 3] }));
        assert!(other.contains("no memory snapshot"), "{other}");
        let twice = [event("alloc", 1 << 40, MIB), event("alloc", 1 << 40, MIB)];
        let twice = refused(&json!({ "segments": [], "device_traces": [twice] }));
        assert!(twice.contains("cuda:0") && twice.contains("while it is live"), "{twice}");
    }

    #[test]
    fn a_pickle_cut_anywhere_is_an_error() {
        let whole = pickled(&json!({ "segments": [], "device_traces": [[event("alloc", 1 << 40, MIB)]] }));
        for length in 0..whole.len() {
            assert!(read("run", "run.pickle", &whole[..length]).is_err(), "{length}");
        }
    }
}
