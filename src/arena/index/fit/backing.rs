//! What the fit table takes for granted of a space: how long its blocks are, and whether its backing comes and goes.

#![forbid(unsafe_code)]

/// What a space is like whose spans a [`FitTable`](super::FitTable) keeps.
pub trait Backing: 'static {
    /// log2 of the granules of a block, at most 6: every free span of that length can be found in constant time.
    const BLOCK_SHIFT: u32;
    /// Spaces of fewer granules do without blocks: a best fit over the bits.
    const FLAT_BELOW: u32;
    /// 2 where frames come and go: what is backed for certain, and the rest. 1 where everything is backed for good.
    const SETS: u32;
}

/// A space that is backed in frames. Its granules are large, so a slot for each is little.
#[derive(Debug)]
pub enum Framed {}

impl Backing for Framed {
    const BLOCK_SHIFT: u32 = 0;
    const FLAT_BELOW: u32 = 0;
    const SETS: u32 = 2;
}

/// A space that is backed from the start, in full: whatever it is told of frames says nothing. Blocks are as long as the
/// longest slot of a slab, so what is asked for is longer.
#[derive(Debug)]
pub enum Unframed {}

impl Backing for Unframed {
    const BLOCK_SHIFT: u32 = 5;
    const FLAT_BELOW: u32 = 8192;
    const SETS: u32 = 1;
}
