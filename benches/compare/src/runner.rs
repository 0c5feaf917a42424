//! The runner: build, measure, compare, print.

mod allocators;
mod ballast;
mod build;
mod json;
mod measure;
pub mod options;
mod results;
mod table;

use ballast::Ballast;
use compare::rest;
use measure::Rested;
use options::{Options, Plan};
use results::{Column, Results};
use std::thread;

/// Does what the options ask. `Ok(false)` if a table was printed but something in it failed.
pub fn run(options: &Options) -> Result<bool, String> {
    let plan = options.plan()?;
    if options.list {
        print!("{}", table::listing());
        return Ok(true);
    }
    let (columns, left_out) = build_all(&plan)?;
    let mut results = Results::new(&plan, columns, left_out);
    repeat_all(&plan, &mut results);
    if options.rest {
        rest_all(&plan, &mut results);
    }
    let complaints = results.complaints();
    if options.json {
        println!("{}", json::report(&plan, &results));
    } else {
        print!("{}", table::report(&plan, &results));
    }
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(complaints.is_empty())
}

/// The binaries that could be built, and for each of the others why not.
fn build_all(plan: &Plan) -> Result<(Vec<Column>, Vec<results::LeftOut>), String> {
    let (mut columns, mut left_out) = (Vec::new(), Vec::new());
    for profile in &plan.profiles {
        for allocator in &plan.allocators {
            eprintln!("building {} ({profile})", allocator.name);
            match build::binary(allocator.name, profile) {
                Ok(binary) => columns.push(Column { allocator, profile: profile.clone(), binary }),
                Err(why) => left_out.push(results::LeftOut { allocator, profile: profile.clone(), why }),
            }
        }
        if !columns.iter().any(|column| column.profile == *profile && column.allocator.name == plan.baseline)
        {
            let why = left_out.last().map_or(String::new(), |left| left.why.clone());
            return Err(format!(
                "nothing can be compared without the baseline {} ({profile}): {why}",
                plan.baseline
            ));
        }
    }
    Ok((columns, left_out))
}

/// Every repeat goes through all workloads, and each workload through all binaries, beginning with another one each
/// time: what the machine does meanwhile falls on all of them.
fn repeat_all(plan: &Plan, results: &mut Results) {
    let mut ballast = Ballast::default();
    for repeat in 0..plan.repeats {
        if repeat > 0
            && let Err(error) = ballast.grow(ballast::STEP)
        {
            eprintln!("every repeat meets the same physical memory: {error}");
        }
        for (row, workload) in plan.workloads.iter().enumerate() {
            eprintln!("repeat {} of {}: {}", repeat + 1, plan.repeats, workload.name);
            for turn in 0..results.columns.len() {
                let column = (turn + repeat as usize) % results.columns.len();
                let binary = &results.columns[column].binary;
                let outcome =
                    measure::workload(binary, workload.name, plan.scale_percent, plan.limit_seconds);
                results.add(row, column, outcome);
            }
        }
    }
}

/// All binaries rest at the same time, since they mostly sleep and no time is taken.
fn rest_all(plan: &Plan, results: &mut Results) {
    for shape in &rest::ALL {
        eprintln!("rest: {}", shape.name);
        let outcomes: Vec<Result<Rested, String>> = thread::scope(|scope| {
            let threads: Vec<_> = results
                .columns
                .iter()
                .map(|column| scope.spawn(|| measure::rest(&column.binary, shape.name, plan.limit_seconds)))
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|_| Err("the measuring thread panicked".to_owned()))
                })
                .collect()
        });
        results.rests.push(outcomes);
    }
}
