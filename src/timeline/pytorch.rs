//! As PyTorch's memory snapshot, for `python -m torch.cuda._memory_viz` and its page.
//!
//! 1. A CUDA device has its own number there; the host's pool and heap get the two behind the largest.
//! 2. A segment is a run of frames; blocks of the heap are each a segment of their own. What the viewer calls the size of an
//!    allocation is what was asked for; that of a block in a segment is what is in it.
//! 3. The first frame of each stack is the scope.

#![forbid(unsafe_code)]

use super::pickle::Pickle;
use super::segments::{Segments, bytes_of};
use super::{Action, Event, NO_STACK, Place, Timeline};
use std::collections::BTreeMap;
use std::format;
use std::io::{self, BufWriter, Write};
use std::vec::Vec;

impl Timeline {
    /// Writes a memory snapshot as `torch.cuda.memory._dump_snapshot` does, for <https://pytorch.org/memory_viz>,
    /// `python -m torch.cuda._memory_viz`, and `democratising replay`. The host's pool is shown as the device behind the last, the heap
    /// as the next.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_pytorch(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = BufWriter::new(out);
        let places = self.places();
        let cuda = places
            .iter()
            .filter_map(|place| if let Place::Cuda(at) = place { Some(*at as u64 + 1) } else { None });
        let devices = cuda.max().unwrap_or(0);
        let of_device = |device: u64| match device.checked_sub(devices) {
            None => Place::Cuda(device as u8),
            Some(0) => Place::Pool,
            Some(_) => Place::Heap,
        };
        let all: Vec<Place> = (0..devices + 2).map(of_device).collect();
        let mut ends = Vec::new();
        let mut pickle = Pickle::begin(&mut out)?;
        pickle.dict(|root| {
            root.text("device_traces")?;
            root.list(|traces| {
                all.iter().try_for_each(|&place| {
                    traces.list(|trace| {
                        ends.push(self.trace(place, trace)?);
                        Ok(())
                    })
                })
            })?;
            root.text("segments")?;
            root.list(|segments| {
                ends.iter()
                    .zip(&all)
                    .zip(0..)
                    .try_for_each(|((end, &place), device)| end.write(self, place, device, segments))
            })?;
            root.text("allocator_settings")?;
            root.dict(|settings| settings.text_at("allocator", "democratising"))?;
            root.text("external_annotations")?;
            root.list(|_| Ok(()))
        })?;
        pickle.end()?;
        out.flush()
    }

    /// Writes what happened in one place; returns what is there at the end.
    fn trace<W: Write>(&self, place: Place, trace: &mut Pickle<'_, W>) -> io::Result<End> {
        let mut end = End::default();
        if let Some(bytes) = self.reserved_before(place) {
            end.segments.reserve(bytes);
        }
        for event in self.before.iter().filter(|event| event.place == place) {
            end.segments.take(event.address, event.more);
            end.blocks.insert(event.address, *event);
        }
        for event in self.events.iter().filter(|event| event.place == place) {
            match event.action {
                Action::Allocate => {
                    for run in end.took(place, event) {
                        self.entry(
                            trace,
                            event,
                            if place == Place::Heap { "segment_alloc" } else { "segment_map" },
                            run,
                        )?;
                    }
                    self.give_up(trace, event, &mut end)?;
                    self.entry(trace, event, "alloc", (event.address, event.bytes))?;
                    end.blocks.insert(event.address, *event);
                }
                Action::Free => {
                    self.entry(trace, event, "free_requested", (event.address, event.bytes))?;
                    self.entry(trace, event, "free_completed", (event.address, event.bytes))?;
                    end.blocks.remove(&event.address);
                    if place == Place::Heap {
                        self.entry(trace, event, "segment_free", (event.address, event.more))?;
                    } else {
                        end.segments.give(event.address, event.more);
                        self.give_up(trace, event, &mut end)?;
                    }
                }
                Action::Reserve => {
                    end.segments.reserve(event.bytes);
                    self.give_up(trace, event, &mut end)?;
                }
                Action::OutOfMemory => self.entry(trace, event, "oom", (0, event.bytes))?,
                Action::Collect | Action::Mark => {}
            }
        }
        Ok(end)
    }

    fn give_up<W: Write>(&self, trace: &mut Pickle<'_, W>, event: &Event, end: &mut End) -> io::Result<()> {
        let gone = end.segments.give_up();
        gone.iter().try_for_each(|run| self.entry(trace, event, "segment_unmap", bytes_of(run)))
    }

    /// One entry of a history.
    fn entry<W: Write>(
        &self,
        trace: &mut Pickle<'_, W>,
        event: &Event,
        action: &str,
        (address, bytes): (u64, u64),
    ) -> io::Result<()> {
        trace.dict(|entry| {
            entry.text_at("action", action)?;
            if action == "oom" {
                entry.number_at("device_free", 0)?;
            } else {
                entry.number_at("addr", address)?;
            }
            entry.number_at("size", bytes)?;
            entry.number_at("stream", event.stream)?;
            entry.number_at("time_us", (self.began_unix_ns.saturating_add(event.time_ns)) / 1000)?;
            self.frames(entry, event)
        })
    }

    fn frames<W: Write>(&self, entry: &mut Pickle<'_, W>, event: &Event) -> io::Result<()> {
        entry.text("frames")?;
        entry.list(|frames| {
            let mut frame = |name: &str, file: &str, line: u32| {
                frames.dict(|frame| {
                    frame.text_at("name", name)?;
                    frame.text_at("filename", file)?;
                    frame.number_at("line", line as u64)
                })
            };
            frame(
                &format!("scope {}", self.name(event.name)),
                &format!("thread {}", self.thread(event.thread)),
                0,
            )?;
            if event.stack == NO_STACK {
                return Ok(());
            }
            self.stack(event.stack)
                .iter()
                .try_for_each(|caller| frame(&caller.function, &caller.file, caller.line))
        })
    }
}

/// What is in a place.
#[derive(Default)]
struct End {
    segments: Segments,
    blocks: BTreeMap<u64, Event>,
}

impl End {
    /// A block was taken: the segments that came with it, as address and bytes.
    fn took(&mut self, place: Place, event: &Event) -> Vec<(u64, u64)> {
        if place == Place::Heap {
            return std::vec![(event.address, event.more)];
        }
        self.segments.take(event.address, event.more).iter().map(bytes_of).collect()
    }

    fn write<W: Write>(
        &self,
        timeline: &Timeline,
        place: Place,
        device: u64,
        segments: &mut Pickle<'_, W>,
    ) -> io::Result<()> {
        let sum = |bytes: &mut dyn Iterator<Item = u64>| bytes.fold(0, u64::saturating_add);
        let segment = |segments: &mut Pickle<'_, W>, (address, bytes): (u64, u64), blocks: &[&Event]| {
            let end = address.saturating_add(bytes);
            let held = sum(&mut blocks.iter().map(|event| event.more.min(end - event.address)));
            segments.dict(|segment| {
                segment.number_at("device", device)?;
                segment.number_at("address", address)?;
                segment.number_at("total_size", bytes)?;
                segment.number_at("allocated_size", held)?;
                segment.number_at("active_size", held)?;
                segment.number_at("requested_size", sum(&mut blocks.iter().map(|event| event.bytes)))?;
                segment.number_at("stream", blocks.first().map_or(0, |event| event.stream))?;
                segment.text_at("segment_type", "large")?;
                segment.text("segment_pool_id")?;
                segment.list(|id| id.number(0).and_then(|()| id.number(0)))?;
                segment.text("is_expandable")?;
                segment.truth(place != Place::Heap)?;
                segment.text("frames")?;
                segment.list(|_| Ok(()))?;
                segment.text("blocks")?;
                segment.list(|list| timeline.blocks(list, blocks, address, end))
            })
        };
        if place == Place::Heap {
            let mut events = self.blocks.values();
            return events.try_for_each(|event| segment(segments, (event.address, event.more), &[event]));
        }
        self.segments.runs().iter().map(bytes_of).try_for_each(|(address, bytes)| {
            let blocks = self.blocks.range(address..address.saturating_add(bytes));
            let blocks: Vec<&Event> = blocks.map(|(_, event)| event).collect();
            segment(segments, (address, bytes), &blocks)
        })
    }
}

impl Timeline {
    /// The blocks of a segment, and what is free between them, without a gap.
    fn blocks<W: Write>(
        &self,
        list: &mut Pickle<'_, W>,
        blocks: &[&Event],
        start: u64,
        end: u64,
    ) -> io::Result<()> {
        let mut at = start;
        let mut block = |from: u64, to: u64, held: Option<&Event>| {
            if from >= to {
                return Ok(());
            }
            list.dict(|block| {
                block.number_at("address", from)?;
                block.number_at("size", to - from)?;
                block.number_at("requested_size", held.map_or(0, |event| event.bytes))?;
                block.text_at("state", if held.is_some() { "active_allocated" } else { "inactive" })?;
                match held {
                    Some(event) => self.frames(block, event),
                    None => block.text("frames").and_then(|()| block.list(|_| Ok(()))),
                }
            })
        };
        for event in blocks {
            block(at, event.address, None)?;
            let until = event.address.saturating_add(event.more).min(end);
            block(event.address.max(at), until, Some(event))?;
            at = at.max(until);
        }
        block(at, end, None)
    }
}
