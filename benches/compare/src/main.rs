//! Builds the allocators' binaries, runs every workload under each in a process of its own, and prints ratios.

mod runner;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match runner::run(&runner::options::Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
