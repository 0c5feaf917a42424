//! What may be done with addresses.

use std::ptr::NonNull;

/// What a script may do with an address: count with it, and on the host write through it.
pub trait Touch: Copy + std::fmt::Debug {
    fn number(self) -> u64;
    fn plus(self, bytes: u64) -> Self;
    fn fill(self, bytes: u64, pattern: u8);
    fn holds(self, bytes: u64, pattern: u8) -> bool;
}

impl Touch for u64 {
    fn number(self) -> u64 {
        self
    }
    fn plus(self, bytes: u64) -> u64 {
        self + bytes
    }
    fn fill(self, _bytes: u64, _pattern: u8) {}
    fn holds(self, _bytes: u64, _pattern: u8) -> bool {
        true
    }
}

impl Touch for NonNull<u8> {
    fn number(self) -> u64 {
        self.as_ptr() as u64
    }
    fn plus(self, bytes: u64) -> Self {
        NonNull::new(self.as_ptr().wrapping_add(bytes as usize)).unwrap()
    }
    fn fill(self, bytes: u64, pattern: u8) {
        for at in edges(bytes) {
            // SAFETY: 1. The block is live and `at` lies in it.
            unsafe { self.add(at as usize).write(pattern ^ at as u8) };
        }
    }
    fn holds(self, bytes: u64, pattern: u8) -> bool {
        // SAFETY: 1. The block is live and `at` lies in it; `fill` wrote there.
        edges(bytes).all(|at| unsafe { self.add(at as usize).read() } == pattern ^ at as u8)
    }
}

/// Every byte of a small block; of a large one both ends and a byte of each 4 KiB.
pub fn edges(bytes: u64) -> impl Iterator<Item = u64> {
    let inner = (4096..bytes).step_by(4096);
    (0..bytes.min(64)).chain(inner).chain(bytes.saturating_sub(64).max(64)..bytes)
}

pub trait Zeros: Touch {
    fn holds_zeros(self, bytes: u64) -> bool;
    fn holds_until(self, bytes: u64, whole: u64, pattern: u8) -> bool;
}

impl<A: Touch> Zeros for A {
    fn holds_zeros(self, bytes: u64) -> bool {
        edges(bytes).all(|at| self.plus(at).holds(1, 0))
    }
    /// Whether the first `bytes` hold what `fill` wrote into `whole` bytes.
    fn holds_until(self, bytes: u64, whole: u64, pattern: u8) -> bool {
        edges(whole).filter(|at| *at < bytes).all(|at| self.plus(at).holds(1, pattern ^ at as u8))
    }
}
