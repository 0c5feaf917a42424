//! How a range is counted, by its length: granules, and the sizes that slabs serve.

#![forbid(unsafe_code)]

use super::COPIES;
use super::runs::shadow::{LEAST, MOST_GRANULES};

/// log2 of the bytes of a granule where there are slabs.
pub(super) const SLAB_GRANULE_SHIFT: u32 = 6;
/// The bytes of the shortest span there.
const LEAST_BYTES: usize = (LEAST as usize) << SLAB_GRANULE_SHIFT;
const GRANULE: usize = 1 << SLAB_GRANULE_SHIFT;
/// The largest slot.
pub(super) const MOST_SLOT_BYTES: usize = 2 << 10;
/// The longest range, whose granules can all be named.
pub(super) const MOST_BYTES: u64 = (MOST_GRANULES as u64) << SLAB_GRANULE_SHIFT;

/// The most granules of a range without slabs.
const MOST_FLAT: usize = 1 << 14;

/// The units of a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// log2 of the bytes of a granule.
    pub(super) granule_shift: u32,
    /// Whether there are no slabs.
    pub(super) flat: bool,
    /// The sizes of slots.
    pub(super) sizes: &'static Sizes,
    /// Granules that a slab has at least.
    pub(super) slab_granules: u32,
    /// How many of the shorter lengths of spans are set aside.
    pub(super) asides: usize,
}

impl Plan {
    /// The units for a range of `len` bytes.
    ///
    /// Below 320 KiB there are no slabs, since in so little memory they cost more than they save, and spans are found by one
    /// pass over the bits of at most 10,240 granules. From there on most sizes up to 2 KiB come from slabs (see [`Sizes`]); below 4 MiB from
    /// fewer and smaller ones, of which one stays when it is empty, and nothing is set aside. A heap without `slabs` has larger granules
    /// there, so that they do not become more.
    pub(super) const fn of(len: usize, slabs: bool) -> Plan {
        let granule_shift = match len >> 10 {
            0..16 => 3,
            16..128 => 4,
            128..320 => 5,
            _ => SLAB_GRANULE_SHIFT,
        };
        let flat = !slabs || granule_shift < SLAB_GRANULE_SHIFT;
        // Bits beyond those of the most granules. (Of no bytes there are none whatever their granule.)
        let beyond = usize::BITS - (len.wrapping_sub(1) / MOST_FLAT).leading_zeros();
        let granule_shift = if flat && beyond > granule_shift { beyond } else { granule_shift };
        if len < 4 << 20 {
            Plan { granule_shift, flat, sizes: &FEW, slab_granules: 16, asides: 0 }
        } else {
            Plan {
                granule_shift,
                flat,
                sizes: &MANY,
                slab_granules: 40,
                asides: if COPIES && !flat { 112 } else { 0 },
            }
        }
    }
}

/// Size classes: multiples of 8 up to 512, of 16 up to 1,024, of 32 up to 2,048; or of twice as much. Sizes of more than 1,024 bytes that
/// are a multiple of a granule or a little less have none: as spans they waste nothing, and leave what is free to everybody.
#[derive(Debug)]
pub(super) struct Sizes {
    /// The class of each multiple of 8, less one; none where code is dear: there each is computed.
    classes: [u8; CLASSES],
    shift: u32,
    count: u8,
    /// Whether each class may keep an empty slab.
    pub(super) keep: bool,
}

const CLASSES: usize = if COPIES { MOST_SLOT_BYTES / 8 } else { 0 };
/// The class of sizes that have none.
const NO_CLASS: u8 = u8::MAX;

/// Multiples of 8: 97 % of a slab is what was asked for, whatever the size.
static MANY: Sizes = Sizes::new(3, true);
/// Multiples of 16: half as many slabs that hold little.
static FEW: Sizes = Sizes::new(4, false);

impl Sizes {
    const fn new(shift: u32, keep: bool) -> Sizes {
        let mut sizes = Sizes { classes: [0; CLASSES], shift, count: 0, keep };
        let mut eighth = 0;
        while eighth < MOST_SLOT_BYTES / 8 {
            let last = eighth * 8;
            let class = if is_spans(last) { NO_CLASS } else { class_of(last, shift) as u8 };
            if COPIES {
                sizes.classes[eighth] = class;
            }
            if class != NO_CLASS {
                sizes.count = class + 1;
            }
            eighth += 1;
        }
        sizes
    }

    /// How many classes there are.
    pub(super) const fn count(&self) -> usize {
        self.count as usize
    }

    /// The class of a size that is at most that of the largest slot, told by its `last` byte. None is as large as `NO_CLASS`.
    #[inline]
    pub(super) fn class(&self, last: usize) -> Option<usize> {
        if !COPIES {
            let has_class = last < MOST_SLOT_BYTES && !is_spans(last);
            return has_class.then(|| class_of(last, self.shift));
        }
        let class = self.classes.get(last >> 3)?;
        Some(*class as usize)
    }

    /// The bytes of the slots of the class behind one, by its bytes; of the first behind none.
    pub(super) const fn next(&self, bytes: u32) -> u32 {
        let band = if bytes < 1024 { bytes / 512 } else { 2 };
        let next = bytes + (1 << self.shift << band);
        // 64 of the smallest have room for a header.
        if next < LEAST_BYTES as u32 / 64 { LEAST_BYTES as u32 / 64 } else { next }
    }
}

/// Whether spans serve a size, told by the last byte: more than what the shortest has, of which they lose at most a thirty-second,
/// counted in whole eights.
const fn is_spans(last: usize) -> bool {
    let lost = !last & (GRANULE - 8);
    last >= LEAST_BYTES && lost * 31 <= (last | 7) + 1
}

/// The class of another size up to the largest slot.
const fn class_of(last: usize, shift: u32) -> usize {
    // Each band has half as many classes for its length as the one before it.
    let band = if last < 1024 { last / 512 } else { 2 };
    let class = (last >> shift >> band) + band * (256 >> shift);
    class.saturating_sub(least_units(shift) - 1)
}

/// The units of the smallest slots, of which 64 make the shortest span.
const fn least_units(shift: u32) -> usize {
    (LEAST_BYTES / 64) >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it_at_its_alignment() {
        for sizes in [&MANY, &FEW] {
            assert!(sizes.count() <= 128);
            let mut slot_bytes = [0; 128];
            let mut last = 0;
            for bytes in &mut slot_bytes {
                last = sizes.next(last);
                *bytes = last as usize;
            }
            for bytes in 1..=MOST_SLOT_BYTES {
                let class = sizes.class(bytes - 1).unwrap_or(usize::MAX);
                if class >= sizes.count() {
                    assert!(
                        bytes > LEAST_BYTES && bytes.next_multiple_of(64) * 31 / 32 <= bytes + 7,
                        "{bytes}"
                    );
                    continue;
                }
                assert!(slot_bytes[class] >= bytes);
                assert!(class == 0 || slot_bytes[class - 1] < bytes || bytes <= 16, "{bytes}");
                let align = 1 << bytes.trailing_zeros();
                assert!(align <= 8 || slot_bytes[class].is_multiple_of(align), "{bytes}");
            }
            assert_eq!((sizes.class(usize::MAX), sizes.class(MOST_SLOT_BYTES)), (None, None));
        }
    }
}
