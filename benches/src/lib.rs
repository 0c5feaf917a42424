//! What a program allocated and freed, as recorded: for the benchmarks that play it again.

use flate2::read::GzDecoder;
use std::io::{BufRead, BufReader};

/// One line of a recording.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// So many bytes, under a number.
    Allocate(usize, usize),
    /// The block of that number.
    Free(usize),
}

/// A recording of `tests/data`.
pub fn trace(name: &str) -> Vec<Event> {
    let path = format!("{}/../tests/data/{name}.trace.gz", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"));
    let event = |line: String| {
        let mut words = line.split(' ');
        let kind = words.next()?.to_owned();
        let id = words.next()?.parse().ok()?;
        match &*kind {
            "a" => Some(Event::Allocate(id, words.next()?.parse().ok()?)),
            "f" => Some(Event::Free(id)),
            _ => None,
        }
    };
    BufReader::new(GzDecoder::new(file)).lines().filter_map(|line| event(line.unwrap())).collect()
}

/// How many blocks there are in one.
pub fn blocks(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Allocate(..))).count()
}
