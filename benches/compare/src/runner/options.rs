//! What the command line asks for.
#![forbid(unsafe_code)]

use super::allocators::{self, Allocator};
use clap::{ArgAction, Parser};
use compare::workload::{self, Group, Workload};

/// Runs the same workloads under several allocators, each pair in a process of its own, and prints ratios.
#[derive(Debug, Parser)]
pub struct Options {
    /// How often everything runs; the least of each counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// Allocators, by name; the baseline is always among them
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Workloads or groups, by name
    #[arg(long, value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// Cargo profiles: release is what most programs are built with, release-lto adds fat LTO
    #[arg(long, value_delimiter = ',', default_values = ["release"])]
    pub profiles: Vec<String>,
    /// The allocator that all ratios are relative to
    #[arg(long, default_value = "mimalloc3")]
    pub baseline: String,
    /// How much of each workload is done, in percent
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub scale: u32,
    /// The seconds after which a process counts as hung
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Leaves out what stays resident after a peak
    #[arg(long = "no-rest", action = ArgAction::SetFalse)]
    pub rest: bool,
    /// Prints everything that was measured as JSON
    #[arg(long)]
    pub json: bool,
    /// Names the workloads and allocators and ends
    #[arg(long)]
    pub list: bool,
}

/// The options with every name looked up.
#[derive(Debug)]
pub struct Plan {
    pub repeats: u32,
    pub allocators: Vec<&'static Allocator>,
    pub workloads: Vec<&'static Workload>,
    pub profiles: Vec<String>,
    pub baseline: &'static str,
    pub scale_percent: u32,
    pub limit_seconds: u32,
    /// The allocators asked for by name.
    pub insisted: Vec<String>,
}

impl Options {
    /// Looks every name up.
    ///
    /// # Errors
    /// A name that is none, with those that are.
    pub fn plan(&self) -> Result<Plan, String> {
        let known = |name: &str| {
            let found = allocators::ALL.iter().find(|allocator| allocator.name == name);
            found.ok_or_else(|| {
                unknown("allocator", name, allocators::ALL.iter().map(|allocator| allocator.name))
            })
        };
        let baseline = known(&self.baseline)?.name;
        for name in &self.only {
            known(name)?;
        }
        let named = |name: &str| name == baseline || self.only.iter().any(|only| only == name);
        let wanted =
            |allocator: &Allocator| named(allocator.name) || self.only.is_empty() && allocator.is_one();
        for name in &self.workloads {
            if workload::named(name).is_none() && Group::ALL.iter().all(|group| group.name() != name) {
                let groups = Group::ALL.iter().map(|group| group.name());
                return Err(unknown(
                    "workload or group",
                    name,
                    groups.chain(workload::ALL.iter().map(|known| known.name)),
                ));
            }
        }
        let asked = |workload: &Workload| {
            let mut names = self.workloads.iter();
            self.workloads.is_empty()
                || names.any(|name| name == workload.name || name == workload.group.name())
        };
        for profile in &self.profiles {
            if !["release", "release-lto"].contains(&profile.as_str()) {
                return Err(unknown("profile", profile, ["release", "release-lto"].into_iter()));
            }
        }
        let mut profiles = self.profiles.clone();
        profiles.dedup();
        Ok(Plan {
            repeats: self.repeats,
            allocators: allocators::ALL.iter().filter(|allocator| wanted(allocator)).collect(),
            workloads: workload::ALL.iter().filter(|workload| asked(workload)).collect(),
            profiles,
            baseline,
            scale_percent: self.scale,
            limit_seconds: self.limit,
            insisted: self.only.clone(),
        })
    }
}

fn unknown(kind: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    format!("there is no {kind} {name:?}; there are: {}", known.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::Options;
    use clap::Parser;

    fn plan(arguments: &[&str]) -> Result<super::Plan, String> {
        Options::parse_from(std::iter::once(&"compare").chain(arguments)).plan()
    }

    #[test]
    fn everything_is_measured_unless_something_is_named() {
        let plan = plan(&[]).unwrap();
        assert_eq!((plan.allocators.len(), plan.workloads.len(), plan.repeats), (8, 24, 5));
        assert_eq!(plan.profiles, ["release"]);
    }

    #[test]
    fn the_baseline_is_measured_even_when_it_is_not_named() {
        let plan = plan(&["--only", "talc,system", "--workloads", "real,fifo"]).unwrap();
        let names: Vec<_> = plan.allocators.iter().map(|allocator| allocator.name).collect();
        assert_eq!(names, ["mimalloc3", "system", "talc"]);
        let names: Vec<_> = plan.workloads.iter().map(|workload| workload.name).collect();
        assert_eq!(names, ["fifo", "word-count", "json", "sort-strings"]);
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_those_that_are() {
        assert!(plan(&["--only", "tcmalloc"]).unwrap_err().contains("snmalloc"));
        assert!(plan(&["--workloads", "larson"]).unwrap_err().contains("server"));
        assert!(plan(&["--baseline", "none"]).unwrap_err().contains("mimalloc3"));
        assert!(plan(&["--profiles", "dev"]).unwrap_err().contains("release-lto"));
    }
}
