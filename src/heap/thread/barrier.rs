//! A barrier that every thread of the process passes, for whoever asks: Linux's `membarrier`. Those that run are interrupted, the
//! others pass it when they are next switched to. So hits need none.

pub(in crate::heap) use imp::{everyone, is_there};

/// Where a thread's word can be changed by others at all (see `place.rs`), and hits are what `hit.rs` says: those of the hardened heap draw
/// their block from the whole magazine.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(miri),
    not(feature = "dylib"),
    not(feature = "hardened")
))]
mod imp {
    use crate::heap::errno;
    use crate::sync::atomic::{AtomicU8, Ordering::Relaxed};

    // From the kernel's `linux/membarrier.h`.
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    const UNKNOWN: u8 = 0;
    const THERE: u8 = 1;
    const REFUSED: u8 = 2;

    /// Whether the process is registered. Relaxed: whoever registers twice does no harm.
    static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

    fn membarrier(command: libc::c_int) -> bool {
        let _kept = errno::Kept::now();
        // SAFETY: 1. The call reads and writes no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    fn register() -> bool {
        let there = membarrier(REGISTER_PRIVATE_EXPEDITED);
        STATE.store(if there { THERE } else { REFUSED }, Relaxed);
        there
    }

    /// Whether there is such a barrier.
    pub(in crate::heap) fn is_there() -> bool {
        match STATE.load(Relaxed) {
            UNKNOWN => register(),
            state => state == THERE,
        }
    }

    /// Lets every thread of the process pass a barrier. `false`: it could not be done.
    pub(in crate::heap) fn everyone() -> bool {
        // A process that was forked may have to register anew.
        is_there() && (membarrier(PRIVATE_EXPEDITED) || register() && membarrier(PRIVATE_EXPEDITED))
    }
}

#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(miri),
    not(feature = "dylib"),
    not(feature = "hardened")
)))]
mod imp {
    pub(in crate::heap) fn is_there() -> bool {
        false
    }

    pub(in crate::heap) fn everyone() -> bool {
        false
    }
}
