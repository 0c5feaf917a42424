//! What lies between caches and the pool: a depot for every size class, and the count of what is out of the slabs.
//!
//! A value over any space and lock, so that models run the exchange with one class and magazines of two blocks. Blocks are
//! words: the address of a block, or what stands for one.

pub mod clocks;
pub mod hit;
pub mod owner;
pub mod seat;
pub mod spare;

use crate::arena::NoBlock;
use crate::arena::metadata::Metadata;
use crate::error::BadFree;
use crate::pool::Pool;
use crate::pool::depot::BareDepot;
use crate::pool::magazine::Magazine;
use crate::size::SizeClass;
use crate::space::Space;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::const_unless_loom;
use lock_api::RawMutex;

/// Depots of `C` size classes with magazines of at most `N` blocks, and what of each class is out of the slabs.
pub struct Stock<L: RawMutex, const C: usize, const N: usize> {
    /// Side by side, so that a fork touches a page for their locks, and not one for each.
    depots: [BareDepot<L, usize, N>; C],
    uses: [Use; C],
}

/// What is out of the slabs of a class, in programs and in caches, and how many slabs there are.
///
/// Relaxed throughout: the numbers guide, and every change of one is counted sooner or later. So they are right when nobody is
/// at work, and may be off by what is being exchanged meanwhile.
struct Use {
    blocks: AtomicUsize,
    slabs: AtomicUsize,
}

impl Use {
    const_unless_loom! {
        const fn new() -> Use {
            Use { blocks: AtomicUsize::new(0), slabs: AtomicUsize::new(0) }
        }
    }
}

impl<L: RawMutex, const C: usize, const N: usize> Stock<L, C, N> {
    /// Nothing, and room for nothing.
    #[cfg(not(democratising_loom))]
    pub const fn new() -> Self {
        Stock { depots: [const { BareDepot::bare() }; C], uses: [const { Use::new() }; C] }
    }

    /// Nothing, and room for nothing.
    #[cfg(democratising_loom)]
    #[expect(clippy::new_without_default, reason = "the process's own is made in a constant")]
    pub fn new() -> Self {
        Stock {
            depots: core::array::from_fn(|_| BareDepot::bare()),
            uses: core::array::from_fn(|_| Use::new()),
        }
    }

    /// Gives every depot its share of `sets`. One that has room already keeps it.
    pub fn furnish(&self, sets: &'static mut [Magazine<usize, N>]) {
        let each = sets.len() / C;
        if each == 0 {
            return;
        }
        for (depot, sets) in self.depots.iter().zip(sets.chunks_exact_mut(each)) {
            let _ = depot.furnish(sets);
        }
    }

    /// Brings a magazine's blocks to the depot of their class, if it holds fewer than `depth`.
    pub fn bring(&self, class: SizeClass, blocks: &[usize], depth: usize) -> bool {
        self.depots[class.0 as usize].bring(blocks, depth)
    }

    /// Fetches a magazine's blocks from the depot of a class. How many.
    pub fn fetch(&self, class: SizeClass, out: &mut [usize]) -> usize {
        self.depots[class.0 as usize].fetch(out)
    }

    /// Takes what the depot of a class holds, oldest first; each is handed to `flush`, with no lock held.
    pub fn empty(&self, class: SizeClass, mut flush: impl FnMut(&[usize])) {
        for magazine in self.depots[class.0 as usize].trim(usize::MAX) {
            flush(magazine.as_slice());
        }
    }

    /// Fills `out` from the slabs so that its pops come out lowest first; a word is `base` and the block's offset. How many.
    ///
    /// # Errors
    /// [`NoBlock`] when there is not even one.
    pub fn refill<S: Space, M: Metadata>(
        &self,
        pool: &Pool<S, L, M>,
        class: SizeClass,
        base: usize,
        out: &mut [usize],
    ) -> Result<usize, NoBlock> {
        let taken = pool.refill_as(class, out, base as u64)?;
        let of = &self.uses[class.0 as usize];
        of.blocks.fetch_add(taken.blocks, Relaxed);
        if taken.slabs > 0 {
            of.slabs.fetch_add(taken.slabs as usize, Relaxed);
        }
        Ok(taken.blocks)
    }

    /// Gives blocks to the slabs; a word is `base` and the block's offset. `refused` hears of each that cannot be, with no lock held;
    /// the others go all the same.
    ///
    /// # Safety
    /// Nobody uses the blocks any more; those that are somebody's are refused.
    pub unsafe fn flush<S: Space, M: Metadata>(
        &self,
        pool: &Pool<S, L, M>,
        class: SizeClass,
        base: usize,
        mut blocks: &[usize],
        mut refused: impl FnMut(usize, BadFree),
    ) {
        let of = &self.uses[class.0 as usize];
        while !blocks.is_empty() {
            // SAFETY: 1. As the caller promises. What lies below the base is behind the end of any space.
            let flushed = unsafe { pool.flush_as(class, blocks, base as u64) };
            of.blocks.fetch_sub(flushed.blocks, Relaxed);
            if flushed.slabs > 0 {
                of.slabs.fetch_sub(flushed.slabs as usize, Relaxed);
            }
            blocks = &blocks[flushed.blocks..];
            if let (Some(why), [block, rest @ ..]) = (flushed.refused, blocks) {
                refused(*block, why);
                blocks = rest;
            }
        }
    }

    /// The blocks of a class that are out of its slabs, and its slabs.
    pub fn used(&self, class: SizeClass) -> (usize, usize) {
        let of = &self.uses[class.0 as usize];
        (of.blocks.load(Relaxed), of.slabs.load(Relaxed))
    }

    /// The depots, whose locks a fork takes.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(super) fn depots(&self) -> &[BareDepot<L, usize, N>] {
        &self.depots
    }
}
