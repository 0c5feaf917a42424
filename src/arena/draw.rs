//! Numbers that nobody outside of the process can foretell, for places drawn at random: quick, not cryptographic.
//!
//! Whoever can read addresses of many blocks, or the generator itself, can compute what comes next. Whoever cannot, as a
//! bug that overwrites blindly, does not know which block lies behind another.

#![forbid(unsafe_code)]

/// A generator: a counter of full period, its values mixed (SplitMix64; Steele, Lea, Flood 2014).
pub(crate) struct Draw(u64);

impl Draw {
    /// Begun from what the operating system has for secrets.
    pub(crate) fn seeded() -> Draw {
        // Its keys are drawn once in a thread, and different at each call.
        Draw(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0))
    }

    /// One that goes on from a state.
    pub(crate) const fn from_state(state: u64) -> Draw {
        Draw(state)
    }

    /// The state to go on from.
    pub(crate) const fn state(&self) -> u64 {
        self.0
    }

    /// The next number.
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// The next number below `end`, 0 where there is none.
    #[inline]
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // A product's upper half instead of a remainder: no division.
        ((self.next() as u32 as u64 * end as u64) >> 32) as usize
    }
}

/// Every bit of the result depends on every bit of `value`, and no two values have one result.
#[inline]
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_drawn_about_as_often() {
        let mut draw = Draw::from_state(5);
        let mut counts = [0u32; 63];
        for _ in 0..63_000 {
            counts[draw.below(63)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn two_generators_differ() {
        assert_ne!(Draw::seeded().next(), Draw::seeded().next());
    }
}
