//! As DHAT's output, for the viewer that comes with valgrind (`dh_view.html`).
//!
//! A program point is a place, a scope in it, and the callers where those were kept. Times are microseconds of the recording.

#![forbid(unsafe_code)]

use super::{Action, Event, NO_STACK, Place, Timeline};
use serde_json::json;
use std::collections::HashMap;
use std::format;
use std::io::{self, BufWriter, Write};
use std::string::{String, ToString};
use std::vec::Vec;

/// Blocks that live shorter than this are called short-lived.
const SHORT_US: u64 = 500;

/// What is known of one program point, as DHAT names it.
#[derive(Clone, Copy, Default)]
struct Point {
    total_bytes: u64,
    total_blocks: u64,
    lifetimes_us: u64,
    live_bytes: u64,
    live_blocks: u64,
    most_bytes: u64,
    most_blocks: u64,
    /// At the moment when most was held in all.
    global_bytes: u64,
    global_blocks: u64,
}

type Key = (Place, u32, u32);

impl Timeline {
    /// Writes it for DHAT's viewer. Blocks that were live before the first event count as allocated then.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_dhat(&self, out: &mut impl Write) -> io::Result<()> {
        let most_at = self.fullest();
        let mut points: Vec<(Key, Point)> = Vec::new();
        let mut numbers: HashMap<Key, usize> = HashMap::new();
        let mut live: HashMap<(Place, u64), (usize, Event, u64)> = HashMap::new();
        let start_us = self.events.first().map_or(0, |event| event.time_ns / 1000);
        let end_us = self.events.last().map_or(start_us, |event| event.time_ns / 1000);
        let global = |points: &mut Vec<(Key, Point)>| {
            for (_, point) in points {
                (point.global_bytes, point.global_blocks) = (point.live_bytes, point.live_blocks);
            }
        };
        let all = self.before.iter().map(|event| (start_us, event));
        let all = all.chain(self.events.iter().map(|event| (event.time_ns / 1000, event)));
        for (i, (at_us, event)) in all.enumerate() {
            match event.action {
                Action::Allocate => {
                    let key = (event.place, event.name, event.stack);
                    let number = *numbers.entry(key).or_insert_with(|| {
                        points.push((key, Point::default()));
                        points.len() - 1
                    });
                    points[number].1.take(event.bytes);
                    live.insert((event.place, event.address), (number, *event, at_us));
                }
                Action::Free => {
                    if let Some((number, taken, since)) = live.remove(&(event.place, event.address)) {
                        points[number].1.give(taken.bytes, at_us - since);
                    }
                }
                _ => {}
            }
            if Some(i) == most_at {
                global(&mut points);
            }
        }
        for (number, _, since) in live.values() {
            let point = &mut points[*number].1;
            point.lifetimes_us = point.lifetimes_us.saturating_add(end_us - since);
        }
        let most_us = most_at.map_or(start_us, |at| match at.checked_sub(self.before.len()) {
            Some(at) => self.events[at].time_ns / 1000,
            None => start_us,
        });
        let mut frames = Frames { numbers: HashMap::new(), table: std::vec!["[root]".to_string()] };
        let points: Vec<_> = points
            .iter()
            .map(|((place, name, stack), point)| {
                let mut stack_frames = std::vec![
                    frames.number(format!("memory: {place}")),
                    frames.number(format!("scope: {}", self.name(*name))),
                ];
                if *stack != NO_STACK {
                    let callers = self.stack(*stack).iter();
                    stack_frames.extend(callers.map(|caller| {
                        frames.number(match caller.line {
                            0 => caller.function.clone(),
                            line => format!("{} ({}:{line})", caller.function, caller.file),
                        })
                    }));
                }
                json!({
                    "tb": point.total_bytes, "tbk": point.total_blocks, "tl": point.lifetimes_us,
                    "mb": point.most_bytes, "mbk": point.most_blocks,
                    "gb": point.global_bytes, "gbk": point.global_blocks,
                    "eb": point.live_bytes, "ebk": point.live_blocks, "fs": stack_frames,
                })
            })
            .collect();
        let command = std::env::args().next().unwrap_or_default();
        let mut out = BufWriter::new(out);
        serde_json::to_writer(
            &mut out,
            &json!({
                "dhatFileVersion": 2, "mode": "democratising timeline", "verb": "Allocated",
                "bklt": true, "bkacc": false, "tu": "µs", "Mtu": "s", "tuth": SHORT_US,
                "cmd": command, "pid": std::process::id(), "tg": most_us, "te": end_us,
                "pps": points, "ftbl": frames.table,
            }),
        )?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// After which of `before` and then `events` most was held, counted through both.
    fn fullest(&self) -> Option<usize> {
        let mut live: HashMap<(Place, u64), u64> = HashMap::new();
        let (mut held, mut most, mut at) = (0u64, 0u64, None);
        for (i, event) in self.before.iter().chain(&self.events).enumerate() {
            match event.action {
                Action::Allocate => {
                    live.insert((event.place, event.address), event.bytes);
                    held = held.saturating_add(event.bytes);
                }
                Action::Free => {
                    held = held.saturating_sub(live.remove(&(event.place, event.address)).unwrap_or(0));
                }
                _ => {}
            }
            if held > most {
                (most, at) = (held, Some(i));
            }
        }
        at
    }
}

impl Point {
    fn take(&mut self, bytes: u64) {
        self.total_bytes = self.total_bytes.saturating_add(bytes);
        self.total_blocks += 1;
        self.live_bytes = self.live_bytes.saturating_add(bytes);
        self.live_blocks += 1;
        if self.live_bytes > self.most_bytes {
            (self.most_bytes, self.most_blocks) = (self.live_bytes, self.live_blocks);
        }
    }

    fn give(&mut self, bytes: u64, lifetime_us: u64) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.live_blocks -= 1;
        self.lifetimes_us = self.lifetimes_us.saturating_add(lifetime_us);
    }
}

/// The table of frames, each once.
struct Frames {
    numbers: HashMap<String, usize>,
    table: Vec<String>,
}

impl Frames {
    fn number(&mut self, frame: String) -> usize {
        let next = self.table.len();
        *self.numbers.entry(frame).or_insert_with_key(|frame| {
            self.table.push(frame.clone());
            next
        })
    }
}
