//! A magazine: a stack of free blocks of one size class that belongs to one owner.
//!
//! After Bonwick and Adams, "Magazines and Vmem" (USENIX 2001). Theirs are objects that change hands by pointer; these hand
//! over what they hold. So an empty one is nothing to keep, and nobody needs memory to have a magazine. A hand-over
//! copies one word for each block, once for as many allocations as a magazine holds.

#![forbid(unsafe_code)]

use crate::size::{Granule, Offset};

/// What a magazine holds: the name of a free block, as an integer.
pub trait Block: Copy {
    /// What stands where no block is; never handed out. Zero bits, so that unused magazines in a static cost no memory.
    const BLANK: Self;
}

macro_rules! block {
    ($($type:ty = $blank:expr),* $(,)?) => { $(impl Block for $type { const BLANK: Self = $blank; })* };
}

block!(u16 = 0, u32 = 0, u64 = 0, usize = 0, Granule = Granule(0), Offset = Offset(0));

/// A stack of at most `N` blocks, or fewer where its class wants less: 64 large blocks are more than anybody should keep.
///
/// Not `Clone`: whoever has the magazine has the blocks. One that is dropped with blocks in it loses them for good.
#[derive(Debug)]
pub struct Magazine<T, const N: usize = 64> {
    blocks: [T; N],
    len: usize,
    /// Places above the capacity. The capacity itself would not be zero in an unused magazine.
    barred: usize,
}

impl<T: Block, const N: usize> Magazine<T, N> {
    /// An empty magazine for `N` blocks.
    pub const fn new() -> Self {
        Self::with_capacity(N)
    }

    /// An empty magazine for `capacity` blocks, `N` at most.
    pub const fn with_capacity(capacity: usize) -> Self {
        Magazine { blocks: [T::BLANK; N], len: 0, barred: N.saturating_sub(capacity) }
    }

    /// How many blocks it holds.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// How many blocks it can hold.
    #[inline]
    pub const fn capacity(&self) -> usize {
        N - self.barred
    }

    /// Whether the next pop finds nothing.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the next push is refused.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.len == self.capacity()
    }

    /// Puts a block on top.
    ///
    /// # Errors
    /// The block, when the magazine is full.
    #[inline]
    pub fn push(&mut self, block: T) -> Result<(), T> {
        if self.is_full() {
            return Err(block);
        }
        self.blocks[self.len] = block;
        self.len += 1;
        Ok(())
    }

    /// Takes the block that was pushed last: the one most likely to be in the processor's cache.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        Some(self.blocks[self.len])
    }

    /// Puts as many of `blocks` on top as there is room for, in order. How many.
    pub fn push_all(&mut self, blocks: &[T]) -> usize {
        let moved = blocks.len().min(self.capacity() - self.len);
        self.blocks[self.len..self.len + moved].copy_from_slice(&blocks[..moved]);
        self.len += moved;
        moved
    }

    /// Moves every block to the start of `out`, in order, or as many of the newest as it has room for. How many.
    pub fn pop_all(&mut self, out: &mut [T]) -> usize {
        let moved = self.len.min(out.len());
        out[..moved].copy_from_slice(&self.blocks[self.len - moved..self.len]);
        self.len -= moved;
        moved
    }

    /// The blocks, oldest first.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        &self.blocks[..self.len]
    }

    /// The blocks, sorted in place by whoever gives them back in order: see [`drain`](Self::drain).
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.blocks[..self.len]
    }

    /// Pops until nothing is left. What is not asked for stays.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        core::iter::from_fn(|| self.pop())
    }

    /// Takes every block of `from` for which there is room, its newest first to go; order is kept.
    pub fn take_from(&mut self, from: &mut Self) {
        let moved = from.len.min(self.capacity() - self.len);
        let rest = from.len - moved;
        self.blocks[self.len..self.len + moved].copy_from_slice(&from.blocks[rest..from.len]);
        self.len += moved;
        from.len = rest;
    }
}

impl<T: Block, const N: usize> Default for Magazine<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    #[test]
    fn blocks_move_in_bulk_as_far_as_there_is_room_and_none_is_lost() {
        let mut magazine = Magazine::<u32, 4>::with_capacity(3);
        assert_eq!(magazine.push_all(&[1, 2]), 2);
        assert_eq!(magazine.push_all(&[3, 4]), 1);
        assert_eq!(magazine.as_slice(), [1, 2, 3]);
        let mut out = [0; 2];
        assert_eq!(magazine.pop_all(&mut out), 2);
        assert_eq!((out, magazine.as_slice()), ([2, 3], &[1][..]));
        assert_eq!(magazine.pop_all(&mut []), 0);
        assert_eq!(magazine.pop_all(&mut out), 1);
        assert_eq!((out[0], magazine.is_empty()), (1, true));
    }

    fn loaded(capacity: usize, blocks: &[u32]) -> Magazine<u32, 4> {
        let mut magazine = Magazine::with_capacity(capacity);
        for &block in blocks {
            magazine.push(block).unwrap();
        }
        magazine
    }

    #[test]
    fn the_last_block_pushed_is_the_first_popped() {
        let mut magazine = loaded(4, &[1, 2, 3]);
        assert_eq!(magazine.as_slice(), [1, 2, 3]);
        assert_eq!(
            (magazine.pop(), magazine.pop(), magazine.pop(), magazine.pop()),
            (Some(3), Some(2), Some(1), None)
        );
        assert!(magazine.is_empty());
    }

    #[test]
    fn a_full_magazine_hands_the_block_back() {
        let mut magazine = loaded(2, &[1, 2]);
        assert!(magazine.is_full());
        assert_eq!(magazine.push(3), Err(3));
        assert_eq!(magazine.as_slice(), [1, 2]);
    }

    #[test]
    fn a_capacity_is_at_most_the_room_there_is() {
        assert_eq!(Magazine::<u32, 4>::with_capacity(100).capacity(), 4);
        let mut none = Magazine::<u32, 0>::new();
        assert!(none.is_full() && none.is_empty());
        assert_eq!((none.push(7), none.pop()), (Err(7), None));
    }

    #[test]
    fn a_drain_that_stops_early_leaves_the_rest() {
        let mut magazine = loaded(4, &[1, 2, 3]);
        assert_eq!(magazine.drain().next(), Some(3));
        assert_eq!(magazine.as_slice(), [1, 2]);
        assert_eq!(magazine.drain().count(), 2);
        assert!(magazine.is_empty());
    }

    #[test]
    fn blocks_move_as_far_as_there_is_room_and_none_is_in_both() {
        let (mut into, mut from) = (loaded(3, &[1, 2]), loaded(4, &[3, 4, 5]));
        into.take_from(&mut from);
        assert_eq!((into.as_slice(), from.as_slice()), (&[1, 2, 5][..], &[3, 4][..]));
        into.take_from(&mut from);
        assert_eq!((into.len(), from.len()), (3, 2));
    }
}
