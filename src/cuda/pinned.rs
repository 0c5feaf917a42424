//! Pinned memory as a space: the host's mapped memory, whose frames the driver keeps in place so that devices read them.
//!
//! A frame that the driver does not unpin stays as it is, since it may still be read: the pool's where it was given up, and else
//! tried again whenever memory is given back.

use super::context::Context;
use crate::arena::index::BuddyTree;
use crate::arena::metadata::Metadata;
use crate::space::{
    Alignment, Contents, Geometry, HostSpace, Mapped, MappedTables, Offset, Space, SpaceError, Span,
};
use crate::sync::{HostLock, Lock};
use core::ptr::NonNull;
use std::sync::Arc;
use std::vec::Vec;

/// A reservation of the process's addresses, each frame of which is pinned by itself when it is backed.
pub(super) struct Pinned {
    space: Mapped,
    context: Arc<Context>,
    /// Where the frames begin that were not unpinned: those that were given up, and those of a request that failed.
    stuck: Lock<HostLock, [Vec<u32>; 2]>,
}

const GIVEN_UP: usize = 0;
const UNDONE: usize = 1;

/// The driver says that a frame is pinned already: one that it did not unpin before.
const IS_PINNED: i32 = 712;

impl Pinned {
    pub(super) fn reserve(context: Arc<Context>, bytes: usize) -> Result<Pinned, SpaceError> {
        Ok(Pinned { space: Mapped::reserve(bytes)?, context, stuck: Lock::new([Vec::new(), Vec::new()]) })
    }

    /// The frames of a span, one by one.
    fn frames(&self, span: Span) -> impl DoubleEndedIterator<Item = Span> + use<> {
        let step = 1 << self.space.geometry().frame_granules_shift().unwrap_or(0);
        (span.start.0..span.end()).step_by(step).map(move |start| Span::new(start, step as u32))
    }

    fn place(&self, frame: Span) -> (NonNull<u8>, usize) {
        let geometry = self.space.geometry();
        (self.space.addr(geometry.offset(frame.start)), geometry.bytes(frame.granules) as usize)
    }

    /// Unpins a frame and gives it up, or notes that it is stuck.
    fn unpin(&self, frame: Span, stuck: usize) {
        let unpinned = self.context.unpin(self.place(frame).0).is_ok();
        if unpinned {
            self.space.decommit(frame);
        }
        let mut all = self.stuck.lock();
        all.iter_mut().for_each(|starts| starts.retain(|&start| start != frame.start.0));
        if !unpinned {
            all[stuck].push(frame.start.0);
        }
    }

    /// Tries again what a request that failed left pinned.
    fn settle(&self) {
        let step = 1 << self.space.geometry().frame_granules_shift().unwrap_or(0);
        let undone = core::mem::take(&mut self.stuck.lock()[UNDONE]);
        undone.into_iter().for_each(|start| self.unpin(Span::new(start, step), UNDONE));
    }
}

// SAFETY: 1. Every address and all backing is the inner space's, which keeps the contract.
unsafe impl Space for Pinned {
    type Addr = NonNull<u8>;
    type Index<M: Metadata> = BuddyTree<M>;
    type Tables = MappedTables;

    fn geometry(&self) -> Geometry {
        self.space.geometry()
    }

    fn len_bytes(&self) -> u64 {
        self.space.len_bytes()
    }

    fn alignment(&self) -> Alignment {
        self.space.alignment()
    }

    fn addr(&self, at: Offset) -> NonNull<u8> {
        self.space.addr(at)
    }

    fn offset(&self, addr: NonNull<u8>) -> Option<Offset> {
        self.space.offset(addr)
    }

    fn commit(&self, span: Span) -> Result<Contents, SpaceError> {
        self.settle();
        self.space.commit(span)?;
        for frame in self.frames(span) {
            let (at, bytes) = self.place(frame);
            match self.context.pin(at, bytes) {
                Ok(()) => {}
                Err(refused) if refused.code == IS_PINNED => {}
                Err(refused) => {
                    let (done, left): (Vec<Span>, Vec<Span>) =
                        self.frames(span).partition(|other| other.start.0 < frame.start.0);
                    done.into_iter().for_each(|done| self.unpin(done, UNDONE));
                    let stuck = self.stuck.lock();
                    left.into_iter()
                        .filter(|left| !stuck[UNDONE].contains(&left.start.0))
                        .for_each(|left| self.space.decommit(left));
                    return Err(SpaceError::new(bytes as u64, refused.code));
                }
            }
        }
        let in_use = span.start.0..span.end();
        self.stuck.lock()[UNDONE].retain(|start| !in_use.contains(start));
        Ok(Contents::Unknown)
    }

    fn decommit(&self, span: Span) {
        self.settle();
        self.frames(span).for_each(|frame| self.unpin(frame, GIVEN_UP));
    }

    fn kept(&self, given_up: Span) -> Option<Span> {
        let stuck = self.stuck.lock();
        self.frames(given_up).find(|frame| stuck[GIVEN_UP].contains(&frame.start.0))
    }

    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        let contents = self.commit(to)?;
        self.frames(from).for_each(|frame| self.unpin(frame, UNDONE));
        Ok(contents)
    }
}

// SAFETY: 1. As the inner space: committed frames are mapped readable and writable.
unsafe impl HostSpace for Pinned {}
