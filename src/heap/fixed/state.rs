//! What the lock of a fixed heap guards: the ranges, their arenas, the counts.

#![forbid(unsafe_code)]

use super::arena::{FixedArena, Resized};
use super::call::LowMemory;
use super::claim::{self, Range, Unclaimed};
use super::memory::{self, Memory};
use super::origin::Given;
use super::slabs::{Chore, Seen};
use super::{COPIES, FixedHeap};
use crate::arena::{LiveSpan, Stats};
use crate::error::{BadFree, DeviceId, OutOfMemory};
use crate::heap::misuse::OnMisuse;
use crate::size::Offset;
use core::alloc::Layout;
use core::mem;
use core::ptr::{self, NonNull};
use lock_api::RawMutex;

/// Everything behind the lock. Where code is dear in this order: what stands near the start is reached by shorter instructions.
#[cfg_attr(not(target_pointer_width = "64"), repr(C))]
pub(super) struct State<L: RawMutex, const ARENAS: usize, const SLABS: bool> {
    peak_in_use_bytes: usize,
    /// By how much less is in use now.
    below_peak_bytes: usize,
    allocations: u64,
    frees: u64,
    failures: u64,
    /// The static array that is to be claimed at the first request.
    unclaimed: Option<Claiming<L, ARENAS, SLABS>>,
    pub(super) bad_frees: u64,
    pub(super) misuse: OnMisuse,
    pub(super) low_memory: Option<Asking<L, ARENAS, SLABS>>,
    low_memory_runs: bool,
    /// The ranges that were claimed, each divided, or about to be: then it is noted only, and its arena has no memory.
    arenas: [FixedArena<SLABS>; ARENAS],
    ranges: [Range; ARENAS],
}

/// Who asks the program for memory: a function that is part of a program only if it sets one for low memory.
pub(super) type Asking<L, const ARENAS: usize, const SLABS: bool> =
    (LowMemory, fn(&FixedHeap<L, ARENAS, SLABS>, LowMemory, Layout) -> bool);

/// Who claims a static array: a function that is part of a program only if it has a heap over one.
type Claiming<L, const ARENAS: usize, const SLABS: bool> =
    (&'static Memory, fn(&mut State<L, ARENAS, SLABS>, &'static Memory) -> bool);

impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> State<L, ARENAS, SLABS> {
    /// A heap over a static array.
    pub(super) const fn over(memory: &'static Memory) -> Self {
        State { unclaimed: Some((memory, Self::claim_memory)), ..Self::new() }
    }

    pub(super) const fn new() -> Self {
        State {
            arenas: [const { FixedArena::none() }; ARENAS],
            ranges: [Range::NONE; ARENAS],
            peak_in_use_bytes: 0,
            below_peak_bytes: 0,
            allocations: 0,
            frees: 0,
            failures: 0,
            unclaimed: None,
            bad_frees: 0,
            misuse: OnMisuse::Stop,
            low_memory: None,
            low_memory_runs: false,
        }
    }

    /// Divides the static array that the heap was made over. `false`: there is none, or none any more.
    pub(super) fn divide_memory(&mut self) -> bool {
        self.unclaimed.take().is_some_and(|(memory, claim)| claim(self, memory))
    }

    #[cold]
    fn claim_memory(&mut self, memory: &'static Memory) -> bool {
        // What cannot be divided is no memory, as if there were none: the request fails, and the numbers say why.
        let Some(bytes) = memory::take(memory) else { return false };
        self.claim(Given::of(bytes)).is_ok()
    }

    /// Takes note of a range that overlaps no other; its number. [`settle`](Self::settle) follows.
    #[inline]
    pub(super) fn note(&mut self, range: Range) -> Result<usize, Unclaimed> {
        let mut number = Err(Unclaimed::TooMany);
        // The first that is free has the last word.
        for (at, noted) in self.ranges.iter().enumerate().rev() {
            if noted.overlaps(range) {
                return Err(Unclaimed::Overlaps(*noted));
            }
            if noted.end == 0 {
                number = Ok(at);
            }
        }
        if let Some(noted) = self.ranges.get_mut(number?) {
            *noted = range;
        }
        number
    }

    /// Claims and divides memory at once. The bytes that blocks can have of it.
    pub(super) fn claim(&mut self, given: Given) -> Result<usize, Unclaimed> {
        // Noted before anything is written: who claims a range twice finds its blocks unharmed.
        let number = self.note(given.range()?)?;
        if let (Some(arena), Some(bytes)) = (self.arenas.get_mut(number), given.bytes())
            && claim::divide(bytes, arena).is_some()
        {
            return Ok(arena.bytes());
        }
        self.forget(number);
        Err(Unclaimed::TooSmall)
    }

    /// Makes the range of a number, which was divided elsewhere, part of the heap, or forgets it. The bytes that blocks can have of it.
    pub(super) fn settle(
        &mut self,
        number: usize,
        divided: Option<FixedArena<SLABS>>,
    ) -> Result<usize, Unclaimed> {
        match (self.arenas.get_mut(number), divided) {
            (Some(arena), Some(divided)) => {
                *arena = divided;
                Ok(arena.bytes())
            }
            _ => {
                self.forget(number);
                Err(Unclaimed::TooSmall)
            }
        }
    }

    fn forget(&mut self, number: usize) {
        if let Some(noted) = self.ranges.get_mut(number) {
            *noted = Range::NONE;
        }
    }

    /// The arena that has an address, and where in it that is.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn arena_of(&mut self, at: *mut u8) -> Option<(&mut FixedArena<SLABS>, usize)> {
        for arena in &mut self.arenas {
            if let Some(at) = arena.offset(at) {
                return Some((arena, at));
            }
        }
        None
    }

    /// Why a block was refused that was to be given back with so many bytes.
    #[cold]
    #[cfg_attr(target_pointer_width = "64", inline(never))]
    pub(super) fn why(&mut self, at: *mut u8, given_bytes: usize) -> BadFree {
        match self.arena_of(at) {
            Some((arena, at)) => arena.why(at, given_bytes),
            None => BadFree::Foreign,
        }
    }

    /// The class of a layout in the first arena, if slots serve it there.
    #[inline(always)]
    pub(super) fn class_of(&self, layout: Layout) -> Option<usize> {
        self.arenas.first()?.class_of(layout)
    }

    /// A slot of the first arena, if one is at hand: the whole path of what is usual.
    #[inline(always)]
    pub(super) fn take_near_slot(&mut self, class: usize) -> Option<*mut u8> {
        let (at, bytes) = self.arenas.first_mut()?.take_near_slot(class)?;
        self.took(bytes);
        Some(at)
    }

    /// A slot of the first arena that was not at hand.
    #[inline(always)]
    pub(super) fn take_far_slot(&mut self, class: usize) -> Option<*mut u8> {
        let (at, bytes) = self.arenas.first_mut()?.take_far_slot(class)?;
        self.took(bytes);
        Some(at)
    }

    /// How far an address lies behind the origin of the first arena.
    #[inline(always)]
    pub(super) fn distance(&self, at: *mut u8) -> usize {
        self.arenas.first().map_or(0, |arena| arena.distance(at))
    }

    /// The address of such a distance.
    #[inline]
    pub(super) fn pointer(&self, at: usize) -> *mut u8 {
        self.arenas.first().map_or(ptr::null_mut(), |arena| arena.pointer(at))
    }

    /// Gives a slot of the first arena back, if it is at a glance what it should be. What is to be done.
    #[inline(always)]
    pub(super) fn give_near_slot(&mut self, at: usize, class: usize) -> Option<Chore> {
        let given = self.arenas.first_mut()?.give_near_slot(at, class)?;
        self.below_peak_bytes += given.bytes();
        self.frees += 1;
        Some(given.chore())
    }

    /// A block of the first arena, if one is at hand.
    #[inline(always)]
    pub(super) fn take_at_hand(&mut self, layout: Layout) -> Option<(*mut u8, usize)> {
        let taken = self.arenas.first_mut()?.take_at_hand(layout)?;
        self.took(taken.1);
        Some(taken)
    }

    /// A span of the first arena that was set aside.
    #[inline(always)]
    pub(super) fn take_aside(&mut self, layout: Layout) -> Option<*mut u8> {
        let (at, bytes) = self.arenas.first_mut()?.take_aside(layout)?;
        self.took(bytes);
        Some(at)
    }

    /// Sets a span of the first arena aside.
    #[inline(always)]
    pub(super) fn set_aside(&mut self, at: *mut u8, bytes: usize) -> Option<()> {
        if !COPIES {
            return None;
        }
        let bytes = self.arenas.first_mut()?.set_aside(at, bytes)?;
        self.freed(bytes);
        Some(())
    }

    /// A span of the first arena, if that is what a layout takes and one is found at once.
    #[inline(always)]
    pub(super) fn take_span(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        if !COPIES {
            return None;
        }
        let taken = self.arenas.first_mut()?.take_span(layout)?;
        self.took(taken.1);
        Some(taken)
    }

    /// Gives a span of the first arena back, if it is at a glance what it should be.
    #[inline(always)]
    pub(super) fn give_span(&mut self, at: *mut u8, layout: Layout) -> Option<()> {
        if !COPIES {
            return None;
        }
        let bytes = self.arenas.first_mut()?.give_span(at, layout)?;
        self.freed(bytes);
        Some(())
    }

    /// Gives a block back that is no slot at hand. `None`: as for [`free`](Self::free).
    #[inline(always)]
    pub(super) fn give_else(&mut self, at: *mut u8, layout: Layout) -> Option<()> {
        self.set_aside(at, layout.size())
            .or_else(|| self.give_span(at, layout))
            .or_else(|| self.free(at, layout))
    }

    /// Another block of the first arena for one in a slot, and that slot; none where the slot serves for `new` too. `None`: it cannot
    /// be told at a glance that the block is a slot, or there is no other at hand.
    #[inline(always)]
    pub(super) fn take_for_slot(
        &mut self,
        at: *mut u8,
        old: Layout,
        new: Layout,
    ) -> Option<Option<(*mut u8, Seen)>> {
        let arena = self.arenas.first_mut()?;
        let slot = arena.look(at, old)?;
        if arena.serves(slot, new) {
            return Some(None);
        }
        let (to, bytes) = match arena.take_at_hand(new) {
            Some(block) => block,
            None => arena.take_else(new)?,
        };
        self.took(bytes);
        Some(Some((to, slot)))
    }

    /// Gives a slot of the first arena back that was looked at. What is to be done.
    #[inline(always)]
    pub(super) fn give_seen(&mut self, slot: Seen) -> Chore {
        let Some(arena) = self.arenas.first_mut() else { return 0 };
        let given = arena.give_seen(slot);
        self.below_peak_bytes += given.bytes();
        self.frees += 1;
        given.chore()
    }

    /// Does what `give_near_slot` left to do.
    #[inline(never)]
    pub(super) fn emptied(&mut self, chore: Chore) {
        if SLABS && let Some(arena) = self.arenas.first_mut() {
            arena.freed(chore);
        }
    }

    #[inline]
    fn took(&mut self, bytes: usize) {
        self.grew(bytes);
        self.allocations += 1;
    }

    #[inline]
    fn grew(&mut self, bytes: usize) {
        let (below, is_peak) = self.below_peak_bytes.overflowing_sub(bytes);
        self.below_peak_bytes = below;
        if is_peak {
            self.below_peak_bytes = 0;
            self.peak_in_use_bytes = self.peak_in_use_bytes.wrapping_sub(below);
        }
    }

    #[inline]
    fn freed(&mut self, bytes: usize) {
        self.below_peak_bytes += bytes;
        self.frees += 1;
    }

    fn in_use_bytes(&self) -> usize {
        self.peak_in_use_bytes - self.below_peak_bytes
    }

    /// A block, and the bytes that it can use. The first request divides the static array, under the lock under which it found nothing:
    /// whoever comes second finds it divided.
    #[inline(never)]
    pub(super) fn allocate(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        loop {
            for arena in &mut self.arenas {
                if let Some((addr, bytes)) = arena.allocate(layout) {
                    self.took(bytes);
                    return Some((addr, bytes));
                }
            }
            if !self.divide_memory() {
                return None;
            }
        }
    }

    /// Gives a block back. `None`: [`why`](Self::why) says what is wrong with it, here as below.
    #[inline(never)]
    pub(super) fn free(&mut self, at: *mut u8, layout: Layout) -> Option<()> {
        let (arena, at) = self.arena_of(at)?;
        let bytes = arena.free(at, layout)?;
        self.freed(bytes);
        Some(())
    }

    pub(super) fn free_unsized(&mut self, at: *mut u8) -> Option<()> {
        let (arena, at) = self.arena_of(at)?;
        let bytes = arena.free_unsized(at)?;
        self.freed(bytes);
        Some(())
    }

    /// Whether the block has its new size where it stands. With `may_move` it stays also where another would serve better.
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn resize(
        &mut self,
        at: *mut u8,
        old: Layout,
        new_bytes: usize,
        may_move: bool,
    ) -> Option<bool> {
        let (arena, at) = self.arena_of(at)?;
        let Resized::Done { had, has } = arena.resize(at, old, new_bytes, may_move)? else {
            return Some(false);
        };
        self.below_peak_bytes += had;
        self.grew(has);
        Some(true)
    }

    /// A block for what the one at `at` holds, which is to have layout `new`: itself, if it is resized and that is its alignment too, or
    /// another. `Some(None)`: there is none.
    pub(super) fn place(&mut self, at: *mut u8, old: Layout, new: Layout) -> Option<Option<NonNull<u8>>> {
        let may_stay = old.align() == new.align();
        // Also where it cannot stay: a resize to the size it has tells whether it is live.
        let bytes = if may_stay { new.size() } else { old.size() };
        if self.resize(at, old, bytes, may_stay)? && may_stay {
            return Some(NonNull::new(at));
        }
        if COPIES {
            let at_hand = self.take_at_hand(new).and_then(|block| NonNull::new(block.0));
            if let Some(at) = at_hand.or_else(|| self.take_span(new).map(|block| block.0)) {
                return Some(Some(at));
            }
        }
        if let Some((to, _)) = self.allocate(new) {
            return Some(Some(to));
        }
        // What was kept for requests to come is free now: it may have its size where it stands. One that has the bytes already needs no
        // memory; it would have moved if there were a better place, and nobody is told.
        let mut stays = may_stay || at as usize & (new.align() - 1) == 0;
        if stays {
            stays = self.resize(at, old, new.size(), false)?;
            if SLABS && !(stays && may_stay) {
                let (arena, at) = self.arena_of(at)?;
                stays |= arena.stay(at, new.size());
            }
        }
        Some(if stays { NonNull::new(at) } else { None })
    }

    /// Whether a block for which there was nothing else has its new layout where it stands: then the request has not failed.
    #[cold]
    pub(super) fn grew_at_last(&mut self, at: *mut u8, old: Layout, new: Layout) -> bool {
        let grew = old.align() == new.align() && self.resize(at, old, new.size(), false) == Some(true);
        if grew {
            self.failures -= 1;
        }
        grew
    }

    pub(super) fn usable_bytes(&mut self, at: *mut u8) -> Option<u64> {
        let (arena, at) = self.arena_of(at)?;
        arena.usable_bytes(at).map(|bytes| bytes as u64)
    }

    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    /// Counts a bad free; what is to happen.
    pub(super) fn misused(&mut self) -> OnMisuse {
        self.bad_frees += 1;
        self.misuse
    }

    /// Whether the function for low memory may run: it does not yet.
    pub(super) fn begin_low_memory(&mut self) -> bool {
        !mem::replace(&mut self.low_memory_runs, true)
    }

    pub(super) fn low_memory_done(&mut self) {
        self.low_memory_runs = false;
    }

    pub(super) fn report(&mut self, layout: Layout) -> OutOfMemory {
        self.close_empty();
        OutOfMemory {
            device: DeviceId::Host,
            requested_bytes: layout.size() as u64,
            align_bytes: layout.align() as u64,
            in_use_bytes: self.in_use_bytes() as u64,
            limit_bytes: self.bytes() as u64,
            largest_free_bytes: self.largest_free_bytes() as u64,
            ..OutOfMemory::default()
        }
    }

    /// Closes what the arenas keep open for requests to come, after the static array is divided.
    fn close_empty(&mut self) {
        self.divide_memory();
        for arena in &mut self.arenas {
            arena.settle();
        }
    }

    pub(super) fn free_bytes(&mut self) -> u64 {
        self.divide_memory();
        (self.bytes() - self.in_use_bytes()) as u64
    }

    /// All bytes that blocks can have.
    fn bytes(&self) -> usize {
        self.arenas.iter().map(FixedArena::bytes).sum()
    }

    fn largest_free_bytes(&self) -> usize {
        self.arenas.iter().map(FixedArena::largest_free_bytes).max().unwrap_or(0)
    }

    /// The heap in numbers, after what is kept open is closed.
    pub(super) fn stats(&mut self) -> Stats {
        self.close_empty();
        let mut sum = Stats {
            in_use_bytes: self.in_use_bytes() as u64,
            peak_in_use_bytes: self.peak_in_use_bytes as u64,
            blocks: self.allocations - self.frees,
            allocations: self.allocations,
            failures: self.failures,
            ..Stats::default()
        };
        sum.limit_bytes = self.bytes() as u64;
        sum.largest_free_bytes = self.largest_free_bytes() as u64;
        for arena in &self.arenas {
            sum.reserved_bytes += arena.high_water_bytes() as u64;
            sum.peak_reserved_bytes += arena.high_water_bytes() as u64;
        }
        sum
    }

    /// The first live span at or behind `from` of the first arena at or behind `number`; with the number of that arena.
    pub(super) fn live_span(&self, number: usize, from: Offset) -> Option<(usize, LiveSpan<NonNull<u8>>)> {
        let mut from = from;
        for (number, arena) in self.arenas.iter().enumerate().skip(number) {
            if let Some(span) = arena.live_span(from.0 as usize) {
                return Some((number, span));
            }
            from = Offset(0);
        }
        None
    }
}
