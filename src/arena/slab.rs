//! Slabs: spans cut into equal slots, one free bit each, all of it beside the space.
//!
//! Every slab starts at a multiple of the smallest slab's size, the unit, so a slot's slab is found by a shift: each
//! unit has a descriptor, and the later units of a larger slab point back to their first.

#![forbid(unsafe_code)]

mod back;
#[cfg(feature = "hardened")]
mod drawn;
#[cfg(not(feature = "hardened"))]
mod lowest;

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
    /// Whether it is in that list.
    listed: bool,
    /// Words of free bits before this one are zero.
    hint: u16,
    used: u32,
    next: Option<u32>,
    prev: Option<u32>,
}

/// The words of a row.
const ROW: usize = 2;

/// What the lowest 16 bits of a row say beside the class: that the unit is the first of its slab, and that the slab is listed.
const HEAD: u16 = 1 << 15;
const LISTED: u16 = 1 << 14;
/// The next 16 bits are the lower half of how many slots are taken beside one, behind which come the hint and the upper half. So the
/// lower 32 bits are all that changes where a slot of a small slab comes back that is not its last.
const ONE_USED: u32 = 1 << 16;

impl Unit {
    #[inline]
    fn read(row: Row) -> Unit {
        let link = |link: u32| link.checked_sub(1);
        let [what, low, hint, high] = [0, 16, 32, 48].map(|shift| (row[0] >> shift) as u16);
        let used = (low as u32 | (high as u32) << 16).wrapping_add(1);
        if what & HEAD == 0 {
            return Unit::Tail(what as u32);
        }
        let (class, listed) = (SizeClass(what as u8), what & LISTED != 0);
        let (next, prev) = (link(row[1] as u32), link((row[1] >> 32) as u32));
        Unit::Head(Slab { class, listed, hint, used, next, prev })
    }
}

impl Slab {
    #[inline]
    fn row(self) -> Row {
        let link = |link: Option<u32>| link.map_or(0, |unit| unit + 1) as u64;
        let what = HEAD | if self.listed { LISTED } else { 0 } | self.class.0 as u16;
        let used = self.used.wrapping_sub(1);
        let (low, high) = (used as u16 as u64, (used >> 16) as u64);
        let what = what as u64 | low << 16 | (self.hint as u64) << 32 | high << 48;
        [what, link(self.next) | link(self.prev) << 32]
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
    /// A slab of several units has fewer slots than one has bits, which are all in its first unit.
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
            units: meta.growing(units * (ROW + words))?,
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

    /// How many classes there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.cuts.len()
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

    /// Has the table ready for a slab in a span.
    ///
    /// # Errors
    /// [`NoTable`] when there is no memory for that; then the span can have no slab.
    pub(super) fn reach(&mut self, span: Span) -> Result<(), NoTable> {
        let units = (span.end() + self.skew).div_ceil(1 << self.unit_granules_shift);
        M::grow(&mut self.units, units as usize * (ROW + self.words))
    }

    /// Makes a slab of a span that was taken for it, and that the table [reaches](Self::reach).
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
        self.link(unit, Slab { class, listed: true, hint: 0, used: 0, next: None, prev: None });
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
        if slab.listed {
            row.copy_from_slice(&slab.row());
        } else {
            self.link(unit, slab);
        }
        Ok(None)
    }

    /// The span of a slab.
    fn span_of(&self, unit: u32, cut: Cut) -> Span {
        Span::new((unit << self.unit_granules_shift) - self.skew, cut.units << self.unit_granules_shift)
    }

    /// A slab whose last slot came back.
    fn close(&mut self, unit: u32, slab: Slab, cut: Cut) {
        if slab.listed {
            self.unlink(unit, slab);
        }
        bits::clear_range(&mut self.slabs, unit..unit + cut.units);
        // No head any more: whoever looks at the row alone must see that.
        self.write(unit, [0; ROW]);
    }

    /// Puts a slab into the list of its class: first, or second behind one that lies lower, so that the lowest slabs
    /// fill up and the higher ones run empty.
    fn link(&mut self, unit: u32, mut slab: Slab) {
        slab.listed = true;
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
        self.write(unit, Slab { listed: false, next: None, prev: None, ..slab }.row());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_it_was_made_of() {
        for used in [0, 1, 2, 0x8000, 0x1_0000, 0x1_0001, 0x40_0000] {
            for (listed, hint) in [(false, 0), (true, 0xffff)] {
                let slab = Slab {
                    class: SizeClass(63),
                    listed,
                    hint,
                    used,
                    next: Some(5),
                    prev: Some(u32::MAX - 1),
                };
                let Unit::Head(read) = Unit::read(slab.row()) else { panic!("a tail") };
                assert_eq!((read.class, read.listed, read.hint), (slab.class, listed, hint));
                assert_eq!((read.used, read.next, read.prev), (used, slab.next, slab.prev));
            }
        }
    }
}
