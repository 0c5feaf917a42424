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
pub struct Flushed {
    /// How many.
    pub blocks: usize,
    /// Slabs whose last blocks they were, which are gone.
    pub slabs: u32,
    /// Why the next cannot be given back: it and what is behind it are not counted. `None`: all are back.
    pub refused: Option<BadFree>,
}

/// What whoever holds a block calls it: its address in bytes, or how many it lies behind the start of the space.
pub(crate) trait Name: Copy {
    fn bytes(self) -> u64;
    fn from_bytes(bytes: u64) -> Self;
}

impl Name for Offset {
    #[inline]
    fn bytes(self) -> u64 {
        self.0
    }
    #[inline]
    fn from_bytes(bytes: u64) -> Offset {
        Offset(bytes)
    }
}

impl Name for usize {
    #[inline]
    fn bytes(self) -> u64 {
        self as u64
    }
    #[inline]
    fn from_bytes(bytes: u64) -> usize {
        bytes as usize
    }
}

impl<S: Space, M: Metadata> Arena<S, M> {
    /// Blocks of one size class, until `out` is full, with at most one new slab.
    ///
    /// # Errors
    /// [`NoBlock`] when there is not even one, or no such class.
    pub fn take_many(
        &mut self,
        class: SizeClass,
        out: &mut [Offset],
        grant: &impl Grant,
    ) -> Result<Refilled, NoBlock> {
        self.known(class)?;
        let refilled = self.take_each(class, out, 0, grant)?;
        out[..refilled.blocks].reverse();
        Ok(refilled)
    }

    /// As [`take_many`](Self::take_many), with blocks named from `base` on, and the first behind the others.
    ///
    /// # Errors
    /// As for `take_many`.
    #[inline]
    pub(crate) fn take_each<B: Name>(
        &mut self,
        class: SizeClass,
        out: &mut [B],
        base: u64,
        grant: &impl Grant,
    ) -> Result<Refilled, NoBlock> {
        let (mut slabs_opened, creates) = (0, self.creates());
        let mut taken = self.slabs.as_mut().map_or(0, |slabs| slabs.take_many(class, out, base));
        if taken == 0 && !out.is_empty() && self.slabs.is_some() {
            if let Err(why) = self.open_slab(class, grant) {
                self.stats.failures += 1;
                return Err(why);
            }
            slabs_opened = 1;
            taken = self.slabs.as_mut().map_or(0, |slabs| slabs.take_many(class, out, base));
        }
        if taken < out.len() {
            out.copy_within(out.len() - taken.., 0);
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

    /// Gives blocks of one size class back, in order, up to the first that cannot be.
    pub fn give_many(&mut self, class: SizeClass, blocks: &[Offset], grant: &impl Grant) -> Flushed {
        match self.known(class) {
            Ok(()) => self.give_each(class, blocks, 0, grant),
            Err(_) => self.refuse_all(blocks),
        }
    }

    /// Whether there is such a size class. (Who keeps to the geometry's need not ask.)
    ///
    /// # Errors
    /// [`NoBlock::NoClass`].
    #[inline]
    pub(crate) fn known(&self, class: SizeClass) -> Result<(), NoBlock> {
        let classes = self.slabs.as_ref().map_or(0, |slabs| slabs.count());
        if (class.0 as usize) < classes { Ok(()) } else { Err(NoBlock::NoClass { class, classes }) }
    }

    /// Takes none of the blocks back, of a size class that there is not.
    #[cold]
    pub(crate) fn refuse_all(&self, blocks: &[Offset]) -> Flushed {
        let refused = blocks.first().map(|&at| match at.0 < self.space.len_bytes() {
            true => self.no_slot(at, 0),
            false => BadFree::Foreign,
        });
        Flushed { blocks: 0, slabs: 0, refused }
    }

    /// As [`give_many`](Self::give_many), with blocks named from `base` on.
    #[inline]
    pub(crate) fn give_each<B: Name>(
        &mut self,
        class: SizeClass,
        blocks: &[B],
        base: u64,
        grant: &impl Grant,
    ) -> Flushed {
        let mut flushed = Flushed { blocks: 0, slabs: 0, refused: None };
        let space_bytes = self.space.len_bytes();
        loop {
            let Some(slabs) = &mut self.slabs else { return flushed };
            let (given, stop) = slabs.give_many(class, &blocks[flushed.blocks..], base, space_bytes);
            let slot_bytes = slabs.slot_bytes(class);
            flushed.blocks += given;
            self.stats.in_use_bytes -= slot_bytes * given as u64;
            self.stats.blocks -= given as u64;
            flushed.refused = match stop {
                Stop::Done => None,
                Stop::Closed(span) => {
                    flushed.slabs += 1;
                    let given = self.give_granules(span, grant);
                    debug_assert_eq!(given, Ok(()));
                    continue;
                }
                Stop::Outside => Some(BadFree::Foreign),
                Stop::Refused(at) => Some(self.no_slot(at, slot_bytes)),
            };
            return flushed;
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::arena::{SpanIndex, Stats, Unlimited};
    use crate::size::{Geometry, HOST_GEOMETRY};
    use crate::space::{MappedTables, Simulated};
    use proptest::prelude::*;
    use std::vec::Vec;

    type Subject = Arena<Simulated, MappedTables>;

    fn subject() -> Subject {
        Arena::new(Simulated::new(256 << 20, HOST_GEOMETRY), MappedTables).unwrap()
    }

    /// One whose slabs are 64 KiB.
    fn of_large_slabs() -> Subject {
        let geometry = Geometry::spans(16 << 10).framed(2 << 20).slabs(64 << 10, 16);
        Arena::new(Simulated::new(256 << 20, geometry), MappedTables).unwrap()
    }

    /// So many blocks of a class, by magazines of 63.
    fn take(arena: &mut Subject, class: SizeClass, blocks: usize) -> (Vec<Offset>, u32) {
        let (mut taken, mut slabs) = (Vec::new(), 0);
        while taken.len() < blocks {
            let mut out = [Offset(0); 63];
            let wanted = out.len().min(blocks - taken.len());
            let refilled = arena.take_many(class, &mut out[..wanted], &Unlimited).unwrap();
            assert!(refilled.blocks > 0 && refilled.slabs <= 1);
            taken.extend_from_slice(&out[..refilled.blocks]);
            slabs += refilled.slabs;
        }
        (taken, slabs)
    }

    fn give(arena: &mut Subject, class: SizeClass, blocks: &[Offset]) -> Flushed {
        arena.give_many(class, blocks, &Unlimited)
    }

    fn in_use(arena: &Subject) -> (u64, u64) {
        let Stats { in_use_bytes, blocks, .. } = arena.stats();
        (in_use_bytes, blocks)
    }

    proptest! {
        #[test]
        fn blocks_that_come_back_in_any_order_leave_no_slab(
            class in 0..40u8, blocks in 1..700usize, order in any::<prop::sample::Index>(), step in 1..97usize, part in 1..64usize,
        ) {
            let (mut arena, class) = (subject(), SizeClass(class));
            let (mut taken, slabs) = take(&mut arena, class, blocks);
            taken.rotate_left(order.index(blocks));
            let mut shuffled: Vec<Offset> = Vec::new();
            for from in 0..step {
                shuffled.extend(taken.iter().skip(from).step_by(step));
            }
            let mut closed = 0;
            for blocks in shuffled.chunks(part) {
                let flushed = give(&mut arena, class, blocks);
                prop_assert_eq!((flushed.blocks, flushed.refused), (blocks.len(), None));
                closed += flushed.slabs;
            }
            prop_assert_eq!((closed, in_use(&arena)), (slabs, (0, 0)));
            prop_assert_eq!(arena.index.next_live(crate::size::Granule(0)), None);
        }
    }

    #[test]
    fn what_is_free_comes_lowest_first_whether_in_runs_or_with_holes() {
        if cfg!(feature = "hardened") {
            return;
        }
        let class = SizeClass(2);
        for holes in [1, 2, 3, 7, 63, 64, 65, 130] {
            let mut arena = of_large_slabs();
            let (taken, _) = take(&mut arena, class, 1000);
            assert!(taken.is_sorted(), "one slab, from its start on");
            let mut back: Vec<Offset> = taken[100..].iter().copied().step_by(holes).collect();
            assert_eq!(give(&mut arena, class, &back).refused, None);
            let (again, _) = take(&mut arena, class, back.len() + 100);
            // Behind what came back lies what was never taken.
            back.extend((1..=100).map(|at| Offset(taken[999].0 + 48 * at)));
            assert_eq!(again, back, "every {holes}th");
            let mut named = [0usize; 50];
            let refilled = arena.take_each(class, &mut named, 1 << 20, &Unlimited).unwrap();
            let lowest = again[again.len() - 1].0 as usize + 48 + (1 << 20);
            assert_eq!((refilled.blocks, named), (50, core::array::from_fn(|at| lowest + 48 * (49 - at))));
        }
    }

    #[test]
    fn the_first_block_that_cannot_be_given_back_is_told_and_what_is_behind_it_stays() {
        for class in [SizeClass(0), SizeClass(12), SizeClass(39)] {
            for case in 0..5 {
                let mut arena = subject();
                let (taken, _) = take(&mut arena, class, 100);
                let (other, _) = take(&mut arena, SizeClass(20), 3);
                let in_use_bytes = in_use(&arena).0;
                let (wrong, why) = [
                    (taken[3], BadFree::AlreadyFree { offset_bytes: 0 }),
                    (Offset(taken[50].0 + 8), BadFree::Interior { offset_bytes: 0 }),
                    (other[1], BadFree::WrongSize { offset_bytes: 0, held_bytes: 0, given_bytes: 0 }),
                    (Offset(256 << 20), BadFree::Foreign),
                    (Offset(0u64.wrapping_sub(16)), BadFree::Foreign),
                ][case];
                let flushed = give(&mut arena, class, &[taken[3], wrong, taken[5]]);
                let found = flushed.refused.unwrap();
                assert_eq!(flushed.blocks, 1, "{found}");
                assert_eq!(core::mem::discriminant(&found), core::mem::discriminant(&why), "{found}");
                let mut again = [Offset(0)];
                arena.take_many(class, &mut again, &Unlimited).unwrap();
                if !cfg!(feature = "hardened") {
                    assert_eq!(again[0], taken[3], "the lowest that is free");
                }
                assert_eq!(in_use(&arena).0, in_use_bytes);
            }
        }
    }

    #[test]
    fn blocks_of_a_full_slab_that_come_back_at_once_are_the_next() {
        let mut arena = of_large_slabs();
        let class = SizeClass(2);
        let (taken, slabs) = take(&mut arena, class, 65_536 / 48);
        assert_eq!((slabs, give(&mut arena, class, &taken[10..20]).refused), (1, None));
        let (mut again, opened) = take(&mut arena, class, 10);
        let mut back = taken[10..20].to_vec();
        again.sort_unstable();
        back.sort_unstable();
        assert_eq!((again, opened), (back, 0));
    }

    #[test]
    fn what_lies_behind_the_last_slot_of_a_slab_is_no_block() {
        let mut arena = of_large_slabs();
        let class = SizeClass(2);
        let (taken, _) = take(&mut arena, class, 2);
        let behind = Offset((taken[0].0 & !0xffff) + 65_536 / 48 * 48);
        let flushed = give(&mut arena, class, &[behind]);
        assert!(
            matches!(flushed.refused, Some(BadFree::Interior { offset_bytes }) if offset_bytes == behind.0),
            "{flushed:?}"
        );
    }

    #[test]
    fn a_block_given_back_after_its_slab_is_gone_is_told() {
        let mut arena = subject();
        let (taken, _) = take(&mut arena, SizeClass(3), 2);
        let flushed = give(&mut arena, SizeClass(3), &[taken[0], taken[1], taken[0]]);
        assert_eq!((flushed.blocks, flushed.slabs), (2, 1));
        assert!(
            matches!(flushed.refused, Some(BadFree::AlreadyFree { offset_bytes }) if offset_bytes == taken[0].0),
            "{flushed:?}"
        );
    }
}
