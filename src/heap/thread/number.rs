//! By what number the system knows a thread, and whether that one is still there.

#![allow(unsafe_code)]

pub(super) use imp::Number;

/// Whether this is the thread that a process begins with, or the one that a fork left.
pub(super) fn is_first() -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return process() == thread();
    #[cfg(target_vendor = "apple")]
    // SAFETY: 1. It only asks for a number.
    return unsafe { libc::pthread_main_np() == 1 };
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    false
}

/// This process.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn process() -> libc::c_long {
    // SAFETY: 1. It only asks for a number.
    unsafe { libc::getpid() }.into()
}

/// This thread.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn thread() -> libc::c_long {
    // SAFETY: 1. It only asks for a number.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
mod imp {
    use crate::heap::{errno, shared};

    /// A thread of this process. In the child of a fork the one that is there has another number, and no number means anything: what
    /// tells a child are both that it is another process, whoever forked it, and how many forks lie behind it, since a number of
    /// a process comes back.
    pub(in crate::heap) struct Number {
        process: libc::c_long,
        thread: libc::c_long,
        age: usize,
    }

    impl Number {
        /// This thread's own.
        pub(in crate::heap) fn own() -> Number {
            Number { process: super::process(), thread: super::thread(), age: shared::age() }
        }

        /// Whether the thread has ended. It may still be told of as there, where it was not long ago, or where another has its number.
        pub(in crate::heap) fn is_gone(&self) -> bool {
            if self.age != shared::age() || self.process != super::process() {
                return false;
            }
            let _kept = errno::Kept::now();
            // SAFETY: 1. Signal 0 is none: it is only asked whether there is such a thread.
            let asked = unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, 0) };
            asked != 0 && errno::get() == libc::ESRCH
        }
    }
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(miri))))]
mod imp {
    /// Nothing is asked of the system here.
    pub(in crate::heap) struct Number;

    impl Number {
        pub(in crate::heap) fn own() -> Number {
            Number
        }

        pub(in crate::heap) fn is_gone(&self) -> bool {
            false
        }
    }
}
