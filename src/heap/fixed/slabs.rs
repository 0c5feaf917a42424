//! Small blocks of a fixed heap: slabs of at most 64 slots.
//!
//! 1. A slab is a live span of exactly the granules that its slots need. Its header stands in the span's shadow: its size class, its
//!    neighbours in the list of its class, one bit for each free slot. So slabs have no table.
//! 2. The slab of a block is the last live span that starts before its end: mostly one word of bits that ends with that granule tells it,
//!    else a search (`runs/bits.rs`).
//! 3. Sizes are 8 bytes apart, or 16 (`plan.rs`). What is larger than the largest slot comes from spans, whose granule is little
//!    then.
//! 4. The first slab of a list may be full, or empty: nothing is done about it until another is to be the first. So a program that
//!    takes a block and gives it back, again and again, opens no slab for it, and changes no list. No other slab in a list is either.
//!    Before a request fails, the empty ones are closed. A short range, which they would cut to pieces, keeps one of them only.
//! 5. Where memory is no longer plenty, a class whose slabs are full takes a slot of another that is a little larger before it opens a
//!    slab.

#![forbid(unsafe_code)]

use super::plan::{Plan, SLAB_GRANULE_SHIFT, Sizes};
use super::runs::Runs;
use super::runs::shadow::{self, Header, SLAB_BYTE};
use crate::arena::Borrowed;

/// A size class: the place of the first slab of its list, what divides by the bytes of a slot, these, slots of a slab, a bit
/// for each of them, granules of a slab, log2 of the largest power of two in the bytes of a slot.
pub(super) type Cut = [u32; 8];
pub(super) const FIRST: usize = 0;
const INVERSE: usize = 1;
const BYTES: usize = 2;
const SLOTS: usize = 3;
pub(super) const GRANULES: usize = 6;
pub(super) const TWOS: usize = 7;

/// A bit for each slot.
#[inline]
pub(super) fn all(cut: &Cut) -> u64 {
    cut[4] as u64 | (cut[5] as u64) << 32
}

/// The bytes of a granule.
const GRANULE: u32 = 1 << SLAB_GRANULE_SHIFT;

/// Granules and slots of a slab: of the numbers of slots that make enough granules and not twice as many, the one that wastes the
/// smallest share.
fn slab_of(slot_bytes: u32, least_granules: u32) -> (u32, u32) {
    // Three slots at least; 64 of the smallest have a header.
    let least_granules = least_granules.max(3 * slot_bytes / GRANULE).min(64 * slot_bytes / GRANULE);
    let (mut best, mut least) = ((0, 0), 1);
    for slots in 1..65 {
        let bytes = slots * slot_bytes;
        let granules = (bytes + GRANULE - 1) >> SLAB_GRANULE_SHIFT;
        let wasted = bytes.wrapping_neg() % GRANULE;
        // The share: of the granules.
        if granules >= least_granules && granules <= 2 * least_granules && wasted * best.0 < least * granules
        {
            (best, least) = ((granules, slots), wasted);
        }
    }
    best
}

/// The number of the slot that starts at a byte of a slab, if one does.
///
/// The inverse of the odd part modulo 2^32 divides what is a multiple; whatever is not becomes larger than any quotient, once its twos
/// stand at the upper end (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994, section 9).
#[inline]
fn slot_of(cut: &Cut, within: u32) -> Option<u32> {
    let slot = within.wrapping_mul(cut[INVERSE]).rotate_right(cut[TWOS]);
    (slot < cut[SLOTS]).then_some(slot)
}

/// The inverse of an odd number modulo 2^32.
fn inverse(odd: u32) -> u32 {
    // Each step doubles the bits that are right, of which there are three at first.
    (0..4).fold(odd, |inverse, _| inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse))))
}

/// The place of a slab that is to change its list, since it has a free slot again, or is empty; 0 where there is none.
/// A number, not an option: what comes back from the paths of small blocks fits registers.
pub(super) type Chore = u32;

/// A slab that was found.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    start: u32,
    class: usize,
    cut: &'a Cut,
}

impl Found<'_> {
    /// The slot that starts at a byte, if one does.
    #[inline]
    pub(super) fn slot(self, at: usize) -> Option<Seen> {
        let slot = slot_of(self.cut, within(self.start as usize, at))?;
        Some(Seen { place: self.start, class: self.class, slot })
    }

    /// Where it ends, in granules.
    #[inline]
    pub(super) fn end(self) -> u32 {
        self.start + self.cut[GRANULES]
    }

    /// The bytes of a slot.
    #[inline]
    pub(super) fn bytes(self) -> usize {
        self.cut[BYTES] as usize
    }

    /// How many slots are taken.
    pub(super) fn count<const SLABS: bool>(self, runs: &Runs<SLABS>) -> u32 {
        let header: &Header = runs.shadow.header(self.start);
        self.cut[SLOTS] - shadow::bits(header).count_ones()
    }
}

/// A slot that was looked at: the place of its slab, its class, and which it is.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    place: u32,
    pub(super) class: usize,
    slot: u32,
}

/// A slot that was given back.
#[derive(Clone, Copy)]
pub(super) struct Given<'a, const SLABS: bool> {
    slabs: &'a Slabs<SLABS>,
    cut: &'a Cut,
    place: u32,
    before: u64,
    after: u64,
}

impl<const SLABS: bool> Given<'_, SLABS> {
    /// The bytes of the slot.
    #[inline(always)]
    pub(super) fn bytes(self) -> usize {
        self.cut[BYTES] as usize
    }

    /// What is to be done.
    #[inline(always)]
    pub(super) fn chore(self) -> Chore {
        // Which slab a block is of nobody foretells; that it was full, or is empty now, is rare: that is asked first.
        let is_edge = self.before == 0 || self.after == all(self.cut);
        if is_edge && (self.place != self.cut[FIRST] || !self.slabs.sizes.keep) { self.place } else { 0 }
    }
}

/// The slabs of a range.
pub(super) struct Slabs<const SLABS: bool> {
    /// One for each class; none where there are no slabs.
    pub(super) cuts: &'static mut [Cut],
    sizes: &'static Sizes,
}

impl<const SLABS: bool> Slabs<SLABS> {
    /// How many classes there are.
    const fn classes(plan: Plan) -> usize {
        if !SLABS || plan.flat { 0 } else { plan.sizes.count() }
    }

    /// The bytes of the table.
    pub(super) const fn table_bytes(plan: Plan) -> usize {
        Self::classes(plan) * size_of::<Cut>()
    }

    /// Slabs; `None` where their table finds no room.
    #[inline]
    pub(super) fn new(meta: &mut Borrowed<'static>, plan: Plan) -> Option<Self> {
        let cuts: &'static mut [Cut] = meta.find_table(Self::classes(plan))?;
        let mut bytes = 0;
        for row in cuts.iter_mut() {
            bytes = plan.sizes.next(bytes);
            let (granules, slots) = slab_of(bytes, plan.slab_granules);
            let twos = bytes.trailing_zeros();
            let all = !0u64 >> (64 - slots);
            *row = [0, inverse(bytes >> twos), bytes, slots, all as u32, (all >> 32) as u32, granules, twos];
        }
        Some(Slabs { cuts, sizes: plan.sizes })
    }

    /// None.
    pub(super) const fn none() -> Self {
        Slabs { cuts: &mut [], sizes: Plan::of(1, false).sizes }
    }

    /// The class that serves bytes of which `last` is the last, if one does.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn class(&self, last: usize) -> Option<usize> {
        if !SLABS {
            return None;
        }
        self.sizes.class(last).filter(|class| *class < self.cuts.len())
    }

    /// The bytes of a slot.
    #[inline]
    pub(super) fn bytes(&self, class: usize) -> usize {
        self.cuts.get(class).map_or(0, |cut| cut[BYTES] as usize)
    }

    /// Takes a slot of a class, if the first slab has one. Where it starts, in bytes, and its length.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn take_in(&self, runs: &mut Runs<SLABS>, class: usize) -> Option<(usize, usize)> {
        let cut = self.cuts.get(class)?;
        // Where it has no slab, this is a header of zeros.
        let place = cut[FIRST];
        let header = runs.shadow.find_mut(place as usize)?;
        let free = shadow::bits(header);
        if free == 0 {
            return None;
        }
        shadow::set_bits(header, free & (free - 1));
        let start = (place as usize) << SLAB_GRANULE_SHIFT;
        Some((start + free.trailing_zeros() as usize * cut[BYTES] as usize, cut[BYTES] as usize))
    }

    /// The slab that starts at a granule where something live starts, if that is one.
    #[inline]
    pub(super) fn find(&self, runs: &Runs<SLABS>, start: u32) -> Option<Found<'_>> {
        if runs.is_flat() {
            return None;
        }
        let class = runs.shadow.header(start)[0].checked_sub(SLAB_BYTE)? as usize;
        Some(Found { start, class, cut: self.cuts.get(class)? })
    }

    /// Whether a slot is free.
    pub(super) fn is_free(&self, runs: &Runs<SLABS>, slot: Seen) -> bool {
        shadow::bits(runs.shadow.header(slot.place)) >> slot.slot & 1 != 0
    }

    /// Whether a block of the slot's slab became smaller and stayed.
    pub(super) fn has_stayed(&self, runs: &Runs<SLABS>, slot: Seen) -> bool {
        shadow::has_stayed(runs.shadow.header(slot.place))
    }

    /// A block of the slot's slab became smaller and stays.
    pub(super) fn let_stay(&self, runs: &mut Runs<SLABS>, slot: Seen) {
        shadow::let_stay(runs.shadow.header_mut(slot.place));
    }

    /// The slot of a class at `at`, or `None` where it cannot be told at a glance that it is such a slot and taken.
    #[inline(always)]
    pub(super) fn look(&self, runs: &Runs<SLABS>, at: usize, class: usize) -> Option<Seen> {
        let start = runs.slab_start_of(at >> SLAB_GRANULE_SHIFT)?;
        let header = runs.shadow.find(start)?;
        let (slot, ..) = taken(self.cuts.get(class)?, class, header, within(start, at))?;
        Some(Seen { place: start as u32, class, slot })
    }

    /// Gives a slot back as `look` finds it.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn give(&self, runs: &mut Runs<SLABS>, at: usize, class: usize) -> Option<Given<'_, SLABS>> {
        let start = runs.slab_start_of(at >> SLAB_GRANULE_SHIFT)?;
        self.give_from(runs, at, class, start)
    }

    /// The same, wherever in its slab the slot is.
    pub(super) fn give_any(
        &self,
        runs: &mut Runs<SLABS>,
        at: usize,
        class: usize,
    ) -> Option<Given<'_, SLABS>> {
        let start = runs.start_of(at >> SLAB_GRANULE_SHIFT)? as usize;
        self.give_from(runs, at, class, start)
    }

    #[inline(always)]
    fn give_from(
        &self,
        runs: &mut Runs<SLABS>,
        at: usize,
        class: usize,
        start: usize,
    ) -> Option<Given<'_, SLABS>> {
        let cut = self.cuts.get(class)?;
        let header = runs.shadow.find_mut(start)?;
        let (_, before, after) = taken(cut, class, header, within(start, at))?;
        shadow::set_bits(header, after);
        Some(Given { slabs: self, cut, place: start as u32, before, after })
    }

    /// Gives a slot back that was looked at.
    #[inline(always)]
    pub(super) fn give_seen(
        &self,
        runs: &mut Runs<SLABS>,
        Seen { place, class, slot }: Seen,
    ) -> Given<'_, SLABS> {
        let header = runs.shadow.header_mut(place);
        let before = shadow::bits(header);
        let after = before | 1 << slot;
        shadow::set_bits(header, after);
        Given { slabs: self, cut: &self.cuts[class], place, before, after }
    }
}

/// How far a byte lies behind the start of a granule before it.
#[inline(always)]
fn within(start: usize, at: usize) -> u32 {
    at.wrapping_sub(start << SLAB_GRANULE_SHIFT) as u32
}

/// The taken slot that starts at a byte of a slab, and the bits of those that are free, without it and with it, if the slab is of that
/// class and there is such a slot.
#[inline(always)]
fn taken(cut: &Cut, class: usize, header: &Header, within: u32) -> Option<(u32, u64, u64)> {
    if header[0] != SLAB_BYTE | class as u8 {
        return None;
    }
    let slot = slot_of(cut, within)?;
    let before = shadow::bits(header);
    // A bit more makes a larger number, a bit less a smaller one: written so, one instruction does what testing and setting take four for.
    let after = before ^ 1 << slot;
    (after > before).then_some((slot, before, after))
}
