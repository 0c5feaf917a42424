//! The command line.

#![forbid(unsafe_code)]

use crate::units;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fmt;
use std::path::PathBuf;

/// One allocator for every memory: firmware, processes and GPUs.
#[derive(Parser)]
#[command(name = "democratising", version, about, arg_required_else_help = true)]
pub struct Program {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Replay the allocations that a program made, and report what the allocator reserved for them
    ///
    /// A trace is text, plain or gzip: `a ID BYTES` allocates, `f ID` frees, `m TEXT` marks a phase; other lines are ignored. Ids count up
    /// from 0 and are never used twice.
    Replay(Replay),

    /// Show where memory went, over time and by address: as a page, as a drawing, or in a few lines
    ///
    /// FILE is a recording (`timeline::stop()?.save(FILE)`), a trace, or a memory snapshot of PyTorch's. Recordings are shown as they
    /// happened; traces and snapshots as they would have happened here, on simulated memory.
    Report(Report),

    /// List the tensors of a file with their dtypes, shapes, bytes and the state of their checksums
    ///
    /// The content says what it is: safetensors, PyTorch's .pt of any version, .npz, .npy or text.
    Inspect(Inspect),

    /// List the memories of this machine: the process's own and every CUDA device, with driver, limits and what is free
    Info,
}

/// What `report` is told.
#[derive(Args)]
#[command(after_help = REPORT_CODES, after_long_help = REPORT_CODES)]
pub struct Report {
    /// The recording, trace or snapshot; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub file: PathBuf,

    /// Write one self-contained page: memory over time, who holds it, and the addresses at any instant
    #[arg(long, value_name = "OUT")]
    pub html: Option<PathBuf>,

    /// Draw reserved, requested and free memory over time
    #[arg(long, value_name = "OUT")]
    pub svg: Option<PathBuf>,
}

const REPORT_CODES: &str = "\
Examples:
  democratising report run.timeline
  democratising report --html memory.html tests/data/resnet50_train.trace.gz

Exit codes: 0 done; 1 the machine refused; 2 wrong arguments or a file that cannot be read.";

/// What `inspect` is told.
#[derive(Args)]
#[command(after_help = INSPECT_CODES, after_long_help = INSPECT_CODES)]
pub struct Inspect {
    /// Files, listed in turn
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Print one JSON object for each file and nothing else
    #[arg(long)]
    pub json: bool,

    /// Do not read the tensors' bytes, so that no checksum is compared
    #[arg(long)]
    pub quick: bool,
}

const INSPECT_CODES: &str =
    "Exit codes: 0 all is well; 1 the machine refused; 2 a file that cannot be read or is damaged.";

/// What `replay` is told.
#[derive(Args)]
#[command(after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Replay {
    /// Traces, replayed and reported in turn up to the first that is broken; `-` is standard input
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,

    /// The memory to replay on
    #[arg(long, value_enum, default_value_t = SpaceKind::Simulated)]
    pub space: SpaceKind,

    /// What finds free runs; each memory has its own unless told otherwise
    #[arg(long, value_enum)]
    pub index: Option<IndexChoice>,

    /// How much may be reserved beyond need rather than moved, as a share of the peak (0 to 1 by 0.001)
    #[arg(long, value_name = "F", default_value = "0.03", value_parser = parse_slack, allow_negative_numbers = true)]
    pub slack: Permille,

    /// The unit of backing, a power of two: 2097152, 2M or 2MiB; fixed memory has none
    #[arg(long, value_name = "BYTES", default_value = "2MiB", value_parser = parse_frame, allow_negative_numbers = true)]
    pub frame: u64,

    /// The most that may be reserved; allocations beyond it fail and are counted
    #[arg(long, value_name = "BYTES", value_parser = parse_limit, allow_negative_numbers = true)]
    pub limit: Option<u64>,

    /// Timing passes; the least CPU time is reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,

    /// Print one JSON object for each trace and nothing else
    #[arg(long)]
    pub json: bool,

    /// Draw reserved, requested and free memory over time into FILE
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  democratising replay tests/data/resnet50_train.trace.gz
  democratising replay --slack 0 --svg memory.svg tests/data/*.trace.gz
  gzip -dc a.trace.gz | democratising replay --space fixed --limit 8GiB --json -

Exit codes: 0 done; 1 the machine refused; 2 wrong arguments or a broken trace.";

/// The kinds of memory that a trace can be replayed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SpaceKind {
    /// Addresses that nothing stands behind, with a GPU's granules and frames
    Simulated,
    /// This process's memory, reserved and committed by the operating system; blocks are not written to
    Mapped,
    /// One array that cannot grow: as large as the limit, or an eighth more than the trace needs
    Fixed,
    /// Memory of the first CUDA device, through the driver: frames are really mapped and moved; blocks are not written to
    Cuda,
}

impl fmt::Display for SpaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpaceKind::Simulated => "simulated",
            SpaceKind::Mapped => "mapped",
            SpaceKind::Fixed => "fixed",
            SpaceKind::Cuda => "cuda",
        })
    }
}

/// The span indexes that a trace can be replayed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum IndexChoice {
    /// The buddy tree: the lowest run that fits, which moves the least backing
    Tree,
    /// The fit table: a run of about the size, in constant time
    Fit,
}

/// A share in thousandths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permille(pub u32);

impl fmt::Display for Permille {
    /// In percent, without a decimal that says nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 10 {
            0 => write!(f, "{} %", self.0 / 10),
            tenth => write!(f, "{}.{tenth} %", self.0 / 10),
        }
    }
}

fn parse_slack(text: &str) -> Result<Permille, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(Permille((share * 1000.0).round() as u32)),
        _ => Err("the slack is a share from 0 (tightest) to 1, as 0.03".into()),
    }
}

fn parse_frame(text: &str) -> Result<u64, String> {
    let bytes = units::parse_bytes(text)?;
    if !bytes.is_power_of_two() || !(64 << 10..=1 << 30).contains(&bytes) {
        return Err("a frame is a power of two of bytes from 64KiB to 1GiB, as 2MiB".into());
    }
    Ok(bytes)
}

fn parse_limit(text: &str) -> Result<u64, String> {
    match units::parse_bytes(text)? {
        0 => Err("nothing could be allocated; leave the option out for no limit".into()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn a_slack_is_a_share_in_thousandths() {
        assert_eq!(parse_slack("0"), Ok(Permille(0)));
        assert_eq!(parse_slack("-0.0"), Ok(Permille(0)));
        assert_eq!(parse_slack("0.03"), Ok(Permille(30)));
        assert_eq!(parse_slack("1"), Ok(Permille(1000)));
        for text in ["nan", "inf", "-1", "1.001", "3%", ""] {
            assert!(parse_slack(text).is_err(), "{text}");
        }
        assert_eq!(Permille(30).to_string(), "3 %");
        assert_eq!(Permille(5).to_string(), "0.5 %");
    }

    #[test]
    fn a_frame_is_a_power_of_two_that_holds_a_granule() {
        assert_eq!(parse_frame("2M"), Ok(2 << 20));
        for text in ["0", "3", "1", "32K", "3MiB", "2G"] {
            assert!(parse_frame(text).is_err(), "{text}");
        }
    }
}
