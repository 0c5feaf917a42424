//! Counts what holds, and names what does not. The last line is for whoever reads the output of the machine.

use core::fmt::Write;

/// The checks of one image, written to `W`.
pub struct Tally<W> {
    pub out: W,
    passed: u32,
    failed: u32,
}

impl<W: Write> Tally<W> {
    pub fn new(out: W) -> Tally<W> {
        Tally { out, passed: 0, failed: 0 }
    }

    pub fn check(&mut self, sentence: &str, holds: bool) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
            let _ = writeln!(self.out, "failed: {sentence}");
        }
    }

    /// Tells the result; whether everything held, and anything was checked at all.
    pub fn end(mut self) -> bool {
        let _ = writeln!(self.out, "{} passed, {} failed", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}
