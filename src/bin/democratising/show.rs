//! The command `report`: one file, as a page, as a drawing, or in a few lines.

#![forbid(unsafe_code)]

use crate::args::Report;
use crate::failure::Failure;
use crate::input::Lines;
use crate::page;
use crate::progress::Progress;
use crate::report::{Output, printable};
use crate::story::Story;
use crate::svg::{self, Panel};
use crate::trace::{Mark, Trace, name};
use crate::units::{grouped, human, percent};
use crate::written::Written;
use democratising::timeline::Timeline;
use std::fmt::Write;

/// As many holders are named in the summary.
const NAMED: usize = 5;

pub fn run(options: &Report) -> Result<(), Failure> {
    let check = |path| Written::check(path, std::slice::from_ref(&options.file));
    let html = options.html.as_deref().map(check).transpose()?;
    let drawing = options.svg.as_deref().map(check).transpose()?;
    if let (Some(html), Some(drawing)) = (&html, &drawing) {
        html.differs_from(drawing)?;
    }
    let mut progress = Progress::new();
    let stories = read(options, &mut progress)?;
    progress.clear();
    if html.is_none() && drawing.is_none() {
        return Output::default().print(&summary(&stories));
    }
    if let Some(drawing) = drawing {
        drawing.write(&draw(&stories))?;
    }
    match html {
        Some(html) => html.write(&page::page(&stories)),
        None => Ok(()),
    }
}

fn read(options: &Report, progress: &mut Progress) -> Result<Vec<Story>, Failure> {
    let path = &options.file;
    let mut lines = Lines::open(path)?;
    if lines.begins_with(b"democratising timeline ")? {
        let place = lines.place().to_owned();
        let timeline =
            Timeline::read_from(lines.into_reader()).map_err(|error| Failure::input(&place, error))?;
        let stories = Story::recorded(&name(path), &timeline);
        if stories.is_empty() {
            return Err(Failure::input(
                place,
                "nothing happened in the recording; start it before what is to be seen",
            ));
        }
        return Ok(stories);
    }
    let traces = Trace::read_lines(path, lines, progress)?;
    traces.into_iter().map(|trace| Story::replayed(trace, progress)).collect()
}

fn draw(stories: &[Story]) -> String {
    let records: Vec<_> = stories.iter().map(Story::record).collect();
    let marks: Vec<Vec<Mark>> = stories
        .iter()
        .map(|story| {
            story.marks.iter().map(|(event, text)| Mark { event: *event, text: text.clone() }).collect()
        })
        .collect();
    let panels: Vec<Panel<'_>> = records
        .iter()
        .zip(&marks)
        .zip(stories)
        .filter_map(|((record, marks), story)| {
            let timeline = record.outcome.timeline.as_ref()?;
            Some(Panel {
                record,
                timeline,
                marks,
                phases: marks.len() as u64,
                is_reserved: story.is_reserved,
            })
        })
        .collect();
    svg::draw(&panels)
}

fn summary(stories: &[Story]) -> String {
    let mut out = String::new();
    for story in stories {
        let outcome = story.record().outcome;
        let (_, most, held) = story.peak();
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = writeln!(out, "{gap}{} ({})", printable(&story.title), story.memory);
        let _ = writeln!(out, "  {} steps, {} failed", grouped(outcome.events), grouped(outcome.failures));
        let _ = writeln!(out, "  peak requested {}", human(most));
        if story.is_reserved {
            let share = percent(outcome.efficiency());
            let _ = writeln!(
                out,
                "  peak reserved  {}, {share} of it requested",
                human(outcome.peak_reserved_bytes)
            );
        }
        let _ = writeln!(out, "  live at the end {}", human(outcome.live_at_end_bytes));
        let _ = writeln!(out, "  at the peak, by holder:");
        for held in held.iter().take(NAMED) {
            let share = percent(held.bytes as f64 / most.max(1) as f64);
            let blocks = grouped(held.blocks);
            let _ = writeln!(
                out,
                "    {:<32} {:>14} {share:>8} {blocks:>8} blocks",
                printable(&held.holder),
                human(held.bytes)
            );
        }
        if held.len() > NAMED {
            let _ = writeln!(out, "    and {} more", held.len() - NAMED);
        }
    }
    out
}
