//! Reserving, backing and giving up memory with `mmap(2)`, `mprotect(2)` and `madvise(2)`.

use super::{Contents, FRAME, STEP, open_ahead};
#[cfg(target_os = "linux")]
use crate::sync::atomic::AtomicBool;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use core::ptr::{NonNull, null_mut};
use std::io;

/// Small programs stay on small pages: huge ones from here on. Once a program is there, what lies below becomes huge too, of a compact heap
/// what is full.
#[cfg(target_os = "linux")]
const HUGE_FROM: usize = if COMPACT { 8 << 20 } else { 4 << 20 };
#[cfg(target_os = "linux")]
const COMPACT: bool = cfg!(feature = "compact");
/// The bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;
/// The least page of any system, and where huge ones are asked for, the page: see `has_huge`.
#[cfg(target_os = "linux")]
const LEAST_PAGE: usize = 4 << 10;
/// Where what is opened begins is a multiple of this, of which every system's page is a part.
const PIECE: usize = super::tables::PIECE;
/// A core dump has no table that is longer: it would be zeros for the most part. Nor has it what was never opened: see `reserve`.
#[cfg(target_os = "linux")]
const DUMPED_TABLE: usize = 1 << 20;
/// Of a range so much is dumped from the start: what the first frame opens. A small program does not have to say what is, then.
#[cfg(target_os = "linux")]
const DUMPED: usize = STEP + FRAME;
/// `MADV_COLLAPSE`, which not every C library names.
#[cfg(target_os = "linux")]
const COLLAPSE: i32 = 25;
/// `MADV_DONTNEED_LOCKED` (Linux 5.18), which not every C library names.
#[cfg(any(target_os = "linux", target_os = "android"))]
const DONTNEED_LOCKED: i32 = 24;

/// Whether huge pages are what they are taken for. Where pages are of 16 or 64 KiB, a huge one is of 32 or 512 MiB: far more than is asked
/// for at once.
#[cfg(target_os = "linux")]
fn has_huge() -> bool {
    page_bytes() == LEAST_PAGE
}

/// A mapping of this process's own.
#[derive(Debug)]
pub(super) struct Range {
    start: NonNull<u8>,
    len: usize,
    /// Whether it becomes readable and writable in steps, from its start on and for good, or each frame while it is committed: the way
    /// that counts against the system's commit limit only what is used.
    open: bool,
    /// What was opened in steps. The rest makes nothing resident where a program locks all that it has mapped, and is not counted as its data.
    opened: AtomicUsize,
    /// Of frames.
    committed_bytes: AtomicUsize,
    /// Whether memory from `HUGE_FROM` on was committed.
    #[cfg(target_os = "linux")]
    large: AtomicBool,
}

// SAFETY: 1. A mapping belongs to the process, not to a thread.
unsafe impl Send for Range {}
// SAFETY: 1. The methods that take `&self` are system calls, which may run at the same time.
unsafe impl Sync for Range {}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The most addresses that the process may have, and the most that it may write, which on Linux counts every private mapping that is writable.
fn limits() -> (usize, usize) {
    let known = |(answer, limit): (i32, libc::rlimit)| {
        if answer == 0 { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { usize::MAX }
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: 1. `limit` is a valid place for the answer.
    let addresses = known((unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) }, limit));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: 1. As above.
    let written = known((unsafe { libc::getrlimit(libc::RLIMIT_DATA, &mut limit) }, limit));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let written = usize::MAX;
    (addresses, written)
}

/// The most that is worth reserving: a quarter of the addresses that the process may have, and no more than it may write. A range as long as
/// that is not open: what is used of it counts, and the rest does not.
pub(super) fn reserve_limit() -> usize {
    let (addresses, written) = limits();
    (addresses / 4).min(written)
}

/// The most that a range may have backed now.
pub(super) fn commit_limit() -> usize {
    let (addresses, written) = limits();
    addresses.min(written)
}

/// A file that is read by system calls alone: what stands in for `open` in a program may allocate, from here.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct File(libc::c_long);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl File {
    fn open(path: &core::ffi::CStr) -> Option<File> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        // SAFETY: 1. The path ends with a zero.
        let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) };
        (file >= 0).then_some(File(file))
    }

    /// Goes on at a place.
    #[cfg(target_os = "linux")]
    fn seek(&self, place: usize) -> bool {
        // SAFETY: 1. The file is open; no memory of ours is read or written.
        unsafe { libc::syscall(libc::SYS_lseek, self.0, place, libc::SEEK_SET) >= 0 }
    }

    /// Whether there was that much.
    fn read(&self, out: &mut [u8]) -> bool {
        // SAFETY: 1. The file is open. 2. `out` is a valid place for so many bytes.
        let read = unsafe { libc::syscall(libc::SYS_read, self.0, out.as_mut_ptr(), out.len()) };
        usize::try_from(read) == Ok(out.len())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: 1. The file is open, and used no more.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

/// Whether the system sets memory aside for all that can be written, before it is touched: `vm.overcommit_memory=2`.
fn accounts() -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let mut mode = [0u8];
        File::open(c"/proc/sys/vm/overcommit_memory").is_some_and(|file| file.read(&mut mode))
            && mode == *b"2"
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    false
}

/// How many of the pages of a huge one are resident. Read, and not asked for by `mincore`, which is in no set of system calls that systemd
/// lets services have: one would be ended for it.
#[cfg(target_os = "linux")]
fn resident_pages(pagemap: &File, place: *mut libc::c_void) -> Option<usize> {
    /// The bytes of a page's word, whose highest bit says that it is resident.
    const WORD: usize = size_of::<u64>();
    // Few at once: the stack is the program's, and may be short.
    let mut words = [0u8; 64 * WORD];
    if !pagemap.seek(place.addr() / LEAST_PAGE * WORD) {
        return None;
    }
    let mut resident = 0;
    for _ in 0..HUGE / LEAST_PAGE * WORD / words.len() {
        if !pagemap.read(&mut words) {
            return None;
        }
        let highest = if cfg!(target_endian = "little") { WORD - 1 } else { 0 };
        resident += words.chunks_exact(WORD).filter(|word| word[highest] >> 7 == 1).count();
    }
    Some(resident)
}

/// All memory of the machine, with what it can be swapped to, where the system says.
pub(super) fn memory_bytes() -> Option<usize> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // SAFETY: 1. All zeros are numbers. 2. `all` is a valid place for the answer.
        let all = unsafe {
            let mut all: libc::sysinfo = core::mem::zeroed();
            (libc::sysinfo(&mut all) == 0).then_some(all)
        }?;
        let bytes = (u128::from(all.totalram) + u128::from(all.totalswap)) * u128::from(all.mem_unit);
        Some(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    None
}

/// The bytes of a page: 4 KiB, or up to 64 on processors that can be told.
fn page_bytes() -> usize {
    // SAFETY: 1. Asks for a constant of the system.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
    page.ok().filter(|page| page.is_power_of_two()).unwrap_or(FRAME)
}

/// The pages that lie wholly in a place of a mapping: where they start, and their bytes. A system call would take the rest of the last for
/// them, too.
fn whole_pages(at: usize, len: usize, page: usize) -> Option<(usize, usize)> {
    let start = at.next_multiple_of(page);
    let end = (at + len) / page * page;
    (start < end).then(|| (start, end - start))
}

/// What can be read and written.
const OPEN: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// New pages of the process's own, for which no memory is set aside before they are touched; some BSDs never do, and have no flag for it.
const NEW_PAGES: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | NO_RESERVE;
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly", target_os = "openbsd")))]
const NO_RESERVE: i32 = libc::MAP_NORESERVE;
#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "openbsd"))]
const NO_RESERVE: i32 = 0;

fn map(len: usize, protection: i32) -> Result<NonNull<u8>, i32> {
    let flags = NEW_PAGES;
    // SAFETY: 1. A new private mapping, placed by the system, overlaps nothing.
    let at = unsafe { libc::mmap(null_mut(), len, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(errno()) } else { NonNull::new(at.cast()).ok_or(0) }
}

fn unmap(start: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: 1. The caller owns `start..start + len` of a mapping and uses it no more.
        unsafe { libc::munmap(start.as_ptr().cast(), len) };
    }
}

/// Gives the pages up, so that they read as zeros; never MADV_FREE, which leaves them resident.
///
/// # Safety
/// The pages are this process's own private mapping, committed, and nobody uses what they hold.
unsafe fn forget(place: *mut libc::c_void, len: usize) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: 1. As the caller promises.
    unsafe {
        libc::madvise(place, len, libc::MADV_DONTNEED) == 0
            || libc::madvise(place, len, DONTNEED_LOCKED) == 0
            || forget_locked(place, len)
    }
    // Elsewhere the advice may leave the old bytes in place: map anew.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    // SAFETY: 1. As the caller promises: what the new pages replace is the caller's own.
    unsafe {
        let flags = NEW_PAGES | libc::MAP_FIXED;
        libc::mmap(place, len, OPEN, flags, -1, 0) != libc::MAP_FAILED
    }
}

/// Gives pages up that may be locked, where the kernel does not do that in one step. They are locked again when they are touched.
///
/// # Safety
/// As for [`forget`].
#[cfg(any(target_os = "linux", target_os = "android"))]
#[cold]
unsafe fn forget_locked(place: *mut libc::c_void, len: usize) -> bool {
    // From the kernel's `linux/mman.h`.
    const MLOCK_ONFAULT: libc::c_int = 1;
    // SAFETY: 1. As the caller promises; a lock changes nothing that can be read there.
    unsafe {
        if libc::munlock(place, len) != 0 {
            return false;
        }
        let was_locked = libc::madvise(place, len, libc::MADV_DONTNEED) == 0;
        if was_locked {
            libc::syscall(libc::SYS_mlock2, place, len, MLOCK_ONFAULT);
        }
        was_locked
    }
}

/// Gives the pages of a table from a place on up, but for the one that begins before it, where that can be done.
///
/// # Safety
/// The place is in a table and goes to its end, and nobody uses what it holds.
pub(super) unsafe fn forget_rest(start: NonNull<u8>, len: usize) {
    let page = page_bytes();
    let head = start.as_ptr().addr().wrapping_neg() % page;
    let Some(rest) = len.checked_sub(head).filter(|&rest| rest > 0) else { return };
    // SAFETY: 1. As the caller promises. 2. A mapping is whole pages: what lies behind the table's end in its last one is nobody's.
    unsafe { forget(start.add(head).as_ptr().cast(), rest.next_multiple_of(page)) };
}

impl Range {
    /// Reserves `len` bytes (a multiple of `align`) at a multiple of `align`. It is open only if it may be.
    pub(super) fn reserve(len: usize, align: usize, open: bool) -> Result<Range, i32> {
        let room = len.checked_add(align).ok_or(libc::ENOMEM)?;
        let start = map(room, libc::PROT_NONE)?;
        let head = (start.as_ptr() as usize).wrapping_neg() % align;
        // SAFETY: 1. `head + len <= room`, so both places lie within or at the end of the mapping.
        let (aligned, end) = unsafe { (start.add(head), start.add(head + len)) };
        unmap(start, head);
        unmap(end, room - head - len);
        // Where what can be written counts, what is given back is not to.
        let open = open && limits().1 == usize::MAX && !accounts();
        let range = Range::of(aligned, len, open);
        // Where the system makes huge pages of all that it can, the first would be huge too. Those behind become so in `join`.
        #[cfg(target_os = "linux")]
        // SAFETY: 1. Advice about this mapping; where it is refused, pages are what they would be.
        unsafe {
            libc::madvise(aligned.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE);
        }
        // The kernel dumps nothing of what is not open. A debugger does (gdb's `gcore`), all of it, as zeros.
        #[cfg(target_os = "linux")]
        if len > DUMPED {
            // SAFETY: 1. Advice about this mapping, which is longer than that; where it is refused, dumps are longer.
            unsafe { libc::madvise(range.at(DUMPED, len - DUMPED), len - DUMPED, libc::MADV_DONTDUMP) };
        }
        Ok(range)
    }

    /// Zeroed memory for a table, on small pages only: most of it is never touched. One that grows is not there before it is opened: a program that
    /// locks all that it has mapped would wait for a page table of all that can be read.
    pub(super) fn table(len: usize, grows: bool) -> Result<Range, i32> {
        let start = map(len, if grows { libc::PROT_NONE } else { OPEN })?;
        #[cfg(target_os = "linux")]
        // SAFETY: 1. Advice about this mapping.
        unsafe {
            libc::madvise(start.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE);
            if len > DUMPED_TABLE {
                libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTDUMP);
            }
        };
        Ok(Range::of(start, len, true))
    }

    fn of(start: NonNull<u8>, len: usize, open: bool) -> Range {
        Range {
            start,
            len,
            open,
            opened: AtomicUsize::new(0),
            committed_bytes: AtomicUsize::new(0),
            #[cfg(target_os = "linux")]
            large: AtomicBool::new(false),
        }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether the system does not account for what can be written and is never touched.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    fn at(&self, at: usize, len: usize) -> *mut libc::c_void {
        assert!(at <= self.len && len <= self.len - at, "{at}..+{len} of a range of {} bytes", self.len);
        // SAFETY: 1. Checked above to lie in the mapping.
        unsafe { self.start.add(at) }.as_ptr().cast()
    }

    pub(super) fn commit(&self, at: usize, len: usize) -> Result<Contents, i32> {
        self.count(len)?;
        self.let_in(at, len).inspect_err(|_| self.uncount(len))
    }

    /// Commits one place and decommits another that is as long: in all as much is committed as before, which no limit refuses.
    pub(super) fn rehome(&self, from: usize, to: usize, len: usize) -> Result<Contents, i32> {
        let contents = self.let_in(to, len)?;
        self.empty(from, len);
        Ok(contents)
    }

    /// Makes a place readable and writable.
    fn let_in(&self, at: usize, len: usize) -> Result<Contents, i32> {
        if self.open {
            self.open(at + len)?;
        } else {
            self.show_place(at, len)?;
        }
        #[cfg(target_os = "linux")]
        // Relaxed: it is done once, by whoever comes first, and nobody waits for it.
        if at + len > HUGE_FROM && !self.large.load(Relaxed) && !self.large.swap(true, Relaxed) {
            self.join();
        }
        Ok(Contents::Zeroed)
    }

    /// Counts what is to be committed, unless the process may not have so much by now. The kernel counted the whole range when it was
    /// reserved, and refuses nothing of it: a limit that the process was given since then holds by this alone.
    fn count(&self, len: usize) -> Result<(), i32> {
        // Relaxed: a number, which stands for no memory that another thread sees.
        let committed = self.committed_bytes.fetch_add(len, Relaxed) + len;
        if committed > commit_limit() {
            self.uncount(len);
            return Err(libc::ENOMEM);
        }
        Ok(())
    }

    fn uncount(&self, len: usize) {
        // Relaxed: as in `count`.
        self.committed_bytes.fetch_sub(len, Relaxed);
    }

    /// Makes what lies before `end` readable and writable for good.
    #[inline]
    fn open(&self, end: usize) -> Result<(), i32> {
        // Relaxed: whoever sees the number comes behind the call that it tells of. Who comes second does it again.
        let opened = self.opened.load(Relaxed);
        if end <= opened { Ok(()) } else { self.open_from(opened, end) }
    }

    /// The same of what is not.
    #[cold]
    fn open_from(&self, opened: usize, end: usize) -> Result<(), i32> {
        let upto = open_ahead(opened, end, (FRAME, STEP), self.len, |at, len| self.show_place(at, len))?;
        self.opened.fetch_max(upto, Relaxed);
        Ok(())
    }

    /// Makes the pages of a place readable and writable, and a part of core dumps.
    fn show_place(&self, at: usize, len: usize) -> Result<(), i32> {
        self.open_place(at, len)?;
        #[cfg(target_os = "linux")]
        if at + len > DUMPED {
            // SAFETY: 1. Advice about this mapping.
            unsafe { libc::madvise(self.at(at, len), len, libc::MADV_DODUMP) };
        }
        Ok(())
    }

    /// Makes the pages of a place readable and writable.
    pub(super) fn open_place(&self, at: usize, len: usize) -> Result<(), i32> {
        self.protect(at, len, OPEN)
    }

    /// Makes the pages of a place readable alone.
    pub(super) fn let_read(&self, at: usize, len: usize) -> Result<(), i32> {
        self.protect(at, len, libc::PROT_READ)
    }

    fn protect(&self, at: usize, len: usize, protection: i32) -> Result<(), i32> {
        let first = at / PIECE * PIECE;
        let len = at + len - first;
        let place = self.at(first, len);
        // SAFETY: 1. The place is this mapping's own. 2. It begins at a page, and its last page holds nothing else.
        if unsafe { libc::mprotect(place, len, protection) } != 0 {
            return Err(errno());
        }
        Ok(())
    }

    /// The program is not small: all its memory is on huge pages from now on, and its first becomes so. What is on small pages there is copied into
    /// huge ones at once (`MADV_COLLAPSE`, Linux 6.1), since programs keep there what they use most: a random walk through it
    /// takes up to 1.5 times as long on small ones. Of a frame where nothing is resident nothing becomes so; of a compact heap's, where more than
    /// a 16th is not.
    #[cfg(target_os = "linux")]
    #[cold]
    fn join(&self) {
        if !has_huge() {
            return;
        }
        // SAFETY: 1. Advice about this mapping, which is longer than that; nothing that can be read there changes. Where it is refused,
        // pages stay small.
        unsafe { libc::madvise(self.at(HUGE_FROM, 0), self.len - HUGE_FROM, libc::MADV_HUGEPAGE) };
        if !COMPACT {
            let first = self.start.as_ptr().cast();
            // SAFETY: 1. As above.
            unsafe {
                libc::madvise(first, HUGE_FROM, libc::MADV_HUGEPAGE);
                libc::madvise(first, HUGE_FROM, COLLAPSE);
            }
            return;
        }
        let Some(pagemap) = File::open(c"/proc/self/pagemap") else { return };
        for at in (0..HUGE_FROM).step_by(HUGE) {
            let place = self.at(at, HUGE);
            let Some(resident) = resident_pages(&pagemap, place) else { return };
            if resident >= HUGE / LEAST_PAGE / 16 * 15 {
                // SAFETY: 1. As above.
                unsafe {
                    libc::madvise(place, HUGE, libc::MADV_HUGEPAGE);
                    libc::madvise(place, HUGE, COLLAPSE);
                }
            }
        }
    }

    /// Gives memory back that stays committed, where that can be done.
    pub(super) fn forget(&self, at: usize, len: usize) {
        // Granules may be shorter than pages; what else is in a page may be live.
        if let Some((at, len)) = whole_pages(at, len, page_bytes()) {
            // SAFETY: 1. The place is this mapping's own, committed and unused.
            unsafe { forget(self.at(at, len), len) };
        }
    }

    pub(super) fn decommit(&self, at: usize, len: usize) {
        self.uncount(len);
        self.empty(at, len);
    }

    /// Takes the backing of a place away.
    fn empty(&self, at: usize, len: usize) {
        let place = self.at(at, len);
        // SAFETY: 1. The place is this mapping's own and, by the contracts of `decommit` and `rehome`, committed and unused.
        // 2. Where the pages cannot be given up (they may be locked), they are cleared, as `commit` promises zeros.
        unsafe {
            if !forget(place, len) {
                place.cast::<u8>().write_bytes(0, len);
            }
            if !self.open {
                libc::mprotect(place, len, libc::PROT_NONE);
            }
        }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        unmap(self.start, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_place_only_whole_pages_are_given_up() {
        const KIB: usize = 1 << 10;
        for (at, len, page, whole) in [
            (0, 16, 4, Some((0, 16))),
            (16, 48, 16, Some((16, 48))),
            (0, 16, 64, None),
            (64, 80, 64, Some((64, 64))),
            (16, 112, 64, Some((64, 64))),
            (16, 111, 64, None),
            (48, 64, 64, None),
            (48, 2048, 64, Some((64, 1984))),
            (64, 0, 64, None),
        ] {
            let found = whole_pages(at * KIB, len * KIB, page * KIB);
            assert_eq!(
                found,
                whole.map(|(at, len): (usize, usize)| (at * KIB, len * KIB)),
                "{at} {len} {page}"
            );
        }
        assert!(page_bytes().is_power_of_two() && page_bytes() <= FRAME);
    }
}
