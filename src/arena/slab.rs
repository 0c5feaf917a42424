//! Slabs: spans cut into equal slots, one free bit each, all of it beside the space.
//!
//! Every slab starts at a multiple of the smallest slab's size, the unit, so a slot's slab is found by a shift: each
//! unit has a descriptor, and the later units of a larger slab point back to their first.

#![forbid(unsafe_code)]

use super::bits;
use super::metadata::{Metadata, NoTable};
use crate::size::{Classes, Geometry, Offset, SizeClass, Span};

/// A descriptor as it stands in the table; all zeros is a unit that belongs to no slab.
type Row = [u32; 4];

/// What a unit is.
#[derive(Clone, Copy)]
enum Unit {
    /// Part of no slab.
    None,
    /// The first of a slab.
    Head(Slab),
    /// So many units behind the first of its slab.
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

const HEAD: u32 = 1 << 31;
const TAIL: u32 = 1 << 30;

impl Unit {
    #[inline]
    fn read(row: Row) -> Unit {
        let link = |link: u32| link.checked_sub(1);
        if row[0] & HEAD != 0 {
            let (class, hint) = (SizeClass(row[0] as u8), (row[0] >> 8) as u16);
            Unit::Head(Slab { class, hint, used: row[1], next: link(row[2]), prev: link(row[3]) })
        } else if row[0] & TAIL != 0 {
            Unit::Tail(row[0] & !TAIL)
        } else {
            Unit::None
        }
    }
}

impl Slab {
    #[inline]
    fn row(self) -> Row {
        let link = |link: Option<u32>| link.map_or(0, |unit| unit + 1);
        [HEAD | self.class.0 as u32 | (self.hint as u32) << 8, self.used, link(self.next), link(self.prev)]
    }
}

/// The slots of one class.
#[derive(Clone, Copy, Default)]
struct Cut {
    slot_bytes: u32,
    slots: u32,
    units: u32,
    /// ceil(2^32 / slot_bytes): a quotient without a division, exact for every offset in a slab.
    reciprocal: u32,
    /// The slab to take from next, plus one.
    partial: u32,
}

/// Why a slot cannot be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotTaken {
    /// The slot is free already.
    Free,
    /// No slot starts there.
    Inside,
}

/// All slabs of an arena.
pub(super) struct Slabs<M: Metadata> {
    classes: Classes,
    cuts: [Cut; Classes::MAX],
    rows: M::Table<Row>,
    /// `words` words of free bits for each unit.
    free: M::Table<u64>,
    words: usize,
    /// log2 of the bytes and of the granules of a unit.
    unit_shift: u32,
    unit_granules_shift: u32,
    granule_shift: u32,
    /// Granules between a multiple of the unit and the start of the space.
    skew: u32,
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
        let mut cuts = [Cut::default(); Classes::MAX];
        for (class, cut) in cuts.iter_mut().enumerate().take(classes.count()) {
            let class = SizeClass(class as u8);
            let (slot_bytes, slab_bytes) = (classes.slot_bytes(class), classes.slab_bytes(class));
            *cut = Cut {
                slot_bytes: slot_bytes as u32,
                slots: (slab_bytes / slot_bytes) as u32,
                units: (slab_bytes >> unit_shift) as u32,
                reciprocal: (1u64 << 32).div_ceil(slot_bytes) as u32,
                partial: 0,
            };
        }
        Ok(Some(Slabs {
            classes,
            cuts,
            rows: meta.table(units)?,
            free: meta.table(units * words)?,
            words,
            unit_shift,
            unit_granules_shift,
            granule_shift: geometry.granule_shift(),
            skew,
        }))
    }

    #[inline]
    pub(super) fn classes(&self) -> Classes {
        self.classes
    }

    /// The bytes of a slot of `class`.
    #[inline]
    pub(super) fn slot_bytes(&self, class: SizeClass) -> u64 {
        self.cuts[class.0 as usize].slot_bytes as u64
    }

    /// The granules of a slab of `class`, and their alignment.
    pub(super) fn slab_granules(&self, class: SizeClass) -> (u32, u32) {
        (self.cuts[class.0 as usize].units << self.unit_granules_shift, 1 << self.unit_granules_shift)
    }

    #[inline]
    fn unit_of(&self, at: Offset) -> u32 {
        ((at.0 + ((self.skew as u64) << self.granule_shift)) >> self.unit_shift) as u32
    }

    #[inline]
    fn start_of(&self, unit: u32) -> Offset {
        Offset(((unit as u64) << self.unit_shift) - ((self.skew as u64) << self.granule_shift))
    }

    /// The first unit of the slab that holds an offset, and the slab.
    #[inline]
    fn slab_at(&self, at: Offset) -> Option<(u32, Slab)> {
        let unit = self.unit_of(at);
        match Unit::read(self.rows[unit as usize]) {
            Unit::Head(slab) => Some((unit, slab)),
            Unit::Tail(back) => match Unit::read(self.rows[(unit - back) as usize]) {
                Unit::Head(slab) => Some((unit - back, slab)),
                _ => None,
            },
            Unit::None => None,
        }
    }

    /// The class of the slab that holds an offset.
    #[inline]
    pub(super) fn class_at(&self, at: Offset) -> Option<SizeClass> {
        self.slab_at(at).map(|(_, slab)| slab.class)
    }

    /// Takes a slot from a slab that has one.
    #[inline]
    pub(super) fn take(&mut self, class: SizeClass) -> Option<Slot> {
        let cut = self.cuts[class.0 as usize];
        let unit = cut.partial.checked_sub(1)?;
        let Unit::Head(mut slab) = Unit::read(self.rows[unit as usize]) else { return None };
        let from = unit as usize * self.words;
        let free = &mut self.free[from..from + self.words * cut.units as usize];
        let word = slab.hint as usize + free[slab.hint as usize..].iter().position(|&word| word != 0)?;
        let bit = free[word].trailing_zeros();
        free[word] &= free[word] - 1;
        slab.hint = word as u16;
        slab.used += 1;
        self.rows[unit as usize] = slab.row();
        if slab.used == cut.slots {
            self.unlink(unit, slab);
        }
        let slot = word as u64 * 64 + bit as u64;
        let bytes = cut.slot_bytes as u64;
        Some(Slot { at: Offset(self.start_of(unit).0 + slot * bytes), bytes })
    }

    /// Makes a slab of a span that was taken for it.
    pub(super) fn open(&mut self, class: SizeClass, span: Span) {
        let cut = self.cuts[class.0 as usize];
        let unit = (span.start.0 + self.skew) >> self.unit_granules_shift;
        debug_assert_eq!(span.granules, cut.units << self.unit_granules_shift);
        for back in 1..cut.units {
            self.rows[(unit + back) as usize] = [TAIL | back, 0, 0, 0];
        }
        let from = unit as usize * self.words;
        let free = &mut self.free[from..from + self.words * cut.units as usize];
        free.fill(0);
        bits::set_range(free, 0..cut.slots);
        self.link(unit, Slab { class, hint: 0, used: 0, next: None, prev: None });
    }

    /// The number of the slot that starts at `at` in a slab.
    #[inline]
    fn slot_at(&self, unit: u32, class: SizeClass, at: Offset) -> Option<u32> {
        let cut = self.cuts[class.0 as usize];
        let within = (at.0 - self.start_of(unit).0) as u32;
        let slot = ((within as u64 * cut.reciprocal as u64) >> 32) as u32;
        (slot * cut.slot_bytes == within && slot < cut.slots).then_some(slot)
    }

    /// The bytes of the taken slot that starts at `at`, or `None` where no slab is.
    pub(super) fn taken(&self, at: Offset) -> Option<Result<u64, NotTaken>> {
        let (unit, slab) = self.slab_at(at)?;
        let Some(slot) = self.slot_at(unit, slab.class, at) else { return Some(Err(NotTaken::Inside)) };
        let free = &self.free[unit as usize * self.words..];
        Some(if bits::get(free, slot) { Err(NotTaken::Free) } else { Ok(self.slot_bytes(slab.class)) })
    }

    /// Gives the slot that starts at `at` back. The span of its slab, when that was the last: the slab is gone.
    ///
    /// # Errors
    /// [`NotTaken`] when no taken slot starts there.
    #[inline]
    pub(super) fn give(&mut self, at: Offset) -> Result<Option<Span>, NotTaken> {
        let (unit, mut slab) = self.slab_at(at).ok_or(NotTaken::Inside)?;
        let slot = self.slot_at(unit, slab.class, at).ok_or(NotTaken::Inside)?;
        let free = &mut self.free[unit as usize * self.words..];
        if bits::get(free, slot) {
            return Err(NotTaken::Free);
        }
        bits::set(free, slot);
        slab.hint = slab.hint.min((slot / 64) as u16);
        slab.used -= 1;
        let cut = self.cuts[slab.class.0 as usize];
        if slab.used == 0 {
            self.close(unit, slab, cut);
            let start = (unit << self.unit_granules_shift) - self.skew;
            return Ok(Some(Span::new(start, cut.units << self.unit_granules_shift)));
        }
        if slab.used + 1 == cut.slots {
            self.link(unit, slab);
        } else {
            self.rows[unit as usize] = slab.row();
        }
        Ok(None)
    }

    /// A slab whose last slot came back.
    fn close(&mut self, unit: u32, slab: Slab, cut: Cut) {
        if cut.slots > 1 {
            self.unlink(unit, slab);
        }
        self.rows[unit as usize..][..cut.units as usize].fill([0; 4]);
    }

    /// Puts a slab into the list of its class: first, or second behind one that lies lower, so that the lowest slabs
    /// fill up and the higher ones run empty.
    fn link(&mut self, unit: u32, mut slab: Slab) {
        let cut = &mut self.cuts[slab.class.0 as usize];
        let first = cut.partial.checked_sub(1);
        match first {
            Some(first) if first < unit => {
                let Unit::Head(mut before) = Unit::read(self.rows[first as usize]) else { return };
                slab.prev = Some(first);
                slab.next = before.next.replace(unit);
                self.rows[first as usize] = before.row();
            }
            _ => {
                slab.prev = None;
                slab.next = first;
                cut.partial = unit + 1;
            }
        }
        if let Some(next) = slab.next {
            if let Unit::Head(mut after) = Unit::read(self.rows[next as usize]) {
                after.prev = Some(unit);
                self.rows[next as usize] = after.row();
            }
        }
        self.rows[unit as usize] = slab.row();
    }

    /// Takes a slab out of the list of its class.
    fn unlink(&mut self, unit: u32, slab: Slab) {
        match slab.prev {
            Some(prev) => {
                if let Unit::Head(mut before) = Unit::read(self.rows[prev as usize]) {
                    before.next = slab.next;
                    self.rows[prev as usize] = before.row();
                }
            }
            None => self.cuts[slab.class.0 as usize].partial = slab.next.map_or(0, |unit| unit + 1),
        }
        if let Some(next) = slab.next {
            if let Unit::Head(mut after) = Unit::read(self.rows[next as usize]) {
                after.prev = slab.prev;
                self.rows[next as usize] = after.row();
            }
        }
        self.rows[unit as usize] = Slab { next: None, prev: None, ..slab }.row();
    }
}
