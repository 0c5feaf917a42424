//! A recording as a file.
//!
//! Text, one fact a line. The first line is `democratising timeline 1`; then, in this order:
//!
//! | line | meaning |
//! |---|---|
//! | `began NS` | nanoseconds since 1970 |
//! | `dropped N` | events that are not in the file |
//! | `name "TEXT"` | a scope or the text of a mark, as a JSON string; the first is 0 |
//! | `thread "TEXT"` | a thread; the first is 0 |
//! | `stack [["FUNCTION","FILE",LINE],...]` | callers, innermost first; the first is 0 |
//! | `reserved PLACE BYTES` | what was reserved before the first event |
//! | `before` and the rest of an event's line | a block that was live before the first event |
//! | `ACTION TIME PLACE ADDRESS BYTES MORE STREAM THREAD NAME STACK` | an event: the time in nanoseconds since the beginning, the address in hexadecimal, `-` for no stack |
//! | `end N` | how many events there were: a file without is torn |

#![forbid(unsafe_code)]

use super::{Action, Event, Frame, NO_STACK, Place, Timeline};
use crate::error::{DemoError, Result};
use std::format;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::string::{String, ToString};
use std::vec::Vec;

/// The first line.
const HEAD: &str = "democratising timeline 1";

/// No line is longer: a stack of 256 callers with long names is far below.
const MOST_LINE_BYTES: u64 = 1 << 20;

impl Timeline {
    /// Writes it as [`save`](Self::save) does.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{HEAD}\nbegan {}\ndropped {}", self.began_unix_ns, self.dropped)?;
        for name in &self.names {
            writeln!(out, "name {}", serde_json::Value::from(name.as_str()))?;
        }
        for name in &self.threads {
            writeln!(out, "thread {}", serde_json::Value::from(name.as_str()))?;
        }
        for stack in &self.stacks {
            let frames: Vec<_> = stack
                .iter()
                .map(|frame| serde_json::json!([frame.function, frame.file, frame.line]))
                .collect();
            writeln!(out, "stack {}", serde_json::Value::from(frames))?;
        }
        for (place, bytes) in &self.reserved {
            writeln!(out, "reserved {place} {bytes}")?;
        }
        for event in &self.before {
            write_event(out, "before", event)?;
        }
        for event in &self.events {
            write_event(out, event.action.word(), event)?;
        }
        writeln!(out, "end {}", self.events.len())
    }

    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`DemoError::Io`] when it cannot be read, [`DemoError::Format`] with the line when it is damaged or something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Timeline> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| DemoError::Io {
            action: "open the timeline",
            path: Some(path.to_path_buf()),
            source,
        })?;
        Timeline::read_from(file).map_err(|error| match error {
            DemoError::Format { format, at, problem, .. } => {
                DemoError::Format { format, path: Some(path.to_path_buf()), at, problem }
            }
            DemoError::Io { action, source, .. } => {
                DemoError::Io { action, path: Some(path.to_path_buf()), source }
            }
            other => other,
        })
    }

    /// Reads what [`write_to`](Self::write_to) wrote.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn read_from(input: impl Read) -> Result<Timeline> {
        let mut reader = Reader { lines: BufReader::new(input), line: String::new(), number: 0 };
        let mut timeline = Timeline {
            began_unix_ns: 0,
            dropped: 0,
            reserved: Vec::new(),
            before: Vec::new(),
            events: Vec::new(),
            names: Vec::new(),
            threads: Vec::new(),
            stacks: Vec::new(),
        };
        if !reader.next()? || reader.line != HEAD {
            return Err(reader.wrong(format!(
                "the file does not begin with {HEAD:?}: it is no timeline, or of another version"
            )));
        }
        while reader.next()? {
            let line = reader.line.as_str();
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let taken = match word {
                "end" => {
                    let counted = rest.parse() == Ok(timeline.events.len());
                    if !counted {
                        let problem =
                            format!("{} events stand before it; the file is damaged", timeline.events.len());
                        return Err(reader.wrong(problem));
                    }
                    if reader.next()? {
                        return Err(reader.wrong("something stands behind the end".into()));
                    }
                    return Ok(timeline);
                }
                _ => timeline.take(word, rest),
            };
            if let Err(problem) = taken {
                return Err(reader.wrong(problem));
            }
        }
        reader.number += 1;
        Err(reader.wrong("the file has no end: it was cut; get the whole file".into()))
    }

    /// Takes what one line says.
    fn take(&mut self, word: &str, rest: &str) -> Result<(), String> {
        let number = || rest.parse().map_err(|_| format!("{rest:?} is no number"));
        match word {
            "began" => self.began_unix_ns = number()?,
            "dropped" => self.dropped = number()?,
            "name" => self.names.push(text(rest)?),
            "thread" => self.threads.push(text(rest)?),
            "stack" => self.stacks.push(stack(rest)?),
            "reserved" => {
                let read = rest
                    .split_once(' ')
                    .and_then(|(place, bytes)| Some((Place::read(place)?, bytes.parse().ok()?)));
                self.reserved.push(read.ok_or_else(|| format!("{rest:?} is no place with its bytes"))?);
            }
            "before" => {
                let event = self.event(Action::Allocate, rest)?;
                self.before.push(event);
            }
            word => {
                let action = Action::ALL.into_iter().find(|action| action.word() == word);
                let action = action.ok_or_else(|| format!("a line cannot begin with {word:?}"))?;
                let event = self.event(action, rest)?;
                if self.events.last().is_some_and(|last| last.time_ns > event.time_ns) {
                    return Err(format!("{} ns is before the event above it", event.time_ns));
                }
                self.events.push(event);
            }
        }
        Ok(())
    }

    fn event(&self, action: Action, rest: &str) -> Result<Event, String> {
        let mut words = rest.split(' ');
        let mut next = |what: &str| words.next().ok_or_else(|| format!("the {what} is missing"));
        let number = |what: &str, word: &str| {
            word.parse::<u64>().map_err(|_| format!("the {what} {word:?} is no number"))
        };
        let index = |what: &str, word: &str, known: usize| {
            let number = number(what, word)?;
            if number < known as u64 {
                Ok(number as u32)
            } else {
                Err(format!("the {what} {number} is not among the {known} above"))
            }
        };
        let time_ns = number("time", next("time")?)?;
        let place = next("place")?;
        let place = Place::read(place).ok_or_else(|| format!("{place:?} is no place"))?;
        let address = next("address")?;
        let address = u64::from_str_radix(address, 16).map_err(|_| format!("{address:?} is no address"))?;
        let bytes = number("bytes", next("bytes")?)?;
        let more = number("second number", next("second number")?)?;
        let stream = number("stream", next("stream")?)?;
        let thread = index("thread", next("thread")?, self.threads.len())?;
        let name = index("name", next("name")?, self.names.len())?;
        let stack = match next("stack")? {
            "-" => NO_STACK,
            word => index("stack", word, self.stacks.len())?,
        };
        if let Some(word) = words.next() {
            return Err(format!("{word:?} stands behind an event"));
        }
        if matches!(action, Action::Allocate | Action::Free) && address.checked_add(more.max(bytes)).is_none()
        {
            return Err(format!("no block of {} bytes can be at address {address:x}", more.max(bytes)));
        }
        Ok(Event { time_ns, address, bytes, more, stream, thread, name, stack, place, action })
    }
}

fn write_event(out: &mut impl Write, word: &str, event: &Event) -> io::Result<()> {
    let Event { time_ns, address, bytes, more, stream, thread, name, stack, place, .. } = event;
    write!(out, "{word} {time_ns} {place} {address:x} {bytes} {more} {stream} {thread} {name} ")?;
    match *stack {
        NO_STACK => writeln!(out, "-"),
        stack => writeln!(out, "{stack}"),
    }
}

fn text(rest: &str) -> Result<String, String> {
    serde_json::from_str(rest).map_err(|error| format!("{rest:?} is no JSON string: {error}"))
}

fn stack(rest: &str) -> Result<Vec<Frame>, String> {
    let frames: Vec<(String, String, u32)> =
        serde_json::from_str(rest).map_err(|error| format!("it is no list of callers: {error}"))?;
    Ok(frames.into_iter().map(|(function, file, line)| Frame { function, file, line }).collect())
}

struct Reader<R> {
    lines: BufReader<R>,
    line: String,
    number: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the next line. `false` behind the last.
    fn next(&mut self) -> Result<bool> {
        self.line.clear();
        self.number += 1;
        let mut bytes = Vec::new();
        let read = self.lines.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', &mut bytes);
        let count =
            read.map_err(|source| DemoError::Io { action: "read the timeline", path: None, source })?;
        if count == 0 {
            return Ok(false);
        }
        if bytes.pop_if(|last| *last == b'\n').is_none() {
            return Err(self.wrong("the line has no end: the file was cut, or is no timeline".into()));
        }
        self.line = String::from_utf8(bytes).map_err(|_| self.wrong("it is no text in UTF-8".into()))?;
        Ok(true)
    }

    fn wrong(&self, problem: String) -> DemoError {
        let at = format!(" line {}", self.number);
        DemoError::Format { format: "timeline", path: None, at, problem: problem.to_string() }
    }
}
