//! The host's memory: one large reservation of addresses, backed frame by frame.

// Miri interprets nothing of the system's calls for memory but `mmap` and `munmap`.
#[cfg(any(not(unix), miri))]
#[path = "mapped/other.rs"]
mod os;
#[cfg(all(unix, not(miri)))]
#[path = "mapped/unix.rs"]
mod os;

mod along;

use super::{Alignment, Contents, Geometry, HostSpace, Offset, Space, SpaceError, Span};
use crate::arena::index::BuddyTree;
use crate::arena::metadata::{Metadata, NoTable, Plain};
use crate::size::HOST_GEOMETRY;
use along::Along;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// A frame of the host, and what every reservation is a multiple of.
const FRAME: usize = 2 << 20;
/// The least that is worth reserving.
const LEAST: usize = 16 * FRAME;

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
    pub(crate) fn accompany(&mut self, shift: u32, len: usize, first: usize) -> Option<NonNull<u8>> {
        let place = self.along.iter_mut().find(|place| place.is_none())?;
        Some(place.insert(Along::new(shift, len, first)?).start())
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

/// Tables in mappings of their own: what is never used costs no memory, and what a program writes past a block
/// cannot reach them.
#[derive(Clone, Copy, Debug, Default)]
pub struct MappedTables;

/// One such table. All of it can be read, and of one that grows the first entries written: what is borrowed to be written ends there.
#[derive(Debug)]
pub struct MappedTable<T> {
    range: Option<os::Range>,
    start: NonNull<T>,
    len: usize,
    /// The entries that can be written.
    grown: usize,
}

/// A table that grows is whole from the start if it is no longer.
const WHOLE_TABLE: usize = 1 << 20;

impl<T: Plain> MappedTable<T> {
    fn new(len: usize, grows: bool) -> Result<MappedTable<T>, NoTable> {
        let no_table = |needed: u64| NoTable { needed_bytes: needed, left_bytes: None };
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or(no_table(u64::MAX))?;
        if bytes == 0 {
            return Ok(MappedTable { range: None, start: NonNull::dangling(), len, grown: len });
        }
        let grows = grows && bytes > WHOLE_TABLE;
        let range = os::Range::table(bytes, grows).map_err(|_| no_table(bytes as u64))?;
        let start = range.start().cast();
        Ok(MappedTable { range: Some(range), start, len, grown: if grows { 0 } else { len } })
    }
}

// SAFETY: 1. A table is a mapping of its own, which holds zeros, or nothing.
unsafe impl Metadata for MappedTables {
    type Table<T: Plain> = MappedTable<T>;

    fn table<T: Plain>(&mut self, len: usize) -> Result<MappedTable<T>, NoTable> {
        MappedTable::new(len, false)
    }

    fn growing<T: Plain>(&mut self, len: usize) -> Result<MappedTable<T>, NoTable> {
        MappedTable::new(len, true)
    }

    fn grow<T: Plain>(table: &mut MappedTable<T>, len: usize) -> Result<(), NoTable> {
        if len <= table.grown {
            return Ok(());
        }
        assert!(len <= table.len, "{len} entries of a table of {}", table.len);
        let Some(range) = &table.range else { return Ok(()) };
        let bytes = len * size_of::<T>();
        let no_table = NoTable { needed_bytes: bytes as u64, left_bytes: None };
        let opened = range.open(bytes).map_err(|_| no_table)?;
        table.grown = opened / size_of::<T>();
        Ok(())
    }
}

impl MappedTables {
    /// Gives the pages of a table from a place on up that hold nothing any more, but for the one that begins before it, where that can be done:
    /// then they are zeros.
    ///
    /// # Safety
    /// The table was [leaked](MappedTable::leak), the place goes to its end and is in the caller's hands alone, and zeros are as good there as what
    /// it holds.
    pub(crate) unsafe fn forget(start: NonNull<u8>, len: usize) {
        // SAFETY: 1. A table is a mapping of its own, or what the system's allocator gave, where nothing happens. 2. The rest as the caller
        // promises.
        unsafe { os::forget_rest(start, len) }
    }
}

impl<T: Plain> MappedTable<T> {
    /// The table for good, or what it was grown to: its mapping is never given back.
    pub fn leak(self) -> &'static mut [T] {
        let table = core::mem::ManuallyDrop::new(self);
        let (start, len) = (table.start, table.grown);
        // SAFETY: 1. to 3. as in `deref_mut`; the mapping is not dropped any more, and nobody else has the table.
        unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }
}

// SAFETY: 1. A table owns its mapping; moving it to another thread moves plain integers.
unsafe impl<T: Plain> Send for MappedTable<T> {}
// SAFETY: 1. Shared access is read-only.
unsafe impl<T: Plain> Sync for MappedTable<T> {}

impl<T: Plain> Deref for MappedTable<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        debug_assert!(self.range.is_some() || self.len * size_of::<T>() == 0);
        // SAFETY: 1. `start` is the page-aligned start of a mapping of `len * size_of::<T>()` bytes, all of them zero
        // or written through this table. 2. `T: Plain` has a value for every bit pattern. 3. The mapping lives as long as `self`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for MappedTable<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: 1. to 3. as in `deref`, since a table has no fewer entries than it was grown to. 4. `&mut self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.grown) }
    }
}

/// The portable back end, tested where it is not used too.
#[cfg(all(test, unix, not(miri)))]
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

    #[test]
    fn tables_start_as_zeros_and_keep_what_is_written() {
        let mut table = MappedTables.table::<[u32; 3]>(100_000).unwrap();
        assert!(table.iter().all(|entry| *entry == [0; 3]));
        table[99_999] = [1, 2, 3];
        assert_eq!(table[99_999], [1, 2, 3]);
        assert!(MappedTables.table::<u64>(0).unwrap().is_empty());
        assert_eq!(MappedTables.table::<u64>(usize::MAX).unwrap_err().needed_bytes, u64::MAX);
    }

    #[test]
    fn a_table_that_grows_can_be_read_as_a_whole_and_written_as_far_as_it_was_grown() {
        const LEN: usize = 3 << 20;
        let mut table = MappedTables.growing::<u64>(LEN).unwrap();
        for len in [1, 7, 40_000, 1 << 20, 1_000, LEN] {
            MappedTables::grow(&mut table, len).unwrap();
            table[len - 1] = len as u64;
            assert!((len..=LEN).contains(&DerefMut::deref_mut(&mut table).len()), "{len}");
            assert_eq!((table.len(), table[len - 1], table[LEN - 2]), (LEN, len as u64, 0));
            // Where tables are mapped, no more of it than was asked for and a little.
            let most = if cfg!(all(unix, not(miri))) && len < LEN / 2 { LEN / 2 } else { LEN };
            assert!(DerefMut::deref_mut(&mut table).len() <= most, "{len}");
        }
        let short = &mut *MappedTables.growing::<u8>(WHOLE_TABLE).unwrap();
        assert_eq!(short.len(), WHOLE_TABLE);
    }

    #[cfg(all(unix, not(miri)))]
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
        assert_eq!((table.open(1), table.open_place(0, 1)), (Ok(4096), Ok(())));
        // SAFETY: 1. Nothing is done.
        unsafe { other::forget_rest(table.start(), 4096) };
        assert!(range.is_open() && other::reserve_limit() > FRAME);
        assert_eq!((other::commit_limit(), other::memory_bytes()), (usize::MAX, None));
    }
}
