//! A space with another span index than its own.

use super::{Alignment, Contents, Geometry, HostSpace, Offset, Space, SpaceError, Span};
use crate::arena::index::IndexKind;
use crate::arena::metadata::Metadata;
use core::fmt;
use core::marker::PhantomData;

/// The space `S`, divided by the kind of index `I`: [`ByTree`](crate::arena::index::ByTree) or
/// [`ByFit`](crate::arena::index::ByFit).
pub struct WithIndex<S, I> {
    space: S,
    index: PhantomData<fn() -> I>,
}

impl<S, I> WithIndex<S, I> {
    /// `space`, to be divided by `I`.
    pub const fn new(space: S) -> WithIndex<S, I> {
        WithIndex { space, index: PhantomData }
    }

    /// The space as it is without.
    pub const fn inner(&self) -> &S {
        &self.space
    }
}

impl<S: fmt::Debug, I> fmt::Debug for WithIndex<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WithIndex").field(&self.space).finish()
    }
}

// SAFETY: 1. Every address and all backing is the inner space's, which keeps the contract.
unsafe impl<S: Space, I: IndexKind> Space for WithIndex<S, I> {
    type Addr = S::Addr;
    type Index<M: Metadata> = I::Index<M>;
    type Tables = S::Tables;

    fn geometry(&self) -> Geometry {
        self.space.geometry()
    }

    fn len_bytes(&self) -> u64 {
        self.space.len_bytes()
    }

    fn alignment(&self) -> Alignment {
        self.space.alignment()
    }

    #[inline]
    fn addr(&self, at: Offset) -> S::Addr {
        self.space.addr(at)
    }

    #[inline]
    fn offset(&self, addr: S::Addr) -> Option<Offset> {
        self.space.offset(addr)
    }

    fn commit(&self, frames: Span) -> Result<Contents, SpaceError> {
        self.space.commit(frames)
    }

    fn forget(&self, free: Span) {
        self.space.forget(free);
    }

    fn at_rest(&self, idle: Span) -> bool {
        self.space.at_rest(idle)
    }

    fn decommit(&self, frames: Span) {
        self.space.decommit(frames);
    }

    fn kept(&self, given_up: Span) -> Option<Span> {
        self.space.kept(given_up)
    }

    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        self.space.rehome(from, to)
    }
}

// SAFETY: 1. The bytes are the inner space's, and it says that they can be touched.
unsafe impl<S: HostSpace, I: IndexKind> HostSpace for WithIndex<S, I> {}
