//! What happens when the object is loaded, and when the program ends.

use crate::c::{free, malloc};
use crate::info;
use crate::line::Line;
use core::ffi::c_int;
use core::fmt::Write;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::boxed::Box;
use std::hint::black_box;
use std::panic;

/// Where the heap's numbers are printed at the end, or -1. Found at the start, since programs change their environment and
/// close their standard error.
static TELL: AtomicI32 = AtomicI32::new(-1);

/// Which file that was then, by device and inode: a program may put one of its own in its place.
static FILE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Where the copy of standard error goes, at least: the first that can be had. Programs choose low numbers themselves.
const PLACES: [c_int; 4] = [500, 200, 50, 3];

/// The device and the inode of an open file.
fn file(descriptor: c_int) -> Option<[u64; 2]> {
    // SAFETY: 1. All zeros is a value, and the place for the answer is valid.
    unsafe {
        let mut found: libc::stat64 = core::mem::zeroed();
        (libc::fstat64(descriptor, &mut found) == 0).then_some([found.st_dev as u64, found.st_ino as u64])
    }
}

/// Keeps a copy of standard error for the end.
fn keep_standard_error() {
    // SAFETY: 1. Duplicates a descriptor, if there is one.
    let copy = |least: c_int| unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, least) };
    let Some(descriptor) = PLACES.into_iter().map(copy).find(|copy| *copy >= 0) else { return };
    if let Some(numbers) = file(descriptor) {
        FILE.iter().zip(numbers).for_each(|(kept, number)| kept.store(number, Relaxed));
        TELL.store(descriptor, Relaxed);
    }
}

extern "C" fn start() {
    // A fault of the heap's own: the standard library's message would be put together in the heap that is at fault. A box of
    // nothing takes no memory.
    panic::set_hook(Box::new(|info| {
        let mut line = Line::new();
        let _ = writeln!(line, "democratising: a fault of the heap: {info}");
        line.print(2);
        std::process::abort();
    }));
    // Now, and not first from within `pthread_atfork`, whose lock the C library holds while its list grows.
    // SAFETY: 1. The block is given back once.
    unsafe { free(black_box(malloc(1))) };
    // SAFETY: 1. The name is a C string; the answer is read at once.
    let asked = unsafe {
        let asked = libc::getenv(c"DEMOCRATISING_STATS".as_ptr());
        !asked.is_null() && !matches!(*asked as u8, 0 | b'0')
    };
    if asked {
        keep_standard_error();
    }
}

extern "C" fn end() {
    let descriptor = TELL.load(Relaxed);
    if descriptor >= 0 && file(descriptor) == Some([0, 1].map(|at| FILE[at].load(Relaxed))) {
        info::print(descriptor);
    }
}

// SAFETY: 1. The loader calls what stands in this section, once and before the program, with arguments that are not asked for.
#[unsafe(link_section = ".init_array")]
#[used]
static START: extern "C" fn() = start;

// SAFETY: 1. As above, at the end of the program.
#[unsafe(link_section = ".fini_array")]
#[used]
static END: extern "C" fn() = end;
