//! The workloads: what each one asks of an allocator, by name and group.
//!
//! Each does a fixed amount of work, a fraction of a second of CPU time with the system's allocator, and returns a
//! checksum that depends on what every block held when it was read back.
#![forbid(unsafe_code)]

mod large;
mod real;
mod small;
mod threads;

/// What a workload stands for; each group has a mean of its own in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// Blocks of at most a few KiB, where instructions and cache misses decide.
    Small,
    /// Ordinary Rust programs, of which allocation is a part.
    Real,
    /// Blocks of 64 KiB to 16 MiB, where page faults decide.
    Large,
}

impl Group {
    /// Every group, in the order of the table.
    pub const ALL: [Group; 3] = [Group::Small, Group::Real, Group::Large];

    /// The name in the table and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Group::Small => "small",
            Group::Real => "real",
            Group::Large => "large",
        }
    }
}

/// How much of the full work is done, in percent: 100 to measure, a few to test.
#[derive(Clone, Copy, Debug)]
pub struct Scale(pub u32);

impl Scale {
    /// The share of `full`, at least 1.
    pub fn of(self, full: usize) -> usize {
        (full * self.0 as usize / 100).max(1)
    }
}

/// Which of the repeats counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Counted {
    /// The least: what else the machine does only ever adds.
    Least,
    /// The one in the middle, where the cost is that threads disturb each other: a busy machine keeps them apart, and
    /// the least would be the repeat in which they never met.
    Middle,
}

/// One thing to do with an allocator.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// The name in the table and on the command line.
    pub name: &'static str,
    /// Which mean it belongs to.
    pub group: Group,
    /// What it does, in a line.
    pub about: &'static str,
    /// Which of the repeats counts for its CPU time.
    pub counted: Counted,
    /// Does it; the checksum depends on the scale and on nothing else.
    pub run: fn(Scale) -> u64,
}

const fn workload(group: Group, name: &'static str, about: &'static str, run: fn(Scale) -> u64) -> Workload {
    Workload { name, group, about, counted: Counted::Least, run }
}

use Group::{Large, Real, Small};

/// Every workload, in the order of the table.
pub const ALL: [Workload; 24] = [
    workload(
        Small,
        "pairs-fixed",
        "boxes of 8 to 256 bytes, sizes known to the compiler, freed at once",
        small::pairs_fixed,
    ),
    workload(Small, "pairs-mixed", "blocks of 8 B to 2 KiB, freed at once", small::pairs_mixed),
    workload(Small, "fifo", "a queue of 4,096 blocks: the oldest is freed for each new one", small::fifo),
    workload(Small, "lifo", "stacks of up to 2,000 blocks, built and taken down", small::lifo),
    workload(Small, "churn", "20,000 live blocks, one at random replaced each time", small::churn),
    workload(Small, "churn-two", "the same in two threads, each with blocks of its own", threads::churn_two),
    workload(
        Small,
        "phases",
        "all blocks of one size freed in random order, then all of the next size",
        small::phases,
    ),
    workload(Small, "aligned", "8 B to 2 KiB aligned to 32 bytes and more", small::aligned),
    workload(Small, "strings", "many strings grown by turns, a few bytes at a time", small::strings),
    workload(Small, "nodes", "maps of boxed nodes, built, searched and dropped", small::nodes),
    workload(
        Small,
        "server",
        "sessions handed from a thread that ends to a new one, in two lanes that exchange",
        threads::server,
    ),
    workload(
        Small,
        "producer-consumer",
        "one thread allocates messages, another frees them",
        threads::producer_consumer,
    ),
    workload(Small, "exchange", "two threads, each frees what the other allocated", threads::exchange),
    workload(Small, "thread-churn", "3,000 short threads, each with a little work", threads::thread_churn),
    Workload {
        counted: Counted::Middle,
        ..workload(
            Small,
            "false-sharing",
            "neighbours handed to two threads, freed there, allocated again and written",
            threads::false_sharing,
        )
    },
    workload(
        Real,
        "word-count",
        "words of a generated text counted in a HashMap<String, usize>",
        real::word_count,
    ),
    workload(Real, "json", "a generated document printed and parsed by serde_json", real::json),
    workload(
        Real,
        "sort-strings",
        "a generated list of strings sorted, joined and split",
        real::sort_strings,
    ),
    workload(Large, "tensors", "blocks of 64 KiB to 16 MiB, not zeroed, every byte written", large::tensors),
    workload(
        Large,
        "tensors-zeroed",
        "the same zeroed by the allocator, every byte read and written",
        large::tensors_zeroed,
    ),
    workload(Large, "tensors-two", "unzeroed blocks in two threads", large::tensors_two),
    workload(Large, "buffers", "16 KiB to 1 MiB, 64 of them live, one byte a page written", large::buffers),
    workload(Large, "vec-growth", "vectors pushed to millions of bytes from nothing", large::vec_growth),
    workload(Large, "realloc", "blocks grown from 64 KiB to 16 MiB in steps, then shrunk", large::realloc),
];

/// The workload of that name.
pub fn named(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|workload| workload.name == name)
}

#[cfg(test)]
mod tests {
    use super::{ALL, Group, Scale, named};
    use std::collections::HashSet;

    #[test]
    fn every_workload_says_the_same_twice_and_no_two_say_the_same() {
        let mut seen = HashSet::new();
        for workload in &ALL {
            let checksum = (workload.run)(Scale(1));
            assert_eq!((workload.run)(Scale(1)), checksum, "{} is not deterministic", workload.name);
            assert!(seen.insert(checksum), "{} computes what another computes", workload.name);
        }
    }

    #[test]
    fn another_scale_is_other_work() {
        for workload in &ALL {
            assert_ne!(
                (workload.run)(Scale(1)),
                (workload.run)(Scale(5)),
                "{} ignores its scale",
                workload.name
            );
        }
    }

    #[test]
    fn names_are_unique_and_are_not_groups() {
        for workload in &ALL {
            assert_eq!(ALL.iter().filter(|other| other.name == workload.name).count(), 1);
            assert!(Group::ALL.iter().all(|group| group.name() != workload.name));
            assert!(
                include_str!("../README.md").contains(workload.name),
                "README.md leaves out {}",
                workload.name
            );
            assert_eq!(named(workload.name).map(|found| found.about), Some(workload.about));
        }
    }
}
