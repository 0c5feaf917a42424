//! Slots of one class given back by the magazine.

#![forbid(unsafe_code)]

use super::super::batch::Name;
use super::super::metadata::Metadata;
use super::{Cut, HEAD, LISTED, ONE_USED, ROW, Slabs, Stop};
use crate::size::{Offset, SizeClass};

/// Up to here a [`Cut`]'s reciprocal times an offset in a unit says, in its lower half, whether a slot starts there; and a slab has
/// fewer than 2^15 slots.
const MOST_SHIFT: u32 = 16;

impl<M: Metadata> Slabs<M> {
    /// Gives slots of one class back, which are named from `base` on, in order. How many, and where it stopped.
    pub(in crate::arena) fn give_many<B: Name>(
        &mut self,
        class: SizeClass,
        blocks: &[B],
        base: u64,
        space_bytes: u64,
    ) -> (usize, Stop) {
        let mut given = 0;
        loop {
            if self.unit_shift <= MOST_SHIFT {
                given += self.give_quickly(class, &blocks[given..], base);
            }
            // The first or the last slot of its slab that is taken, a slab of several units, or no taken slot.
            let Some(block) = blocks.get(given) else { return (given, Stop::Done) };
            let at = Offset(block.bytes().wrapping_sub(base));
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
    /// changed in place: where blocks come in any order, this is all that most of them need, some 36 instructions each. A loop of its
    /// own, so that it has the registers.
    #[inline(never)]
    fn give_quickly<B: Name>(&mut self, class: SizeClass, blocks: &[B], base: u64) -> usize {
        let (unit_shift, stride) = (self.unit_shift, ROW + self.words);
        let Cut { slot_bytes, slots, reciprocal, .. } = self.cut(class);
        let end = slots as u64 * slot_bytes as u64;
        let base = base.wrapping_sub((self.skew as u64) << self.granule_shift);
        let head = HEAD | LISTED | class.0 as u16;
        let units = &mut self.units[..];
        let mut rest = blocks.iter();
        while let Some(block) = rest.as_slice().first() {
            let at = block.bytes().wrapping_sub(base);
            // What lies outside of the space may be as far away as an offset can say: more than a `usize` of 32 bits.
            let start = usize::try_from((at >> unit_shift) * stride as u64).unwrap_or(usize::MAX);
            // Not the first unit of a slab of that class, or one that is full.
            let Some(&what) = units.get(start).filter(|&&what| what as u16 == head) else { break };
            let within = at & ((1 << unit_shift) - 1);
            let product = within * reciprocal as u64;
            // In the lower half stands how far into a slot that is: for its start less than for the next byte.
            if product as u32 >= reciprocal || within >= end {
                break;
            }
            // The last slot that is taken: the count borrows, whose topmost bit no slab of these has.
            let left = (what as u32).wrapping_sub(ONE_USED);
            if (left as i32) < 0 {
                break;
            }
            let slot = product >> 32;
            let Some(free) = units.get_mut(start + ROW + (slot / 64) as usize) else { break };
            let freed = *free | 1 << (slot % 64);
            if freed == *free {
                break;
            }
            *free = freed;
            // The upper half is the hint, which costs more to keep here than it saves whoever takes next, and of the count 0.
            units[start] = left as u64;
            rest.next();
        }
        blocks.len() - rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::{Classes, Geometry};

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, too much of it to interpret")]
    fn the_lower_half_of_the_product_says_whether_a_slot_starts_there() {
        for slot_shift in [3, 4, 9] {
            let slots = 1 << slot_shift;
            let classes = Classes::of(Geometry::spans(1 << MOST_SHIFT).slabs(1 << MOST_SHIFT, slots));
            for class in 0..classes.count() {
                let slot_bytes = classes.slot_bytes(SizeClass(class as u8));
                let reciprocal = (1u64 << 32).div_ceil(slot_bytes);
                for within in 0..1u64 << MOST_SHIFT {
                    let product = within * reciprocal;
                    let starts = within.is_multiple_of(slot_bytes);
                    assert_eq!((product as u32) < reciprocal as u32, starts, "{within} in {slot_bytes}");
                    assert_eq!(product >> 32, within / slot_bytes);
                }
            }
        }
    }
}
