//! What the GNU C library tells about its heap, told about this one.

use crate::line::Line;
use core::ffi::c_int;
use core::fmt::{self, Write};
use heap::{Global, gc};

/// From the C library's `pthread.h`.
const CANCEL_DISABLE: c_int = 1;

unsafe extern "C" {
    /// Whether the calling thread can be cancelled from now on, and whether it could before.
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// Gives idle memory back to the system, all of it whatever `keep_bytes` says: what the program needs again comes back. 1 if
/// there was any.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_keep_bytes: usize) -> c_int {
    gc::collect().is_ok_and(|collected| collected.host_bytes > 0) as c_int
}

/// Takes no settings: 0, which says so.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_setting: c_int, _value: c_int) -> c_int {
    0
}

/// The heap's numbers in the fields that the GNU C library has for them: all that is backed is the arena, what caches hold
/// counts as in use.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let stats = Global::stats();
    libc::mallinfo2 {
        arena: stats.reserved_bytes as usize,
        ordblks: 0,
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: stats.in_use_bytes as usize,
        fordblks: stats.reserved_bytes.saturating_sub(stats.in_use_bytes) as usize,
        keepcost: stats.idle_bytes as usize,
    }
}

/// [`mallinfo2`] in numbers that stop at the largest `int`.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    let stats = mallinfo2();
    let int = |number: usize| c_int::try_from(number).unwrap_or(c_int::MAX);
    libc::mallinfo {
        arena: int(stats.arena),
        ordblks: 0,
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: int(stats.uordblks),
        fordblks: int(stats.fordblks),
        keepcost: int(stats.keepcost),
    }
}

/// Prints the heap's numbers to standard error.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    print(2);
}

/// Writes the heap's numbers to a stream as the XML of the GNU C library, as one arena: 0, or EINVAL where any option is asked for, or -1.
///
/// # Safety
/// The stream is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    let mut text = Line::new();
    let _ = tell_xml(&mut text);
    let bytes = text.bytes();
    let mut before = 0;
    // A thread that is to be cancelled would be in the stream's own function, and unwound through this frame, which cannot be.
    // SAFETY: 1. The bytes are initialised. 2. The stream is as the caller promises. 3. The place for the state before is valid, and
    // the thread has that again.
    let written = unsafe {
        pthread_setcancelstate(CANCEL_DISABLE, &mut before);
        let written = libc::fwrite(bytes.as_ptr().cast(), 1, bytes.len(), stream);
        pthread_setcancelstate(before, &mut before);
        written
    };
    if written == bytes.len() { 0 } else { -1 }
}

/// What is free is the rest of what is backed.
fn tell_xml(out: &mut Line) -> fmt::Result {
    let stats = Global::stats();
    let free_bytes = stats.reserved_bytes.saturating_sub(stats.in_use_bytes);
    let numbers = format_args!(
        "<total type=\"fast\" count=\"0\" size=\"0\"/>\n\
         <total type=\"rest\" count=\"{}\" size=\"{free_bytes}\"/>\n\
         <system type=\"current\" size=\"{}\"/>\n\
         <system type=\"max\" size=\"{}\"/>\n",
        u64::from(free_bytes > 0),
        stats.reserved_bytes,
        stats.peak_reserved_bytes,
    );
    writeln!(
        out,
        "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n</sizes>\n{numbers}</heap>\n{numbers}</malloc>"
    )
}

/// Prints the heap's numbers to a descriptor.
pub(crate) fn print(descriptor: c_int) {
    let mut text = Line::new();
    let _ = tell(&mut text);
    text.print(descriptor);
}

/// Bytes as people read them.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Integers only: floating point pulls in far more than two digits are worth.
        let (unit, shift) = match self.0 {
            bytes if bytes < 10 << 10 => return write!(f, "{bytes:>9} B"),
            bytes if bytes < 10 << 20 => ("KiB", 10),
            _ => ("MiB", 20),
        };
        let tenths = ((self.0 as u128 * 10) >> shift) as u64;
        write!(f, "{:>7}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// The heap and the process in numbers.
fn tell(out: &mut Line) -> fmt::Result {
    let stats = Global::stats();
    // SAFETY: 1. All zeros is a value, and the place for the answer is valid.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = core::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        (libc::getpid(), usage)
    };
    writeln!(out, "democratising: the heap of process {pid}")?;
    writeln!(
        out,
        "  in use, with what caches hold  {}   in {} blocks",
        Bytes(stats.in_use_bytes),
        stats.blocks
    )?;
    writeln!(out, "    at most                      {}", Bytes(stats.peak_in_use_bytes))?;
    writeln!(
        out,
        "  backed by memory               {}   of it idle {}",
        Bytes(stats.reserved_bytes),
        Bytes(stats.idle_bytes)
    )?;
    writeln!(out, "    at most                      {}", Bytes(stats.peak_reserved_bytes))?;
    writeln!(out, "  blocks taken from the slabs    {:>9}", stats.allocations)?;
    writeln!(out, "  frames made, given back        {:>9}   {}", stats.creates, stats.unmaps)?;
    writeln!(out, "  requests that failed           {:>9}", stats.failures)?;
    let milliseconds = |time: libc::timeval| time.tv_sec * 1000 + time.tv_usec / 1000;
    writeln!(
        out,
        "  the process: {} ms user, {} ms system, at most {} resident, {} page faults",
        milliseconds(usage.ru_utime),
        milliseconds(usage.ru_stime),
        Bytes(usage.ru_maxrss as u64 * 1024),
        usage.ru_minflt
    )
}
