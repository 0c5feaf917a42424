//! A bit for each granule, in words as wide as the processor's.

#![forbid(unsafe_code)]

use core::ops::Range;

/// Bits of a word.
const WIDE: u32 = usize::BITS;

/// A table of bits.
pub(super) struct Bits(&'static mut [usize]);

impl Bits {
    /// The words that hold the bits up to one.
    pub(super) const fn words_upto(last: u32) -> usize {
        (last / WIDE) as usize + 1
    }

    pub(super) const fn new(words: &'static mut [usize]) -> Bits {
        Bits(words)
    }

    /// All bits.
    pub(super) fn len(&self) -> u32 {
        self.0.len() as u32 * WIDE
    }

    #[inline]
    pub(super) fn is_set(&self, at: u32) -> bool {
        self.0.get((at / WIDE) as usize).is_some_and(|word| word >> (at % WIDE) & 1 != 0)
    }

    /// The word of a bit, and the bit in it.
    #[inline]
    pub(super) fn word_mut(&mut self, at: usize) -> Option<(&mut usize, usize)> {
        Some((self.0.get_mut(at / WIDE as usize)?, 1 << (at as u32 % WIDE)))
    }

    #[inline]
    pub(super) fn set(&mut self, at: u32) {
        if let Some((word, bit)) = self.word_mut(at as usize) {
            *word |= bit;
        }
    }

    #[inline]
    pub(super) fn clear(&mut self, at: u32) {
        if let Some((word, bit)) = self.word_mut(at as usize) {
            *word &= !bit;
        }
    }

    /// The last set bit up to `at`.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn last(&self, at: usize) -> Option<usize> {
        let mut words = self.0.get(..=at / WIDE as usize)?.iter().rev();
        let upto = words.next()? << (!at as u32 % WIDE);
        if upto != 0 {
            return Some(at + upto.ilog2() as usize - (WIDE as usize - 1));
        }
        let mut end = at / WIDE as usize * WIDE as usize;
        for word in words {
            end -= WIDE as usize;
            if *word != 0 {
                return Some(end + word.ilog2() as usize);
            }
        }
        None
    }

    /// The first bit from `at` on that is set, or clear if `flip` is all ones; `none` where there is none.
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn next(&self, at: u32, flip: usize, none: u32) -> u32 {
        let words = self.0.get((at / WIDE) as usize..).unwrap_or_default();
        let mut mask = !0 << (at % WIDE);
        let mut start = at & !(WIDE - 1);
        for word in words {
            let found = (word ^ flip) & mask;
            if found != 0 {
                return start + found.trailing_zeros();
            }
            mask = !0;
            start += WIDE;
        }
        none
    }

    /// Turns every bit of `range` over.
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn flip(&mut self, range: Range<u32>) {
        let mut at = range.start;
        while at < range.end {
            let end = (at - at % WIDE + WIDE).min(range.end);
            let ones = !0 >> (WIDE - (end - at));
            if let Some(word) = self.0.get_mut((at / WIDE) as usize) {
                *word ^= ones << (at % WIDE);
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

    proptest! {
        #[test]
        fn bits_are_found_from_both_sides(set in prop::collection::vec(0u32..200, 0..8), at in 0u32..200, to in 0u32..200) {
            let mut bits = Bits::new(vec![0; Bits::words_upto(199)].leak());
            let mut model = [false; 200];
            for one in set {
                bits.set(one);
                model[one as usize] = true;
            }
            let range = at.min(to)..at.max(to);
            bits.flip(range.clone());
            range.for_each(|one| model[one as usize] ^= true);
            if at % 5 == 0 {
                bits.clear(at);
                model[at as usize] = false;
            }
            prop_assert_eq!(bits.is_set(at), model[at as usize]);
            prop_assert_eq!(bits.last(at as usize), (0..=at as usize).rev().find(|one| model[*one]));
            prop_assert_eq!(bits.next(at, 0, 200), (at..200).find(|one| model[*one as usize]).unwrap_or(200));
            let clear = bits.next(at, !0, 200).min(200);
            prop_assert_eq!(clear, (at..200).find(|one| !model[*one as usize]).unwrap_or(200));
        }
    }
}
