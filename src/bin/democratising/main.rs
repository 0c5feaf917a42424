//! The `democratising` program: measures what the allocator makes of a real program's allocations, and lists files of tensors.
//!
//! Exit codes: 0, everything was done; 1, the machine refused (memory, output); 2, the arguments or a trace are wrong.

// Not `forbid`: `target` frees blocks, which is the caller's promise to keep. Every other file forbids it.
#![deny(unsafe_code)]

mod args;
mod clock;
mod failure;
mod info;
mod input;
mod inspect;
mod page;
mod progress;
mod pytorch;
mod replay;
mod report;
mod run;
mod show;
mod snapshot;
mod story;
mod svg;
mod target;
mod timeline;
mod trace;
mod units;
mod written;

use clap::Parser;
use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let program = match args::Program::try_parse() {
        Ok(program) => program,
        Err(answer) => return answered(&answer),
    };
    let result = match program.command {
        args::Command::Replay(options) => run::run(&options).map_err(Failure::tell),
        args::Command::Report(options) => show::run(&options).map_err(Failure::tell),
        args::Command::Inspect(options) => inspect::run(&options),
        args::Command::Info => info::run().map_err(Failure::tell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(told) => ExitCode::from(told.exit_code),
    }
}

/// Says what the arguments themselves are answered with: what is wrong with them, or the help that they ask for.
fn answered(answer: &clap::Error) -> ExitCode {
    match answer.print().and_then(|()| std::io::stdout().flush()) {
        // Where the reader left, all it wanted was said.
        Err(error) if !answer.use_stderr() && error.kind() != std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(
                Failure::Machine(format!("cannot write to standard output: {error}")).tell().exit_code,
            )
        }
        _ => ExitCode::from(answer.exit_code() as u8),
    }
}
