//! The error number of the C library, which `malloc` sets and `free` leaves as it is.

#[cfg(unix)]
use core::ptr::NonNull;

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
            number: get(),
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

/// Runs what may leave a number although it worked, as advice to the system that was refused, and leaves the caller's.
#[inline]
pub(super) fn keeping<T>(run: impl FnOnce() -> T) -> T {
    let _kept = Kept::now();
    run()
}

/// The place of this thread's own number; `None` where nothing promises one.
#[cfg(unix)]
#[inline]
fn place() -> Option<NonNull<i32>> {
    #[cfg(any(target_os = "linux", target_os = "emscripten", target_os = "redox"))]
    // SAFETY: 1. The function gives the place at any time of the thread's life.
    let place = unsafe { libc::__errno_location() };
    #[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
    // SAFETY: 1. As above.
    let place = unsafe { libc::__error() };
    #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
    // SAFETY: 1. As above.
    let place = unsafe { libc::__errno() };
    #[cfg(not(any(
        target_os = "linux",
        target_os = "emscripten",
        target_os = "redox",
        target_os = "macos",
        target_os = "ios",
        target_os = "freebsd",
        target_os = "android",
        target_os = "netbsd",
        target_os = "openbsd"
    )))]
    let place = core::ptr::null_mut();
    NonNull::new(place)
}

#[cfg(unix)]
#[inline]
pub(super) fn get() -> i32 {
    // SAFETY: 1. The place is this thread's own, and there as long as the thread.
    place().map_or(0, |place| unsafe { place.read() })
}

#[cfg(unix)]
#[inline]
fn set(number: i32) {
    if let Some(place) = place() {
        // SAFETY: 1. As above.
        unsafe { place.write(number) };
    }
}
