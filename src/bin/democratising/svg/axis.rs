//! A scale with round ticks.

#![forbid(unsafe_code)]

use crate::units::grouped;

/// A linear scale from 0 to the end of a drawing's side.
pub struct Axis {
    end: f64,
    step: f64,
    /// What one label unit is worth: 1, or the bytes of a unit.
    worth: f64,
    unit: &'static str,
    from: f64,
    to: f64,
}

impl Axis {
    /// From 0 to exactly `most`, drawn between two coordinates.
    pub fn counts(most: u64, from: f64, to: f64) -> Axis {
        let end = most.max(1) as f64;
        let step = round_step(end, 10.0).max(1.0);
        Axis { end, step, worth: 1.0, unit: "", from, to }
    }

    /// From 0 to the first round number of bytes at or above `most`.
    pub fn bytes(most: u64, from: f64, to: f64) -> Axis {
        let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes")];
        // A unit is taken from two of it on, so that few labels need a point.
        let (worth, unit) = units.into_iter().find(|(bytes, _)| most >= 2 * bytes).unwrap_or((1, "bytes"));
        let most = most.max(1) as f64 / worth as f64;
        let step = round_step(most, 6.0);
        let end = (most / step).ceil() * step;
        Axis { end, step, worth: worth as f64, unit, from, to }
    }

    /// What the labels count.
    pub fn unit(&self) -> &'static str {
        self.unit
    }

    /// The coordinate of a value in events or bytes.
    pub fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.worth / self.end).clamp(0.0, 1.0)
    }

    /// Every tick: its value in events or bytes, and its label.
    pub fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        // A tick that is off the end by a rounding error still counts.
        let count = (self.end / self.step + 1e-9).floor() as u64;
        (0..=count).map(|number| {
            let value = number as f64 * self.step;
            let label = if self.step < 1.0 { format!("{value:.1}") } else { grouped(value.round() as u64) };
            (value * self.worth, label)
        })
    }
}

/// The least of 1, 2 and 5 times a power of ten that leaves at most `most_ticks` steps; from tenths on.
fn round_step(end: f64, most_ticks: f64) -> f64 {
    let mut decade = 0.1;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if end / (decade * factor) <= most_ticks {
                return decade * factor;
            }
        }
        decade *= 10.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks().map(|(_, label)| label).collect()
    }

    #[test]
    fn bytes_have_round_ticks_in_a_fitting_unit() {
        let axis = Axis::bytes(5_762_132_992, 300.0, 100.0);
        assert_eq!((axis.unit(), labels(&axis).join(" ")), ("GiB", "0 1 2 3 4 5 6".into()));
        assert_eq!((axis.at(0.0), axis.at((6u64 << 30) as f64)), (300.0, 100.0));
        let axis = Axis::bytes(1_700 << 20, 0.0, 1.0);
        assert_eq!((axis.unit(), labels(&axis).join(" ")), ("MiB", "0 500 1,000 1,500 2,000".into()));
        let axis = Axis::bytes(2_400, 0.0, 1.0);
        assert_eq!((axis.unit(), labels(&axis).join(" ")), ("KiB", "0.0 0.5 1.0 1.5 2.0 2.5".into()));
    }

    #[test]
    fn events_end_where_the_trace_ends() {
        let axis = Axis::counts(17_198, 100.0, 200.0);
        assert_eq!(labels(&axis).join(" "), "0 2,000 4,000 6,000 8,000 10,000 12,000 14,000 16,000");
        assert_eq!(axis.at(17_198.0), 200.0);
    }

    #[test]
    fn nothing_and_the_largest_number_have_an_axis_too() {
        for most in [0, 1, 2, u64::MAX] {
            for axis in [Axis::bytes(most, 0.0, 1.0), Axis::counts(most, 0.0, 1.0)] {
                let ticks = axis.ticks().count();
                assert!((2..=11).contains(&ticks), "{most}: {ticks}");
            }
        }
    }
}
