//! Which addresses are blocks in the program's hands: a bit for every 16 bytes, where the feature `hardened` is on.
//!
//! 1. A bit is set when the block that starts there is handed out, and cleared when it comes back. Whoever clears it has the
//!    block; whoever finds it clear holds none. So of two that free one block at once, one is told, wherever the block is
//!    by then: in a magazine, a depot or a slab.
//! 2. Relaxed throughout. A bit's own changes have one order, which is all that decides who clears it; what else belongs to a
//!    block comes and goes with its address, which the caches and depots order.

#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// log2 of the bytes that have a bit: no two blocks start in one such piece.
const BIT_SHIFT: u32 = 4;
/// log2 of the bytes that have a byte of bits.
pub const SHIFT: u32 = BIT_SHIFT + 3;

/// The bits of a range of addresses.
pub struct Marks {
    base: usize,
    bytes: &'static [AtomicU8],
}

impl Marks {
    /// So many bytes of bits cover a range of `bytes`.
    pub const fn len_for(bytes: u64) -> u64 {
        (bytes >> SHIFT) + 1
    }

    /// Marks over bits that are clear, of the range that starts at `base`.
    pub fn new(base: usize, bytes: &'static [AtomicU8]) -> Marks {
        Marks { base, bytes }
    }

    /// How far an address lies behind the start of the range.
    pub fn offset_bytes(&self, at: usize) -> u64 {
        at.wrapping_sub(self.base) as u64
    }

    #[inline]
    fn bit(&self, at: usize) -> Option<(&AtomicU8, u8)> {
        let distance = at.wrapping_sub(self.base);
        if distance & ((1 << BIT_SHIFT) - 1) != 0 {
            return None;
        }
        let byte = self.bytes.get(distance >> SHIFT)?;
        Some((byte, 1 << (distance >> BIT_SHIFT & 7)))
    }

    /// Marks an address. `false`: it was marked.
    #[inline]
    pub fn set(&self, at: usize) -> bool {
        self.bit(at).is_some_and(|(byte, bit)| byte.fetch_or(bit, Relaxed) & bit == 0)
    }

    /// Takes the mark of an address away. `false`: it had none. (Asked first: where no block can be, bits can only be read.)
    #[inline]
    pub fn clear(&self, at: usize) -> bool {
        self.bit(at).is_some_and(|(byte, bit)| {
            byte.load(Relaxed) & bit != 0 && byte.fetch_and(!bit, Relaxed) & bit != 0
        })
    }

    /// Whether an address is marked.
    pub fn is_set(&self, at: usize) -> bool {
        self.bit(at).is_some_and(|(byte, bit)| byte.load(Relaxed) & bit != 0)
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_starts_within_the_range_have_a_mark() {
        static BITS: [AtomicU8; 3] = [const { AtomicU8::new(0) }; 3];
        let marks = Marks::new(0x1000, &BITS);
        assert!(marks.set(0x1000) && !marks.set(0x1000) && marks.set(0x1010));
        assert!(!marks.set(0x1018) && !marks.set(0xff0) && !marks.set(0x1000 + 3 * 128) && !marks.clear(0));
        assert!(marks.clear(0x1000) && !marks.clear(0x1000) && marks.is_set(0x1010));
    }
}
