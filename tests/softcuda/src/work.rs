//! Streams and events: what is queued, what has run, and running it.

use crate::state::{Answer, Code, INVALID_HANDLE, State, null_stream};
use std::collections::VecDeque;

/// Something put into a stream.
pub enum Work {
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// From memory that was read at the call.
    Write {
        to: u64,
        bytes: Vec<u8>,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        times: usize,
    },
    Record {
        event: u64,
        turn: u64,
    },
    Wait {
        event: u64,
        turn: u64,
    },
    Free {
        at: u64,
    },
}

pub struct Stream {
    pub device: usize,
    /// Whether it and the null stream wait for each other.
    pub blocking: bool,
    pub queue: VecDeque<Work>,
    /// Nobody may name it any more; what is in it still runs.
    pub destroyed: bool,
    /// What is put into it goes into a graph, and does not run.
    pub capture: Option<Capture>,
}

/// The capture of a stream.
#[derive(Clone, Copy)]
pub struct Capture {
    /// As `CUstreamCaptureMode` counts: global, of the thread, relaxed.
    pub mode: i32,
    /// Something was done that breaks it off.
    pub invalid: bool,
}

impl Stream {
    pub fn new(device: usize, blocking: bool) -> Stream {
        Stream { device, blocking, queue: VecDeque::new(), destroyed: false, capture: None }
    }
}

#[derive(Default)]
pub struct Event {
    /// How often it was recorded, and the last record that has run.
    pub issued: u64,
    pub done: u64,
    pub destroyed: bool,
    /// Recorded in a capture last: it stands for a place in a graph, and nobody can wait for it.
    pub captured: bool,
    /// Made by the driver itself, for the null stream.
    pub hidden: bool,
}

impl Work {
    /// The bytes that it reads or writes.
    fn touches(&self) -> [Option<(u64, u64)>; 2] {
        match *self {
            Work::Copy { to, from, bytes } => [Some((to, bytes as u64)), Some((from, bytes as u64))],
            Work::Write { to, ref bytes } => [Some((to, bytes.len() as u64)), None],
            Work::Fill { to, ref pattern, times } => [Some((to, (pattern.len() * times) as u64)), None],
            _ => [None, None],
        }
    }
}

impl State {
    /// The stream of a handle: 0, 1 and 2 are the null stream of the current device.
    pub fn stream(&self, handle: u64) -> Result<u64, Code> {
        if handle <= 2 {
            return Ok(null_stream(self.current()?));
        }
        if self.streams.get(&handle).is_some_and(|stream| !stream.destroyed) {
            Ok(handle)
        } else {
            Err(INVALID_HANDLE)
        }
    }

    pub fn is_captured(&self, stream: u64) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.capture.is_some())
    }

    /// Breaks off the captures that this is forbidden beside.
    pub fn invalidate(&mut self, forbidden: impl Fn(u64, &Capture) -> bool) -> bool {
        let mut any = false;
        for (id, stream) in &mut self.streams {
            if let Some(capture) = stream.capture.as_mut().filter(|capture| forbidden(*id, capture)) {
                capture.invalid = true;
                any = true;
            }
        }
        any
    }

    pub fn put(&mut self, handle: u64, work: Work) -> Answer {
        let stream = self.stream(handle)?;
        if self.is_captured(stream) {
            if let Work::Record { event, .. } = work
                && let Some(event) = self.events.get_mut(&event)
            {
                event.captured = true;
            }
            return Ok(());
        }
        if let Work::Record { event, .. } = work
            && let Some(event) = self.events.get_mut(&event)
        {
            event.captured = false;
        }
        self.order_with_null(stream);
        self.queue(stream, work);
        if self.settings.lazy { Ok(()) } else { self.drain(stream) }
    }

    fn queue(&mut self, stream: u64, work: Work) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.queue.push_back(work);
        }
    }

    /// The null stream runs behind everything before it in blocking streams, and they behind it.
    fn order_with_null(&mut self, stream: u64) {
        let Some(this) = self.streams.get(&stream) else { return };
        let (device, blocking) = (this.device, this.blocking);
        let null = null_stream(device);
        let others: Vec<u64> = if stream == null {
            let others = self.streams.iter().filter(|(id, other)| {
                **id != null && other.device == device && other.blocking && !other.queue.is_empty()
            });
            others.map(|(id, _)| *id).collect()
        } else if blocking && self.streams.get(&null).is_some_and(|null| !null.queue.is_empty()) {
            vec![null]
        } else {
            Vec::new()
        };
        for other in others {
            let event = self.id();
            self.events.insert(event, Event { issued: 1, hidden: true, ..Event::default() });
            self.queue(other, Work::Record { event, turn: 1 });
            self.queue(stream, Work::Wait { event, turn: 1 });
        }
    }

    /// Runs everything in a stream, and what that waits for.
    pub fn drain(&mut self, stream: u64) -> Answer {
        while let Some(work) = self.streams.get_mut(&stream).and_then(|stream| stream.queue.pop_front()) {
            self.run(work)?;
        }
        self.forget_ended(stream);
        Ok(())
    }

    /// Forgets a stream that is destroyed and has run to its end.
    pub fn forget_ended(&mut self, id: u64) {
        if self.streams.get(&id).is_some_and(|stream| stream.destroyed && stream.queue.is_empty()) {
            self.streams.remove(&id);
        }
    }

    fn run(&mut self, work: Work) -> Answer {
        for (at, bytes) in work.touches().into_iter().flatten() {
            let pinned = self
                .pinned
                .range(..=at)
                .next_back()
                .is_some_and(|(start, (len, _))| at < start + *len as u64);
            if !pinned && !self.can_touch(at, bytes as usize) && self.is_device_address(at) {
                self.violations += 1;
                return Ok(());
            }
        }
        match work {
            Work::Copy { to, from, bytes } => {
                // SAFETY: 1. Device memory was seen to be there; host memory is the caller's promise, as in the real driver.
                unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) }
            }
            Work::Write { to, bytes } => {
                // SAFETY: 1. As above.
                unsafe { std::ptr::copy(bytes.as_ptr(), to as *mut u8, bytes.len()) }
            }
            Work::Fill { to, pattern, times } if pattern.len() == 1 => {
                // SAFETY: 1. As above.
                unsafe { std::ptr::write_bytes(to as *mut u8, pattern[0], times) }
            }
            Work::Fill { to, pattern, times } => {
                for i in 0..times {
                    // SAFETY: 1. As above.
                    unsafe {
                        std::ptr::copy(
                            pattern.as_ptr(),
                            (to as *mut u8).add(i * pattern.len()),
                            pattern.len(),
                        )
                    }
                }
            }
            Work::Record { event, turn } => self.finish(event, turn),
            Work::Wait { event, turn } => self.run_until(event, turn)?,
            Work::Free { at } => self.free(at)?,
        }
        Ok(())
    }

    fn finish(&mut self, event: u64, turn: u64) {
        if let Some(event) = self.events.get_mut(&event) {
            event.done = event.done.max(turn);
        }
    }

    /// Runs the stream that an event was recorded in, up to that record.
    pub fn run_until(&mut self, event: u64, turn: u64) -> Answer {
        let is_due =
            |work: &Work| matches!(work, Work::Record { event: e, turn: t } if *e == event && *t >= turn);
        while self.events.get(&event).is_some_and(|event| event.done < turn) {
            let holder =
                self.streams.iter().find(|(_, stream)| stream.queue.iter().any(is_due)).map(|(id, _)| *id);
            let Some(holder) = holder else { return Ok(()) };
            let Some(work) = self.streams.get_mut(&holder).and_then(|stream| stream.queue.pop_front()) else {
                return Ok(());
            };
            self.run(work)?;
            self.forget_ended(holder);
        }
        self.sweep(event);
        Ok(())
    }

    /// Forgets an event that is destroyed and in no queue.
    pub fn sweep(&mut self, id: u64) {
        let Some(event) = self.events.get(&id) else { return };
        if !event.destroyed && !event.hidden {
            return;
        }
        let is_in = |work: &Work| matches!(work, Work::Record { event, .. } | Work::Wait { event, .. } if *event == id);
        if !self.streams.values().any(|stream| stream.queue.iter().any(is_in)) {
            self.events.remove(&id);
        }
    }

    /// Counts memory that goes away under work that is still queued.
    pub fn note_violations(&mut self, at: u64, bytes: usize) {
        let end = at + bytes as u64;
        let touched = self.streams.values().flat_map(|stream| &stream.queue).flat_map(|work| work.touches());
        let found = touched.flatten().filter(|&(start, len)| start < end && at < start + len).count();
        self.violations += found as u64;
    }

    pub fn drain_device(&mut self, device: usize) -> Answer {
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, stream)| stream.device == device).map(|(id, _)| *id).collect();
        streams.into_iter().try_for_each(|stream| self.drain(stream))
    }
}
