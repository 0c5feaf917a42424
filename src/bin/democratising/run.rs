//! The command `replay`: every trace in turn, a report for each, a drawing of all.

#![forbid(unsafe_code)]

use crate::args::{IndexChoice, Replay, SpaceKind};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::replay::{Outcome, replay};
use crate::report::{Output, Record, summary};
use crate::svg::{self, Panel};
use crate::target::{self, Setup, Target};
use crate::trace::{Mark, Trace};
use crate::written::Written;
use democratising::arena::{ByFit, ByTree, Framed, Unframed};
use democratising::space::WithIndex;
use std::convert::identity;

/// What is kept of a trace for the drawing, after its events are gone.
struct Phases {
    marks: Vec<Mark>,
    count: u64,
}

/// Replays every trace up to the first that is broken.
pub fn run(options: &Replay) -> Result<(), Failure> {
    if options.traces.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Failure::input("-", "standard input is named twice, but can be read only once"));
    }
    let drawing = options.svg.as_deref().map(|svg| Written::check(svg, &options.traces)).transpose()?;
    let mut progress = Progress::new();
    let mut output = Output::default();
    let mut records: Vec<Record> = Vec::new();
    let mut phases = Vec::new();
    for path in &options.traces {
        for mut trace in Trace::read(path, &mut progress)? {
            let setup = Setup {
                slack: options.slack,
                frame_bytes: options.frame,
                limit_bytes: options.limit,
                demand_bytes: trace.demand_bytes,
            };
            let outcome = play(options, &trace, &setup, &mut progress)?;
            progress.clear();
            let record = Record {
                trace: std::mem::take(&mut trace.name),
                space: options.space.to_string(),
                memory: setup.describe(options.space, options.index),
                reserved_bytes: trace.reserved_bytes,
                outcome,
            };
            if options.json {
                output.print(&record.json())?;
            } else {
                let gap = if records.is_empty() { "" } else { "\n" };
                output.print(&format!("{gap}{}", record.text()))?;
            }
            if output.is_closed() && drawing.is_none() {
                return Ok(());
            }
            records.push(record);
            phases.push(Phases { marks: trace.marks, count: trace.phases });
        }
    }
    if !options.json && records.len() > 1 {
        output.print(&format!("\n{}", summary(&records)))?;
    }
    match drawing {
        Some(drawing) => drawing.write(&svg::draw(&panels(&records, &phases))),
        None => Ok(()),
    }
}

fn panels<'a>(records: &'a [Record], phases: &'a [Phases]) -> Vec<Panel<'a>> {
    let pairs = records.iter().zip(phases);
    pairs
        .filter_map(|(record, phases)| {
            let timeline = record.outcome.timeline.as_ref()?;
            Some(Panel { record, timeline, marks: &phases.marks, phases: phases.count, is_reserved: true })
        })
        .collect()
}

/// Replays one trace on the memory that was asked for.
fn play(options: &Replay, trace: &Trace, setup: &Setup, progress: &mut Progress) -> Result<Outcome, Failure> {
    use IndexChoice::{Fit, Tree};
    use SpaceKind::{Cuda, Fixed, Mapped, Simulated};
    let on = Stage { trace, repeat: options.repeat, draw: options.svg.is_some() };
    match (options.space, options.index) {
        (Simulated, None) => on.play(progress, || target::simulated(setup, identity)),
        (Simulated, Some(Tree)) => {
            on.play(progress, || target::simulated(setup, WithIndex::<_, ByTree>::new))
        }
        (Simulated, Some(Fit)) => {
            on.play(progress, || target::simulated(setup, WithIndex::<_, ByFit<Framed>>::new))
        }
        (Mapped, None) => on.play(progress, || target::mapped(setup, identity)),
        (Mapped, Some(Tree)) => on.play(progress, || target::mapped(setup, WithIndex::<_, ByTree>::new)),
        (Mapped, Some(Fit)) => {
            on.play(progress, || target::mapped(setup, WithIndex::<_, ByFit<Framed>>::new))
        }
        #[cfg(feature = "cuda")]
        (Cuda, None) => on.play(progress, || target::cuda(setup)),
        #[cfg(not(feature = "cuda"))]
        (Cuda, None) => {
            Err(Failure::input("--space", "cuda needs the program built with the feature `cuda`"))
        }
        (Cuda, Some(_)) => {
            Err(Failure::input("--index", "cuda cannot be told another index than its own, the tree"))
        }
        (Fixed, None) => on.play(progress, || target::fixed(setup, identity)),
        (Fixed, Some(Tree)) => on.play(progress, || target::fixed(setup, WithIndex::<_, ByTree>::new)),
        (Fixed, Some(Fit)) => {
            on.play(progress, || target::fixed(setup, WithIndex::<_, ByFit<Unframed>>::new))
        }
    }
}

/// What is played, and how.
struct Stage<'a> {
    trace: &'a Trace,
    repeat: u32,
    draw: bool,
}

impl Stage<'_> {
    fn play<T: Target>(
        &self,
        progress: &mut Progress,
        make: impl Fn() -> Result<T, Failure>,
    ) -> Result<Outcome, Failure> {
        replay(self.trace, self.repeat, self.draw, progress, make)
    }
}
