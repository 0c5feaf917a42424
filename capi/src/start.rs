//! What happens when the object is loaded, and when the program ends.

use crate::info;
use crate::line::Line;
use core::fmt::Write;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::boxed::Box;
use std::panic;

/// Where the heap's numbers are printed at the end, or -1. Found at the start, since programs change their environment and
/// close their standard error.
static TELL: AtomicI32 = AtomicI32::new(-1);

extern "C" fn start() {
    // A fault of the heap's own: the standard library's message would be put together in the heap that is at fault. A box of
    // nothing takes no memory.
    panic::set_hook(Box::new(|info| {
        let mut line = Line::new();
        let _ = writeln!(line, "democratising: a fault of the heap: {info}");
        line.print(2);
        std::process::abort();
    }));
    // SAFETY: 1. The name is a C string; the answer is read at once. 2. Duplicates a descriptor, if there is one.
    unsafe {
        let asked = libc::getenv(c"DEMOCRATISING_STATS".as_ptr());
        if !asked.is_null() && !matches!(*asked as u8, 0 | b'0') {
            TELL.store(libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 3), Relaxed);
        }
    }
}

extern "C" fn end() {
    let descriptor = TELL.load(Relaxed);
    if descriptor >= 0 {
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
