//! Random numbers of a thread's own, the same in every run.

/// xorshift, from a seed that is not 0.
pub struct Draw(pub u64);

impl Draw {
    /// A number less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
