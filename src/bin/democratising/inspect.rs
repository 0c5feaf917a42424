//! `inspect`: what a file of tensors holds, without loading it.

#![forbid(unsafe_code)]

use crate::args::Inspect;
use crate::failure::{Failure, Told};
use crate::units;
use democratising::DemoError;
use democratising::fs::{Checkpoint, ModelCheckpoint};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;

/// What is known of a tensor's bytes.
enum State {
    /// They have the checksum that was saved with them.
    Sound,
    /// There is a checksum, and nobody has compared it.
    NotCompared,
    /// The file has none.
    NoChecksum,
    /// It is nothing that can be read here; its bytes are not known to be damaged.
    NotRead,
    Damaged(DemoError),
}

impl State {
    fn of(checkpoint: &Checkpoint, name: &str, quick: bool) -> State {
        let state = match checkpoint.info(name) {
            None => State::NotRead,
            // What is compressed is compared as it is unpacked.
            Some(info) if info.crc32.is_some() || checkpoint.format() == "npz" => {
                if quick {
                    State::NotCompared
                } else {
                    State::Sound
                }
            }
            Some(_) => State::NoChecksum,
        };
        match state {
            State::NotRead | State::Sound if !quick => {
                checkpoint.verify_one(name).map_or_else(State::Damaged, |()| state)
            }
            state => state,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            State::Sound => "ok",
            State::NotCompared => "not compared",
            State::NoChecksum => "none",
            State::NotRead => "not read",
            State::Damaged(_) => "DAMAGED",
        }
    }
}

/// Lists every file in turn. Each that cannot be read, or is damaged, is told where it comes; the first of them decides how the program
/// ends.
pub fn run(options: &Inspect) -> Result<(), Told> {
    let mut first = Ok(());
    for path in &options.files {
        if let Err(failure) = file(path, options) {
            let told = failure.tell();
            first = first.and(Err(told));
        }
    }
    first
}

fn file(path: &Path, options: &Inspect) -> Result<(), Failure> {
    let checkpoint = ModelCheckpoint::load(path).map_err(|error| of_path(path, error))?;
    let mut lines = Vec::new();
    let mut damaged = None;
    let mut bytes = 0;
    for name in checkpoint.names() {
        let state = State::of(&checkpoint, name, options.quick);
        let info = checkpoint.info(name);
        bytes += info.as_ref().map_or(0, |info| info.bytes);
        lines.push((name, info, state.word()));
        if let (State::Damaged(error), None) = (state, &damaged) {
            damaged = Some(error);
        }
    }
    let text = if options.json {
        json_of(path, &checkpoint, &lines, bytes)
    } else {
        table(path, &checkpoint, &lines, bytes)
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(Failure::Machine(format!("cannot write to standard output: {error}")));
        }
        _ => {}
    }
    damaged.map_or(Ok(()), |error| Err(of_path(path, error)))
}

/// A longer name moves its own line alone.
const MOST_WIDTH: usize = 120;

type Line<'a> = (&'a str, Option<democratising::fs::TensorInfo>, &'static str);

fn table(path: &Path, checkpoint: &Checkpoint, lines: &[Line<'_>], bytes: u64) -> String {
    let plain = |text: &str| text.replace(char::is_control, "\u{fffd}");
    let mut text = format!(
        "{}: {}, {} tensors, {}\n",
        plain(&path.display().to_string()),
        checkpoint.format(),
        units::grouped(lines.len() as u64),
        units::human(bytes)
    );
    for (key, value) in checkpoint.all_metadata() {
        let short: String = plain(value).chars().take(100).collect();
        text += &format!("  {} = {short}\n", plain(key));
    }
    let mut rows =
        vec![["tensor".to_string(), "dtype".into(), "shape".into(), "bytes".into(), "checksum".into()]];
    for (name, info, state) in lines {
        rows.push(match info {
            Some(info) => {
                let shape = format!("{:?}", info.shape);
                [plain(name), info.dtype.to_string(), shape, units::grouped(info.bytes), (*state).into()]
            }
            None => [plain(name), "unknown".into(), "?".into(), "?".into(), (*state).into()],
        });
    }
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(|i| width(i).min(MOST_WIDTH));
    for [name, dtype, shape, bytes, state] in rows {
        let [name_width, dtype_width, shape_width, bytes_width, _] = widths;
        text += &format!(
            "  {name:<name_width$}  {dtype:<dtype_width$}  {shape:<shape_width$}  {bytes:>bytes_width$}  {state}\n"
        );
    }
    text
}

fn json_of(path: &Path, checkpoint: &Checkpoint, lines: &[Line<'_>], bytes: u64) -> String {
    let tensors: Vec<Value> = lines
        .iter()
        .map(|(name, info, state)| match info {
            Some(info) => json!({
                "name": name, "dtype": info.dtype.name(), "shape": info.shape, "bytes": info.bytes,
                "crc32": info.crc32.map(|crc32| format!("{crc32:08x}")), "checksum": state,
            }),
            None => json!({ "name": name, "dtype": null, "checksum": state }),
        })
        .collect();
    let metadata: Map<String, Value> =
        checkpoint.all_metadata().map(|(key, value)| (key.to_string(), Value::from(value))).collect();
    let file = json!({
        "file": path.display().to_string(), "format": checkpoint.format(), "bytes": bytes, "metadata": metadata,
        "tensors": tensors,
    });
    format!("{file}\n")
}

/// A file that is no such file is the user's to put right; the rest is the machine's.
fn of_path(path: &Path, error: DemoError) -> Failure {
    match error {
        DemoError::Format { .. } => Failure::input(path.display(), error),
        DemoError::Io { .. } => Failure::input(path.display(), error),
        other => Failure::Machine(other.to_string()),
    }
}
