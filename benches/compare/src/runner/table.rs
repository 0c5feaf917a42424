//! The results as Markdown tables.
#![forbid(unsafe_code)]

use super::allocators;
use super::options::Plan;
use super::results::{Measure, Results, counted_cpu, least_peak_kib};
use compare::rest;
use compare::workload::{self, Group};
use std::fmt::Write;

/// The whole report.
pub fn report(plan: &Plan, results: &Results) -> String {
    let mut out = String::new();
    for profile in &plan.profiles {
        let columns: Vec<usize> = results.columns_of(profile).map(|(index, _)| index).collect();
        let how = if profile == "release" { "cargo's default, no fat LTO" } else { "fat LTO" };
        heading(&mut out, plan, &format!("Profile `{profile}` ({how}): CPU speed, higher is faster"));
        ratios(&mut out, plan, results, &columns, Measure::Speed);
        heading(&mut out, plan, &format!("Profile `{profile}`: peak RSS, lower is smaller"));
        ratios(&mut out, plan, results, &columns, Measure::Memory);
        if !results.rests.is_empty() {
            line(
                &mut out,
                &format!(
                    "\n### Profile `{profile}`: MiB resident 2 s after a peak of 300 MiB was freed (at the peak)\n"
                ),
            );
            rests(&mut out, results, &columns);
        }
    }
    line(&mut out, &format!("\n- {}", results.machine));
    for allocator in &plan.allocators {
        line(&mut out, &format!("- {}: {}", allocator.name, allocator.origin()));
    }
    for left in &results.left_out {
        line(
            &mut out,
            &format!(
                "- {} ({}) is left out, it does not build here: {}",
                left.allocator.name, left.profile, left.why
            ),
        );
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn heading(out: &mut String, plan: &Plan, title: &str) {
    let scale = if plan.scale_percent == 100 {
        String::new()
    } else {
        format!(", {} % of the work", plan.scale_percent)
    };
    line(
        out,
        &format!("\n### {title}; relative to {}, least of {} runs{scale}\n", plan.baseline, plan.repeats),
    );
}

fn header(out: &mut String, first: &str, results: &Results, columns: &[usize]) {
    let names: Vec<&str> = columns.iter().map(|column| results.columns[*column].allocator.name).collect();
    line(out, &format!("| {first} | {} |", names.join(" | ")));
    line(out, &format!("|---|{}", "---:|".repeat(first.matches('|').count() + columns.len())));
}

fn ratios(out: &mut String, plan: &Plan, results: &Results, columns: &[usize], measure: Measure) {
    let unit = match measure {
        Measure::Speed => "ms",
        Measure::Memory => "MiB",
    };
    header(out, &format!("workload | {}, {unit}", plan.baseline), results, columns);
    for (row, workload) in plan.workloads.iter().enumerate() {
        let mut baseline =
            columns.iter().filter(|column| results.columns[**column].allocator.name == plan.baseline);
        let samples = baseline.next().and_then(|column| results.cells[row][*column].as_ref().ok());
        let absolute = samples.and_then(|samples| match measure {
            Measure::Speed => Some(counted_cpu(samples, workload.counted)?.as_secs_f64() * 1e3),
            Measure::Memory => Some(least_peak_kib(samples)? as f64 / 1024.0),
        });
        let absolute = absolute.map_or("failed".to_owned(), |value| format!("{value:.1}"));
        let _ = write!(out, "| {} | {absolute} |", workload.name);
        for column in columns {
            let failed = results.cells[row][*column].is_err();
            let text =
                results.ratio(row, *column, measure).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let _ = write!(out, " {} |", if failed { "failed" } else { &text });
        }
        out.push('\n');
    }
    for group in Group::ALL.map(Some).into_iter().chain([None]) {
        let members = plan
            .workloads
            .iter()
            .filter(|workload| group.is_none_or(|group| group == workload.group))
            .count();
        if members == 0 {
            continue;
        }
        let _ = write!(out, "| **{}, geometric mean of {members}** | |", group.map_or("all", Group::name));
        for column in columns {
            let mean =
                results.mean(group, *column, measure).map_or("-".to_owned(), |mean| format!("**{mean:.2}**"));
            let _ = write!(out, " {mean} |");
        }
        out.push('\n');
    }
}

fn rests(out: &mut String, results: &Results, columns: &[usize]) {
    header(out, "peak of", results, columns);
    for (shape, outcomes) in rest::ALL.iter().zip(&results.rests) {
        let _ = write!(out, "| {} |", shape.about);
        for column in columns {
            let _ = match &outcomes[*column] {
                Ok(rested) => write!(out, " {} ({}) |", rested.rested_kib >> 10, rested.peak_kib >> 10),
                Err(_) => write!(out, " failed |"),
            };
        }
        out.push('\n');
    }
}

/// Every workload and allocator.
pub fn listing() -> String {
    let mut out = String::new();
    for workload in &workload::ALL {
        line(&mut out, &format!("{:<6} {:<18} {}", workload.group.name(), workload.name, workload.about));
    }
    for shape in &rest::ALL {
        line(&mut out, &format!("{:<6} {:<18} {}", "rest", shape.name, shape.about));
    }
    for allocator in &allocators::ALL {
        line(&mut out, &format!("{:<6} {:<18} {}", "alloc", allocator.name, allocator.origin()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{listing, report};
    use crate::runner::results::tests::measured;

    #[test]
    fn a_table_has_a_row_for_each_workload_and_each_mean() {
        let (plan, results) = measured();
        let report = report(&plan, &results);
        for row in [
            "| workload | mimalloc3, ms | mimalloc3 | talc |",
            "|---|---:|---:|---:|",
            "| fifo | 10.0 | 1.00 | 0.25 |",
            "| tensors | 20.0 | 1.00 | 1.00 |",
            "| **all, geometric mean of 2** | | **1.00** | **0.50** |",
            "| fifo | 0.1 | 1.00 | 0.50 |",
        ] {
            assert!(report.lines().any(|line| line == row), "{row} is not in\n{report}");
        }
        assert!(!report.contains("**real"), "a group without workloads has no mean");
    }

    #[test]
    fn what_failed_is_not_a_number() {
        let (plan, mut results) = measured();
        results.add(0, 1, Err("ended by signal 6".to_owned()));
        let report = report(&plan, &results);
        assert!(report.lines().any(|line| line == "| fifo | 10.0 | 1.00 | failed |"), "{report}");
        assert!(
            report.lines().any(|line| line == "| **all, geometric mean of 2** | | **1.00** | - |"),
            "{report}"
        );
    }

    #[test]
    fn everything_is_listed() {
        let listing = listing();
        assert!(compare::workload::ALL.iter().all(|workload| listing.contains(workload.about)));
    }
}
