//! Reserving, backing and giving up memory with `VirtualAlloc` and its like.
//!
//! The system sets memory aside for all that is committed, touched or not. So nothing is open ahead: a frame is committed when it is
//! asked for, and a table as far as it is read or written.

use super::Contents;
use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use std::io;
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_DECOMMIT, MEM_RELEASE, MEM_RESERVE, MEM_RESET, PAGE_NOACCESS, PAGE_READONLY,
    PAGE_READWRITE, VirtualAlloc, VirtualFree, VirtualProtect, VirtualUnlock,
};
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};

/// The bytes of a page, on every processor that the system runs on.
const PAGE: usize = 4 << 10;

/// A reservation of this process's own.
#[derive(Debug)]
pub(super) struct Range {
    /// What the system gave, and takes back as a whole.
    base: NonNull<c_void>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: 1. A reservation belongs to the process, not to a thread.
unsafe impl Send for Range {}
// SAFETY: 1. The methods that take `&self` are system calls, which may run at the same time.
unsafe impl Sync for Range {}

fn code() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// No more than the system has memory for: of 32 bits a quarter of the addresses.
pub(super) fn reserve_limit() -> usize {
    if cfg!(target_pointer_width = "64") { usize::MAX } else { 512 << 20 }
}

/// Whoever may not commit more is told so by the system.
pub(super) fn commit_limit() -> usize {
    usize::MAX
}

/// The most that the process can commit, page files included.
pub(super) fn memory_bytes() -> Option<usize> {
    let mut all =
        MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..MEMORYSTATUSEX::default() };
    // SAFETY: 1. `all` is a valid place for the answer, and says how long it is.
    let known = unsafe { GlobalMemoryStatusEx(&mut all) } != 0;
    // Wine says zeros where two threads ask it at once.
    (known && all.ullTotalPageFile > 0).then(|| usize::try_from(all.ullTotalPageFile).unwrap_or(usize::MAX))
}

/// The pages that lie wholly in a place: where they start, and their bytes.
fn whole_pages(at: usize, len: usize) -> Option<(usize, usize)> {
    let (start, end) = (at.next_multiple_of(PAGE), (at + len) / PAGE * PAGE);
    (start < end).then(|| (start, end - start))
}

/// Gives pages up that stay committed: each is zeros then, or what it was. What is not locked and to be unlocked the system
/// takes out of the process's working set, and what was reset it need not keep.
///
/// # Safety
/// The place is whole pages, committed and this process's own, and nobody uses what they hold.
unsafe fn reset(place: *mut c_void, len: usize) {
    // SAFETY: 1. As the caller promises. Where it is refused, they stay as they are.
    unsafe {
        if !VirtualAlloc(place, len, MEM_RESET, PAGE_NOACCESS).is_null() {
            VirtualUnlock(place, len);
        }
    }
}

/// Gives the pages of a table from a place on up that hold nothing any more: each is zeros then, or stays what it was.
///
/// # Safety
/// The place is in a table and goes to its end, nobody uses what it holds, and zeros are as good.
pub(super) unsafe fn forget_rest(start: NonNull<u8>, len: usize) {
    if let Some((at, len)) = whole_pages(start.addr().get(), len) {
        // SAFETY: 1. As the caller promises. 2. The pages lie in the place.
        unsafe { reset(start.as_ptr().with_addr(at).cast(), len) };
    }
}

impl Range {
    /// Reserves `len` bytes at a multiple of `align`. Nothing of it is open.
    pub(super) fn reserve(len: usize, align: usize, _open: bool) -> Result<Range, i32> {
        let room = len.checked_add(align).ok_or(0)?;
        // SAFETY: 1. A new reservation, placed by the system, overlaps nothing.
        let base = unsafe { VirtualAlloc(null_mut(), room, MEM_RESERVE, PAGE_NOACCESS) };
        let base = NonNull::new(base).ok_or_else(code)?;
        let head = base.addr().get().wrapping_neg() % align;
        // SAFETY: 1. `head + len` is at most `room`.
        Ok(Range { base, start: unsafe { base.cast::<u8>().add(head) }, len })
    }

    /// Zeroed memory for a table; of one that grows nothing is there before it is opened.
    pub(super) fn table(len: usize, grows: bool) -> Result<Range, i32> {
        let range = Range::reserve(len, PAGE, false)?;
        if !grows {
            range.open_place(0, len)?;
        }
        Ok(range)
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether the system does not account for what can be written and is never touched: it does.
    pub(super) fn is_open(&self) -> bool {
        false
    }

    fn at(&self, at: usize, len: usize) -> *mut c_void {
        assert!(at <= self.len && len <= self.len - at, "{at}..+{len} of a range of {} bytes", self.len);
        // SAFETY: 1. Checked above to lie in the reservation.
        unsafe { self.start.add(at) }.as_ptr().cast()
    }

    fn let_in(&self, at: usize, len: usize, protection: u32) -> Result<(), i32> {
        // SAFETY: 1. The place is this reservation's own. What is committed there already keeps what it holds.
        let there = unsafe { VirtualAlloc(self.at(at, len), len, MEM_COMMIT, protection) };
        if there.is_null() { Err(code()) } else { Ok(()) }
    }

    pub(super) fn commit(&self, at: usize, len: usize) -> Result<Contents, i32> {
        self.let_in(at, len, PAGE_READWRITE).map(|()| Contents::Zeroed)
    }

    /// Commits one place and decommits another that is as long.
    pub(super) fn rehome(&self, from: usize, to: usize, len: usize) -> Result<Contents, i32> {
        let contents = self.commit(to, len)?;
        self.decommit(from, len);
        Ok(contents)
    }

    /// Makes the pages of a place readable and writable.
    pub(super) fn open_place(&self, at: usize, len: usize) -> Result<(), i32> {
        self.let_in(at, len, PAGE_READWRITE)?;
        let mut before = 0;
        // What could be read alone was committed before.
        // SAFETY: 1. The place is this reservation's own, and committed. 2. `before` is a valid place for the answer.
        let changed = unsafe { VirtualProtect(self.at(at, len), len, PAGE_READWRITE, &mut before) };
        if changed == 0 { Err(code()) } else { Ok(()) }
    }

    /// Makes the pages of a place readable alone.
    pub(super) fn let_read(&self, at: usize, len: usize) -> Result<(), i32> {
        self.let_in(at, len, PAGE_READONLY)
    }

    /// Gives memory back that stays committed.
    pub(super) fn forget(&self, at: usize, len: usize) {
        // Granules may be shorter than pages; what else is in a page may be live.
        if let Some((at, len)) = whole_pages(at, len) {
            // SAFETY: 1. The place is this reservation's own, committed and unused.
            unsafe { reset(self.at(at, len), len) };
        }
    }

    /// Takes the backing of a place away.
    pub(super) fn decommit(&self, at: usize, len: usize) {
        let place = self.at(at, len);
        // SAFETY: 1. The place is this reservation's own and, by the contracts of `decommit` and `rehome`, committed and unused.
        // 2. Where the system keeps it, it is still committed, and cleared, as `commit` promises zeros.
        unsafe {
            if VirtualFree(place, len, MEM_DECOMMIT) == 0 {
                place.cast::<u8>().write_bytes(0, len);
            }
        }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: 1. The reservation is this range's own, and nobody uses it any more. 2. Released as a whole, no length is given.
        unsafe { VirtualFree(self.base.as_ptr(), 0, MEM_RELEASE) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::FRAME;
    use super::*;
    use windows_sys::Win32::System::Memory::{MEMORY_BASIC_INFORMATION, VirtualQuery};

    /// What the system says of the pages of a place: whether they are committed, and how they can be used.
    fn state(range: &Range, at: usize) -> (u32, u32) {
        let mut told = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: 1. `told` is a valid place for the answer, as long as is said.
        let bytes = unsafe { VirtualQuery(range.at(at, 1), &mut told, size_of_val(&told)) };
        assert_eq!(bytes, size_of_val(&told));
        (told.State, told.Protect)
    }

    #[test]
    fn only_what_is_committed_counts_and_it_is_given_back() {
        let range = Range::reserve(4 * FRAME, FRAME, true).unwrap();
        assert_eq!((range.start().addr().get() % FRAME, range.is_open()), (0, false));
        assert_eq!(state(&range, FRAME), (MEM_RESERVE, 0));
        assert_eq!(range.commit(FRAME, FRAME), Ok(Contents::Zeroed));
        assert_eq!(state(&range, FRAME), (MEM_COMMIT, PAGE_READWRITE));
        assert_eq!(state(&range, 0), (MEM_RESERVE, 0));
        assert_eq!(range.rehome(FRAME, 0, FRAME), Ok(Contents::Zeroed));
        assert_eq!(
            (state(&range, FRAME), state(&range, 0)),
            ((MEM_RESERVE, 0), (MEM_COMMIT, PAGE_READWRITE))
        );
        range.forget(PAGE / 2, PAGE);
        range.forget(0, FRAME);
        assert_eq!(state(&range, 0), (MEM_COMMIT, PAGE_READWRITE), "it stays committed");
        range.decommit(0, FRAME);
        assert_eq!(state(&range, 0), (MEM_RESERVE, 0));
    }

    #[test]
    fn of_a_table_that_grows_all_can_be_read_and_a_part_be_written() {
        let table = Range::table(3 * PAGE, true).unwrap();
        assert_eq!(state(&table, 0), (MEM_RESERVE, 0));
        table.let_read(0, 3 * PAGE).unwrap();
        assert_eq!(state(&table, 2 * PAGE), (MEM_COMMIT, PAGE_READONLY));
        table.open_place(PAGE, PAGE).unwrap();
        let states = [0, 1, 2].map(|page| state(&table, page * PAGE).1);
        assert_eq!(states, [PAGE_READONLY, PAGE_READWRITE, PAGE_READONLY]);
        assert_eq!(state(&Range::table(PAGE, false).unwrap(), 0), (MEM_COMMIT, PAGE_READWRITE));
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_process_has_addresses_for_all_that_it_may_commit() {
        let space = super::super::Mapped::reserve_default().unwrap();
        assert_eq!(space.range.len(), memory_bytes().unwrap().next_multiple_of(FRAME));
    }

    #[test]
    fn more_than_there_is_is_an_error_of_the_system() {
        let memory = memory_bytes().unwrap();
        assert!(memory > 64 << 20, "{memory}");
        assert!(Range::reserve(usize::MAX / 2, FRAME, true).is_err_and(|code| code != 0));
        assert_eq!(Range::reserve(usize::MAX, FRAME, true).unwrap_err(), 0);
    }
}
