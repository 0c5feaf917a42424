//! A depot: full magazines of one size class, shared, so that what one owner frees another may take.
//!
//! 1. A depot holds the blocks of up to `DEPTH` magazines, in itself: no memory is asked for, ever. Where nothing is cached
//!    `DEPTH` is 0 and a depot is a lock and three counters. A process has many depots that it never uses, and takes the locks of
//!    all of them to fork: there they stand side by side, and the sets of each come from elsewhere when it is first used.
//! 2. Under the lock blocks are only copied, from a magazine or to one. Nothing that could wait, fail or call back is done
//!    there; blocks for which there is no room stay with the caller, who gives them to the slabs.
//! 3. Owners take what came last, since it is warm. The reclaimer takes what came first.

use super::magazine::{Block, Magazine};
use crate::sync::{Lock, const_unless_loom};
use core::marker::PhantomData;
use lock_api::RawMutex;

/// Full magazines of one size class, at most `DEPTH`, or, where `S` is a slice, as many as it is furnished with.
#[derive(Debug)]
pub struct Depot<L: RawMutex, T, const N: usize = 64, const DEPTH: usize = 16, S = [Magazine<T, N>; DEPTH]> {
    held: Lock<L, Ring<S>>,
    blocks: PhantomData<fn(T) -> T>,
}

/// A depot whose sets lie elsewhere.
pub type BareDepot<L, T, const N: usize = 64> = Depot<L, T, N, 0, &'static mut [Magazine<T, N>]>;

/// `len` sets of blocks from `first` on, around the end.
#[derive(Debug)]
struct Ring<S> {
    sets: S,
    first: usize,
    len: usize,
}

/// What a depot holds, read at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DepotStats {
    /// Magazines' worth of blocks.
    pub magazines: usize,
    /// Blocks in them.
    pub blocks: usize,
}

impl<L: RawMutex, T: Block, const N: usize, const DEPTH: usize> Depot<L, T, N, DEPTH> {
    const_unless_loom! {
        /// An empty depot.
        pub const fn new() -> Self {
            let sets = [const { Magazine::new() }; DEPTH];
            Depot { held: Lock::new(Ring { sets, first: 0, len: 0 }), blocks: PhantomData }
        }
    }
}

impl<L: RawMutex, T: Block, const N: usize> BareDepot<L, T, N> {
    const_unless_loom! {
        /// A depot with room for nothing yet.
        pub const fn bare() -> Self {
            Depot { held: Lock::new(Ring { sets: &mut [], first: 0, len: 0 }), blocks: PhantomData }
        }
    }

    /// Gives it room for as many magazines as `sets` are.
    ///
    /// # Errors
    /// The sets, where it has room already.
    pub fn furnish(&self, sets: &'static mut [Magazine<T, N>]) -> Result<(), &'static mut [Magazine<T, N>]> {
        let mut held = self.held.lock();
        if !held.sets.is_empty() {
            return Err(sets);
        }
        held.sets = sets;
        Ok(())
    }
}

impl<L: RawMutex, T: Block, const N: usize, const DEPTH: usize, S> Depot<L, T, N, DEPTH, S>
where
    S: AsRef<[Magazine<T, N>]> + AsMut<[Magazine<T, N>]>,
{
    /// Fills an empty magazine with the blocks that came last. `false`, and nothing is changed, when the depot has none
    /// or the magazine is not empty or is smaller than what was brought.
    pub fn exchange_empty_for_full(&self, magazine: &mut Magazine<T, N>) -> bool {
        self.held.lock().give(magazine, End::Newest)
    }

    /// Takes the blocks of a full magazine, which is empty then. `false`, and nothing is changed, when the depot is full or
    /// the magazine holds nothing: the caller flushes it to the slabs.
    ///
    /// A magazine that is not quite full, of a thread that ends, is taken too and uses as much room as a full one.
    pub fn exchange_full_for_empty(&self, magazine: &mut Magazine<T, N>) -> bool {
        self.held.lock().take(magazine)
    }

    /// Copies the blocks of a magazine that is kept elsewhere, if it holds fewer than `most` magazines. `false`, and nothing
    /// is changed, when it holds as many, or is full, or `blocks` are none or too many for a magazine.
    pub fn bring(&self, blocks: &[T], most: usize) -> bool {
        self.held.lock().bring(blocks, most)
    }

    /// Copies the blocks that came last to the start of `out`, in order. How many: 0 where there are none, or `out` is
    /// shorter than what was brought.
    pub fn fetch(&self, out: &mut [T]) -> usize {
        self.held.lock().fetch(out)
    }

    /// Up to `magazines` of those that came first, for the reclaimer, who gives their blocks to the slabs.
    ///
    /// The lock is held while one is taken out and not between two, so owners wait for one copy at most. What is
    /// not asked for stays in the depot.
    pub fn trim(&self, magazines: usize) -> impl Iterator<Item = Magazine<T, N>> + '_ {
        (0..magazines).map_while(|_| {
            let mut held = self.held.lock();
            if held.len == 0 {
                return None;
            }
            let mut out = Magazine::new();
            held.give(&mut out, End::Oldest).then_some(out)
        })
    }

    /// Keeps the lock until [`let_go`](Self::let_go): for a fork.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(crate) fn hold(&self) {
        self.held.hold();
    }

    /// Lets go what [`hold`](Self::hold) keeps.
    ///
    /// # Safety
    /// This thread, or the one that it is the fork of, called `hold`.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(crate) unsafe fn let_go(&self) {
        // SAFETY: 1. As the caller promises; no guard outlives a call of this file.
        unsafe { self.held.let_go() }
    }

    /// Whether somebody holds the lock.
    #[cfg(all(test, feature = "std", unix, not(democratising_loom)))]
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// What it holds.
    pub fn stats(&self) -> DepotStats {
        let held = self.held.lock();
        DepotStats { magazines: held.len, blocks: held.sets.as_ref().iter().map(Magazine::len).sum() }
    }
}

impl<L: RawMutex, T: Block, const N: usize, const DEPTH: usize> Default for Depot<L, T, N, DEPTH> {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy)]
enum End {
    Oldest,
    Newest,
}

impl<S> Ring<S> {
    /// The set that is `distance` behind the first.
    fn set<T: Block, const N: usize>(&mut self, distance: usize) -> &mut Magazine<T, N>
    where
        S: AsMut<[Magazine<T, N>]>,
    {
        let sets = self.sets.as_mut();
        let at = self.first + distance;
        // Both are within one turn: no division.
        let at = if at < sets.len() { at } else { at - sets.len() };
        &mut sets[at]
    }

    fn depth<T, const N: usize>(&self) -> usize
    where
        S: AsRef<[Magazine<T, N>]>,
    {
        self.sets.as_ref().len()
    }

    fn bring<T: Block, const N: usize>(&mut self, blocks: &[T], most: usize) -> bool
    where
        S: AsRef<[Magazine<T, N>]> + AsMut<[Magazine<T, N>]>,
    {
        if self.len >= most.min(self.depth()) || blocks.is_empty() || blocks.len() > N {
            return false;
        }
        self.set(self.len).push_all(blocks);
        self.len += 1;
        true
    }

    fn fetch<T: Block, const N: usize>(&mut self, out: &mut [T]) -> usize
    where
        S: AsMut<[Magazine<T, N>]>,
    {
        let Some(newest) = self.len.checked_sub(1) else { return 0 };
        let set = self.set(newest);
        if set.len() > out.len() {
            return 0;
        }
        let taken = set.pop_all(out);
        self.len = newest;
        taken
    }

    fn take<T: Block, const N: usize>(&mut self, magazine: &mut Magazine<T, N>) -> bool
    where
        S: AsRef<[Magazine<T, N>]> + AsMut<[Magazine<T, N>]>,
    {
        if self.len == self.depth() || magazine.is_empty() {
            return false;
        }
        self.set(self.len).take_from(magazine);
        self.len += 1;
        true
    }

    fn give<T: Block, const N: usize>(&mut self, magazine: &mut Magazine<T, N>, end: End) -> bool
    where
        S: AsRef<[Magazine<T, N>]> + AsMut<[Magazine<T, N>]>,
    {
        let Some(newest) = self.len.checked_sub(1) else { return false };
        let set = self.set(match end {
            End::Oldest => 0,
            End::Newest => newest,
        });
        if !magazine.is_empty() || magazine.capacity() < set.len() {
            return false;
        }
        magazine.take_from(set);
        if let End::Oldest = end {
            self.first = (self.first + 1) % self.depth();
        }
        self.len = newest;
        true
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;
    use crate::sync::SpinLock;
    use std::boxed::Box;

    type Small = Depot<SpinLock, u32, 2, 3>;

    fn full(block: u32) -> Magazine<u32, 2> {
        let mut magazine = Magazine::new();
        magazine.push(block).unwrap();
        magazine.push(block + 1).unwrap();
        magazine
    }

    fn stats(magazines: usize, blocks: usize) -> DepotStats {
        DepotStats { magazines, blocks }
    }

    #[test]
    fn owners_take_what_came_last_and_the_reclaimer_what_came_first() {
        let depot = Small::new();
        for block in [10, 20, 30] {
            assert!(depot.exchange_full_for_empty(&mut full(block)));
        }
        let mut magazine = Magazine::new();
        assert!(depot.exchange_empty_for_full(&mut magazine));
        assert_eq!(magazine.as_slice(), [30, 31]);
        // Around the end of the ring, and back.
        assert_eq!(depot.trim(1).next().unwrap().as_slice(), [10, 11]);
        assert!(depot.exchange_full_for_empty(&mut full(40)));
        assert!(depot.exchange_full_for_empty(&mut full(50)));
        let mut oldest_first = [20, 40, 50].into_iter();
        for magazine in depot.trim(usize::MAX) {
            assert_eq!(magazine.as_slice()[0], oldest_first.next().unwrap());
        }
        assert_eq!((depot.stats(), oldest_first.next()), (stats(0, 0), None));
    }

    #[test]
    fn a_full_depot_leaves_the_blocks_with_their_owner() {
        let depot = Small::new();
        for block in [10, 20, 30] {
            assert!(depot.exchange_full_for_empty(&mut full(block)));
        }
        let mut fourth = full(40);
        assert!(!depot.exchange_full_for_empty(&mut fourth));
        assert_eq!((fourth.as_slice(), depot.stats()), (&[40, 41][..], stats(3, 6)));
    }

    #[test]
    fn an_empty_depot_has_nothing_and_takes_no_empty_magazine() {
        let depot = Small::new();
        assert!(!depot.exchange_empty_for_full(&mut Magazine::new()));
        assert!(!depot.exchange_full_for_empty(&mut Magazine::new()));
        assert_eq!((depot.trim(5).count(), depot.stats()), (0, stats(0, 0)));
    }

    #[test]
    fn a_magazine_with_blocks_or_too_little_room_gets_none() {
        let depot = Small::new();
        assert!(depot.exchange_full_for_empty(&mut full(10)));
        assert!(!depot.exchange_empty_for_full(&mut full(20)));
        assert!(!depot.exchange_empty_for_full(&mut Magazine::with_capacity(1)));
        assert_eq!(depot.stats(), stats(1, 2));
    }

    #[test]
    fn a_trim_that_stops_early_leaves_the_rest() {
        let depot = Small::new();
        for block in [10, 20, 30] {
            assert!(depot.exchange_full_for_empty(&mut full(block)));
        }
        let mut trimmed = depot.trim(3);
        assert_eq!(trimmed.next().unwrap().as_slice(), [10, 11]);
        drop(trimmed);
        assert_eq!(depot.stats(), stats(2, 4));
    }

    #[test]
    fn what_is_brought_fits_a_magazine_and_what_is_fetched_its_place() {
        let depot = Small::new();
        assert!(!depot.bring(&[], 3) && !depot.bring(&[1, 2, 3], 3) && !depot.bring(&[1], 0));
        assert!(depot.bring(&[1, 2], 1) && !depot.bring(&[3], 1) && depot.bring(&[3, 4], 2));
        assert_eq!((depot.fetch(&mut [0]), depot.stats()), (0, stats(2, 4)));
        let mut out = [0; 2];
        assert_eq!((depot.fetch(&mut out), out, depot.stats()), (2, [3, 4], stats(1, 2)));
    }

    #[test]
    fn a_bare_depot_takes_nothing_until_it_is_furnished_once() {
        static DEPOT: BareDepot<SpinLock, u32, 2> = BareDepot::bare();
        static OTHER: BareDepot<SpinLock, u32, 2> = BareDepot::bare();
        let sets = || Box::leak(Box::new([const { Magazine::new() }; 2]));
        assert!(!DEPOT.bring(&[1, 2], 9) && DEPOT.fetch(&mut [0; 2]) == 0 && DEPOT.trim(1).count() == 0);
        assert!(DEPOT.furnish(sets()).is_ok());
        assert!(DEPOT.bring(&[1, 2], 9) && DEPOT.bring(&[3], 9) && !DEPOT.bring(&[4], 9));
        let refused = DEPOT.furnish(sets()).unwrap_err();
        assert_eq!(refused.len(), 2);
        assert!(OTHER.furnish(refused).is_ok());
        let mut out = [0; 2];
        assert_eq!((DEPOT.fetch(&mut out), out[0]), (1, 3));
        assert_eq!((DEPOT.fetch(&mut out), out), (2, [1, 2]));
        assert_eq!(DEPOT.fetch(&mut out), 0);
    }

    #[test]
    fn a_depot_without_depth_takes_nothing() {
        static DEPOT: Depot<SpinLock, u32, 2, 0> = Depot::new();
        assert!(!DEPOT.exchange_full_for_empty(&mut full(10)) && !DEPOT.bring(&[1], 9));
        assert!(!DEPOT.exchange_empty_for_full(&mut Magazine::new()));
        assert_eq!(DEPOT.trim(1).count(), 0);
    }
}
