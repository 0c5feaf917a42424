//! Blocks of one size class by the magazine: what a cache takes from the slabs, and gives back to them, at once.

#![forbid(unsafe_code)]

use super::commit::Grant;
use super::metadata::Metadata;
use super::slab::Stop;
use super::{Arena, NoBlock};
use crate::error::BadFree;
use crate::size::{Offset, SizeClass};
use crate::space::Space;

/// Blocks that were taken at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Refilled {
    /// How many.
    pub blocks: usize,
    /// Slabs that were opened for them.
    pub slabs: u32,
    /// Whether more memory had to be backed for them.
    pub created: bool,
}

/// Blocks that were given back at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Flushed<A> {
    /// How many.
    pub blocks: u32,
    /// Slabs whose last blocks they were, which are gone.
    pub slabs: u32,
    /// The first that cannot be given back, and why: it and what is behind it are not counted.
    pub refused: Option<(A, BadFree)>,
}

impl<S: Space, M: Metadata> Arena<S, M> {
    /// Blocks of one size class, until `out` is full, with at most one new slab.
    ///
    /// # Errors
    /// [`NoBlock`] when there is not even one.
    pub fn take_many(
        &mut self,
        class: SizeClass,
        out: &mut [Offset],
        grant: &impl Grant,
    ) -> Result<Refilled, NoBlock> {
        let (mut slabs_opened, creates) = (0, self.creates());
        let mut taken = self.slabs.as_mut().map_or(0, |slabs| slabs.take_many(class, out));
        if taken == 0 && !out.is_empty() && self.slabs.is_some() {
            if let Err(why) = self.open_slab(class, grant) {
                self.stats.failures += 1;
                return Err(why);
            }
            slabs_opened = 1;
            taken = self.slabs.as_mut().map_or(0, |slabs| slabs.take_many(class, out));
        }
        if taken > 0 {
            let bytes = self.slabs.as_ref().map_or(0, |slabs| slabs.slot_bytes(class)) * taken as u64;
            let stats = &mut self.stats;
            stats.in_use_bytes += bytes;
            stats.peak_in_use_bytes = stats.peak_in_use_bytes.max(stats.in_use_bytes);
            stats.blocks += taken as u64;
            stats.allocations += taken as u64;
        }
        Ok(Refilled { blocks: taken, slabs: slabs_opened, created: self.creates() > creates })
    }

    /// Gives blocks of one size class back, up to the first that cannot be: what is behind it stays in the iterator.
    pub fn give_many(
        &mut self,
        class: SizeClass,
        blocks: &mut impl Iterator<Item = S::Addr>,
        grant: &impl Grant,
    ) -> Flushed<S::Addr> {
        let mut flushed = Flushed { blocks: 0, slabs: 0, refused: None };
        loop {
            let Some(slabs) = &mut self.slabs else { return flushed };
            let (space, mut last, mut foreign) = (&self.space, None, false);
            let mut offsets = core::iter::from_fn(|| {
                let addr = blocks.next()?;
                last = Some(addr);
                let at = space.offset(addr);
                foreign = at.is_none();
                at
            });
            let (given, stop) = slabs.give_many(class, &mut offsets);
            let slot_bytes = slabs.slot_bytes(class);
            flushed.blocks += given;
            self.stats.in_use_bytes -= slot_bytes * given as u64;
            self.stats.blocks -= given as u64;
            let refused = match stop {
                Stop::Done if !foreign => return flushed,
                Stop::Done => BadFree::Foreign,
                Stop::Closed(span) => {
                    flushed.slabs += 1;
                    let given = self.give_granules(span, grant);
                    debug_assert_eq!(given, Ok(()));
                    continue;
                }
                Stop::Refused(at) => self.no_slot(at, slot_bytes),
            };
            flushed.refused = last.map(|addr| (addr, refused));
            return flushed;
        }
    }
}
