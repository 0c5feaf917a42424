//! Real programs under `LD_PRELOAD` of several allocators: CPU time and peak memory, as ratios to the best of the others.
//!
//! `cargo run --release --manifest-path benches/preload/Cargo.toml [-- [REPEATS] [PROGRAM|ALLOCATOR ...]]`
//!
//! Every repeat runs each program once under each allocator, so that a disturbance meets all of them. The CPU time is user and
//! system time of the program and everything it started, the least of the repeats; the memory is the largest resident set of
//! any of its processes, the median of the repeats. What a program prints must be the same under all.

#![deny(unsafe_code)]

mod allocators;
mod measure;
mod programs;
mod table;

use allocators::Allocator;
use measure::Run;
use programs::Program;
use std::process::ExitCode;

/// All runs of one program under one allocator.
#[derive(Default)]
struct Runs {
    runs: Vec<Run>,
}

impl Runs {
    fn cpu_ms(&self) -> f64 {
        self.runs.iter().map(|run| run.cpu_ms).fold(f64::INFINITY, f64::min)
    }

    fn peak_kib(&self) -> f64 {
        let mut peaks: Vec<u64> = self.runs.iter().map(|run| run.peak_kib).collect();
        peaks.sort_unstable();
        peaks[peaks.len() / 2] as f64
    }
}

fn run() -> Result<(), String> {
    let mut repeats = 7;
    let mut only = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.parse::<usize>() {
            Ok(number) if number > 0 => repeats = number,
            _ => only.push(argument),
        }
    }
    let (mut programs, mut allocators) = (programs::all()?, allocators::all()?);
    if let Some(unknown) = only.iter().find(|name| {
        !programs.iter().any(|p| p.name == **name) && !allocators.iter().any(|a| a.name == **name)
    }) {
        return Err(format!("{unknown} is neither a program nor an allocator that is here"));
    }
    if programs.iter().any(|program| only.iter().any(|name| *name == program.name)) {
        programs.retain(|program| only.iter().any(|name| *name == program.name));
    }
    if allocators.iter().any(|allocator| only.iter().any(|name| *name == allocator.name)) {
        allocators.retain(|allocator| only.iter().any(|name| *name == allocator.name));
    }
    let mut all: Vec<Vec<Runs>> =
        programs.iter().map(|_| allocators.iter().map(|_| Runs::default()).collect()).collect();
    for repeat in 1..=repeats {
        eprint!("\rrepeat {repeat} of {repeats} ");
        for (program, runs) in programs.iter().zip(&mut all) {
            one_round(program, &allocators, runs)?;
        }
    }
    eprintln!();
    table::print(&programs, &allocators, &all, repeats);
    Ok(())
}

fn one_round(program: &Program, allocators: &[Allocator], runs: &mut [Runs]) -> Result<(), String> {
    for (allocator, runs) in allocators.iter().zip(runs) {
        runs.runs.push(measure::run(program, allocator)?);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
