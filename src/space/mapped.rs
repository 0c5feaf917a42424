//! The host's memory: one large reservation of addresses, backed frame by frame.

// Miri interprets nothing of the system's calls for memory but `mmap` and `munmap`.
#[cfg(any(not(any(unix, windows)), miri))]
#[path = "mapped/other.rs"]
mod os;
#[cfg(all(unix, not(miri)))]
#[path = "mapped/unix.rs"]
mod os;
#[cfg(all(windows, not(miri)))]
#[path = "mapped/windows.rs"]
mod os;

mod along;
mod shelf;
mod tables;

use super::{Alignment, Contents, Geometry, HostSpace, Offset, Space, SpaceError, Span};
use crate::arena::index::BuddyTree;
use crate::arena::metadata::Metadata;
use crate::size::HOST_GEOMETRY;
use along::Along;
use core::ptr::NonNull;
pub(crate) use shelf::{Measure, Shelf};
pub use tables::MappedTables;

/// A frame of the host, and what every reservation is a multiple of.
const FRAME: usize = 2 << 20;
/// The least that is worth reserving.
const LEAST: usize = 16 * FRAME;
/// The least of a range that is opened at once, with what goes along.
const STEP: usize = 16 * FRAME;

/// Opens what lies between `opened` and `end` by `open`, and an eighth more, `step` at least, or just that, where no more is allowed; in multiples
/// of `piece`, up to `most`. How much of it is open then.
fn open_ahead(
    opened: usize,
    end: usize,
    (piece, step): (usize, usize),
    most: usize,
    open: impl Fn(usize, usize) -> Result<(), i32>,
) -> Result<usize, i32> {
    let upto = |end: usize| end.div_ceil(piece).saturating_mul(piece).min(most);
    let open = |upto: usize| open(opened, upto - opened).map(|()| upto);
    open(upto(end.saturating_add(step.max(end / 8)))).or_else(|_| open(upto(end)))
}

/// A reservation of the process's addresses. Dropping it gives addresses and memory back.
#[derive(Debug)]
pub struct Mapped {
    range: os::Range,
    along: [Option<Along>; TABLES],
}

/// The most tables that go along with a reservation.
const TABLES: usize = 3;

impl Mapped {
    /// What a process reserves that knows no better: addresses cost nothing.
    pub const DEFAULT_BYTES: usize = if cfg!(target_pointer_width = "64") { 256 << 30 } else { 512 << 20 };
    /// The most that is reserved for a process on a machine that has more.
    const MOST_DEFAULT_BYTES: usize = if cfg!(target_pointer_width = "64") { 8 << 40 } else { 512 << 20 };
    /// The least that is worth reserving.
    pub(crate) const LEAST_BYTES: usize = LEAST;

    /// Reserves `bytes`, rounded up to a frame, or, where the process's addresses are limited, a quarter, a sixteenth
    /// ... of it, so that the rest of the program keeps the larger part. Where only what it may write is limited, no more than that: the
    /// rest could never be used.
    ///
    /// # Errors
    /// [`SpaceError`] with errno when not even 32 MiB (or `bytes`, if that is less) can be reserved.
    pub fn reserve(bytes: usize) -> Result<Mapped, SpaceError> {
        Mapped::reserve_as(bytes, true)
    }

    /// The same; where it may not be `open`, it counts nowhere as what can be written before it is committed.
    fn reserve_as(bytes: usize, open: bool) -> Result<Mapped, SpaceError> {
        let asked = bytes.max(1).checked_next_multiple_of(FRAME).unwrap_or(usize::MAX / FRAME * FRAME);
        let limit = os::reserve_limit() / FRAME * FRAME;
        let mut len = asked.min(limit.max(LEAST));
        loop {
            match os::Range::reserve(len, FRAME, open) {
                Ok(range) => return Ok(Mapped { range, along: [const { None }; TABLES] }),
                // A quarter: the largest half that can be had would leave the rest of the program nothing to map.
                Err(_) if len / 4 >= LEAST => len = len / 4 / FRAME * FRAME,
                Err(code) => return Err(SpaceError::new(len as u64, code)),
            }
        }
    }

    /// A reservation for whatever a process may come to need: [`DEFAULT_BYTES`](Self::DEFAULT_BYTES), or, where the machine has more
    /// than half as much memory, twice that memory, since what is free can lie in pieces. Where the system accounts for what is never touched, no more
    /// than there is memory, since the tables that go with it count there as a whole.
    pub(crate) fn reserve_default() -> Result<Mapped, SpaceError> {
        let memory = os::memory_bytes();
        let space = Mapped::reserve(Mapped::default_bytes(memory))?;
        match memory.map(|bytes| bytes.max(LEAST)) {
            Some(most) if !space.range.is_open() && most < space.range.len() => {
                drop(space);
                Mapped::reserve_as(most, false)
            }
            _ => Ok(space),
        }
    }

    /// What is reserved for a process on a machine with so much memory.
    fn default_bytes(memory: Option<usize>) -> usize {
        let twice = memory.unwrap_or(0).saturating_mul(2).min(Mapped::MOST_DEFAULT_BYTES);
        twice.next_power_of_two().max(Mapped::DEFAULT_BYTES)
    }

    /// The most that the system lets this process back of a reservation now; the largest number where it says nothing.
    pub(crate) fn commit_limit_bytes() -> u64 {
        u64::try_from(os::commit_limit()).ok().filter(|&bytes| bytes < usize::MAX as u64).unwrap_or(u64::MAX)
    }

    /// A table that goes along: a byte for each `1 << shift` bytes of the reservation, which can be written when these are committed. Those of
    /// its first are the table's at `first`, and its start follows its end, as often as that takes. It holds zeros, lives as long as the
    /// reservation, and can be read as a whole. `None`: there is no memory for it.
    pub(crate) fn accompany(
        &mut self,
        shelf: &mut Shelf,
        shift: u32,
        len: usize,
        first: usize,
    ) -> Option<NonNull<u8>> {
        let place = self.along.iter_mut().find(|place| place.is_none())?;
        let table = shelf.growing(len).ok()?;
        Some(place.insert(Along::new(table, shift, first).ok()?).start())
    }

    /// What goes along with the first `end` bytes can be written.
    fn reach(&self, end: usize) -> Result<(), SpaceError> {
        let mut along = self.along.iter().flatten();
        along.try_for_each(|table| table.reach(end)).map_err(|code| SpaceError::new(end as u64, code))
    }

    fn bytes(&self, frames: Span) -> (usize, usize) {
        let geometry = self.geometry();
        (geometry.offset(frames.start).0 as usize, geometry.bytes(frames.granules) as usize)
    }
}

// SAFETY: 1. The range is this reservation's own until it is dropped; `addr` and `offset` add and subtract its start.
unsafe impl Space for Mapped {
    type Addr = NonNull<u8>;
    type Index<M: Metadata> = BuddyTree<M>;
    type Tables = MappedTables;

    fn geometry(&self) -> Geometry {
        HOST_GEOMETRY
    }

    fn len_bytes(&self) -> u64 {
        self.range.len() as u64
    }

    fn alignment(&self) -> Alignment {
        const MOST: usize = if cfg!(target_pointer_width = "64") { 64 << 30 } else { 1 << 30 };
        Alignment { max_bytes: MOST as u64, skew_bytes: (self.range.start().as_ptr() as usize % MOST) as u64 }
    }

    #[inline]
    fn addr(&self, at: Offset) -> NonNull<u8> {
        assert!(at.0 < self.range.len() as u64, "{at} of a space of {} bytes", self.range.len());
        // SAFETY: 1. The offset is less than the length of the range, which is one mapping.
        unsafe { self.range.start().add(at.0 as usize) }
    }

    #[inline]
    fn offset(&self, addr: NonNull<u8>) -> Option<Offset> {
        let at = (addr.as_ptr() as usize).checked_sub(self.range.start().as_ptr() as usize)?;
        (at < self.range.len()).then_some(Offset(at as u64))
    }

    fn commit(&self, frames: Span) -> Result<Contents, SpaceError> {
        let (at, len) = self.bytes(frames);
        self.reach(at + len)?;
        self.range.commit(at, len).map_err(|code| SpaceError::new(len as u64, code))
    }

    fn decommit(&self, frames: Span) {
        let (at, len) = self.bytes(frames);
        self.range.decommit(at, len);
    }

    fn forget(&self, free: Span) {
        let (at, len) = self.bytes(free);
        self.range.forget(at, len);
    }

    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        let ((from, _), (to, len)) = (self.bytes(from), self.bytes(to));
        self.reach(to + len)?;
        self.range.rehome(from, to, len).map_err(|code| SpaceError::new(len as u64, code))
    }
}

// SAFETY: 1. Committed frames are mapped readable and writable until the reservation is dropped.
unsafe impl HostSpace for Mapped {}

/// The portable back end, tested where it is not used too.
#[cfg(all(test, any(unix, windows), not(miri)))]
#[path = "mapped/other.rs"]
mod other;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decommitted_frame_is_zero_when_it_is_committed_again() {
        let space = Mapped::reserve(4 * FRAME).unwrap();
        let frame = space.geometry().granules(FRAME as u64).unwrap();
        let span = Span::new(frame, frame);
        for _ in 0..3 {
            assert_eq!(space.commit(span), Ok(Contents::Zeroed));
            let at = space.addr(Offset(FRAME as u64 + 5));
            // SAFETY: 1. The frame is committed.
            unsafe {
                assert_eq!(at.read(), 0);
                at.write(7);
            }
            space.decommit(span);
        }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn a_locked_frame_that_was_not_touched_is_not_resident_when_it_was_decommitted() {
        let space = Mapped::reserve(4 * FRAME).unwrap();
        let frame = space.geometry().granules(FRAME as u64).unwrap();
        let span = Span::new(frame, frame);
        space.commit(span).unwrap();
        let at = space.addr(Offset(FRAME as u64)).as_ptr();
        let mut resident = [0u8; FRAME / 4096];
        // SAFETY: 1. The frame is committed; small pages, so that one touch is no more. 2. There is a byte for each page.
        let locked = unsafe {
            libc::madvise(at.cast(), FRAME, libc::MADV_NOHUGEPAGE);
            let locked = libc::syscall(libc::SYS_mlock2, at, FRAME, 1) == 0;
            at.write(7);
            space.decommit(span);
            libc::mincore(at.cast(), FRAME, resident.as_mut_ptr());
            locked
        };
        if !locked {
            return std::eprintln!("NOT TESTED: so much cannot be locked here");
        }
        assert_eq!(resident.iter().filter(|page| **page & 1 != 0).count(), 0);
        space.commit(span).unwrap();
        // SAFETY: 1. The frame is committed.
        assert_eq!(unsafe { at.read() }, 0);
    }

    #[test]
    fn what_is_opened_is_an_eighth_ahead_or_just_what_is_needed_where_no_more_is_allowed() {
        for (end, allowed, open) in [
            (1, 1000, Ok(50)),
            (11, 1000, Ok(60)),
            (320, 1000, Ok(360)),
            (801, 1000, Ok(910)),
            (801, 909, Ok(810)),
            (801, 809, Err(12)),
            (990, 1000, Ok(1000)),
        ] {
            let opened = if end > 10 { 10 } else { 0 };
            let answer = open_ahead(opened, end, (10, 40), 1000, |at, len| {
                assert_eq!(at, opened);
                if at + len <= allowed { Ok(()) } else { Err(12) }
            });
            assert_eq!(answer, open, "{end} of {allowed}");
        }
    }

    #[test]
    fn a_reservation_is_aligned_to_a_frame_and_knows_its_own_addresses() {
        let space = Mapped::reserve(3 * FRAME - 1).unwrap();
        assert_eq!((space.len_bytes(), space.alignment().skew_bytes % FRAME as u64), (3 * FRAME as u64, 0));
        let last = space.addr(Offset(3 * FRAME as u64 - 1));
        assert_eq!(space.offset(last), Some(Offset(3 * FRAME as u64 - 1)));
        assert_eq!(space.offset(NonNull::from(&space).cast()), None);
        // SAFETY: 1. One behind the end of the range.
        assert_eq!(space.offset(unsafe { last.add(1) }), None);
    }

    #[test]
    fn a_frame_whose_backing_went_elsewhere_is_zero_when_it_is_committed_again() {
        let space = Mapped::reserve(4 * FRAME).unwrap();
        let frame = space.geometry().granules(FRAME as u64).unwrap();
        let [from, to] = [1, 2].map(|at| Span::new(at * frame, frame));
        assert_eq!(space.commit(from), Ok(Contents::Zeroed));
        // SAFETY: 1. The frame is committed.
        unsafe { space.addr(Offset(FRAME as u64)).write(7) };
        for (from, to, at) in [(from, to, 2), (to, from, 1)] {
            let contents = space.rehome(from, to).unwrap();
            let at = space.addr(Offset(at * FRAME as u64));
            // SAFETY: 1. The backing is here now.
            assert!(contents != Contents::Zeroed || unsafe { at.read() } == 0);
        }
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_process_has_addresses_for_twice_the_memory_of_the_machine() {
        const TIB: usize = 1 << 40;
        for (memory, bytes) in [
            (None, TIB / 4),
            (Some(0), TIB / 4),
            (Some(24 << 30), TIB / 4),
            (Some(TIB / 8), TIB / 4),
            (Some(TIB / 4), TIB / 2),
            (Some(TIB / 2 + 1), 2 * TIB),
            (Some(3 * TIB), 8 * TIB),
            (Some(usize::MAX), 8 * TIB),
        ] {
            assert_eq!(Mapped::default_bytes(memory), bytes, "{memory:?}");
        }
    }

    #[cfg(all(any(unix, windows), not(miri)))]
    #[test]
    fn the_portable_back_end_gives_aligned_memory_and_says_what_it_does_not_know() {
        let range = other::Range::reserve(2 * FRAME, FRAME, true).unwrap();
        assert_eq!(range.start().as_ptr() as usize % FRAME, 0);
        assert_eq!(range.len(), 2 * FRAME);
        assert_eq!(range.commit(0, FRAME), Ok(Contents::Unknown));
        assert_eq!(range.rehome(0, FRAME, FRAME), Ok(Contents::Unknown));
        range.forget(0, FRAME);
        range.decommit(0, FRAME);
        let table = other::Range::table(4096, true).unwrap();
        assert_eq!((table.let_read(0, 1), table.open_place(0, 1)), (Ok(()), Ok(())));
        // SAFETY: 1. Nothing is done.
        unsafe { other::forget_rest(table.start(), 4096) };
        assert!(range.is_open() && other::reserve_limit() > FRAME);
        assert_eq!((other::commit_limit(), other::memory_bytes()), (usize::MAX, None));
    }
}
