//! A block straight from the global allocator, of any size and alignment, freed on drop.
//!
//! `Vec<u8>` knows no alignment but its element's and clears or copies where a workload wants neither.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error, realloc};
use std::ptr::NonNull;

/// Bytes that belong to whoever holds this.
#[derive(Debug)]
pub struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: 1. A block is the only owner of its bytes. 2. The global allocator takes a block back from any thread.
unsafe impl Send for Block {}

impl Block {
    /// The words at a block's two ends: the smallest block that can be stamped.
    pub const MIN_BYTES: usize = size_of::<u64>();

    fn layout(bytes: usize, align: usize) -> Layout {
        Layout::from_size_align(bytes.max(Self::MIN_BYTES), align).unwrap_or_else(|_| {
            panic!("no layout has {bytes} bytes aligned to {align}: correct the workload")
        })
    }

    /// `bytes` (at least [`Self::MIN_BYTES`]) aligned to `align`, not initialised but for the stamp at both ends.
    #[inline]
    pub fn new(bytes: usize, align: usize, stamp: u64) -> Self {
        let layout = Self::layout(bytes, align);
        // SAFETY: the layout's size is not 0.
        let start = unsafe { alloc(layout) };
        let mut block =
            Self { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), layout };
        block.stamp(stamp);
        block
    }

    /// How many bytes the block has.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.layout.size()
    }

    /// The address of the first byte.
    #[inline]
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Writes the word at the start, and again at the end.
    #[inline]
    pub fn stamp(&mut self, stamp: u64) {
        let last = self.bytes() - size_of::<u64>();
        // SAFETY: 1. `&mut self` owns the bytes. 2. A block is never smaller than one word. 3. Any alignment will do.
        unsafe {
            self.start.cast::<u64>().write_unaligned(stamp);
            self.start.byte_add(last).cast::<u64>().write_unaligned(stamp);
        }
    }

    /// What the stamps say now: twice the stamp if nobody else wrote here (where they overlap it is one word).
    #[inline]
    pub fn check(&self) -> u64 {
        let last = self.bytes() - size_of::<u64>();
        // SAFETY: 1. `new`, `resize` or `Zeroed::new` initialised both words. 2. A block is never smaller than one word.
        unsafe {
            let first = self.start.cast::<u64>().read_unaligned();
            first.wrapping_add(self.start.byte_add(last).cast::<u64>().read_unaligned())
        }
    }

    /// Writes `value` into every byte.
    pub fn fill(&mut self, value: u8) {
        // SAFETY: `&mut self` owns this many bytes.
        unsafe { self.start.as_ptr().write_bytes(value, self.bytes()) }
    }

    /// Writes `value` into one byte of every 4 KiB from `from` on, so that each page there becomes resident.
    pub fn touch(&mut self, from: usize, value: u8) {
        for at in (from..self.bytes()).step_by(4096) {
            // SAFETY: 1. `at` is inside the block. 2. `&mut self` owns it.
            unsafe { self.start.byte_add(at).write(value) }
        }
    }

    /// Makes the block `bytes` long; what fits of the content stays. The stamp at the end is written anew.
    pub fn resize(&mut self, bytes: usize, stamp: u64) {
        let layout = Self::layout(bytes, self.layout.align());
        // SAFETY: 1. The block came from the global allocator with this layout. 2. The new size is not 0 and, since
        //    `layout` took it, does not overflow when rounded up to the alignment.
        let start = unsafe { realloc(self.start.as_ptr(), self.layout, layout.size()) };
        self.start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        self.layout = layout;
        self.stamp(stamp);
    }
}

/// A block whose every byte is initialised: zero to begin with.
#[derive(Debug)]
pub struct Zeroed(Block);

impl Zeroed {
    /// `bytes` (at least [`Block::MIN_BYTES`]) aligned to 8, all zero.
    pub fn new(bytes: usize) -> Self {
        let layout = Block::layout(bytes, align_of::<u64>());
        // SAFETY: the layout's size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        Self(Block { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), layout })
    }

    /// Adds `value` to every word and returns the sum of what they held.
    pub fn accumulate(&mut self, value: u64) -> u64 {
        let words = self.0.bytes() / size_of::<u64>();
        // SAFETY: 1. `new` aligned the block to 8 and initialised every byte, and nothing here undoes that. 2. `&mut
        //    self` owns them. 3. The words end inside the block.
        let words = unsafe { std::slice::from_raw_parts_mut(self.0.start.cast::<u64>().as_ptr(), words) };
        words.iter_mut().fold(0, |sum, word| {
            let held = *word;
            *word = held.wrapping_add(value);
            sum.wrapping_add(held)
        })
    }

    /// The block, of which from now on only the stamps are known to be initialised.
    pub fn into_block(self) -> Block {
        self.0
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: 1. The block came from the global allocator with this layout. 2. Nobody uses it after `drop`.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, Zeroed};

    #[test]
    fn a_block_keeps_its_stamps_its_alignment_and_its_content_through_a_resize() {
        let mut block = Block::new(100, 64, 5);
        assert_eq!((block.check(), block.address() % 64), (10, 0));
        block.resize(100_000, 6);
        assert_eq!((block.check(), block.bytes(), block.address() % 64), (12, 100_000, 0));
        assert_eq!(Block::new(1, 1, 9).bytes(), Block::MIN_BYTES);
    }

    #[test]
    fn a_zeroed_block_is_zero_and_a_filled_one_is_not() {
        // The first block dirties what the second may get.
        let mut dirty = Block::new(4096 * 3 + 8, 8, 0);
        dirty.fill(1);
        assert_eq!(dirty.check(), 0x0202_0202_0202_0202);
        drop(dirty);
        let mut zeroed = Zeroed::new(4096 * 3 + 8);
        assert_eq!(zeroed.accumulate(3), 0);
        assert_eq!(zeroed.accumulate(0), 3 * (512 * 3 + 1));
        assert_eq!(zeroed.into_block().check(), 6);
    }
}
