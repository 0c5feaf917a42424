//! A space that runs out when a test says, and says of its contents what the test does.

use democratising::arena::Metadata;
use democratising::space::{Alignment, Contents, Geometry, HostSpace, Offset, Space, SpaceError, Span};
use std::cell::Cell;

/// A space whose requests fail on demand: the `fail_in`-th from now, and then every one or none.
pub struct Failing<S> {
    pub space: S,
    pub fail_in: Cell<u32>,
    pub for_good: bool,
    /// What it says of bytes that it backs, in place of the inner space.
    pub says: Cell<Option<Contents>>,
}

impl<S: Space> Failing<S> {
    pub fn new(space: S, fail_in: u32, for_good: bool) -> Failing<S> {
        Failing { space, fail_in: Cell::new(fail_in), for_good, says: Cell::new(None) }
    }

    fn request(&self, frames: Span) -> Result<(), SpaceError> {
        match self.fail_in.get() {
            0 => Ok(()),
            1 => {
                self.fail_in.set(self.for_good as u32);
                Err(SpaceError::new(self.geometry().bytes(frames.granules), 12))
            }
            n => {
                self.fail_in.set(n - 1);
                Ok(())
            }
        }
    }
}

// SAFETY: 1. Everything is the inner space's; a request that fails changes nothing.
unsafe impl<S: Space> Space for Failing<S> {
    type Addr = S::Addr;
    type Index<M: Metadata> = S::Index<M>;
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
    fn addr(&self, at: Offset) -> S::Addr {
        self.space.addr(at)
    }
    fn offset(&self, addr: S::Addr) -> Option<Offset> {
        self.space.offset(addr)
    }
    fn commit(&self, frames: Span) -> Result<Contents, SpaceError> {
        self.request(frames)?;
        let told = self.space.commit(frames)?;
        Ok(self.says.get().unwrap_or(told))
    }
    fn decommit(&self, frames: Span) {
        self.space.decommit(frames);
    }
    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        self.request(to)?;
        let told = self.space.rehome(from, to)?;
        Ok(self.says.get().unwrap_or(told))
    }
}

// SAFETY: 1. As the inner space.
unsafe impl<S: HostSpace> HostSpace for Failing<S> {}
