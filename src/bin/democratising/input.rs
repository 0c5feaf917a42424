//! Lines of a file or of standard input, plain or gzip, told apart by the first two bytes.

#![forbid(unsafe_code)]

use crate::failure::Failure;
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// What every gzip file starts with (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// As much of a line as is kept. No event is longer, and a file without line ends must not fill the memory.
pub const KEPT_BYTES: usize = 4096;

/// The lines of an input, counted from 1.
pub struct Lines {
    /// What messages call the input.
    place: String,
    gzip: bool,
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
}

/// One line without its end.
pub struct Line<'a> {
    pub number: u64,
    /// At most [`KEPT_BYTES`] of it.
    pub text: &'a [u8],
    /// Whether there was more.
    pub cut: bool,
}

impl Lines {
    /// Opens a file, or standard input for `-`.
    pub fn open(path: &Path) -> Result<Lines, Failure> {
        if path.as_os_str() == "-" {
            return Lines::of("standard input".into(), io::stdin());
        }
        let place = path.display().to_string();
        let file =
            File::open(path).map_err(|error| Failure::input(&place, format!("cannot be opened: {error}")))?;
        Lines::of(place, file)
    }

    /// The lines of a reader that messages call `place`.
    pub fn of(place: String, mut input: impl Read + 'static) -> Result<Lines, Failure> {
        let mut head = Vec::with_capacity(GZIP.len());
        if let Err(error) = input.by_ref().take(GZIP.len() as u64).read_to_end(&mut head) {
            return Err(Failure::input(place, format!("cannot be read: {error}")));
        }
        let gzip = head == GZIP;
        let whole = BufReader::with_capacity(64 << 10, Cursor::new(head).chain(input));
        let input: Box<dyn BufRead> = match gzip {
            true => Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(whole))),
            false => Box::new(whole),
        };
        Ok(Lines { place, gzip, input, line: Vec::new(), number: 0 })
    }

    /// What messages call the input.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether it is a pickle and no text: those of today begin with their version. To be asked before the first line is read.
    pub fn is_pickle(&mut self) -> Result<bool, Failure> {
        let first = self.input.fill_buf().map(|bytes| bytes.first() == Some(&0x80));
        first.map_err(|error| {
            self.number = 1;
            self.broken(&error)
        })
    }

    /// Whether it begins so. To be asked before the first line is read.
    pub fn begins_with(&mut self, head: &[u8]) -> Result<bool, Failure> {
        let mut first = Vec::with_capacity(head.len());
        if let Err(error) = self.input.by_ref().take(head.len() as u64).read_to_end(&mut first) {
            self.number = 1;
            return Err(self.broken(&error));
        }
        let begins = first == head;
        let rest = std::mem::replace(&mut self.input, Box::new(io::empty()));
        self.input = Box::new(Cursor::new(first).chain(rest));
        Ok(begins)
    }

    /// What is left, as it is.
    pub fn into_reader(self) -> impl Read {
        self.input
    }

    /// The next line, or `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Line<'_>>, Failure> {
        self.number += 1;
        match self.read() {
            Ok(None) => Ok(None),
            Ok(Some(cut)) => Ok(Some(Line { number: self.number, text: &self.line, cut })),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// Fills `line`, and says whether it was cut; `None` at the end.
    fn read(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        let limit = KEPT_BYTES as u64 + 1;
        if self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            return Ok(Some(false));
        }
        let cut = self.line.len() > KEPT_BYTES;
        if cut {
            self.line.truncate(KEPT_BYTES);
            self.input.skip_until(b'\n')?;
        }
        Ok(Some(cut))
    }

    fn broken(&self, error: &io::Error) -> Failure {
        let problem = match error.kind() {
            io::ErrorKind::UnexpectedEof if self.gzip => {
                "the gzip data ends too early; get the whole file".into()
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if self.gzip => {
                format!("the gzip data is corrupt ({error}); get the file anew")
            }
            _ => format!("cannot be read: {error}"),
        };
        Failure::line(&self.place, self.number, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(bytes: Vec<u8>) -> Result<Vec<(u64, Vec<u8>, bool)>, Failure> {
        let mut lines = Lines::of("test".into(), Cursor::new(bytes))?;
        let mut out = Vec::new();
        while let Some(line) = lines.next()? {
            out.push((line.number, line.text.to_vec(), line.cut));
        }
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_and_gzip_read_the_same() {
        let text = b"one\r\ntwo\n\nlast without an end";
        let plain = lines(text.to_vec()).unwrap();
        assert_eq!(plain.len(), 4);
        assert_eq!(plain[0], (1, b"one".to_vec(), false));
        assert_eq!(plain[3], (4, b"last without an end".to_vec(), false));
        assert_eq!(lines(gzip(text)).unwrap(), plain);
    }

    #[test]
    fn gzip_files_written_one_behind_the_other_are_one_text() {
        let both = [gzip(b"one\n"), gzip(b"two\n")].concat();
        assert_eq!(lines(both).unwrap().len(), 2);
    }

    #[test]
    fn a_gzip_file_cut_anywhere_is_an_error() {
        let text: String = (0..2000).map(|i| format!("a {i} {}\n", i * i % 977)).collect();
        let whole = gzip(text.as_bytes());
        for length in (2..whole.len()).step_by(97).chain([whole.len() - 1, whole.len() - 8]) {
            let failure = lines(whole[..length].to_vec()).unwrap_err().to_string();
            assert!(failure.contains("ends too early"), "{length}: {failure}");
        }
        assert_eq!(lines(whole).unwrap().len(), 2000);
    }

    #[test]
    fn a_changed_byte_in_gzip_data_is_an_error() {
        let text: String = (0..2000).map(|i| format!("a {i} {}\n", i * i % 977)).collect();
        let whole = gzip(text.as_bytes());
        for at in (12..whole.len()).step_by(31) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            assert!(lines(changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        for (length, cut) in [(KEPT_BYTES, false), (KEPT_BYTES + 1, true), (300_000, true)] {
            let text = [vec![b'x'; length], b"\nnext".to_vec()].concat();
            let lines = lines(text).unwrap();
            assert_eq!((lines[0].1.len(), lines[0].2), (KEPT_BYTES, cut), "{length}");
            assert_eq!(lines[1], (2, b"next".to_vec(), false));
        }
    }

    #[test]
    fn an_empty_input_and_one_of_a_single_byte_have_their_lines() {
        assert_eq!(lines(vec![]).unwrap(), vec![]);
        assert_eq!(lines(vec![0x1f]).unwrap(), vec![(1, vec![0x1f], false)]);
    }
}
