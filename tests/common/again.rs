//! This test program, run again.

use std::process::Command;

/// What starts this program again: by itself, or through what `DEMOCRATISING_TEST_RUNNER` names, where the system alone cannot
/// run it, since it is for another processor.
pub fn again() -> Command {
    let program = std::env::current_exe().unwrap();
    match std::env::var_os("DEMOCRATISING_TEST_RUNNER") {
        None => Command::new(program),
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(program);
            command
        }
    }
}
