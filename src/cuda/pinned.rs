//! Pinned memory as a space: the host's mapped memory, whose frames the driver keeps in place so that devices read them.

use super::context::Context;
use crate::arena::index::BuddyTree;
use crate::arena::metadata::Metadata;
use crate::space::{
    Alignment, Contents, Geometry, HostSpace, Mapped, MappedTables, Offset, Space, SpaceError, Span,
};
use core::ptr::NonNull;
use std::sync::Arc;

/// A reservation of the process's addresses, each frame of which is pinned by itself when it is backed.
pub(super) struct Pinned {
    space: Mapped,
    context: Arc<Context>,
}

/// The driver says that a frame is pinned already: one that it did not unpin before.
const IS_PINNED: i32 = 712;

impl Pinned {
    pub(super) fn reserve(context: Arc<Context>, bytes: usize) -> Result<Pinned, SpaceError> {
        Ok(Pinned { space: Mapped::reserve(bytes)?, context })
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

    /// A frame that the driver does not unpin stays as it is: it may still be read.
    fn unpin(&self, frame: Span) {
        if self.context.unpin(self.place(frame).0).is_ok() {
            self.space.decommit(frame);
        }
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
        self.space.commit(span)?;
        for frame in self.frames(span) {
            let (at, bytes) = self.place(frame);
            match self.context.pin(at, bytes) {
                Ok(()) => {}
                Err(refused) if refused.code == IS_PINNED => {}
                Err(refused) => {
                    self.frames(span)
                        .take_while(|done| done.start.0 < frame.start.0)
                        .for_each(|done| self.unpin(done));
                    self.frames(span).skip_while(|left| left.start.0 < frame.start.0).for_each(|left| {
                        self.space.decommit(left);
                    });
                    return Err(SpaceError::new(bytes as u64, refused.code));
                }
            }
        }
        Ok(Contents::Unknown)
    }

    fn decommit(&self, span: Span) {
        self.frames(span).for_each(|frame| self.unpin(frame));
    }

    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        let contents = self.commit(to)?;
        self.decommit(from);
        Ok(contents)
    }
}

// SAFETY: 1. As the inner space: committed frames are mapped readable and writable.
unsafe impl HostSpace for Pinned {}
