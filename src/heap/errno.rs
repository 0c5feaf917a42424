//! The error number of the C library, which `malloc` sets and `free` leaves as it is.

/// Says that there is no memory: what C's `malloc` promises to whoever gets null.
#[cold]
pub(super) fn no_memory() {
    #[cfg(unix)]
    set(libc::ENOMEM);
}

/// The number as it was when this was made, put back when it is dropped: around system calls that may fail, in functions
/// whose caller has no business with that.
pub(super) struct Kept {
    #[cfg(unix)]
    number: i32,
}

impl Kept {
    #[inline]
    pub(super) fn now() -> Kept {
        Kept {
            #[cfg(unix)]
            number: std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        }
    }
}

impl Drop for Kept {
    #[inline]
    fn drop(&mut self) {
        #[cfg(unix)]
        set(self.number);
    }
}

#[cfg(unix)]
#[inline]
fn set(number: i32) {
    #[cfg(any(target_os = "linux", target_os = "emscripten", target_os = "redox"))]
    // SAFETY: 1. The function gives the place of this thread's own number, at any time of the thread's life.
    unsafe {
        *libc::__errno_location() = number;
    }
    #[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
    // SAFETY: 1. As above.
    unsafe {
        *libc::__error() = number;
    }
    #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
    // SAFETY: 1. As above.
    unsafe {
        *libc::__errno() = number;
    }
    // Elsewhere nothing promises it.
    let _ = number;
}
