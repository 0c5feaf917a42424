//! Ranges of bits in slices of words: what every table of one bit per granule, frame or slot is read and written with.

#![forbid(unsafe_code)]

use core::ops::Range;

/// The words that hold `n` bits.
pub const fn words(n: u32) -> usize {
    n.div_ceil(64) as usize
}

/// Whether bit `at` is set.
#[inline]
pub fn get(bits: &[u64], at: u32) -> bool {
    bits[at as usize / 64] >> (at % 64) & 1 != 0
}

/// Sets bit `at`.
#[inline]
pub fn set(bits: &mut [u64], at: u32) {
    bits[at as usize / 64] |= 1 << (at % 64);
}

/// Clears bit `at`.
#[inline]
pub fn clear(bits: &mut [u64], at: u32) {
    bits[at as usize / 64] &= !(1 << (at % 64));
}

/// The words that a range that is not empty touches: first word and mask, last word and mask (the same word, the
/// same mask, when there is one).
#[inline]
fn edges(range: Range<u32>) -> (usize, u64, usize, u64) {
    let (first, last) = (range.start as usize / 64, (range.end - 1) as usize / 64);
    let from = !0u64 << (range.start % 64);
    let to = !0u64 >> (63 - (range.end - 1) % 64);
    if first == last { (first, from & to, last, from & to) } else { (first, from, last, to) }
}

/// Sets every bit of `range`.
#[inline]
pub fn set_range(bits: &mut [u64], range: Range<u32>) {
    if range.is_empty() {
        return;
    }
    let (first, from, last, to) = edges(range);
    bits[first] |= from;
    bits[last] |= to;
    if last > first + 1 {
        bits[first + 1..last].fill(!0);
    }
}

/// Clears every bit of `range`.
#[inline]
pub fn clear_range(bits: &mut [u64], range: Range<u32>) {
    if range.is_empty() {
        return;
    }
    let (first, from, last, to) = edges(range);
    bits[first] &= !from;
    bits[last] &= !to;
    if last > first + 1 {
        bits[first + 1..last].fill(0);
    }
}

/// Whether every bit of `range` is set.
#[inline]
pub fn all(bits: &[u64], range: Range<u32>) -> bool {
    if range.is_empty() {
        return true;
    }
    let (first, from, last, to) = edges(range);
    bits[first] & from == from
        && bits[last] & to == to
        && (last <= first + 1 || bits[first + 1..last].iter().all(|&word| word == !0))
}

/// Whether any bit of `range` is set.
#[inline]
pub fn any(bits: &[u64], range: Range<u32>) -> bool {
    if range.is_empty() {
        return false;
    }
    let (first, from, last, to) = edges(range);
    bits[first] & from != 0
        || bits[last] & to != 0
        || (last > first + 1 && bits[first + 1..last].iter().any(|&word| word != 0))
}

/// How many bits of `range` are set.
#[inline]
pub fn count(bits: &[u64], range: Range<u32>) -> u32 {
    if range.is_empty() {
        return 0;
    }
    let (first, from, last, to) = edges(range);
    let mut n = (bits[first] & from).count_ones();
    if last > first {
        n += (bits[last] & to).count_ones();
        n += bits[first + 1..last].iter().map(|word| word.count_ones()).sum::<u32>();
    }
    n
}

/// The first set bit of `range`, or its end.
#[inline]
pub fn next_set(bits: &[u64], range: Range<u32>) -> u32 {
    next(bits, range, 0)
}

/// The first clear bit of `range`, or its end.
#[inline]
pub fn next_clear(bits: &[u64], range: Range<u32>) -> u32 {
    next(bits, range, !0)
}

/// The first bit of `range` that is set in `ones` or clear in `zeros`, or the range's end.
#[inline]
pub fn next_set_or_clear(ones: &[u64], zeros: &[u64], range: Range<u32>) -> u32 {
    let mut at = range.start;
    while at < range.end {
        let word = (ones[at as usize / 64] | !zeros[at as usize / 64]) >> (at % 64);
        if word != 0 {
            return (at + word.trailing_zeros()).min(range.end);
        }
        at = (at / 64 + 1) * 64;
    }
    range.end
}

/// The first bit of `range` that differs from those of `same` (0 or all ones), or the range's end.
#[inline]
fn next(bits: &[u64], range: Range<u32>, same: u64) -> u32 {
    if range.is_empty() {
        return range.end;
    }
    let (first, last) = (range.start as usize / 64, (range.end - 1) as usize / 64);
    let word = (bits[first] ^ same) >> (range.start % 64);
    if word != 0 {
        return (range.start + word.trailing_zeros()).min(range.end);
    }
    match bits[first + 1..last + 1].split_at(next_word(&bits[first + 1..last + 1], same)) {
        (_, []) => range.end,
        (before, [word, ..]) => {
            ((first + 1 + before.len()) as u32 * 64 + (word ^ same).trailing_zeros()).min(range.end)
        }
    }
}

/// How many words come before the first that differs from `same`: eight at a time, which becomes vector instructions.
#[inline]
fn next_word(words: &[u64], same: u64) -> usize {
    let mut at = 0;
    for eight in words.chunks_exact(8) {
        if eight.iter().fold(0, |differs, word| differs | (word ^ same)) != 0 {
            break;
        }
        at += 8;
    }
    at + words[at..].iter().take_while(|word| **word == same).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_do_what_single_bits_do(seed in prop::array::uniform4(0..=u64::MAX), a in 0u32..256, b in 0u32..256) {
            let range = a.min(b)..a.max(b);
            let ones: std::vec::Vec<u32> = range.clone().filter(|&at| get(&seed, at)).collect();
            prop_assert_eq!(count(&seed, range.clone()), ones.len() as u32);
            prop_assert_eq!(super::any(&seed, range.clone()), !ones.is_empty());
            prop_assert_eq!(all(&seed, range.clone()), ones.len() == range.len());
            prop_assert_eq!(next_set(&seed, range.clone()), ones.first().copied().unwrap_or(range.end));
            let zero = range.clone().find(|&at| !get(&seed, at)).unwrap_or(range.end);
            prop_assert_eq!(next_clear(&seed, range.clone()), zero);
            let other = seed.map(|word| word.rotate_left(17));
            let either = range.clone().find(|&at| get(&seed, at) || !get(&other, at)).unwrap_or(range.end);
            prop_assert_eq!(next_set_or_clear(&seed, &other, range.clone()), either);
            let (mut by_range, mut by_bit) = (seed, seed);
            set_range(&mut by_range, range.clone());
            range.clone().for_each(|at| set(&mut by_bit, at));
            prop_assert_eq!(by_range, by_bit);
            clear_range(&mut by_range, range.clone());
            range.clone().for_each(|at| clear(&mut by_bit, at));
            prop_assert_eq!(by_range, by_bit);
        }
    }
}
