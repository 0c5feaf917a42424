//! The process's policy on misuse, and the line that ends it.

use super::{Misuse, OnMisuse};
use crate::error::BadFree;
use crate::heap::thread;
use crate::sync::atomic::{AtomicUsize, Ordering};
use core::fmt::{self, Write};
use core::ptr::NonNull;

/// The policy as a word: a hook's address, which is none of the others.
static POLICY: AtomicUsize = AtomicUsize::new(STOP);
const STOP: usize = 0;
const IGNORE: usize = 1;

/// Sets what happens when the process's heap, or device memory, meets misuse. Whoever finds it may do so long after it happened,
/// in another thread.
///
/// ```
/// use democratising::heap::{Misuse, OnMisuse, on_misuse};
///
/// fn log(misuse: Misuse) {
///     eprintln!("{misuse}");
/// }
/// on_misuse(OnMisuse::Hook(log));
/// # on_misuse(OnMisuse::Stop);
/// ```
pub fn on_misuse(then: OnMisuse) {
    let word = match then {
        OnMisuse::Stop => STOP,
        OnMisuse::Ignore => IGNORE,
        OnMisuse::Hook(hook) => hook as usize,
    };
    // Release: pairs with the Acquire in `misused`.
    POLICY.store(word, Ordering::Release);
}

/// Tells the hook, goes on, or says it on standard error and ends the process. Called with no lock held.
pub(in crate::heap) fn found(at: NonNull<u8>, bytes: usize, why: BadFree) {
    misused(at.as_ptr() as usize, bytes, why);
}

/// The same for a block of any memory, which need not be the heap's, and for null.
#[cold]
#[inline(never)]
pub(crate) fn misused(addr: usize, bytes: usize, why: BadFree) {
    let misuse = Misuse { addr, bytes, why };
    // Acquire: pairs with the Release in `on_misuse`.
    match POLICY.load(Ordering::Acquire) {
        // As for a hook: the program may handle the signal of an abort, and allocate there.
        STOP => thread::call(|| stop(format_args!("{misuse}"))),
        IGNORE => {}
        hook => {
            // SAFETY: 1. Only `on_misuse` stores there, and any other word that it stores is a function of this type.
            let hook = unsafe { core::mem::transmute::<usize, fn(Misuse)>(hook) };
            thread::call(|| {
                let returns = Returns;
                hook(misuse);
                core::mem::forget(returns);
            });
        }
    }
}

/// Dropped where a hook does not return: what it was called from has given half of a magazine back, and would give that half out again; and
/// above that there may be a frame of the language's own allocator, through which nothing may unwind.
struct Returns;

impl Drop for Returns {
    fn drop(&mut self) {
        stop(format_args!("democratising: the hook on misuse did not return"))
    }
}

/// Says it on standard error and ends the process.
fn stop(what: fmt::Arguments) -> ! {
    let mut line = Line { bytes: [0; 256], len: 0 };
    let _ = writeln!(line, "{what}");
    line.print();
    std::process::abort()
}

/// A line on the stack: the heap cannot be asked for one now.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

impl Line {
    fn print(&self) {
        let line = &self.bytes[..self.len];
        // By the system call itself: in the C library's function a thread may be cancelled, and the program would go on.
        #[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
        // SAFETY: 1. The bytes are initialised. 2. Standard error is written without the standard library, whose lock
        // this thread may hold.
        unsafe {
            libc::syscall(libc::SYS_write, 2, line.as_ptr(), line.len());
        }
        #[cfg(all(unix, any(miri, not(any(target_os = "linux", target_os = "android")))))]
        // SAFETY: 1. and 2. as above.
        unsafe {
            libc::write(2, line.as_ptr().cast(), line.len());
        }
        #[cfg(not(unix))]
        {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        }
    }
}
