//! Memory that the runner holds, more with every repeat, so that the processes of each lie at other physical places.
//!
//! How long a walk through memory takes depends on where its pages lie: in the processor's caches, and in a guest whether its host
//! has large pages there. The system hands the pages of the process that ended last to the next, so without this an allocator
//! meets the same pages in every repeat, good ones or bad ones: 60 or 140 ms for one workload and allocator.

use std::io::Error;
use std::ptr::null_mut;

/// Between two repeats: more than any workload has.
pub const STEP: usize = 272 << 20;
/// The most that is held.
const MOST: usize = 3 << 30;

/// The mappings that are held.
#[derive(Debug, Default)]
pub struct Ballast {
    held: Vec<(*mut libc::c_void, usize)>,
}

impl Ballast {
    /// Holds more by `bytes`, as a rule [`STEP`]. When it is enough, everything is let go, and it begins anew.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        if (self.held.len() + 1) * STEP > MOST {
            self.drop_all();
            return Ok(());
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: 1. A new private mapping, placed by the system. 2. The advice is about it alone, and every write lies in it.
        unsafe {
            let at = libc::mmap(null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(Error::last_os_error());
            }
            self.held.push((at, bytes));
            libc::madvise(at, bytes, libc::MADV_HUGEPAGE);
            for page in (0..bytes).step_by(4096) {
                at.cast::<u8>().add(page).write_volatile(1);
            }
        }
        Ok(())
    }

    fn drop_all(&mut self) {
        for (at, bytes) in self.held.drain(..) {
            // SAFETY: 1. It is a mapping of that length of our own, and nobody looks into it.
            unsafe { libc::munmap(at, bytes) };
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.drop_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{Ballast, MOST, STEP};

    #[test]
    fn what_is_held_grows_and_is_let_go_before_it_is_too_much() {
        let mut ballast = Ballast::default();
        let held: Vec<usize> = (0..=MOST / STEP + 1)
            .map(|_| {
                ballast.grow(1 << 12).unwrap();
                ballast.held.len()
            })
            .collect();
        let most = MOST / STEP;
        assert_eq!((held[0], held[most - 1], held[most], held[most + 1]), (1, most, 0, 1));
    }
}
