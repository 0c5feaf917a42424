//! The streams of one device, and the waits between them: the device's [`Handover`] with the driver's events.
//!
//! Locks: a cache's, then the pool's, then this one. Nothing waits for the device while this one is held. A fork takes none of them: the
//! thread that held one may not be there to let it go.

#![forbid(unsafe_code)]

use super::context::Context;
use super::driver::{is_fork, not_forked};
use super::result::{INVALID_HANDLE, Refused};
use super::sys::Handle;
use crate::device::handover::{Handover, MOST_STREAMS, Slot, Slots};
use crate::error::{DemoError, DeviceId, OutOfMemory, Result};
use crate::space::MappedTables;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{HostLock, Lock};
use core::ops::Range;
use std::sync::Arc;
use std::vec::Vec;

/// The unit in which frees are told apart, whatever the device's frames are.
const FRAME_SHIFT: u32 = 21;

/// The order of one device.
pub(super) struct Order {
    context: Arc<Context>,
    state: Lock<HostLock, State>,
    /// How many streams there ever were: with one nobody waits.
    entered: AtomicUsize,
}

struct State {
    handover: Handover<MappedTables>,
    /// The stream of each slot, and the event that is recorded behind its frees.
    streams: [Known; MOST_STREAMS],
}

#[derive(Clone, Copy, Default)]
struct Known {
    stream: Handle,
    /// It ended before the driver said what its frees are behind: nobody can wait for them.
    is_gone: bool,
    event: Option<Handle>,
}

/// The frames that a block lies in.
fn frames(at: u64, bytes: u64) -> Range<u64> {
    at >> FRAME_SHIFT..((at + bytes.max(1) - 1) >> FRAME_SHIFT) + 1
}

impl Order {
    /// For a device with so many bytes of addresses.
    pub(super) fn new(context: Arc<Context>, bytes: u64) -> Result<Order> {
        let lines = (bytes >> FRAME_SHIFT).clamp(1 << 10, 1 << 24) as usize;
        let device = DeviceId::Host;
        let handover = Handover::new(&mut MappedTables, lines).map_err(|why| OutOfMemory {
            device,
            requested_bytes: why.needed_bytes,
            ..OutOfMemory::default()
        })?;
        let streams = [Known::default(); MOST_STREAMS];
        Ok(Order { context, state: Lock::new(State { handover, streams }), entered: AtomicUsize::new(0) })
    }

    /// A stream begins. Where streams that ended have all the slots there are, one of them is waited for.
    pub(super) fn enter(&self, stream: Handle) -> Result<Slot> {
        self.poll();
        loop {
            let mut state = self.state.lock();
            if let Some(slot) = state.handover.enter() {
                let known = &mut state.streams[slot.index()];
                (known.stream, known.is_gone) = (stream, false);
                self.entered.fetch_add(1, Relaxed);
                return Ok(slot);
            }
            let next = state.handover.next_to_pass().ok_or(DemoError::DeviceUnavailable {
                device: DeviceId::Cuda(self.context.ordinal()),
                problem: "128 streams of it are in use; drop some, or let work share them",
            })?;
            drop(state);
            // Its slot may be another thread's by then, and the next one is waited for.
            self.wait_for(|handover| handover.all_under_way().only(next))
                .map_err(|refused| refused.on(self.context.ordinal()))?;
        }
    }

    /// A stream ends: an event behind its frees stays, since its stream cannot be asked any more. Where the driver records none, the stream
    /// itself is waited for. Whether its handle is needed no more: of one that cannot be waited for either its end is not known.
    pub(super) fn leave(&self, slot: Slot) -> bool {
        if is_fork() {
            return true;
        }
        let mut state = self.state.lock();
        let mut record = || state.record(&self.context, slot);
        let is_recorded = record().is_ok() || record().is_ok();
        let mut is_known = is_recorded || !state.handover.needs_event(slot);
        if !is_known {
            let (stream, tick) = (state.streams[slot.index()].stream, state.handover.tick());
            // Nobody frees on it any more, so what is waited for here is all of it.
            drop(state);
            is_known = self.context.synchronize_twice(stream).is_ok();
            state = self.state.lock();
            if is_known {
                state.handover.passed(slot, tick);
            }
        }
        state.handover.leave(slot);
        is_known
    }

    /// The handle of a stream that ended is somebody else's, and names nothing from now on.
    pub(super) fn forget(&self, slot: Slot) {
        self.state.lock().streams[slot.index()].is_gone = true;
    }

    /// Blocks at these places are about to become free, after work on them was queued on these streams.
    #[inline]
    pub(super) fn freed(&self, on: Slots, blocks: impl Iterator<Item = (u64, u64)>) {
        let mut state = self.state.lock();
        for (at, bytes) in blocks {
            state.handover.freed(on, frames(at, bytes));
        }
    }

    /// `by` waits for whoever freed what it is about to use.
    #[inline]
    pub(super) fn reuse(&self, by: Slot, at: u64, bytes: u64) -> Result<(), Refused> {
        // Relaxed: a stream that frees entered before, under the lock that was taken to find the block.
        if self.entered.load(Relaxed) <= 1 {
            return Ok(());
        }
        self.reuse_among_several(by, at, bytes)
    }

    fn reuse_among_several(&self, by: Slot, at: u64, bytes: u64) -> Result<(), Refused> {
        let mut state = self.state.lock();
        let owed = state.handover.owed(by, frames(at, bytes));
        let stream = state.streams[by.index()].stream;
        for slot in owed.iter() {
            let event = state.event_behind(&self.context, slot)?;
            self.context.wait(stream, event)?;
            state.handover.waits(by, slot);
        }
        Ok(())
    }

    /// Whether nobody is at work any more in what was freed there. Does not wait.
    pub(super) fn at_rest(&self, at: u64, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let frames = frames(at, bytes);
        let under_way = state.handover.under_way(frames.clone());
        for slot in under_way.iter() {
            if !state.ask(&self.context, slot) {
                return false;
            }
        }
        if under_way.is_empty() { true } else { state.settled(frames) }
    }

    /// Waits until nobody is at work any more in what was freed there.
    pub(super) fn wait(&self, at: u64, bytes: u64) -> Result<(), Refused> {
        let frames = frames(at, bytes);
        self.wait_for(|handover| handover.under_way(frames.clone()))
    }

    /// Waits for everything that was freed so far.
    pub(super) fn wait_all(&self) -> Result<(), Refused> {
        self.wait_for(|handover| handover.all_under_way())
    }

    /// Once more where a call is refused: memory that could not be waited for cannot be given back.
    fn wait_for(&self, whom: impl Fn(&Handover<MappedTables>) -> Slots) -> Result<(), Refused> {
        self.try_wait_for(&whom).or_else(|_| self.try_wait_for(&whom))
    }

    fn try_wait_for(&self, whom: &impl Fn(&Handover<MappedTables>) -> Slots) -> Result<(), Refused> {
        not_forked()?;
        let mut events: Vec<(Slot, u64, Handle)> = Vec::new();
        {
            let mut state = self.state.lock();
            for slot in whom(&state.handover).iter() {
                let event = state.event_behind(&self.context, slot)?;
                events.push((slot, state.handover.covered(slot), event));
            }
        }
        // Another thread may record an event again meanwhile: waiting for that is waiting for more.
        for (slot, tick, event) in events {
            self.context.wait_here(event)?;
            self.state.lock().handover.passed(slot, tick);
        }
        Ok(())
    }

    /// Looks which events are over.
    fn poll(&self) {
        let mut state = self.state.lock();
        for slot in state.handover.all_under_way().iter() {
            let known = state.streams[slot.index()];
            if let (Some(event), false) = (known.event, state.handover.needs_event(slot))
                && self.context.is_over(event) == Ok(true)
            {
                let tick = state.handover.covered(slot);
                state.handover.passed(slot, tick);
            }
        }
    }

    /// `by` waits for everything that is queued on `on` now: for use of a live block, not of a freed one.
    pub(super) fn follow(&self, by: Slot, on: Slot) -> Result<(), Refused> {
        if by == on {
            return Ok(());
        }
        not_forked()?;
        let mut state = self.state.lock();
        let event = state.record(&self.context, on)?;
        self.context.wait(state.streams[by.index()].stream, event)?;
        state.handover.waits(by, on);
        Ok(())
    }

    /// An event behind everything that is queued on `slot` now, for another device's stream to wait for.
    pub(super) fn mark(&self, slot: Slot) -> Result<Handle, Refused> {
        not_forked()?;
        self.state.lock().record(&self.context, slot)
    }

    /// What is queued on `slot` from now on waits for another device's event.
    pub(super) fn await_foreign(&self, slot: Slot, event: Handle) -> Result<(), Refused> {
        not_forked()?;
        let stream = self.state.lock().streams[slot.index()].stream;
        self.context.wait(stream, event)
    }
}

impl State {
    /// The event behind the slot's frees, recorded now if some came after the last.
    fn event_behind(&mut self, context: &Context, slot: Slot) -> Result<Handle, Refused> {
        match self.streams[slot.index()].event {
            Some(event) if !self.handover.needs_event(slot) => Ok(event),
            _ => self.record(context, slot),
        }
    }

    fn record(&mut self, context: &Context, slot: Slot) -> Result<Handle, Refused> {
        let known = &mut self.streams[slot.index()];
        if known.is_gone {
            return Err(Refused { call: "cuEventRecord", code: INVALID_HANDLE });
        }
        let event = match known.event {
            Some(event) => event,
            None => *known.event.insert(context.event()?),
        };
        context.record(event, known.stream)?;
        self.handover.recorded(slot);
        Ok(event)
    }

    /// Whether the slot's frees have passed, as far as its event can tell.
    fn ask(&mut self, context: &Context, slot: Slot) -> bool {
        let Ok(event) = self.event_behind(context, slot) else { return false };
        if context.is_over(event) != Ok(true) {
            return false;
        }
        let tick = self.handover.covered(slot);
        self.handover.passed(slot, tick);
        true
    }

    fn settled(&mut self, frames: Range<u64>) -> bool {
        self.handover.forget(frames.clone());
        self.handover.under_way(frames).is_empty()
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        let events = self.state.get_mut().streams.iter().filter_map(|known| known.event);
        for event in events {
            // An event that cannot be destroyed is the driver's to clean up with the context.
            let _ = self.context.destroy_event(event);
        }
    }
}
