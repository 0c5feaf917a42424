//! Random numbers that are the same in every run: splitmix64 (Steele, Lea, Flood 2014).
#![forbid(unsafe_code)]

/// A generator of 64-bit numbers. A few instructions a number, so that the allocator is what is measured.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator that starts from `seed`; different seeds give unrelated sequences.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, 0 where `end` is 0 or 1. Uniform but for a bias of `end` in 2^32.
    #[inline]
    pub fn below(&mut self, end: usize) -> usize {
        (((self.draw() >> 32) * end as u64) >> 32) as usize
    }

    /// A number from `low` to `high`, both included.
    #[inline]
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// A size from `low` to `high` bytes whose logarithm is about uniform: each doubling is as likely as the next, as
    /// in real programs, where small sizes are frequent and large ones are not absent.
    #[inline]
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        let doublings = (high / low).ilog2() as usize;
        let base = low << self.below(doublings + 1);
        (base + self.below(base)).min(high)
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn numbers_stay_within_their_bounds_and_repeat_with_the_seed() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..10_000 {
            let size = a.size(16, 1000);
            assert!((16..=1000).contains(&size));
            assert_eq!(size, b.size(16, 1000));
            assert!((3..=5).contains(&a.between(3, 5)));
            assert!((3..=5).contains(&b.between(3, 5)));
            assert_eq!(a.below(0), 0);
            assert_eq!(b.below(1), 0);
        }
    }
}
