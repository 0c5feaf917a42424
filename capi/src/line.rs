//! Text on the stack: what is said here may not allocate.

use core::ffi::c_int;
use core::fmt::{self, Write};

/// A few lines. What has no room is cut off.
pub(crate) struct Line {
    bytes: [u8; 2048],
    len: usize,
}

impl Line {
    pub(crate) const fn new() -> Line {
        Line { bytes: [0; 2048], len: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Writes it to a descriptor, past the standard library, whose lock this thread may hold, and by the system call itself: in the C
    /// library's function a thread may be cancelled, and unwound through frames that cannot be.
    pub(crate) fn print(&self, descriptor: c_int) {
        let mut left = self.bytes();
        while !left.is_empty() {
            // SAFETY: 1. The bytes are initialised.
            let written = unsafe { libc::syscall(libc::SYS_write, descriptor, left.as_ptr(), left.len()) };
            match usize::try_from(written) {
                Ok(written) if written > 0 => left = left.get(written..).unwrap_or_default(),
                _ => return,
            }
        }
    }
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
