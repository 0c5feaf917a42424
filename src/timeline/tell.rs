//! What the rest of the crate calls when something happens: it is recorded, and told to `tracing`.

#![forbid(unsafe_code)]

use super::recorder::{Happening, record};
use super::{Action, Place, is_recording};
use crate::sync::forks::ForkLock;
use core::time::Duration;
use std::vec::Vec;

/// Whether it is to be told what a pool has reserved.
#[inline]
pub(crate) fn wants_backing() -> bool {
    is_recording() || is_traced()
}

#[inline]
fn is_traced() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::enabled!(target: "democratising", tracing::Level::DEBUG);
    #[cfg(not(feature = "tracing"))]
    false
}

/// A block was handed out, in which there are `more` bytes.
pub(crate) fn allocated(place: Place, address: u64, bytes: u64, more: u64, stream: u64, name: &str) {
    record(Happening { action: Action::Allocate, place, address, bytes, more, stream, name });
}

/// A block came back. Called before anybody else can have it.
pub(crate) fn freed(place: Place, address: u64, bytes: u64, more: u64, stream: u64, name: &str) {
    record(Happening { action: Action::Free, place, address, bytes, more, stream, name });
}

/// A request failed for good.
pub(crate) fn out_of_memory(place: Place, bytes: u64, name: &str) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "democratising", %place, bytes, scope = name, "out of memory");
    if is_recording() {
        record(Happening { action: Action::OutOfMemory, place, address: 0, bytes, more: 0, stream: 0, name });
    }
}

/// Reclaimers were asked.
pub(crate) fn collected(bytes: u64, elapsed: Duration) {
    let more = elapsed.as_nanos().min(u64::MAX as u128) as u64;
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "democratising", bytes, nanoseconds = more, "collected");
    if is_recording() {
        let (action, place) = (Action::Collect, Place::Heap);
        record(Happening { action, place, address: 0, bytes, more, stream: 0, name: "process" });
    }
}

/// A scope refused a charge.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn refused(kind: &'static str, scope: &str, asked: u64, left: u64) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "democratising", kind, scope, asked, left, "a charge was refused");
}

pub(super) fn mark(text: &str) {
    if is_recording() {
        let (action, place) = (Action::Mark, Place::Heap);
        record(Happening { action, place, address: 0, bytes: 0, more: 0, stream: 0, name: text });
    }
}

/// What a pool has reserved, and the frames that it created, moved and gave up for it since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Backing {
    reserved_bytes: u64,
    creates: u64,
    steals: u64,
    unmaps: u64,
}

impl Backing {
    /// It only grows: what two threads read one after the other is told in that order or not at all.
    fn changes(&self) -> u64 {
        self.creates + self.steals + self.unmaps
    }
}

/// What was told last, of each pool.
static TOLD: ForkLock<Vec<(Place, Backing)>> = ForkLock::new(Vec::new());

/// A pool's numbers now. Only what changed is told.
pub(crate) fn backed(place: Place, reserved_bytes: u64, [creates, steals, unmaps]: [u64; 3]) {
    let now = Backing { reserved_bytes, creates, steals, unmaps };
    let mut told = TOLD.lock();
    let known = told.iter().position(|(of, _)| *of == place);
    let before = match known {
        Some(at) if told[at].1.changes() < now.changes() => core::mem::replace(&mut told[at].1, now),
        Some(_) => return,
        None if told.try_reserve(1).is_err() => return,
        None => {
            told.push((place, now));
            Backing { steals: now.steals, ..Backing::default() }
        }
    };
    // Whoever listens may take memory, and so come here again.
    drop(told);
    let moved = now.steals - before.steals;
    #[cfg(feature = "tracing")]
    tracing::debug!(
        target: "democratising", %place, reserved_bytes, created = now.creates - before.creates, moved,
        given_up = now.unmaps - before.unmaps, "frames"
    );
    if is_recording() {
        let action = Action::Reserve;
        let name = "process";
        record(Happening { action, place, address: 0, bytes: reserved_bytes, more: moved, stream: 0, name });
    }
}

/// Forgets what was told, so that a recording begins with what is reserved then.
pub(super) fn forget() {
    TOLD.lock().clear();
}
