//! Plays a trace on a target: once to see what is reserved, then for the time alone.

#![forbid(unsafe_code)]

use crate::clock::thread_cpu;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::target::{Figures, Target};
use crate::timeline::{Recorder, Sample, Timeline};
use crate::trace::{Action, Trace};

/// What a replay found.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub events: u64,
    /// The most bytes live at once in blocks that were served, as the program counts them.
    pub peak_requested_bytes: u64,
    pub peak_reserved_bytes: u64,
    pub creates: u64,
    pub steals: u64,
    /// `None` where the system has no clock for CPU time.
    pub ns_per_event: Option<f64>,
    /// Allocations that were refused. Their frees are skipped.
    pub failures: u64,
    pub live_at_end_bytes: u64,
    pub timeline: Option<Timeline>,
}

impl Outcome {
    /// Peak requested over peak reserved. Nothing reserved is nothing wasted, unless that is because nothing was served.
    pub fn efficiency(&self) -> f64 {
        match (self.peak_reserved_bytes, self.failures) {
            (0, 0) => 1.0,
            (0, _) => 0.0,
            (reserved, _) => self.peak_requested_bytes as f64 / reserved as f64,
        }
    }
}

/// Plays `trace` once for the statistics and `repeat` times for the CPU time, each on a fresh target.
pub fn replay<T: Target>(
    trace: &Trace,
    repeat: u32,
    draw: bool,
    progress: &mut Progress,
    make: impl Fn() -> Result<T, Failure>,
) -> Result<Outcome, Failure> {
    let mut handles = Handles(vec![None; trace.sizes.len()]);
    let mut outcome = observe(trace, &mut handles, draw, progress, make()?)?;
    for pass in 1..=repeat {
        progress.show(|| format!("replaying {}: timing pass {pass} of {repeat}", trace.name));
        let spent_ns = time(trace, &mut handles, make()?)?;
        outcome.ns_per_event = match (outcome.ns_per_event, spent_ns) {
            (Some(least), Some(spent)) => Some(f64::min(least, spent)),
            (least, spent) => least.or(spent),
        };
    }
    Ok(outcome)
}

/// The blocks that are live, by id.
struct Handles<H>(Vec<Option<H>>);

impl<H: Copy> Handles<H> {
    /// Gives everything back, and makes sure that the target agrees that this was all.
    fn release<T: Target<Handle = H>>(&mut self, trace: &Trace, target: &mut T) -> Result<(), Failure> {
        for (id, handle) in self.0.iter_mut().enumerate() {
            if let Some(handle) = handle.take() {
                target.free(handle, trace.sizes[id]).map_err(|why| refused(trace, id, &why))?;
            }
        }
        match target.figures().in_use_bytes {
            0 => Ok(()),
            left => Err(Failure::Machine(format!(
                "{}: every block is freed, but the allocator still counts {left} bytes in use; this is a bug in it",
                trace.name
            ))),
        }
    }
}

fn refused(trace: &Trace, id: usize, why: &dyn std::fmt::Display) -> Failure {
    Failure::Machine(format!(
        "{}: block {id} cannot be freed: {why}; this is a bug in the allocator",
        trace.name
    ))
}

/// The statistics pass.
fn observe<T: Target>(
    trace: &Trace,
    handles: &mut Handles<T::Handle>,
    draw: bool,
    progress: &mut Progress,
    mut target: T,
) -> Result<Outcome, Failure> {
    let events = trace.events.len() as u64;
    let mut recorder = draw.then(|| Recorder::new(events));
    if let Some(recorder) = &mut recorder {
        recorder.record(0, sample(&target, 0));
    }
    let (mut live_bytes, mut peak_bytes, mut failures) = (0, 0, 0);
    for (event, done) in trace.events.iter().zip(1u64..) {
        match event.action() {
            Action::Allocate(id) => {
                handles.0[id] = target.allocate(trace.sizes[id]);
                match handles.0[id] {
                    Some(_) => live_bytes += trace.sizes[id],
                    None => failures += 1,
                }
                peak_bytes = peak_bytes.max(live_bytes);
            }
            Action::Free(id) => {
                if let Some(handle) = handles.0[id].take() {
                    target.free(handle, trace.sizes[id]).map_err(|why| refused(trace, id, &why))?;
                    live_bytes -= trace.sizes[id];
                }
            }
        }
        if let Some(recorder) = &mut recorder {
            recorder.record(done, sample(&target, live_bytes));
        }
        if done % (1 << 14) == 0 {
            progress.show(|| format!("replaying {}: {} %", trace.name, done * 100 / events));
        }
    }
    let figures = target.figures();
    handles.release(trace, &mut target)?;
    Ok(Outcome {
        events,
        peak_requested_bytes: peak_bytes,
        peak_reserved_bytes: figures.peak_reserved_bytes,
        creates: figures.creates,
        steals: figures.steals,
        ns_per_event: None,
        failures,
        live_at_end_bytes: live_bytes,
        timeline: recorder.map(Recorder::finish),
    })
}

/// One moment of a target, with so many bytes live as the program counts them.
fn sample(target: &impl Target, requested_bytes: u64) -> Sample {
    let Figures { reserved_bytes, in_use_bytes, .. } = target.figures();
    Sample { reserved_bytes, requested_bytes, free_bytes: reserved_bytes.saturating_sub(in_use_bytes) }
}

/// A timing pass: nothing but the events between the two looks at the clock.
fn time<T: Target>(
    trace: &Trace,
    handles: &mut Handles<T::Handle>,
    mut target: T,
) -> Result<Option<f64>, Failure> {
    let mut refusal = None;
    let start = thread_cpu();
    for event in &trace.events {
        match event.action() {
            Action::Allocate(id) => handles.0[id] = target.allocate(trace.sizes[id]),
            Action::Free(id) => {
                if let Some(handle) = handles.0[id].take()
                    && let Err(why) = target.free(handle, trace.sizes[id])
                {
                    refusal = Some((id, why));
                }
            }
        }
    }
    let end = thread_cpu();
    if let Some((id, why)) = refusal {
        return Err(refused(trace, id, &why));
    }
    handles.release(trace, &mut target)?;
    let spent = end.zip(start).map(|(end, start)| end.saturating_sub(start));
    Ok(spent.map(|spent| spent.as_nanos() as f64 / trace.events.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Lines;
    use crate::target::model::{Fault, Model};
    use std::io::Cursor;

    fn trace(text: &'static str) -> Trace {
        Trace::from_lines(
            "t".into(),
            Lines::of("t".into(), Cursor::new(text)).unwrap(),
            &mut Progress::hidden(),
        )
        .unwrap()
    }

    fn play(text: &'static str, limit_bytes: u64) -> Outcome {
        let trace = trace(text);
        replay(&trace, 2, true, &mut Progress::hidden(), || Ok(Model::new(100, limit_bytes))).unwrap()
    }

    #[test]
    fn peaks_are_counted_from_what_was_live_at_once() {
        let outcome = play("a 0 150\na 1 70\nf 0\na 2 90\nf 1\nf 2\n", u64::MAX);
        assert_eq!((outcome.events, outcome.failures, outcome.live_at_end_bytes), (6, 0, 0));
        assert_eq!(
            (outcome.peak_requested_bytes, outcome.peak_reserved_bytes, outcome.creates),
            (220, 300, 3)
        );
        assert_eq!(outcome.efficiency(), 220.0 / 300.0);
        assert_eq!(outcome.ns_per_event.is_some_and(|ns| ns > 0.0), cfg!(unix));
        let timeline = outcome.timeline.unwrap();
        assert_eq!(timeline.requested, [(0, 0), (1, 150), (2, 220), (3, 70), (4, 160), (5, 90), (6, 0)]);
        assert_eq!(timeline.free.last(), Some(&(6, 300)));
    }

    #[test]
    fn a_refused_block_is_counted_and_its_free_is_skipped() {
        let outcome = play("a 0 150\na 1 70\nf 1\nf 0\na 2 50\nf 2\n", 200);
        assert_eq!(
            (outcome.failures, outcome.peak_requested_bytes, outcome.peak_reserved_bytes),
            (1, 150, 200)
        );
        assert_eq!(outcome.live_at_end_bytes, 0);
    }

    #[test]
    fn blocks_that_are_never_freed_are_live_at_the_end() {
        assert_eq!(play("a 0 150\na 1 70\nf 0\n", u64::MAX).live_at_end_bytes, 70);
    }

    #[test]
    fn nothing_reserved_is_whole_efficiency_only_if_everything_was_served() {
        assert_eq!(play("a 0 0\nf 0\n", u64::MAX).efficiency(), 1.0);
        assert_eq!(play("a 0 101\nf 0\n", 100).efficiency(), 0.0);
    }

    #[test]
    fn an_allocator_that_refuses_a_free_or_keeps_a_block_is_reported() {
        let trace = trace("a 0 150\nf 0\n");
        for (fault, wanted) in
            [(Fault::RefusesFree, "block 0 cannot be freed"), (Fault::KeepsBytes, "in use")]
        {
            let make = || Ok(Model::new(100, u64::MAX).with(fault));
            let failure = replay(&trace, 1, false, &mut Progress::hidden(), make).unwrap_err();
            assert!(failure.to_string().contains(wanted), "{failure}");
            assert_eq!(failure.exit_code(), 1);
        }
    }
}
