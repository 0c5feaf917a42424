//! What happens when a block is given back that cannot be.

use crate::error::BadFree;
use crate::sync::atomic::{AtomicUsize, Ordering};
use core::fmt::{self, Write};
use core::ptr::NonNull;

/// A block that was given back wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Misuse {
    /// The address that was freed.
    pub addr: usize,
    /// The bytes it was freed with; of a small block, those of its size class; 0 where nobody said.
    pub bytes: usize,
    /// What is wrong.
    pub why: BadFree,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "democratising: {:#x} ({} bytes): {}", self.addr, self.bytes, self.why)
    }
}

/// The hook, as an address; 0 without one.
static HOOK: AtomicUsize = AtomicUsize::new(0);

/// Calls `hook` on misuse, in place of ending the process. What was given back wrongly is left as it is.
///
/// The hook runs in whichever thread found the misuse, possibly long after and in another thread than it happened, and
/// may not allocate from the process's heap.
pub fn on_misuse(hook: fn(Misuse)) {
    // Release: pairs with the Acquire in `found`.
    HOOK.store(hook as usize, Ordering::Release);
}

/// Tells the hook, or says it on standard error and ends the process. Called with no lock held.
pub(super) fn found(at: NonNull<u8>, bytes: usize, why: BadFree) {
    misused(at.as_ptr() as usize, bytes, why);
}

/// The same for a block of any memory, which need not be the heap's.
#[cold]
#[inline(never)]
pub(crate) fn misused(addr: usize, bytes: usize, why: BadFree) {
    let misuse = Misuse { addr, bytes, why };
    // Acquire: pairs with the Release in `on_misuse`.
    let hook = HOOK.load(Ordering::Acquire);
    if hook != 0 {
        // SAFETY: 1. Only `on_misuse` stores there, and it stores a function of this type.
        let hook = unsafe { core::mem::transmute::<usize, fn(Misuse)>(hook) };
        return hook(misuse);
    }
    let mut line = Line { bytes: [0; 256], len: 0 };
    let _ = writeln!(line, "{misuse}");
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
        #[cfg(unix)]
        // SAFETY: 1. The bytes are initialised. 2. Standard error is written without the standard library, whose lock
        // this thread may hold.
        unsafe {
            libc::write(2, line.as_ptr().cast(), line.len());
        }
        #[cfg(not(unix))]
        {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        }
    }
}
