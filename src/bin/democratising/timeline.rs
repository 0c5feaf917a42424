//! What was reserved, requested and free over time, in few points that keep every peak.

#![forbid(unsafe_code)]

/// Windows per drawing; each leaves at most its least and its greatest value.
const WINDOWS: u64 = 600;

/// One moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    pub reserved_bytes: u64,
    pub requested_bytes: u64,
    /// Reserved, but in no block.
    pub free_bytes: u64,
}

/// A point of a curve: after so many events, so many bytes.
pub type Point = (u64, u64);

/// Three curves over the events of one trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    pub events: u64,
    pub reserved: Vec<Point>,
    pub requested: Vec<Point>,
    pub free: Vec<Point>,
}

/// Collects samples into a [`Timeline`].
pub struct Recorder {
    events: u64,
    window_events: u64,
    curves: [Curve; 3],
}

impl Recorder {
    /// For a trace of `events` events.
    pub fn new(events: u64) -> Recorder {
        // Every event leaves one point while two for each window are as many.
        let window_events = if events <= 2 * WINDOWS { 1 } else { events.div_ceil(WINDOWS) };
        Recorder { events, window_events, curves: Default::default() }
    }

    /// Takes what was true after the first `event` events; `event` never falls.
    pub fn record(&mut self, event: u64, sample: Sample) {
        let values = [sample.reserved_bytes, sample.requested_bytes, sample.free_bytes];
        for (curve, value) in self.curves.iter_mut().zip(values) {
            curve.record(event / self.window_events, (event, value));
        }
    }

    /// The curves, each with its last point.
    pub fn finish(self) -> Timeline {
        let [reserved, requested, free] = self.curves.map(Curve::finish);
        Timeline { events: self.events, reserved, requested, free }
    }
}

/// The least and the greatest point of every window, in the order they came.
#[derive(Default)]
struct Curve {
    points: Vec<Point>,
    window: Option<Window>,
}

struct Window {
    number: u64,
    least: Point,
    greatest: Point,
    last: Point,
}

impl Curve {
    fn record(&mut self, number: u64, point: Point) {
        match &mut self.window {
            Some(window) if window.number == number => {
                if point.1 < window.least.1 {
                    window.least = point;
                }
                if point.1 > window.greatest.1 {
                    window.greatest = point;
                }
                window.last = point;
            }
            _ => {
                self.close();
                self.window = Some(Window { number, least: point, greatest: point, last: point });
            }
        }
    }

    fn close(&mut self) -> Option<Point> {
        let window = self.window.take()?;
        let (first, second) = if window.least.0 < window.greatest.0 {
            (window.least, window.greatest)
        } else {
            (window.greatest, window.least)
        };
        self.points.push(first);
        if second != first {
            self.points.push(second);
        }
        Some(window.last)
    }

    fn finish(mut self) -> Vec<Point> {
        if let Some(last) = self.close()
            && self.points.last() != Some(&last)
        {
            self.points.push(last);
        }
        self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(values: &[u64]) -> Vec<Point> {
        let mut recorder = Recorder::new(values.len() as u64);
        for (event, &value) in (1..).zip(values) {
            recorder.record(event, Sample { requested_bytes: value, ..Sample::default() });
        }
        recorder.finish().requested
    }

    #[test]
    fn a_short_trace_keeps_every_point() {
        let points = requested(&(0..1000).map(|i| i * 7 % 13).collect::<Vec<u64>>());
        assert_eq!(points.len(), 1000);
        assert_eq!(points[5], (6, 35 % 13));
    }

    #[test]
    fn a_long_trace_keeps_its_peaks_troughs_and_last_point_in_few_points() {
        let mut values: Vec<u64> = (0..1_000_000u64).map(|i| 500 + i * 7919 % 101).collect();
        values[123_456] = 9_999;
        values[654_321] = 1;
        values[999_999] = 550;
        let points = requested(&values);
        assert!(points.len() <= 2 * WINDOWS as usize + 3, "{}", points.len());
        assert!(points.contains(&(123_457, 9_999)) && points.contains(&(654_322, 1)));
        assert_eq!(points.last(), Some(&(1_000_000, 550)));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "time only goes on");
    }
}
