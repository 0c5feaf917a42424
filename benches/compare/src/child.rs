//! What every allocator's binary does: one workload or one rest, and a line of JSON about it.
//!
//! `NAME [PERCENT [SECONDS]]`: a workload of [`crate::workload`] at a scale, or a shape of [`crate::rest`], ended by a
//! signal after so many seconds.
#![forbid(unsafe_code)]

use crate::{limit, resident, rest, workload};
use serde_json::json;
use std::process::ExitCode;

/// The `main` of a binary that sets a global allocator.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let mut number = |what: &str, default: u32| match arguments.next() {
        Some(text) => text.parse().map_err(|_| format!("{what} {text:?} is no whole number")),
        None => Ok(default),
    };
    let outcome = number("the scale in percent", 100).and_then(|percent| {
        limit::end_after(number("the limit in seconds", 120)?);
        measure(&name, workload::Scale(percent))
    });
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}

/// Runs what `name` names and describes it; nothing is allocated between the work and the reading of the peak.
fn measure(name: &str, scale: workload::Scale) -> Result<String, String> {
    let unread = |error: std::io::Error| format!("cannot tell how much memory is resident: {error}");
    if let Some(workload) = workload::named(name) {
        let checksum = (workload.run)(scale);
        let peak_kib = resident::peak_kib().map_err(unread)?;
        return Ok(json!({ "checksum": format!("{checksum:016x}"), "peak_kib": peak_kib }).to_string());
    }
    if let Some(shape) = rest::named(name) {
        let resident = rest::run(shape).map_err(unread)?;
        return Ok(json!({ "peak_kib": resident.peak_kib, "rested_kib": resident.rested_kib }).to_string());
    }
    Err(format!("there is no workload {name:?}: `compare --list` names them all"))
}

#[cfg(test)]
mod tests {
    use super::measure;
    use crate::workload::Scale;
    use serde_json::Value;

    #[test]
    fn a_workload_is_described_in_a_line_of_json() {
        let line = measure("fifo", Scale(1)).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["checksum"].as_str().map(str::len), Some(16));
        assert!(value["peak_kib"].as_u64().unwrap() > 500);
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        assert!(measure("fifo-", Scale(1)).unwrap_err().contains("fifo-"));
    }
}
