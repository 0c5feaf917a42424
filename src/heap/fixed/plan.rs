//! How a range is counted, by its length: granules, and the sizes that slabs serve.

#![forbid(unsafe_code)]

use crate::arena::index::fit::marks;
use crate::size::Geometry;

/// log2 of the bytes of a granule where there are slabs.
pub(super) const SLAB_GRANULE_SHIFT: u32 = 5;
/// The bytes of a block of the fit table there: the largest slot.
pub(super) const BLOCK_BYTES: usize = 32 << SLAB_GRANULE_SHIFT;
/// The longest range, whose blocks can all be named.
pub(super) const MOST_BYTES: u64 = marks::MOST_BLOCKS as u64 * BLOCK_BYTES as u64;

/// The units of a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// log2 of the bytes of a granule.
    pub(super) granule_shift: u32,
    /// The sizes of slots.
    pub(super) sizes: &'static Sizes,
    /// Granules that a slab has at least.
    pub(super) slab_granules: u32,
}

impl Plan {
    /// The units for a range of `len` bytes.
    ///
    /// Below 256 KiB there are no slabs, since in so little memory they cost more than they save, and spans are found by one
    /// pass over the bits of at most 8,192 granules. From there on what is not longer than a block of the fit table comes from
    /// slabs; below 4 MiB from fewer and smaller ones.
    pub(super) const fn of(len: usize) -> Plan {
        let granule_shift = match len >> 10 {
            0..16 => 3,
            16..128 => 4,
            _ => SLAB_GRANULE_SHIFT,
        };
        if len < 4 << 20 {
            Plan { granule_shift, sizes: &FEW, slab_granules: 32 }
        } else {
            Plan { granule_shift, sizes: &MANY, slab_granules: 64 }
        }
    }

    /// The same for a space.
    pub(super) const fn geometry(self) -> Geometry {
        Geometry::spans(1 << self.granule_shift)
    }
}

/// Size classes: multiples of 8 up to half a block, of 16 up to a whole one; or of twice as much.
#[derive(Debug)]
pub(super) struct Sizes {
    /// The class of each multiple of 8, less one.
    classes: [u8; BLOCK_BYTES / 8],
    shift: u32,
}

/// Multiples of 8: 97 % of a slab is what was asked for, whatever the size.
static MANY: Sizes = Sizes::new(3);
/// Multiples of 16: half as many slabs that hold little.
static FEW: Sizes = Sizes::new(4);

impl Sizes {
    const fn new(shift: u32) -> Sizes {
        let mut classes = [0; BLOCK_BYTES / 8];
        let mut eighth = 0;
        while eighth < classes.len() {
            let units = eighth >> (shift - 3);
            let half = (BLOCK_BYTES / 2) >> shift;
            let class = if units < half { units } else { half / 2 + units / 2 };
            let first = least_units(shift) - 1;
            classes[eighth] = if class > first { (class - first) as u8 } else { 0 };
            eighth += 1;
        }
        Sizes { classes, shift }
    }

    /// How many classes there are.
    pub(super) const fn count(&self) -> usize {
        self.classes[self.classes.len() - 1] as usize + 1
    }

    /// The class of a size, which is not zero and at most a block.
    #[inline]
    pub(super) fn class(&self, bytes: usize) -> Option<usize> {
        let class = self.classes.get(bytes.wrapping_sub(1) >> 3)?;
        Some(*class as usize)
    }

    /// The bytes of the slots of a class: 64 of the smallest make a block.
    pub(super) const fn slot_bytes(&self, class: usize) -> u32 {
        let half = (BLOCK_BYTES / 2) >> self.shift;
        let class = class + least_units(self.shift) - 1;
        let units = if class < half { class + 1 } else { 2 * (class - half / 2) + 2 };
        (units << self.shift) as u32
    }
}

/// The units of the smallest slots, of which 64 make a block.
const fn least_units(shift: u32) -> usize {
    (BLOCK_BYTES / 64) >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it_at_its_alignment() {
        for sizes in [&MANY, &FEW] {
            assert!(sizes.count() <= marks::MOST_TAGS);
            for bytes in 1..=BLOCK_BYTES {
                let class = sizes.class(bytes).unwrap();
                assert!(sizes.slot_bytes(class) as usize >= bytes);
                assert!(class == 0 || (sizes.slot_bytes(class - 1) as usize) < bytes || bytes <= 16, "{bytes}");
                let align = 1 << bytes.trailing_zeros();
                assert!(align <= 8 || sizes.slot_bytes(class) as usize % align == 0, "{bytes}");
            }
            assert_eq!((sizes.class(0), sizes.class(BLOCK_BYTES + 1)), (None, None));
        }
    }
}
