//! The results as JSON, for programs that watch them.
#![forbid(unsafe_code)]

use super::options::Plan;
use super::results::{Cell, Measure, Results, counted_cpu, least_peak_kib};
use compare::rest;
use compare::workload::{Counted, Group};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The whole report. A mean or ratio that does not exist is null.
pub fn report(plan: &Plan, results: &Results) -> Value {
    let allocators =
        plan.allocators.iter().map(|allocator| (allocator.name.to_owned(), allocator.origin().into()));
    let left_out = results
        .left_out
        .iter()
        .map(|left| json!({ "allocator": left.allocator.name, "profile": left.profile, "why": left.why }));
    json!({
        "baseline": plan.baseline,
        "repeats": plan.repeats,
        "machine": results.machine,
        "scale_percent": plan.scale_percent,
        "allocators": allocators.collect::<Map<_, _>>(),
        "left_out": left_out.collect::<Vec<_>>(),
        "complaints": results.complaints(),
        "profiles": plan.profiles.iter().map(|name| profile(plan, results, name)).collect::<Vec<_>>(),
    })
}

fn profile(plan: &Plan, results: &Results, profile: &str) -> Value {
    // One entry for each allocator of the profile.
    let each = |value: &dyn Fn(usize) -> Value| -> Map<String, Value> {
        results
            .columns_of(profile)
            .map(|(index, column)| (column.allocator.name.to_owned(), value(index)))
            .collect()
    };
    let ratios = |value: &dyn Fn(usize, Measure) -> Option<f64>| {
        each(
            &|column| json!({ "speed": value(column, Measure::Speed), "peak_rss": value(column, Measure::Memory) }),
        )
    };
    let workloads = plan.workloads.iter().enumerate().map(|(row, workload)| {
        json!({
            "name": workload.name,
            "group": workload.group.name(),
            "measured": each(&|column| cell(&results.cells[row][column], workload.counted)),
            "relative": ratios(&|column, measure| results.ratio(row, column, measure)),
        })
    });
    let means = Group::ALL.map(Some).into_iter().chain([None]).map(|group| {
        let means = ratios(&|column, measure| results.mean(group, column, measure));
        (group.map_or("all", Group::name).to_owned(), means.into())
    });
    let rests = rest::ALL.iter().zip(&results.rests).map(|(shape, outcomes)| {
        let resident = each(&|column| match &outcomes[column] {
            Ok(rested) => json!({ "peak_kib": rested.peak_kib, "rested_kib": rested.rested_kib }),
            Err(why) => json!({ "failed": why }),
        });
        json!({ "name": shape.name, "about": shape.about, "resident": resident })
    });
    json!({
        "profile": profile,
        "workloads": workloads.collect::<Vec<_>>(),
        "means": means.collect::<Map<_, _>>(),
        "rest": rests.collect::<Vec<_>>(),
    })
}

fn cell(cell: &Cell, counted: Counted) -> Value {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    match cell {
        Ok(samples) => json!({
            "cpu_ms": counted_cpu(samples, counted).map(milliseconds),
            "peak_kib": least_peak_kib(samples),
            "checksum": samples.first().map(|sample| &sample.checksum),
            "samples": samples.iter().map(|sample| json!({
                "user_ms": milliseconds(sample.user),
                "system_ms": milliseconds(sample.system),
                "wall_ms": milliseconds(sample.wall),
                "peak_kib": sample.peak_kib,
            })).collect::<Vec<_>>(),
        }),
        Err(why) => json!({ "failed": why }),
    }
}

#[cfg(test)]
mod tests {
    use super::report;
    use crate::runner::results::tests::measured;

    #[test]
    fn ratios_and_samples_are_found_by_name() {
        let (plan, mut results) = measured();
        results.add(1, 1, Err("ended by signal 6".to_owned()));
        let report = report(&plan, &results);
        let release = &report["profiles"][0];
        assert_eq!(release["workloads"][0]["relative"]["talc"]["speed"], 0.25);
        assert_eq!(release["workloads"][0]["measured"]["talc"]["samples"].as_array().map(Vec::len), Some(2));
        assert_eq!(release["workloads"][1]["measured"]["talc"]["failed"], "ended by signal 6");
        assert!(release["means"]["all"]["talc"]["speed"].is_null());
        assert_eq!(release["means"]["small"]["talc"]["peak_rss"], 0.5);
        assert_eq!(report["complaints"].as_array().map(Vec::len), Some(1));
    }
}
