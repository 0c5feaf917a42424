//! A space whose addresses are never touched: it counts what a device's driver would be asked, and can be told to fail.

use super::{Alignment, Contents, Geometry, Offset, Space, SpaceError, Span};
use crate::arena::index::BuddyTree;
use crate::arena::metadata::{Borrowed, Metadata};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Addresses start here, so that none of them is zero and an offset is never taken for an address.
const BASE: u64 = 1 << 40;

/// A range of numbers that look like device addresses.
#[derive(Debug)]
pub struct Simulated {
    geometry: Geometry,
    len_bytes: u64,
    commits: AtomicUsize,
    created: AtomicUsize,
    moved: AtomicUsize,
    unmapped: AtomicUsize,
    forgotten: AtomicUsize,
    /// Requests until one fails; 0: none does.
    fail_in: AtomicUsize,
    /// Once failing, every request does.
    fail_on: AtomicUsize,
    /// Of frames that are given up those whose number is a multiple of this are kept; 0: none is.
    keeps: AtomicUsize,
}

/// What a [`Simulated`] space was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SimulatedCounts {
    /// Requests to commit or move frames, the failed ones included.
    pub requests: u64,
    /// Frames created.
    pub created: u64,
    /// Frames moved from where they were idle to where they were needed.
    pub moved: u64,
    /// Frames given up.
    pub unmapped: u64,
    /// Granules in backed frames whose contents were forgotten.
    pub forgotten: u64,
}

impl Simulated {
    /// The geometry of a device: spans of 64 KiB granules, frames of `frame_bytes`, slabs of 64 KiB and slots of 512 bytes.
    ///
    /// # Panics
    /// When `frame_bytes` is not a power of two of at least 64 KiB.
    pub fn device(len_bytes: u64, frame_bytes: usize) -> Simulated {
        Simulated::new(len_bytes, Geometry::spans(64 << 10).framed(frame_bytes).slabs(64 << 10, 512))
    }

    /// `len_bytes` rounded down to whole frames, counted in `geometry`.
    pub fn new(len_bytes: u64, geometry: Geometry) -> Simulated {
        let unit = match geometry.frame_bytes() {
            Some(bytes) => bytes,
            None => geometry.granule_bytes(),
        };
        Simulated {
            geometry,
            len_bytes: len_bytes / unit * unit,
            commits: AtomicUsize::new(0),
            created: AtomicUsize::new(0),
            moved: AtomicUsize::new(0),
            unmapped: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
            fail_in: AtomicUsize::new(0),
            fail_on: AtomicUsize::new(0),
            keeps: AtomicUsize::new(0),
        }
    }

    /// Fails the `n`-th request to commit or move frames from now on (1 is the next), and with `for_good` every one
    /// behind it too. 0 ends it.
    pub fn fail_at(&self, n: usize, for_good: bool) {
        self.fail_on.store(for_good as usize, Ordering::Relaxed);
        self.fail_in.store(n, Ordering::Relaxed);
    }

    /// From now on every `n`-th frame of the space stays where it is given up ([`Space::kept`]). 0 ends it.
    pub fn keep_every(&self, n: usize) {
        self.keeps.store(n, Ordering::Relaxed);
    }

    /// What it was asked so far.
    pub fn counts(&self) -> SimulatedCounts {
        SimulatedCounts {
            requests: self.commits.load(Ordering::Relaxed) as u64,
            created: self.created.load(Ordering::Relaxed) as u64,
            moved: self.moved.load(Ordering::Relaxed) as u64,
            unmapped: self.unmapped.load(Ordering::Relaxed) as u64,
            forgotten: self.forgotten.load(Ordering::Relaxed) as u64,
        }
    }

    /// Counts one request; the pool's lock makes these plain counters.
    fn request(&self, frames: Span) -> Result<(), SpaceError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let left = self.fail_in.load(Ordering::Relaxed);
        if left > 1 {
            self.fail_in.store(left - 1, Ordering::Relaxed);
        } else if left == 1 {
            if self.fail_on.load(Ordering::Relaxed) == 0 {
                self.fail_in.store(0, Ordering::Relaxed);
            }
            return Err(SpaceError::new(self.geometry.bytes(frames.granules), 0));
        }
        Ok(())
    }

    fn keeps(&self, frame: u32) -> bool {
        let every = self.keeps.load(Ordering::Relaxed);
        every > 0 && (frame as usize).is_multiple_of(every)
    }

    fn frames(&self, span: Span) -> usize {
        (span.granules >> self.geometry.frame_granules_shift().unwrap_or(0)) as usize
    }
}

// SAFETY: 1. `addr` adds a constant, which `offset` takes off again. 2. The numbers lie above every host address space's
// start and are never used as pointers.
unsafe impl Space for Simulated {
    type Addr = u64;
    type Index<M: Metadata> = BuddyTree<M>;
    type Tables = Borrowed<'static>;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn alignment(&self) -> Alignment {
        Alignment { max_bytes: BASE, skew_bytes: 0 }
    }

    fn addr(&self, at: Offset) -> u64 {
        BASE + at.0
    }

    fn offset(&self, addr: u64) -> Option<Offset> {
        addr.checked_sub(BASE).filter(|&at| at < self.len_bytes).map(Offset)
    }

    fn commit(&self, frames: Span) -> Result<Contents, SpaceError> {
        self.request(frames)?;
        self.created.fetch_add(self.frames(frames), Ordering::Relaxed);
        Ok(Contents::Unknown)
    }

    fn decommit(&self, frames: Span) {
        let shift = self.geometry.frame_granules_shift().unwrap_or(0);
        let given = (frames.start.0..frames.end()).step_by(1 << shift).filter(|at| !self.keeps(at >> shift));
        self.unmapped.fetch_add(given.count(), Ordering::Relaxed);
    }

    fn kept(&self, given_up: Span) -> Option<Span> {
        let shift = self.geometry.frame_granules_shift().unwrap_or(0);
        let mut frames = (given_up.start.0..given_up.end()).step_by(1 << shift);
        frames.find(|at| self.keeps(at >> shift)).map(|at| Span::new(at, 1 << shift))
    }

    fn forget(&self, free: Span) {
        self.forgotten.fetch_add(free.granules as usize, Ordering::Relaxed);
    }

    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        debug_assert_eq!(from.granules, to.granules);
        self.request(to)?;
        self.moved.fetch_add(self.frames(to), Ordering::Relaxed);
        Ok(Contents::Unknown)
    }
}
