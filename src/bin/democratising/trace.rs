//! A trace: which blocks a program allocated and freed, in which order.
//!
//! Ids count up from 0 and are never used twice, so that a table replaces a map, and everything that can be wrong with a trace is known
//! before the first block is allocated.

#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::input::{Line, Lines};
use crate::progress::Progress;
use crate::snapshot;
use crate::units::grouped;
use std::path::Path;

/// How far an id may run ahead of the allocations before it. Traces from several threads are a little out of order; one wild number must
/// not become a table of terabytes.
const AHEAD: u64 = 1 << 20;
/// As many phase marks as are kept; there is no use for more.
const KEPT_MARKS: usize = 1000;
/// As much of a mark's text as is kept.
const MARK_CHARS: usize = 80;

/// One allocation or one free, in 32 bits: half a million of them then stay in the processor's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event(u32);

/// An event, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Allocate(usize),
    Free(usize),
}

impl Event {
    const FREE: u32 = 1 << 31;

    /// What happens, and the id of the block.
    #[inline]
    pub fn action(self) -> Action {
        let id = (self.0 & !Event::FREE) as usize;
        if self.0 & Event::FREE == 0 { Action::Allocate(id) } else { Action::Free(id) }
    }
}

/// A phase that starts before an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    pub event: u64,
    pub text: String,
}

/// What a program allocated and freed.
#[derive(Debug)]
pub struct Trace {
    /// The file's name without `.gz` and `.trace`.
    pub name: String,
    pub events: Vec<Event>,
    /// The bytes of every block, by id.
    pub sizes: Vec<u64>,
    /// The first of the phases.
    pub marks: Vec<Mark>,
    /// How many phases there are.
    pub phases: u64,
    /// The most bytes that were live at once.
    pub demand_bytes: u64,
    /// The most that the program's own allocator reserved, where the trace says so.
    pub reserved_bytes: Option<u64>,
}

impl Trace {
    /// Reads a trace from a file, or from standard input for `-`.
    /// A memory snapshot of PyTorch's has one for every device.
    pub fn read(path: &Path, progress: &mut Progress) -> Result<Vec<Trace>, Failure> {
        Trace::read_lines(path, Lines::open(path)?, progress)
    }

    /// The same from an input that is open already.
    pub fn read_lines(path: &Path, mut lines: Lines, progress: &mut Progress) -> Result<Vec<Trace>, Failure> {
        if lines.is_pickle()? {
            let place = lines.place().to_owned();
            return snapshot::read(&name(path), &place, lines.into_reader());
        }
        Ok(vec![Trace::from_lines(name(path), lines, progress)?])
    }

    /// Reads a trace line by line.
    pub fn from_lines(name: String, mut lines: Lines, progress: &mut Progress) -> Result<Trace, Failure> {
        let place = lines.place().to_owned();
        let mut reading = Reading::new(name);
        let mut count = 0;
        while let Some(line) = lines.next()? {
            count = line.number;
            reading.line(&line).map_err(|problem| Failure::line(&place, line.number, problem))?;
            if count % (1 << 14) == 0 {
                progress.show(|| format!("reading {}: {} lines", reading.trace.name, grouped(count)));
            }
        }
        if reading.trace.events.is_empty() {
            let what = if count == 0 {
                "it is empty".into()
            } else {
                format!("no event in {} lines", grouped(count))
            };
            let wanted = "a trace has lines `a ID BYTES` and `f ID`";
            return Err(Failure::input(place, format!("{what}; {wanted}")));
        }
        Ok(reading.trace)
    }
}

/// What `path` is called in reports.
pub fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "stdin".into();
    }
    let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let stem = file.strip_suffix(".gz").unwrap_or(&file);
    let stem =
        [".trace", ".txt", ".pickle"].iter().find_map(|suffix| stem.strip_suffix(suffix)).unwrap_or(stem);
    if stem.is_empty() { file.into_owned() } else { stem.to_owned() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Unknown,
    Live,
    Freed,
}

/// A trace of which some lines are read.
pub struct Reading {
    trace: Trace,
    lives: Vec<Life>,
    allocations: u64,
    live_bytes: u64,
}

impl Reading {
    pub fn new(name: String) -> Reading {
        let (events, sizes, marks) = (Vec::new(), Vec::new(), Vec::new());
        let trace = Trace { name, events, sizes, marks, phases: 0, demand_bytes: 0, reserved_bytes: None };
        Reading { trace, lives: Vec::new(), allocations: 0, live_bytes: 0 }
    }

    /// Takes one line, or says what is wrong with it.
    fn line(&mut self, line: &Line<'_>) -> Result<(), String> {
        let kind = line.text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let rest = &line.text[kind.len()..];
        match kind {
            b"a" => {
                let [id, bytes] =
                    numbers(rest).ok_or_else(|| broken(line, "an allocation is `a ID BYTES`"))?;
                self.allocate(id, bytes)
            }
            b"f" => {
                let [id] = numbers(rest).ok_or_else(|| broken(line, "a free is `f ID`"))?;
                self.free(id)
            }
            b"m" => {
                self.mark(rest);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn allocate(&mut self, id: u64, bytes: u64) -> Result<(), String> {
        if id >= (self.allocations + AHEAD).min(Event::FREE.into()) {
            return Err(format!(
                "id {id} behind {} allocations; ids count up from 0 without large gaps",
                grouped(self.allocations)
            ));
        }
        let at = id as usize;
        if at >= self.lives.len() {
            self.lives.resize(at + 1, Life::Unknown);
            self.trace.sizes.resize(at + 1, 0);
        }
        match self.lives[at] {
            Life::Unknown => {}
            Life::Live => {
                return Err(format!("id {id} is allocated again while it is live; every id is used once"));
            }
            Life::Freed => {
                return Err(format!("id {id} is allocated again after its free; every id is used once"));
            }
        }
        self.live_bytes = self.live_bytes.checked_add(bytes).ok_or_else(|| {
            format!(
                "id {id} brings the live bytes beyond 64 bits ({} and {bytes}); no memory is that large",
                self.live_bytes
            )
        })?;
        self.lives[at] = Life::Live;
        self.trace.sizes[at] = bytes;
        self.trace.demand_bytes = self.trace.demand_bytes.max(self.live_bytes);
        self.allocations += 1;
        self.trace.events.push(Event(at as u32));
        Ok(())
    }

    pub fn free(&mut self, id: u64) -> Result<(), String> {
        let at = usize::try_from(id).unwrap_or(usize::MAX);
        match self.lives.get(at) {
            Some(Life::Live) => {}
            Some(Life::Freed) => return Err(format!("id {id} is freed twice; every block is freed once")),
            Some(Life::Unknown) | None => {
                return Err(format!(
                    "id {id} is freed, but no line before allocates it; its `a {id} BYTES` comes first"
                ));
            }
        }
        self.lives[at] = Life::Freed;
        self.live_bytes -= self.trace.sizes[at];
        self.trace.events.push(Event(at as u32 | Event::FREE));
        Ok(())
    }

    /// What was read.
    pub fn finish(self) -> Trace {
        self.trace
    }

    pub fn mark(&mut self, text: &[u8]) {
        self.trace.phases += 1;
        if self.trace.marks.len() < KEPT_MARKS {
            let text = String::from_utf8_lossy(text).trim().chars().take(MARK_CHARS).collect();
            self.trace.marks.push(Mark { event: self.trace.events.len() as u64, text });
        }
    }
}

/// Exactly `N` decimal numbers, or nothing.
fn numbers<const N: usize>(text: &[u8]) -> Option<[u64; N]> {
    let mut fields = text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let mut out = [0; N];
    for number in &mut out {
        *number = decimal(fields.next()?)?;
    }
    fields.next().is_none().then_some(out)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// What stands in a broken line, shortened, and what should stand there.
fn broken(line: &Line<'_>, expected: &str) -> String {
    let text = String::from_utf8_lossy(line.text);
    let mut found: String = text.chars().take(40).collect();
    if line.cut || found.len() < text.len() {
        found.push('…');
    }
    format!("broken line {found:?}; {expected}, in decimal numbers of up to 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn read(text: &str) -> Result<Trace, String> {
        let lines = Lines::of("t".into(), Cursor::new(text.as_bytes().to_vec())).unwrap();
        Trace::from_lines("t".into(), lines, &mut Progress::hidden()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn events_marks_and_demand_are_read() {
        let trace =
            read("# a comment\nm start\na 0 100\na 1\t200 \r\nf 0\nm\nalias\na 2 50\nf 1\nfree\nf 2\n")
                .unwrap();
        let actions: Vec<Action> = trace.events.iter().map(|event| event.action()).collect();
        use Action::*;
        assert_eq!(actions, [Allocate(0), Allocate(1), Free(0), Allocate(2), Free(1), Free(2)]);
        assert_eq!((trace.sizes, trace.demand_bytes, trace.phases), (vec![100, 200, 50], 300, 2));
        assert_eq!(trace.marks[0], Mark { event: 0, text: "start".into() });
        assert_eq!(trace.marks[1], Mark { event: 3, text: String::new() });
    }

    #[test]
    fn ids_may_come_a_little_out_of_order() {
        let trace = read("a 3 1\na 0 1\nf 3\nf 0\n").unwrap();
        assert_eq!((trace.events.len(), trace.sizes), (4, vec![1, 0, 0, 1]));
    }

    #[test]
    fn broken_lines_name_the_line_and_what_was_expected() {
        for line in
            ["a 1", "a", "a x 5", "a 1 -5", "a +1 5", "a 1 2 3", "a 1 18446744073709551616", "a 1 0x10"]
        {
            let error = read(&format!("a 0 8\n{line}\n")).unwrap_err();
            let wanted = format!("t:2: broken line {line:?}; an allocation is `a ID BYTES`");
            assert!(error.starts_with(&wanted), "{error}");
        }
        for line in ["f", "f 1 2", "f x", "f -0"] {
            let error = read(&format!("a 0 8\n{line}\n")).unwrap_err();
            assert!(error.starts_with(&format!("t:2: broken line {line:?}; a free is `f ID`")), "{error}");
        }
    }

    #[test]
    fn a_long_broken_line_is_shortened_in_the_message() {
        let error = read(&format!("a {}\n", "7".repeat(100_000))).unwrap_err();
        assert!(error.len() < 200 && error.contains('…'), "{error}");
    }

    #[test]
    fn wild_ids_are_refused_before_a_table_is_made() {
        for id in ["18446744073709551615", "2147483648", "1048576"] {
            let error = read(&format!("a {id} 8\n")).unwrap_err();
            assert_eq!(
                error,
                format!("t:1: id {id} behind 0 allocations; ids count up from 0 without large gaps")
            );
        }
        assert!(read("a 1048575 8\n").is_ok());
        assert!(read("a 0 8\nf 18446744073709551615\n").is_err());
    }

    #[test]
    fn an_id_lives_once() {
        assert!(
            read("a 0 8\na 0 8\n").unwrap_err().starts_with("t:2: id 0 is allocated again while it is live")
        );
        assert!(
            read("a 0 8\nf 0\na 0 8\n")
                .unwrap_err()
                .starts_with("t:3: id 0 is allocated again after its free")
        );
        assert!(read("a 0 8\nf 0\nf 0\n").unwrap_err().starts_with("t:3: id 0 is freed twice"));
        assert!(read("a 0 8\nf 1\n").unwrap_err().starts_with("t:2: id 1 is freed, but no line before"));
        assert!(read("a 1 8\nf 0\n").unwrap_err().starts_with("t:2: id 0 is freed, but no line before"));
    }

    #[test]
    fn live_bytes_beyond_64_bits_are_refused() {
        let error = read("a 0 18446744073709551615\na 1 1\n").unwrap_err();
        assert!(error.starts_with("t:2: id 1 brings the live bytes beyond 64 bits"), "{error}");
    }

    #[test]
    fn a_trace_without_events_is_refused() {
        assert!(read("").unwrap_err().starts_with("t: it is empty"));
        assert!(read("m only\nhello\n").unwrap_err().starts_with("t: no event in 2 lines"));
    }

    #[test]
    fn the_name_is_the_file_name_without_its_endings() {
        for (path, wanted) in [
            ("x/resnet50.trace.gz", "resnet50"),
            ("resnet50.trace", "resnet50"),
            ("a.b.gz", "a.b"),
            ("plain.txt", "plain"),
            (".trace.gz", ".trace.gz"),
            ("-", "stdin"),
            ("/", "/"),
        ] {
            assert_eq!(name(Path::new(path)), wanted);
        }
    }

    #[test]
    fn only_the_first_marks_are_kept_and_all_are_counted() {
        let trace = read(&format!("{}a 0 8\n", "m phase\n".repeat(KEPT_MARKS + 5))).unwrap();
        assert_eq!((trace.marks.len(), trace.phases), (KEPT_MARKS, KEPT_MARKS as u64 + 5));
    }
}
