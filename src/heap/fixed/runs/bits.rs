//! A bit for each granule, looked through in words as wide as the processor's.
//!
//! The first is the highest of its byte, and of its word, so the last that is set up to one is the lowest of what is left of a word: to
//! find that takes two cycles on common processors without extensions, where the highest takes four and more.

#![forbid(unsafe_code)]

use super::super::COPIES;
use core::mem::size_of;
use core::ops::Range;

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

    /// All bits.
    pub(super) fn len(&self) -> u32 {
        (self.0.len() - LEAD) as u32 * 8
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

    /// Sets a bit, if there is one.
    #[inline]
    pub(super) fn set(&mut self, at: usize) {
        if let Some((byte, bit)) = self.byte_mut(at) {
            *byte = (u32::from(*byte) | 1 << bit) as u8;
        }
    }

    /// Clears a bit, if there is one.
    #[inline]
    pub(super) fn clear(&mut self, at: usize) {
        if let Some((byte, bit)) = self.byte_mut(at) {
            *byte &= !(1 << bit);
        }
    }

    /// The words from the first bit on.
    #[inline]
    fn words(&self) -> &[[u8; BYTES]] {
        self.0.as_chunks().0.get(LEAD / BYTES..).unwrap_or_default()
    }

    /// The last set bit up to `at`.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
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

    /// The first bit from `at` on that is set, or clear if `flip` is all ones; `none` where there is none.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn next(&self, at: u32, flip: usize, none: u32) -> u32 {
        let words = self.words().get((at / WIDE) as usize..).unwrap_or_default();
        let mut mask = !0 >> (at % WIDE);
        let mut start = at & !(WIDE - 1);
        for word in words {
            let found = (usize::from_be_bytes(*word) ^ flip) & mask;
            if found != 0 {
                return start + found.leading_zeros();
            }
            mask = !0;
            start += WIDE;
        }
        none
    }

    /// Turns every bit of `range` over.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn flip(&mut self, range: Range<u32>) {
        let mut at = range.start;
        let (words, _) = self.0.as_chunks_mut();
        while at < range.end {
            let end = (at - at % WIDE + WIDE).min(range.end);
            let ones = !0 << (WIDE - (end - at));
            if let Some(word) = words.get_mut((at / WIDE) as usize + LEAD / BYTES) {
                *word = (usize::from_be_bytes(*word) ^ ones >> (at % WIDE)).to_be_bytes();
            }
            at = end;
        }
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
        fn bits_are_found_from_both_sides(set in prop::collection::vec(0u32..200, 0..8), at in 0u32..200, to in 0u32..200) {
            let mut bits = Bits::new(vec![0; Bits::bytes_upto(199)].leak());
            let mut model = [false; 200];
            for one in set {
                bits.set(one as usize);
                model[one as usize] = true;
            }
            let range = at.min(to)..at.max(to);
            bits.flip(range.clone());
            range.for_each(|one| model[one as usize] ^= true);
            if at % 5 == 0 {
                bits.clear(at as usize);
                model[at as usize] = false;
            }
            prop_assert_eq!(bits.is_set(at as usize), model[at as usize]);
            prop_assert_eq!(bits.last(at as usize), (0..=at as usize).rev().find(|one| model[*one]));
            let near = (0..=at as usize).rev().take(NEAR).find(|one| model[*one]);
            if COPIES {
                // Beyond that it may find one or say nothing, but nothing else.
                let found = bits.last_near(at as usize);
                prop_assert!(found == near || (near.is_none() && found == bits.last(at as usize)));
            }
            prop_assert_eq!(bits.next(at, 0, 200), (at..200).find(|one| model[*one as usize]).unwrap_or(200));
            let clear = bits.next(at, !0, 200).min(200);
            prop_assert_eq!(clear, (at..200).find(|one| !model[*one as usize]).unwrap_or(200));
        }
    }
}
