//! A bit for each granule, looked through in words as wide as the processor's.
//!
//! The first is the highest of its byte, and of its word, so the last that is set up to one is the lowest of what is left of a word: to
//! find that takes two cycles on common processors without extensions, where the highest takes four and more.

#![forbid(unsafe_code)]

use super::super::COPIES;
use core::mem::size_of;

/// Bits of a word.
const WIDE: u32 = usize::BITS;
/// Bytes of a word.
const BYTES: usize = size_of::<usize>();
/// Bytes before the first bit, in which no bit is set: a word that ends at any byte can be read.
const LEAD: usize = if COPIES { BYTES } else { 0 };

/// A table of bits. It is read by words, or one that ends at any byte, and changed by bytes.
pub(super) struct Bits(&'static mut [u8]);

impl Bits {
    /// The bytes that hold the bits up to one.
    pub(super) const fn bytes_upto(last: u32) -> usize {
        (last / WIDE + 1) as usize * BYTES + LEAD
    }

    /// All clear.
    pub(super) const fn new(bytes: &'static mut [u8]) -> Bits {
        Bits(bytes)
    }

    /// The byte of a bit, if there is one, and which bit of it.
    #[inline(always)]
    fn byte_mut(&mut self, at: usize) -> Option<(&mut u8, u32)> {
        Some((self.0.get_mut(at / 8 + LEAD)?, !at as u32 % 8))
    }

    /// Whether there is a bit and it is set.
    #[inline]
    pub(super) fn is_set(&self, at: usize) -> bool {
        self.0.get(at / 8 + LEAD).is_some_and(|byte| u32::from(*byte) >> (!at % 8) & 1 != 0)
    }

    /// Turns a bit over, if there is one.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn flip(&mut self, at: usize) {
        if let Some((byte, bit)) = self.byte_mut(at) {
            *byte = (u32::from(*byte) ^ 1 << bit) as u8;
        }
    }

    /// The words from the first bit on.
    #[inline]
    fn words(&self) -> &[[u8; BYTES]] {
        self.0.as_chunks().0.get(LEAD / BYTES..).unwrap_or_default()
    }

    /// The last set bit up to `at`.
    #[cfg_attr(target_pointer_width = "64", inline)]
    pub(super) fn last(&self, at: usize) -> Option<usize> {
        let mut words = self.words().get(..=at / WIDE as usize)?.iter().rev();
        let upto = usize::from_be_bytes(*words.next()?) >> (!at as u32 % WIDE);
        if upto != 0 {
            return Some(at - upto.trailing_zeros() as usize);
        }
        let mut end = at / WIDE as usize * WIDE as usize;
        for word in words {
            let word = usize::from_be_bytes(*word);
            if word != 0 {
                return Some(end - 1 - word.trailing_zeros() as usize);
            }
            end -= WIDE as usize;
        }
        None
    }

    /// The same, if it is near: without a search, and without a branch that depends on where it stands.
    #[inline(always)]
    pub(super) fn last_near(&self, at: usize) -> Option<usize> {
        // The word whose last byte has the bit.
        let from = at / 8 + LEAD + 1 - BYTES;
        let word = self.0.get(from..from + BYTES)?.first_chunk()?;
        let upto = usize::from_be_bytes(*word) >> (!at as u32 % 8);
        if upto == 0 { None } else { at.checked_sub(upto.trailing_zeros() as usize) }
    }

    /// The first set bit from `at` on; where there is none more than any bit, and than the lowest granule.
    #[cfg_attr(target_pointer_width = "64", inline)]
    pub(super) fn next(&self, at: u32) -> u32 {
        let words = self.words().get((at / WIDE) as usize..).unwrap_or_default();
        let mut mask = !0 >> (at % WIDE);
        let mut start = at & !(WIDE - 1);
        for word in words {
            let found = usize::from_be_bytes(*word) & mask;
            if found != 0 {
                return start + found.leading_zeros();
            }
            mask = !0;
            start += WIDE;
        }
        start + WIDE
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    /// So many bits are in a word that ends with the byte of the last of them, wherever in that byte it stands.
    const NEAR: usize = WIDE as usize - 7;

    proptest! {
        #[test]
        fn bits_are_found_from_both_sides(turned in prop::collection::vec(0u32..200, 0..12), at in 0u32..200) {
            let mut bits = Bits::new(vec![0; Bits::bytes_upto(199)].leak());
            let mut model = [false; 200];
            for one in turned {
                bits.flip(one as usize);
                model[one as usize] ^= true;
            }
            prop_assert_eq!(bits.is_set(at as usize), model[at as usize]);
            prop_assert_eq!(bits.last(at as usize), (0..=at as usize).rev().find(|one| model[*one]));
            let near = (0..=at as usize).rev().take(NEAR).find(|one| model[*one]);
            if COPIES {
                // Beyond that it may find one or say nothing, but nothing else.
                let found = bits.last_near(at as usize);
                prop_assert!(found == near || (near.is_none() && found == bits.last(at as usize)));
            }
            let found = (at..200).find(|one| model[*one as usize]);
            prop_assert_eq!(Some(bits.next(at)).filter(|next| *next < 200), found);
        }
    }
}
