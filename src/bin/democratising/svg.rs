//! A drawing of memory over time: one panel for each trace, in one self-contained file.

#![forbid(unsafe_code)]

mod axis;

use crate::report::Record;
use crate::timeline::{Point, Timeline};
use crate::trace::Mark;
use crate::units::{grouped, human, percent};
use axis::Axis;
use std::fmt::Write as _;

const WIDTH: f64 = 1200.0;
const PANEL_HEIGHT: f64 = 440.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 1168.0;
const TOP: f64 = 104.0;
const BOTTOM: f64 = 376.0;
/// Longer names would run into the words at the right.
const NAME_CHARS: usize = 48;
/// More phases than this would be a grey wall.
const MOST_MARKS: usize = 40;

const INK: &str = "#1f2328";
const PALE: &str = "#59636e";
const GRID: &str = "#e4e7eb";
const MARK: &str = "#b4bcc6";
const RESERVED: &str = "#b42318";
const REQUESTED: &str = "#2f6fb7";
const FREE: &str = "#d98a00";

/// A record, with what a drawing needs beyond it.
pub struct Panel<'a> {
    pub record: &'a Record,
    pub timeline: &'a Timeline,
    pub marks: &'a [Mark],
    /// How many phases there are, of which `marks` may be the first.
    pub phases: u64,
    /// Whether the memory has frames. Without, what is reserved is not known, nor what is free.
    pub is_reserved: bool,
}

/// The whole file.
pub fn draw(panels: &[Panel<'_>]) -> String {
    let height = PANEL_HEIGHT * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", PANEL_HEIGHT * number as f64);
        panel.draw(&mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

impl Panel<'_> {
    fn draw(&self, out: &mut String) {
        let time = Axis::counts(self.timeline.events, LEFT, RIGHT);
        let most = [&self.timeline.reserved, &self.timeline.requested]
            .into_iter()
            .flatten()
            .map(|point| point.1)
            .max();
        let bytes = Axis::bytes(most.unwrap_or(0), BOTTOM, TOP);
        self.title(out);
        self.grid(out, &time, &bytes);
        self.phases(out, &time);
        let area = path(&self.timeline.requested, &time, &bytes);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT:.1} {BOTTOM:.1}L{}V{BOTTOM:.1}Z\" fill=\"{REQUESTED}\" fill-opacity=\"0.18\"/>",
            &area[1..]
        );
        let curves = [
            (&self.timeline.requested, REQUESTED, 1.2),
            (&self.timeline.free, FREE, 1.2),
            (&self.timeline.reserved, RESERVED, 2.0),
        ];
        for (points, colour, width) in curves.into_iter().take(if self.is_reserved { 3 } else { 1 }) {
            let _ = writeln!(
                out,
                "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>",
                path(points, &time, &bytes)
            );
        }
    }

    fn title(&self, out: &mut String) {
        let outcome = &self.record.outcome;
        let mut name: String = self.record.trace.chars().take(NAME_CHARS).collect();
        if name.len() < self.record.trace.len() {
            name.push('…');
        }
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"32\" font-size=\"19\" font-weight=\"600\">{}</text>",
            escaped(&name)
        );
        let (requested, failures) = (human(outcome.peak_requested_bytes), grouped(outcome.failures));
        let numbers = if self.is_reserved {
            format!(
                "{requested} requested, {} reserved: {} efficiency; {} creates, {} steals, {failures} failed allocations",
                human(outcome.peak_reserved_bytes),
                percent(outcome.efficiency()),
                grouped(outcome.creates),
                grouped(outcome.steals),
            )
        } else {
            format!("{requested} requested; {failures} failed allocations")
        };
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"54\">{}</text>", escaped(&numbers));
        let _ = writeln!(
            out,
            "<text x=\"{RIGHT}\" y=\"32\" text-anchor=\"end\" fill=\"{PALE}\">{}</text>",
            escaped(&self.record.memory)
        );
        let entries: &[(&str, &str, f64)] = if self.is_reserved {
            &[
                ("reserved", RESERVED, 0.0),
                ("requested", REQUESTED, 104.0),
                ("free inside committed frames", FREE, 212.0),
            ]
        } else {
            &[("requested", REQUESTED, 0.0)]
        };
        for &(name, colour, x) in entries {
            let x = LEFT + x;
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"70\" width=\"22\" height=\"5\" rx=\"2\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"77\">{name}</text>",
                x + 29.0
            );
        }
        if self.phases > 0 {
            let drawn = if self.draws_phases() { ", marked by vertical lines" } else { "" };
            let phases = if self.phases == 1 { "phase" } else { "phases" };
            let _ = writeln!(
                out,
                "<text x=\"{RIGHT}\" y=\"77\" text-anchor=\"end\" fill=\"{PALE}\">{} {phases}{drawn}</text>",
                grouped(self.phases)
            );
        }
    }

    fn grid(&self, out: &mut String, time: &Axis, bytes: &Axis) {
        for (value, label) in bytes.ticks() {
            let y = bytes.at(value);
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT:.1} {y:.1}H{RIGHT:.1}\" stroke=\"{GRID}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 8.0,
                y + 4.5
            );
        }
        for (value, label) in time.ticks() {
            let x = time.at(value);
            let _ = writeln!(
                out,
                "<path d=\"M{x:.1} {BOTTOM:.1}v6\" stroke=\"{PALE}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                BOTTOM + 22.0
            );
        }
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT:.1} {BOTTOM:.1}H{RIGHT:.1}\" stroke=\"{PALE}\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"{PALE}\">{}</text>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{PALE}\">events</text>",
            LEFT - 8.0,
            TOP - 14.0,
            bytes.unit(),
            (LEFT + RIGHT) / 2.0,
            BOTTOM + 44.0
        );
    }

    fn draws_phases(&self) -> bool {
        self.phases <= MOST_MARKS as u64
    }

    fn phases(&self, out: &mut String, time: &Axis) {
        if !self.draws_phases() {
            return;
        }
        for mark in self.marks {
            let _ = writeln!(
                out,
                "<path d=\"M{:.1} {TOP:.1}V{BOTTOM:.1}\" stroke=\"{MARK}\" stroke-dasharray=\"2 4\"><title>{}</title></path>",
                time.at(mark.event as f64),
                escaped(&mark.text)
            );
        }
    }
}

/// A curve through its points.
fn path(points: &[Point], time: &Axis, bytes: &Axis) -> String {
    let mut out = String::with_capacity(points.len() * 12 + 16);
    let mut pen = 'M';
    for &(event, value) in points {
        let _ = write!(out, "{pen}{:.1} {:.1}", time.at(event as f64), bytes.at(value as f64));
        pen = 'L';
    }
    if out.is_empty() { format!("M{LEFT:.1} {BOTTOM:.1}") } else { out }
}

/// Text that XML 1.0 can hold.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
