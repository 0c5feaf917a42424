//! One line on a terminal that says how far a long task is; nothing anywhere else.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How long a task runs before anything is shown, and the least time between two lines.
const PAUSE: Duration = Duration::from_millis(200);
/// A line that wraps cannot be rewritten.
const COLUMNS: usize = 78;

/// A line on standard error that is rewritten, and cleared in the end.
pub struct Progress {
    terminal: bool,
    shown: bool,
    next: Instant,
}

impl Progress {
    /// Shows lines when standard error is a terminal.
    pub fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), shown: false, next: Instant::now() + PAUSE }
    }

    /// Shows nothing.
    #[cfg(test)]
    pub fn hidden() -> Progress {
        Progress { terminal: false, shown: false, next: Instant::now() }
    }

    /// Shows `line` when the last one is old enough. Cheap, but it reads a clock: call it every few thousand steps.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        if !self.terminal || Instant::now() < self.next {
            return;
        }
        let line: String =
            line().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(COLUMNS).collect();
        let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
        self.shown = true;
        self.next = Instant::now() + PAUSE;
    }

    /// Clears the line, so that other output starts at the margin.
    pub fn clear(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
            self.shown = false;
        }
        self.next = Instant::now() + PAUSE;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
