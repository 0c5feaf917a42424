//! Why the program ends early: one line for a person, one exit code for a script.

#![forbid(unsafe_code)]

use std::fmt;

/// Why the program ends early.
#[derive(Debug)]
pub enum Failure {
    /// What was given cannot be used; `place` is `file` or `file:line`.
    Input { place: String, problem: String },
    /// The machine refused something the program needs, or the allocator broke its word.
    Machine(String),
}

impl Failure {
    /// A problem with an input as a whole.
    pub fn input(place: impl fmt::Display, problem: impl fmt::Display) -> Failure {
        Failure::Input { place: place.to_string(), problem: problem.to_string() }
    }

    /// A problem in one line of an input.
    pub fn line(place: impl fmt::Display, line: u64, problem: impl fmt::Display) -> Failure {
        Failure::Input { place: format!("{place}:{line}"), problem: problem.to_string() }
    }

    /// Says it, in one line of standard error.
    pub fn tell(self) -> Told {
        // Where standard error is gone too, the exit code still tells.
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("democratising: {self}\n"));
        Told { exit_code: self.exit_code() }
    }

    /// 2 for what the user can put right in the input, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Input { .. } => 2,
            Failure::Machine(_) => 1,
        }
    }
}

/// What is left of a failure once it was told.
#[derive(Debug)]
pub struct Told {
    pub exit_code: u8,
}

impl fmt::Display for Failure {
    /// One line, whatever names and texts hold: control characters become U+FFFD.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Failure::Input { place, problem } => format!("{place}: {problem}"),
            Failure::Machine(problem) => problem.clone(),
        };
        f.write_str(&line.replace(char::is_control, "\u{fffd}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_even_when_a_file_name_is_not() {
        let failure = Failure::line("two\nlines\u{1b}[2J.trace", 3, "broken");
        assert_eq!(failure.to_string(), "two\u{fffd}lines\u{fffd}[2J.trace:3: broken");
        assert_eq!(failure.exit_code(), 2);
    }
}
