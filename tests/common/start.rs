//! Other programs, started by a test.

use std::io;
use std::process::{Child, Command, Output, Stdio};

/// Starts a program. Wine starts none now and then, and says "internal error": there it is tried a few times.
pub fn start(command: &mut Command) -> io::Result<Child> {
    const INTERNAL_ERROR: i32 = 1359;
    for _ in 0..4 {
        match command.spawn() {
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(INTERNAL_ERROR) => {
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            started => return started,
        }
    }
    command.spawn()
}

/// Runs a program to its end. What it prints comes back, and it has nothing to read.
#[allow(dead_code)]
pub fn output(command: &mut Command) -> io::Result<Output> {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start(piped)?.wait_with_output()
}
