//! Where a buffer was used on other streams than its own: for each of them an event behind the last use.
//!
//! 1. Each has its own, since several may use the buffer at the same time, and an event that is recorded again no longer stands for
//!    what it stood for before.
//! 2. The list only grows, so that an event is lent for as long as the buffer is. It ends at [`MOST_STREAMS`]: driver handles that were
//!    used once stay in it.

#![forbid(unsafe_code)]

use super::stream::PER_THREAD;
use crate::device::handover::MOST_STREAMS;
use crate::sync::OnceLock;
use cudarc::driver::{CudaEvent, CudaStream};
use std::boxed::Box;

/// The other streams of a buffer, or the rest of them.
pub(super) struct Uses(OnceLock<Box<Use>>);

struct Use {
    stream: usize,
    event: CudaEvent,
    next: Uses,
}

impl Uses {
    pub(super) const fn none() -> Uses {
        Uses(OnceLock::new())
    }

    /// Every event. One that was never recorded is over.
    pub(super) fn events(&self) -> impl Iterator<Item = &CudaEvent> {
        core::iter::successors(self.0.get(), |used| used.next.0.get()).map(|used| &used.event)
    }

    /// The event of a stream of the buffer's context, to be recorded behind its use; `None` where it can have none, and is to be
    /// waited for itself.
    pub(super) fn event_of(&self, stream: &CudaStream) -> Option<&CudaEvent> {
        let handle = stream.cu_stream() as usize;
        if handle == PER_THREAD {
            return None;
        }
        let mut place = &self.0;
        for _ in 0..MOST_STREAMS {
            if place.get().is_none() {
                // Another thread may be faster, with this stream or another one: what stands there is looked at.
                let event = stream.context().new_event(None).ok()?;
                let _ = place.set(Box::new(Use { stream: handle, event, next: Uses::none() }));
            }
            let used = place.get()?;
            if used.stream == handle {
                return Some(&used.event);
            }
            place = &used.next.0;
        }
        None
    }
}
