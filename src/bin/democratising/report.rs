//! What a person and what a program reads on standard output.

#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::pytorch::{self, Reference};
use crate::replay::Outcome;
use crate::units::{grouped, human, percent, scaled};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// A trace that was replayed.
pub struct Record {
    pub trace: String,
    /// The kind of space, as the command line calls it.
    pub space: String,
    /// The memory in words: granules, frames, slack, limit.
    pub memory: String,
    /// What the program's own allocator reserved, where the trace says so.
    pub reserved_bytes: Option<u64>,
    pub outcome: Outcome,
}

impl Record {
    /// One JSON object in one line.
    pub fn json(&self) -> String {
        let outcome = &self.outcome;
        let ns_per_event = outcome.ns_per_event.map(|ns| (ns * 100.0).round() / 100.0);
        // By hand, since a map of `serde_json` sorts its keys; these stand as in the documentation.
        let fields: [(&str, Value); 11] = [
            ("trace", json!(self.trace)),
            ("space", json!(self.space)),
            ("events", json!(outcome.events)),
            ("peak_requested_bytes", json!(outcome.peak_requested_bytes)),
            ("peak_reserved_bytes", json!(outcome.peak_reserved_bytes)),
            ("efficiency", json!(outcome.efficiency())),
            ("creates", json!(outcome.creates)),
            ("steals", json!(outcome.steals)),
            ("ns_per_event", json!(ns_per_event)),
            ("failures", json!(outcome.failures)),
            ("live_at_end_bytes", json!(outcome.live_at_end_bytes)),
        ];
        let own = self.reserved_bytes.map(|bytes| ("run_reserved_bytes", json!(bytes)));
        let fields: Vec<String> =
            fields.iter().chain(&own).map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}\n", fields.join(","))
    }

    /// An aligned block of lines.
    pub fn text(&self) -> String {
        let outcome = &self.outcome;
        let mut out = format!("{} on {}\n", printable(&self.trace), self.memory);
        let mut row = |name: &str, value: String, note: String| {
            let _ = writeln!(out, "{}", format!("  {name:<22}{value:>14}{note:>10}").trim_end());
        };
        row("events", grouped(outcome.events), String::new());
        row("peak requested", human(outcome.peak_requested_bytes), String::new());
        row("peak reserved", human(outcome.peak_reserved_bytes), percent(outcome.efficiency()));
        if let Some(bytes) = self.reserved_bytes {
            let share = outcome.peak_requested_bytes as f64 / bytes.max(1) as f64;
            row("  in your run", human(bytes), percent(share));
        }
        // With failures less was served than PyTorch was measured with.
        let known = pytorch::reference(&self.trace, outcome.events).filter(|_| outcome.failures == 0);
        if let Some(Reference { default, expandable }) = known {
            for (name, efficiency) in [("  PyTorch, default", default), ("  PyTorch, expandable", expandable)]
            {
                // The table has three digits; a decimal here would be invented.
                let reserved_bytes = outcome.peak_requested_bytes as f64 * 100.0 / efficiency;
                let reserved = format!("{} MiB", scaled(reserved_bytes as u64, 1 << 20, 0));
                row(name, reserved, percent(efficiency / 100.0));
            }
        }
        row("creates", grouped(outcome.creates), String::new());
        row("steals", grouped(outcome.steals), String::new());
        row("failed allocations", grouped(outcome.failures), String::new());
        row(
            "CPU time per event",
            outcome.ns_per_event.map_or("unknown".into(), |ns| format!("{} ns", grouped(ns.round() as u64))),
            String::new(),
        );
        row("live at the end", human(outcome.live_at_end_bytes), String::new());
        out
    }
}

/// The last line below several records.
pub fn summary(records: &[Record]) -> String {
    let efficiency = |record: &Record| record.outcome.efficiency();
    let mean = records.iter().map(efficiency).sum::<f64>() / records.len() as f64;
    let worst = records.iter().min_by(|a, b| efficiency(a).total_cmp(&efficiency(b)));
    let (worst, name) = worst.map_or((mean, ""), |record| (efficiency(record), &record.trace));
    let steals = records.iter().map(|record| record.outcome.steals).sum();
    format!(
        "{} traces: efficiency {} mean, {} worst ({}); {} steals\n",
        records.len(),
        percent(mean),
        percent(worst),
        printable(name),
        grouped(steals)
    )
}

/// A name that cannot move a terminal's cursor.
pub fn printable(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

/// Standard output, whose reader may leave at any time.
#[derive(Default)]
pub struct Output {
    closed: bool,
}

impl Output {
    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes and flushes, so that every record is seen when it is ready. A reader that left is no failure.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::Machine(format!("cannot write to standard output: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(trace: &str, events: u64, efficiency_percent: u64, failures: u64) -> Record {
        let outcome = Outcome {
            events,
            peak_requested_bytes: efficiency_percent << 20,
            peak_reserved_bytes: 100 << 20,
            creates: 50,
            steals: 1500,
            ns_per_event: Some(84.126),
            failures,
            live_at_end_bytes: 0,
            timeline: None,
        };
        Record {
            trace: trace.into(),
            space: "simulated".into(),
            memory: "simulated memory".into(),
            reserved_bytes: None,
            outcome,
        }
    }

    #[test]
    fn json_is_one_line_with_the_keys_in_order() {
        assert_eq!(
            record("a \"b\"\n", 10, 97, 0).json(),
            "{\"trace\":\"a \\\"b\\\"\\n\",\"space\":\"simulated\",\"events\":10,\"peak_requested_bytes\":101711872,\
             \"peak_reserved_bytes\":104857600,\"efficiency\":0.97,\"creates\":50,\"steals\":1500,\"ns_per_event\":84.13,\
             \"failures\":0,\"live_at_end_bytes\":0}\n"
        );
    }

    #[test]
    fn pytorch_stands_beside_a_known_trace_that_was_served_in_full() {
        let text = record("resnet50_train", 17_198, 97, 0).text();
        assert!(text.contains("\n    PyTorch, default           148 MiB    65.4 %\n"), "{text}");
        assert!(text.contains("\n    PyTorch, expandable         98 MiB    98.7 %\n"), "{text}");
        assert!(!record("resnet50_train", 17_198, 97, 1).text().contains("PyTorch"));
        assert!(!record("mine", 17_198, 97, 0).text().contains("PyTorch"));
    }

    #[test]
    fn the_columns_are_aligned_and_no_line_ends_in_blanks() {
        let text = record("resnet50_train", 17_198, 97, 0).text();
        for line in text.lines().skip(1) {
            assert!(line.len() == 38 || line.len() == 48, "{line:?}");
            assert!(!line.ends_with(' '));
        }
    }

    #[test]
    fn the_summary_names_the_worst_trace() {
        let records = [record("good", 1, 99, 0), record("bad", 1, 90, 0)];
        assert_eq!(summary(&records), "2 traces: efficiency 94.5 % mean, 90.0 % worst (bad); 3,000 steals\n");
    }
}
