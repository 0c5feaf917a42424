//! The table.

use crate::Runs;
use crate::allocators::Allocator;
use crate::programs::Program;

/// Prints the figures and their geometric means, as Markdown.
pub fn print(programs: &[Program], allocators: &[Allocator], all: &[Vec<Runs>], repeats: usize) {
    one("CPU ms", "the least", programs, allocators, all, repeats, Runs::cpu_ms);
    one("peak resident, MiB", "the median", programs, allocators, all, repeats, |runs| {
        runs.peak_kib() / 1024.0
    });
}

fn one(
    what: &str,
    of: &str,
    programs: &[Program],
    allocators: &[Allocator],
    all: &[Vec<Runs>],
    repeats: usize,
    figure: impl Fn(&Runs) -> f64,
) {
    println!("\n{what}, {of} of {repeats}; in brackets relative to the first\n");
    println!("| | {} |", allocators.iter().map(|allocator| allocator.name).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(allocators.len()));
    let mut logarithms = vec![0.0; allocators.len()];
    let mut counted = 0;
    for (program, runs) in programs.iter().zip(all) {
        let figures: Vec<f64> = runs.iter().map(&figure).collect();
        let cells: Vec<String> = figures.iter().map(|f| format!("{f:.1} ({:.2})", f / figures[0])).collect();
        println!("| {}{} | {} |", program.name, if program.counts { "" } else { " *" }, cells.join(" | "));
        if program.counts {
            counted += 1;
            for (sum, f) in logarithms.iter_mut().zip(&figures) {
                *sum += (f / figures[0]).ln();
            }
        }
    }
    if counted > 0 {
        let means: Vec<String> =
            logarithms.iter().map(|sum| format!("{:.3}", (sum / counted as f64).exp())).collect();
        println!("| geometric mean of {counted} | {} |", means.join(" | "));
    }
}
