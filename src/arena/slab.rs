//! Slabs: spans cut into equal slots, one free bit each, all of it beside the space.
//!
//! Every slab starts at a multiple of the smallest slab's size, the unit, so a slot's slab is found by a shift: each
//! unit has a descriptor, and the later units of a larger slab point back to their first.

#![forbid(unsafe_code)]

#[cfg(feature = "hardened")]
mod drawn;

use super::bits;
use super::metadata::{Metadata, NoTable};
use crate::size::{Classes, Geometry, Offset, SizeClass, Span};

/// A descriptor as it stands in the table, of a unit that is part of a slab.
type Row = [u64; 2];

/// What a unit of a slab is.
#[derive(Clone, Copy)]
enum Unit {
    /// The first of its slab.
    Head(Slab),
    /// So many units behind the first.
    Tail(u32),
}

/// A slab: its class, how many of its slots are taken, where to look for a free one, its neighbours in the list of
/// slabs of its class that have one.
#[derive(Clone, Copy)]
struct Slab {
    class: SizeClass,
    /// Words of free bits before this one are zero.
    hint: u16,
    used: u32,
    next: Option<u32>,
    prev: Option<u32>,
}

/// The words of a row.
const ROW: usize = 2;

const HEAD: u32 = 1 << 31;

impl Unit {
    #[inline]
    fn read(row: Row) -> Unit {
        let link = |link: u32| link.checked_sub(1);
        let (what, used) = (row[0] as u32, (row[0] >> 32) as u32);
        if what & HEAD == 0 {
            return Unit::Tail(what);
        }
        let (class, hint) = (SizeClass(what as u8), (what >> 8) as u16);
        Unit::Head(Slab { class, hint, used, next: link(row[1] as u32), prev: link((row[1] >> 32) as u32) })
    }
}

impl Slab {
    #[inline]
    fn row(self) -> Row {
        let link = |link: Option<u32>| link.map_or(0, |unit| unit + 1) as u64;
        let what = HEAD | self.class.0 as u32 | (self.hint as u32) << 8;
        [what as u64 | (self.used as u64) << 32, link(self.next) | link(self.prev) << 32]
    }
}

/// A slab, and its first unit.
#[derive(Clone, Copy)]
pub(super) struct Found {
    unit: u32,
    slab: Slab,
}

impl Found {
    /// The class of its slots.
    #[inline]
    pub(super) fn class(self) -> SizeClass {
        self.slab.class
    }

    /// How many of its slots are taken.
    pub(super) fn taken(self) -> u32 {
        self.slab.used
    }
}

/// The slots of one class.
#[derive(Clone, Copy)]
struct Cut {
    slot_bytes: u32,
    slots: u32,
    units: u32,
    /// ceil(2^32 / slot_bytes): a quotient without a division, exact for every offset in a slab.
    reciprocal: u32,
    /// The slab to take from next, plus one.
    partial: u32,
}

/// A [`Cut`] as it stands in the table: in its own memory, so that an arena without slabs is small.
type CutRow = [u32; 5];

/// Where [`Cut::partial`] stands in its row.
const PARTIAL: usize = 4;

impl Cut {
    #[inline]
    fn read([slot_bytes, slots, units, reciprocal, partial]: CutRow) -> Cut {
        Cut { slot_bytes, slots, units, reciprocal, partial }
    }
}

/// Why a slot cannot be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotTaken {
    /// The slot is free already.
    Free,
    /// No slot starts there.
    Inside,
}

/// Where [`Slabs::give_many`] stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// Every block is back.
    Done,
    /// The last block given back was the last of its slab, which is gone; this was its span.
    Closed(Span),
    /// The next block lies outside of the space.
    Outside,
    /// At the next block starts no taken slot of that class.
    Refused(Offset),
}

/// All slabs of an arena.
pub(super) struct Slabs<M: Metadata> {
    classes: Classes,
    /// A [`Cut`] for each class.
    cuts: M::Table<CutRow>,
    /// One bit per unit: part of a slab. Asked first, since most of a large space is spans, whose units' rows are then
    /// never touched.
    slabs: M::Table<u64>,
    /// For each unit its row, then `words` words of free bits, side by side: a slot and its slab are one cache line.
    /// A slab of several units has 16 slots at most, so its bits are all in its first unit.
    units: M::Table<u64>,
    words: usize,
    /// log2 of the bytes and of the granules of a unit.
    unit_shift: u32,
    unit_granules_shift: u32,
    granule_shift: u32,
    /// Granules between a multiple of the unit and the start of the space.
    skew: u32,
    #[cfg(feature = "hardened")]
    draw: super::draw::Draw,
}

/// A slot that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) at: Offset,
    pub(super) bytes: u64,
}

impl<M: Metadata> Slabs<M> {
    /// The slabs of a space of `granules` whose start lies `skew` granules behind a multiple of a unit, or `None`
    /// where the geometry has no slabs.
    pub(super) fn new(
        meta: &mut M,
        geometry: Geometry,
        granules: u32,
        skew: u32,
    ) -> Result<Option<Self>, NoTable> {
        let Some(unit_shift) = geometry.slab_shift() else { return Ok(None) };
        let unit_granules_shift = unit_shift - geometry.granule_shift();
        let skew = skew & ((1 << unit_granules_shift) - 1);
        let units = ((granules as u64 + skew as u64) >> unit_granules_shift) as usize + 1;
        let words = 1 << (unit_shift - geometry.slot_shift() - 6);
        let classes = Classes::of(geometry);
        let mut cuts = meta.table(classes.count())?;
        for (class, cut) in cuts.iter_mut().enumerate() {
            let class = SizeClass(class as u8);
            let (slot_bytes, slab_bytes) = (classes.slot_bytes(class), classes.slab_bytes(class));
            let (slots, units) = (slab_bytes / slot_bytes, slab_bytes >> unit_shift);
            let reciprocal = (1u64 << 32).div_ceil(slot_bytes);
            *cut = [slot_bytes as u32, slots as u32, units as u32, reciprocal as u32, 0];
        }
        Ok(Some(Slabs {
            classes,
            cuts,
            slabs: meta.table(bits::words(units as u32))?,
            units: meta.table(units * (ROW + words))?,
            words,
            unit_shift,
            unit_granules_shift,
            granule_shift: geometry.granule_shift(),
            skew,
            #[cfg(feature = "hardened")]
            draw: super::draw::Draw::seeded(),
        }))
    }

    #[inline]
    pub(super) fn classes(&self) -> Classes {
        self.classes
    }

    #[inline]
    fn cut(&self, class: SizeClass) -> Cut {
        Cut::read(self.cuts[class.0 as usize])
    }

    /// The bytes of a slot of `class`.
    #[inline]
    pub(super) fn slot_bytes(&self, class: SizeClass) -> u64 {
        self.cut(class).slot_bytes as u64
    }

    /// The granules of a slab of `class`, and their alignment.
    pub(super) fn slab_granules(&self, class: SizeClass) -> (u32, u32) {
        (self.cut(class).units << self.unit_granules_shift, 1 << self.unit_granules_shift)
    }

    /// What a unit is.
    #[inline]
    fn read(&self, unit: u32) -> Unit {
        let at = unit as usize * (ROW + self.words);
        Unit::read([self.units[at], self.units[at + 1]])
    }

    #[inline]
    fn write(&mut self, unit: u32, row: Row) {
        let at = unit as usize * (ROW + self.words);
        self.units[at..at + ROW].copy_from_slice(&row);
    }

    /// The free bits of a slab, by its first unit.
    #[inline]
    fn free(&self, unit: u32) -> &[u64] {
        let at = unit as usize * (ROW + self.words) + ROW;
        &self.units[at..at + self.words]
    }

    #[inline]
    fn free_mut(&mut self, unit: u32) -> &mut [u64] {
        let at = unit as usize * (ROW + self.words) + ROW;
        &mut self.units[at..at + self.words]
    }

    #[inline]
    fn unit_of(&self, at: Offset) -> u32 {
        ((at.0 + ((self.skew as u64) << self.granule_shift)) >> self.unit_shift) as u32
    }

    #[inline]
    fn start_of(&self, unit: u32) -> Offset {
        Offset(((unit as u64) << self.unit_shift) - ((self.skew as u64) << self.granule_shift))
    }

    /// The slab that holds an offset.
    #[inline]
    pub(super) fn find(&self, at: Offset) -> Option<Found> {
        let unit = self.unit_of(at);
        if !bits::get(&self.slabs, unit) {
            return None;
        }
        match self.read(unit) {
            Unit::Head(slab) => Some(Found { unit, slab }),
            Unit::Tail(back) => match self.read(unit - back) {
                Unit::Head(slab) => Some(Found { unit: unit - back, slab }),
                Unit::Tail(_) => None,
            },
        }
    }

    /// Takes a slot from a slab that has one.
    #[cfg(not(feature = "hardened"))]
    #[inline]
    pub(super) fn take(&mut self, class: SizeClass) -> Option<Slot> {
        let cut = self.cut(class);
        let unit = cut.partial.checked_sub(1)?;
        let at = unit as usize * (ROW + self.words);
        let (row, free) = self.units[at..at + ROW + self.words].split_at_mut(ROW);
        let Unit::Head(mut slab) = Unit::read([row[0], row[1]]) else { return None };
        let word = slab.hint as usize + free[slab.hint as usize..].iter().position(|&word| word != 0)?;
        let bit = free[word].trailing_zeros();
        free[word] &= free[word] - 1;
        slab.hint = word as u16;
        slab.used += 1;
        row.copy_from_slice(&slab.row());
        if slab.used == cut.slots {
            self.unlink(unit, slab);
        }
        let slot = word as u64 * 64 + bit as u64;
        let bytes = cut.slot_bytes as u64;
        Some(Slot { at: Offset(self.start_of(unit).0 + slot * bytes), bytes })
    }

    /// Takes slots of a class, lowest first in each slab, until `out` is full or no slab has one. How many.
    #[cfg(not(feature = "hardened"))]
    pub(super) fn take_many(&mut self, class: SizeClass, out: &mut [Offset]) -> usize {
        let cut = self.cut(class);
        let mut taken = 0;
        while taken < out.len() {
            let Some(unit) = self.cut(class).partial.checked_sub(1) else { break };
            let start = self.start_of(unit);
            let at = unit as usize * (ROW + self.words);
            let (row, free) = self.units[at..at + ROW + self.words].split_at_mut(ROW);
            let Unit::Head(mut slab) = Unit::read([row[0], row[1]]) else { break };
            let before = taken;
            for (word, bits) in free.iter_mut().enumerate().skip(slab.hint as usize) {
                slab.hint = word as u16;
                while *bits != 0 && taken < out.len() {
                    let slot = word as u64 * 64 + bits.trailing_zeros() as u64;
                    *bits &= *bits - 1;
                    out[taken] = Offset(start.0 + slot * cut.slot_bytes as u64);
                    taken += 1;
                }
                if taken == out.len() {
                    break;
                }
            }
            slab.used += (taken - before) as u32;
            row.copy_from_slice(&slab.row());
            if slab.used == cut.slots {
                self.unlink(unit, slab);
            } else if taken == before {
                break;
            }
        }
        taken
    }

    /// Makes a slab of a span that was taken for it.
    pub(super) fn open(&mut self, class: SizeClass, span: Span) {
        let cut = self.cut(class);
        let unit = (span.start.0 + self.skew) >> self.unit_granules_shift;
        debug_assert_eq!(span.granules, cut.units << self.unit_granules_shift);
        bits::set_range(&mut self.slabs, unit..unit + cut.units);
        for back in 1..cut.units {
            self.write(unit + back, [back as u64, 0]);
        }
        let free = self.free_mut(unit);
        free.fill(0);
        bits::set_range(free, 0..cut.slots);
        self.link(unit, Slab { class, hint: 0, used: 0, next: None, prev: None });
    }

    /// The number of the slot that starts at `at` in a slab.
    #[inline]
    fn slot_at(&self, unit: u32, class: SizeClass, at: Offset) -> Option<u32> {
        let cut = self.cut(class);
        let within = (at.0 - self.start_of(unit).0) as u32;
        let slot = ((within as u64 * cut.reciprocal as u64) >> 32) as u32;
        (slot * cut.slot_bytes == within && slot < cut.slots).then_some(slot)
    }

    /// The bytes of the taken slot that starts at `at`, or `None` where no slab is.
    pub(super) fn taken(&self, at: Offset) -> Option<Result<u64, NotTaken>> {
        let Found { unit, slab } = self.find(at)?;
        let Some(slot) = self.slot_at(unit, slab.class, at) else { return Some(Err(NotTaken::Inside)) };
        Some(if bits::get(self.free(unit), slot) {
            Err(NotTaken::Free)
        } else {
            Ok(self.slot_bytes(slab.class))
        })
    }

    /// Gives the slot that starts at `at` in a slab found just now back. The span of the slab, when that was its last
    /// slot: the slab is gone.
    ///
    /// # Errors
    /// [`NotTaken`] when no taken slot starts there.
    #[inline]
    pub(super) fn give(&mut self, found: Found, at: Offset) -> Result<Option<Span>, NotTaken> {
        let Found { unit, mut slab } = found;
        let slot = self.slot_at(unit, slab.class, at).ok_or(NotTaken::Inside)?;
        let cut = self.cut(slab.class);
        let start = unit as usize * (ROW + self.words);
        let (row, free) = self.units[start..start + ROW + self.words].split_at_mut(ROW);
        if bits::get(free, slot) {
            return Err(NotTaken::Free);
        }
        bits::set(free, slot);
        slab.hint = slab.hint.min((slot / 64) as u16);
        slab.used -= 1;
        if slab.used == 0 {
            self.close(unit, slab, cut);
            return Ok(Some(self.span_of(unit, cut)));
        }
        if slab.used + 1 == cut.slots {
            self.link(unit, slab);
        } else {
            row.copy_from_slice(&slab.row());
        }
        Ok(None)
    }

    /// Gives slots of one class back, in order. How many, and where it stopped.
    pub(super) fn give_many(
        &mut self,
        class: SizeClass,
        blocks: &[Offset],
        space_bytes: u64,
    ) -> (usize, Stop) {
        let mut given = 0;
        loop {
            given += self.give_quickly(class, &blocks[given..]);
            // The first or the last slot of its slab that is taken, a slab of several units, or no taken slot.
            let Some(&at) = blocks.get(given) else { return (given, Stop::Done) };
            if at.0 >= space_bytes {
                return (given, Stop::Outside);
            }
            let found = self.find(at).filter(|found| found.slab.class == class);
            match found.map(|found| self.give(found, at)) {
                Some(Ok(None)) => given += 1,
                Some(Ok(Some(span))) => return (given + 1, Stop::Closed(span)),
                Some(Err(_)) | None => return (given, Stop::Refused(at)),
            }
        }
    }

    /// Gives slots back as long as that changes neither whether a slab is full nor whether it is empty. How many. Bits and count are
    /// changed in place: where blocks come in any order, this is all that most of them need, some 50 instructions each.
    #[inline]
    fn give_quickly(&mut self, class: SizeClass, blocks: &[Offset]) -> usize {
        let Cut { slot_bytes, slots, reciprocal, .. } = self.cut(class);
        let (slot_bytes, reciprocal, last) = (slot_bytes as u64, reciprocal as u64, slots as u64 - 1);
        let (stride, shift, within_unit) = (ROW + self.words, self.unit_shift, (1 << self.unit_shift) - 1);
        let skew_bytes = (self.skew as u64) << self.granule_shift;
        let head = HEAD | class.0 as u32;
        let units = &mut self.units[..];
        for (given, at) in blocks.iter().enumerate() {
            let at = at.0.wrapping_add(skew_bytes);
            // What lies outside of the space may be as far away as an offset can say: more than a `usize` of 32 bits.
            let start = usize::try_from((at >> shift) * stride as u64).unwrap_or(usize::MAX);
            let Some(cells) = units.get_mut(start..).and_then(|cells| cells.get_mut(..stride)) else {
                return given;
            };
            // Not the first unit of a slab of that class; or the slot is its last that is taken, or the first to be free.
            let what = cells[0];
            let used = (what >> 32) as u32;
            if what as u32 & (HEAD | 0xff) != head || used.wrapping_sub(2) >= slots.wrapping_sub(2) {
                return given;
            }
            let within = at & within_unit;
            let slot = (within * reciprocal) >> 32;
            if slot * slot_bytes != within || slot > last {
                return given;
            }
            let (word, bit) = (slot / 64, 1 << (slot % 64));
            let Some(free) = cells.get_mut(ROW + word as usize).filter(|free| **free & bit == 0) else {
                return given;
            };
            *free |= bit;
            let hint = what >> 8 & 0xffff;
            cells[0] = what - (1 << 32) - (hint.saturating_sub(word) << 8);
        }
        blocks.len()
    }

    /// The span of a slab.
    fn span_of(&self, unit: u32, cut: Cut) -> Span {
        Span::new((unit << self.unit_granules_shift) - self.skew, cut.units << self.unit_granules_shift)
    }

    /// A slab whose last slot came back.
    fn close(&mut self, unit: u32, slab: Slab, cut: Cut) {
        if cut.slots > 1 {
            self.unlink(unit, slab);
        }
        bits::clear_range(&mut self.slabs, unit..unit + cut.units);
        // No head any more: whoever looks at the row alone must see that.
        self.write(unit, [0; ROW]);
    }

    /// Puts a slab into the list of its class: first, or second behind one that lies lower, so that the lowest slabs
    /// fill up and the higher ones run empty.
    fn link(&mut self, unit: u32, mut slab: Slab) {
        let cut = &mut self.cuts[slab.class.0 as usize];
        let first = cut[PARTIAL].checked_sub(1);
        match first {
            Some(first) if first < unit => {
                let Unit::Head(mut before) = self.read(first) else { return };
                slab.prev = Some(first);
                slab.next = before.next.replace(unit);
                self.write(first, before.row());
            }
            _ => {
                slab.prev = None;
                slab.next = first;
                cut[PARTIAL] = unit + 1;
            }
        }
        if let Some(next) = slab.next
            && let Unit::Head(mut after) = self.read(next)
        {
            after.prev = Some(unit);
            self.write(next, after.row());
        }
        self.write(unit, slab.row());
    }

    /// Takes a slab out of the list of its class.
    fn unlink(&mut self, unit: u32, slab: Slab) {
        match slab.prev {
            Some(prev) => {
                if let Unit::Head(mut before) = self.read(prev) {
                    before.next = slab.next;
                    self.write(prev, before.row());
                }
            }
            None => self.cuts[slab.class.0 as usize][PARTIAL] = slab.next.map_or(0, |unit| unit + 1),
        }
        if let Some(next) = slab.next
            && let Unit::Head(mut after) = self.read(next)
        {
            after.prev = slab.prev;
            self.write(next, after.row());
        }
        self.write(unit, Slab { next: None, prev: None, ..slab }.row());
    }
}
