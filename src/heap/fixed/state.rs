//! What the lock of a fixed heap guards: the ranges, their arenas, the counts.

#![forbid(unsafe_code)]

use super::claim::{self, FixedArena, NotClaimed};
use super::memory::{self, Memory};
use super::misuse::{LowMemory, OnMisuse};
use crate::arena::{Block, LiveSpan, Stats, Unlimited};
use crate::error::{BadFree, DeviceId, OutOfMemory};
use crate::size::Offset;
use crate::space::Space;
use core::alloc::Layout;
use core::ptr::NonNull;

/// A range of claimed memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    start: usize,
    end: usize,
}

impl Range {
    /// `len` bytes from `start`, which can be a slice.
    pub(super) fn new(start: usize, len: usize) -> Result<Range, NotClaimed> {
        let given_bytes = len as u64;
        match start.checked_add(len) {
            Some(_) if len > isize::MAX as usize => {
                Err(NotClaimed::TooLarge { given_bytes, most_bytes: isize::MAX as u64 })
            }
            Some(end) if start > 0 => Ok(Range { start, end }),
            _ => Err(NotClaimed::NoRange { start: start as u64, given_bytes }),
        }
    }

    fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// One range: noted at first, then an arena.
struct Claim {
    range: Range,
    arena: Option<FixedArena>,
}

/// Everything behind the lock.
pub(super) struct State<const ARENAS: usize> {
    claims: [Option<Claim>; ARENAS],
    /// The static array that is to be claimed at the first request.
    unclaimed: Option<&'static Memory>,
    peak_in_use_bytes: u64,
    failures: u64,
    pub(super) bad_frees: u64,
    pub(super) misuse: OnMisuse,
    pub(super) low_memory: Option<LowMemory>,
    low_memory_runs: bool,
}

impl<const ARENAS: usize> State<ARENAS> {
    pub(super) const fn new(unclaimed: Option<&'static Memory>) -> Self {
        State {
            claims: [const { None }; ARENAS],
            unclaimed,
            peak_in_use_bytes: 0,
            failures: 0,
            bad_frees: 0,
            misuse: OnMisuse::Panic,
            low_memory: None,
            low_memory_runs: false,
        }
    }

    /// Divides the static array that the heap was made over, and takes a block from it. Under the lock: whoever comes second
    /// is to find it divided.
    pub(super) fn allocate_from_memory(&mut self, layout: Layout) -> Option<Block<NonNull<u8>>> {
        if let Some(bytes) = memory::take(self.unclaimed.take()?) {
            // What cannot be divided is no memory, as if there were none: the request fails, and the numbers say why.
            let range = Range::new(bytes.as_ptr() as usize, bytes.len()).ok()?;
            self.note(range).ok()?;
            self.settle(range, claim::divide(bytes)).ok()?;
        }
        self.allocate(layout)
    }

    /// Takes note of a range that overlaps no other: [`settle`](Self::settle) follows.
    pub(super) fn note(&mut self, range: Range) -> Result<(), NotClaimed> {
        if let Some(other) = self.claims.iter().flatten().find(|claim| claim.range.overlaps(range)) {
            let Range { start, end } = other.range;
            return Err(NotClaimed::Overlaps { start: start as u64, claimed_bytes: (end - start) as u64 });
        }
        let free = self.claims.iter_mut().find(|claim| claim.is_none());
        let place = free.ok_or(NotClaimed::TooMany { most: ARENAS })?;
        *place = Some(Claim { range, arena: None });
        Ok(())
    }

    /// Makes a range that was noted part of the heap, or forgets it. The bytes that blocks can have of it.
    pub(super) fn settle(
        &mut self,
        range: Range,
        arena: Result<FixedArena, NotClaimed>,
    ) -> Result<u64, NotClaimed> {
        let noted = |claim: &Option<Claim>| {
            claim.as_ref().is_some_and(|claim| claim.range == range && claim.arena.is_none())
        };
        let Some(place) = self.claims.iter_mut().find(|claim| noted(claim)) else { return Ok(0) };
        match arena {
            Ok(arena) => {
                let bytes = arena.backed_bytes();
                *place = Some(Claim { range, arena: Some(arena) });
                Ok(bytes)
            }
            Err(why) => {
                *place = None;
                Err(why)
            }
        }
    }

    fn arenas(&self) -> impl Iterator<Item = &FixedArena> {
        self.claims.iter().flatten().filter_map(|claim| claim.arena.as_ref())
    }

    /// The arena that has an address.
    #[inline]
    fn arena_of(&mut self, at: NonNull<u8>) -> Result<&mut FixedArena, BadFree> {
        let mut arenas = self.claims.iter_mut().flatten().filter_map(|claim| claim.arena.as_mut());
        arenas.find(|arena| arena.space().offset(at).is_some()).ok_or(BadFree::Foreign)
    }

    #[inline]
    pub(super) fn allocate(&mut self, layout: Layout) -> Option<Block<NonNull<u8>>> {
        let mut arenas = self.claims.iter_mut().flatten().filter_map(|claim| claim.arena.as_mut());
        let block = arenas.find_map(|arena| arena.allocate(layout, &Unlimited).ok())?;
        self.note_peak();
        Some(block)
    }

    #[inline]
    fn note_peak(&mut self) {
        self.peak_in_use_bytes = self.peak_in_use_bytes.max(self.in_use_bytes());
    }

    #[inline]
    pub(super) fn free(&mut self, at: NonNull<u8>, layout: Layout) -> Result<(), BadFree> {
        self.arena_of(at)?.free(at, layout, &Unlimited)
    }

    pub(super) fn free_unsized(&mut self, at: NonNull<u8>) -> Result<(), BadFree> {
        self.arena_of(at)?.free_unsized(at, &Unlimited)
    }

    pub(super) fn resize(&mut self, at: NonNull<u8>, old: Layout, new_bytes: usize) -> Result<bool, BadFree> {
        let done = self.arena_of(at)?.resize(at, old, new_bytes, &Unlimited)?;
        self.note_peak();
        Ok(done)
    }

    pub(super) fn usable_bytes(&mut self, at: NonNull<u8>) -> Result<u64, BadFree> {
        self.arena_of(at)?.usable_bytes(at)
    }

    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    /// Counts a bad free; what is to happen.
    pub(super) fn misused(&mut self) -> OnMisuse {
        self.bad_frees += 1;
        self.misuse
    }

    /// The function for low memory and what to tell it, unless there is none or it runs already.
    pub(super) fn begin_low_memory(&mut self, layout: Layout) -> Option<(LowMemory, OutOfMemory)> {
        let call = self.low_memory.filter(|_| !self.low_memory_runs)?;
        self.low_memory_runs = true;
        Some((call, self.report(layout)))
    }

    pub(super) fn low_memory_done(&mut self) {
        self.low_memory_runs = false;
    }

    pub(super) fn report(&self, layout: Layout) -> OutOfMemory {
        let stats = self.stats();
        OutOfMemory {
            device: DeviceId::Host,
            requested_bytes: layout.size() as u64,
            in_use_bytes: stats.in_use_bytes,
            limit_bytes: stats.limit_bytes,
            largest_free_bytes: stats.largest_free_bytes,
            ..OutOfMemory::default()
        }
    }

    #[inline]
    fn in_use_bytes(&self) -> u64 {
        self.arenas().map(|arena| arena.in_use_bytes()).sum()
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.arenas().map(|arena| arena.backed_bytes() - arena.in_use_bytes()).sum()
    }

    pub(super) fn stats(&self) -> Stats {
        let mut sum =
            Stats { failures: self.failures, peak_in_use_bytes: self.peak_in_use_bytes, ..Stats::default() };
        for arena in self.arenas() {
            let stats = arena.stats();
            sum.in_use_bytes += stats.in_use_bytes;
            sum.reserved_bytes += stats.reserved_bytes;
            sum.peak_reserved_bytes += stats.peak_reserved_bytes;
            sum.limit_bytes += arena.backed_bytes();
            sum.largest_free_bytes = sum.largest_free_bytes.max(stats.largest_free_bytes);
            sum.blocks += stats.blocks;
            sum.allocations += stats.allocations;
        }
        sum
    }

    /// The first live span at or behind `from` of the first claim at or behind `claim`; with the number of that claim.
    pub(super) fn live_span(&self, claim: usize, from: Offset) -> Option<(usize, LiveSpan<NonNull<u8>>)> {
        let mut from = from;
        for (number, claim) in self.claims.iter().enumerate().skip(claim) {
            let arena = claim.as_ref().and_then(|claim| claim.arena.as_ref());
            if let Some(span) = arena.and_then(|arena| arena.live_span(from)) {
                return Some((number, span));
            }
            from = Offset(0);
        }
        None
    }
}
