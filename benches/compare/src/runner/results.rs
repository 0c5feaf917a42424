//! What was measured, and the ratios of it.
#![forbid(unsafe_code)]

use super::allocators::Allocator;
use super::measure::{Rested, Sample};
use super::options::Plan;
use compare::workload::{Counted, Group, Workload};
use std::path::PathBuf;
use std::time::Duration;

/// One binary: an allocator built with a profile.
#[derive(Debug)]
pub struct Column {
    pub allocator: &'static Allocator,
    pub profile: String,
    pub binary: PathBuf,
}

/// A binary that could not be built.
#[derive(Debug)]
pub struct LeftOut {
    pub allocator: &'static Allocator,
    pub profile: String,
    pub why: String,
}

/// One workload under one allocator: every sample, or the first failure.
pub type Cell = Result<Vec<Sample>, String>;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub enum Measure {
    /// How many times faster than the baseline: its CPU time over ours.
    Speed,
    /// How many times the baseline's memory: our peak over its.
    Memory,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Results {
    pub columns: Vec<Column>,
    pub left_out: Vec<LeftOut>,
    /// By workload, then by column.
    pub cells: Vec<Vec<Cell>>,
    /// By shape, then by column; empty if nothing rested.
    pub rests: Vec<Vec<Result<Rested, String>>>,
    /// How busy the machine was before anything was measured.
    pub machine: String,
    insisted: Vec<String>,
    workloads: Vec<&'static Workload>,
    baseline: &'static str,
}

/// The cores, and what others made of them in the last minute.
fn machine() -> String {
    let cores = std::thread::available_parallelism()
        .map_or("an unknown number of".to_owned(), |cores| cores.to_string());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{cores} cores, load average {} when the measuring began",
        load.split(' ').next().unwrap_or("unknown")
    )
}

/// The CPU time that counts among the samples; of an even number the middle one is the lower.
pub fn counted_cpu(samples: &[Sample], counted: Counted) -> Option<Duration> {
    let mut times: Vec<Duration> = samples.iter().map(Sample::cpu).collect();
    times.sort();
    match counted {
        Counted::Least => times.first().copied(),
        Counted::Middle => times.get(times.len().saturating_sub(1) / 2).copied(),
    }
}

/// The least peak of the samples, in KiB.
pub fn least_peak_kib(samples: &[Sample]) -> Option<u64> {
    samples.iter().map(|sample| sample.peak_kib).min()
}

impl Results {
    /// Nothing measured yet.
    pub fn new(plan: &Plan, columns: Vec<Column>, left_out: Vec<LeftOut>) -> Self {
        let cells = plan.workloads.iter().map(|_| columns.iter().map(|_| Ok(Vec::new())).collect()).collect();
        let workloads = plan.workloads.clone();
        let (rests, insisted) = (Vec::new(), plan.insisted.clone());
        Self {
            columns,
            left_out,
            cells,
            rests,
            machine: machine(),
            insisted,
            workloads,
            baseline: plan.baseline,
        }
    }

    /// Adds a sample; one failure spoils the cell, since an allocator that works most of the time does not work.
    pub fn add(&mut self, row: usize, column: usize, outcome: Result<Sample, String>) {
        let cell = &mut self.cells[row][column];
        match outcome {
            Ok(sample) => {
                if let Ok(samples) = cell {
                    samples.push(sample);
                }
            }
            Err(why) => *cell = Err(why),
        }
    }

    /// The columns of a profile, by index.
    pub fn columns_of<'a>(&'a self, profile: &'a str) -> impl Iterator<Item = (usize, &'a Column)> {
        self.columns.iter().enumerate().filter(move |(_, column)| column.profile == profile)
    }

    /// The column that `column` is relative to: the baseline of its own profile.
    fn baseline_of(&self, column: usize) -> Option<usize> {
        let profile = &self.columns.get(column)?.profile;
        let mut columns = self.columns_of(profile);
        columns.find(|(_, other)| other.allocator.name == self.baseline).map(|(index, _)| index)
    }

    /// The ratio of one cell to the baseline; `None` where either failed or took no measurable time.
    pub fn ratio(&self, row: usize, column: usize, measure: Measure) -> Option<f64> {
        let own = self.cells[row][column].as_ref().ok()?;
        let base = self.cells[row][self.baseline_of(column)?].as_ref().ok()?;
        let ratio = match measure {
            Measure::Speed => {
                let counted = self.workloads[row].counted;
                counted_cpu(base, counted)?.as_secs_f64() / counted_cpu(own, counted)?.as_secs_f64()
            }
            Measure::Memory => least_peak_kib(own)? as f64 / least_peak_kib(base)? as f64,
        };
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }

    /// The geometric mean over a group, or over everything. `None` if one of its ratios is missing: a mean over what
    /// happened to work would flatter what did not.
    pub fn mean(&self, group: Option<Group>, column: usize, measure: Measure) -> Option<f64> {
        let rows = self
            .workloads
            .iter()
            .enumerate()
            .filter(|(_, workload)| group.is_none_or(|g| g == workload.group));
        let ratios: Option<Vec<f64>> = rows.map(|(row, _)| self.ratio(row, column, measure)).collect();
        let ratios = ratios.filter(|ratios| !ratios.is_empty())?;
        Some((ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp())
    }

    /// What went wrong: an allocator asked for by name that does not build, failures, and checksums that differ although the work is the same.
    pub fn complaints(&self) -> Vec<String> {
        let insisted =
            self.left_out.iter().filter(|left| self.insisted.iter().any(|name| name == left.allocator.name));
        let mut complaints: Vec<String> = insisted
            .map(|left| {
                format!("{} ({}) does not build here: {}", left.allocator.name, left.profile, left.why)
            })
            .collect();
        let name = |column: usize| {
            format!("{} ({})", self.columns[column].allocator.name, self.columns[column].profile)
        };
        for (workload, cells) in self.workloads.iter().zip(&self.cells) {
            let mut expected: Option<(&str, usize)> = None;
            for (column, cell) in cells.iter().enumerate() {
                let samples = match cell {
                    Ok(samples) => samples,
                    Err(why) => {
                        complaints.push(format!("{} under {}: {why}", workload.name, name(column)));
                        continue;
                    }
                };
                for sample in samples {
                    let (checksum, first) = *expected.get_or_insert((&sample.checksum, column));
                    if checksum != sample.checksum {
                        complaints.push(format!(
                            "{} computed {} under {} and {checksum} under {}: one of them corrupted it",
                            workload.name,
                            sample.checksum,
                            name(column),
                            name(first)
                        ));
                    }
                }
            }
        }
        for (shape, outcomes) in compare::rest::ALL.iter().zip(&self.rests) {
            for (column, outcome) in outcomes.iter().enumerate() {
                if let Err(why) = outcome {
                    complaints.push(format!("rest {} under {}: {why}", shape.name, name(column)));
                }
            }
        }
        complaints
    }
}

#[cfg(test)]
pub mod tests {
    use super::{Column, LeftOut, Measure, Results, counted_cpu};
    use crate::runner::allocators::ALL;
    use crate::runner::measure::Sample;
    use crate::runner::options::{Options, Plan};
    use clap::Parser;
    use compare::workload::{Counted, Group};
    use std::path::PathBuf;
    use std::time::Duration;

    pub fn sample(cpu_ms: u64, peak_kib: u64, checksum: &str) -> Sample {
        let (user, system) = (Duration::from_millis(cpu_ms - 1), Duration::from_millis(1));
        Sample { user, system, wall: user, peak_kib, checksum: checksum.to_owned() }
    }

    /// Two workloads under mimalloc 3 and talc: talc four times slower, then as fast, with half and twice the memory.
    pub fn measured() -> (Plan, Results) {
        let options = Options::parse_from(["compare", "--only", "talc", "--workloads", "fifo,tensors"]);
        let plan = options.plan().unwrap();
        let column = |index: usize| Column {
            allocator: &ALL[index],
            profile: "release".to_owned(),
            binary: PathBuf::new(),
        };
        let mut results = Results::new(&plan, vec![column(1), column(6)], Vec::new());
        for (row, column, cpu_ms, peak_kib) in
            [(0, 0, 10, 100), (0, 1, 40, 50), (1, 0, 20, 100), (1, 1, 20, 200)]
        {
            let checksum = if row == 0 { "a" } else { "b" };
            results.add(row, column, Ok(sample(cpu_ms + 5, peak_kib + 9, checksum)));
            results.add(row, column, Ok(sample(cpu_ms, peak_kib, checksum)));
        }
        (plan, results)
    }

    fn close(ratio: Option<f64>, expected: f64) {
        assert!(ratio.is_some_and(|ratio| (ratio - expected).abs() < 1e-9), "{ratio:?} is not {expected}");
    }

    #[test]
    fn ratios_are_of_the_least_samples_and_means_are_geometric() {
        let (_, results) = measured();
        close(results.ratio(0, 1, Measure::Speed), 0.25);
        close(results.ratio(0, 1, Measure::Memory), 0.5);
        close(results.ratio(1, 1, Measure::Memory), 2.0);
        close(results.mean(None, 1, Measure::Speed), 0.5);
        close(results.mean(None, 1, Measure::Memory), 1.0);
        close(results.mean(Some(Group::Large), 1, Measure::Speed), 1.0);
        close(results.mean(None, 0, Measure::Speed), 1.0);
        assert_eq!(results.mean(Some(Group::Real), 1, Measure::Speed), None);
        assert!(results.complaints().is_empty());
    }

    #[test]
    fn the_least_or_the_middle_sample_counts() {
        let samples = [30, 10, 50, 20].map(|cpu_ms| sample(cpu_ms, 1, "a"));
        let milliseconds = |counted| counted_cpu(&samples, counted).map(|time| time.as_millis());
        assert_eq!((milliseconds(Counted::Least), milliseconds(Counted::Middle)), (Some(10), Some(20)));
        assert_eq!(counted_cpu(&samples[..3], Counted::Middle), Some(Duration::from_millis(30)));
        assert_eq!(counted_cpu(&[], Counted::Middle), None);
    }

    #[test]
    fn a_failure_takes_its_means_with_it_and_is_named() {
        let (_, mut results) = measured();
        results.add(0, 1, Err("ended by signal 6".to_owned()));
        results.add(0, 1, Ok(sample(40, 50, "a")));
        assert_eq!(results.mean(None, 1, Measure::Speed), None);
        close(results.mean(Some(Group::Large), 1, Measure::Speed), 1.0);
        assert_eq!(results.complaints(), ["fifo under talc (release): ended by signal 6"]);
    }

    #[test]
    fn an_allocator_asked_for_by_name_must_build() {
        let (_, mut results) = measured();
        for index in [4, 6] {
            let (allocator, profile) = (&ALL[index], "release".to_owned());
            results.left_out.push(LeftOut { allocator, profile, why: "no compiler".to_owned() });
        }
        assert_eq!(results.complaints(), ["talc (release) does not build here: no compiler"]);
    }

    #[test]
    fn a_checksum_that_differs_is_named() {
        let (_, mut results) = measured();
        results.add(1, 1, Ok(sample(20, 200, "c")));
        let complaints = results.complaints();
        assert!(complaints.len() == 1 && complaints[0].contains("computed c under talc"), "{complaints:?}");
    }
}
