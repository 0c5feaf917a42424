//! Size classes: four to each doubling, or eight from some size on, by arithmetic.

use super::Geometry;
use core::fmt;

/// The number of a size class, smallest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SizeClass(pub u8);

impl fmt::Display for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size class {}", self.0)
    }
}

/// The size classes of a space: the smallest slot times 1, 2, 3, 4, then four to each doubling, and eight where the geometry is
/// [fine](Geometry::fine_from).
#[derive(Clone, Copy, Debug)]
pub struct Classes {
    slot_shift: u32,
    slab_shift: u32,
    fine_shift: u32,
    max_bytes: u64,
    tight: bool,
}

impl Classes {
    /// The most classes that any geometry has.
    pub const MAX: usize = 64;

    /// The classes of `geometry`; one without slabs has none.
    pub const fn of(geometry: Geometry) -> Classes {
        match geometry.slab_shift() {
            Some(slab_shift) => Classes {
                slot_shift: geometry.slot_shift(),
                slab_shift,
                fine_shift: geometry.fine_shift(),
                max_bytes: 1 << geometry.largest_slot_shift(),
                tight: geometry.is_tight(),
            },
            None => {
                Classes { slot_shift: 0, slab_shift: 0, fine_shift: u32::MAX, max_bytes: 0, tight: false }
            }
        }
    }

    /// How many classes there are.
    pub const fn count(self) -> usize {
        match self.class(self.max_bytes, 1) {
            Some(last) => last.0 as usize + 1,
            None => 0,
        }
    }

    /// The smallest class whose slots hold `bytes` at a multiple of `align` (a power of two); `None` for a span.
    ///
    /// A size that is a multiple of `align` gets slots of such a size: below `4 * align` the classes are all the
    /// multiples, above it the step between two classes is one.
    #[inline]
    pub const fn class(self, bytes: u64, align: u64) -> Option<SizeClass> {
        // A slab starts at a multiple of its unit, so no slot is more strictly aligned.
        if bytes > self.max_bytes || align > self.max_bytes || align > 1 << self.slab_shift {
            return None;
        }
        let bytes = if bytes == 0 { align } else { (bytes + align - 1) & !(align - 1) };
        if bytes > self.max_bytes || self.max_bytes == 0 {
            return None;
        }
        let last = bytes - 1;
        let linear = last >> self.slot_shift;
        if linear < 4 {
            return Some(SizeClass(linear as u8));
        }
        let log = 63 - last.leading_zeros();
        if log >= self.fine_shift {
            let step = (last >> (log - 3)) & 7;
            return Some(SizeClass((self.first_fine() + 8 * (log - self.fine_shift) + step as u32) as u8));
        }
        let step = (last >> (log - 2)) & 3;
        Some(SizeClass((4 * (log - self.slot_shift - 1) + step as u32) as u8))
    }

    /// The first class of those of which there are eight to a doubling.
    const fn first_fine(self) -> u32 {
        if self.fine_shift == u32::MAX { u32::MAX } else { 4 * (self.fine_shift - self.slot_shift - 1) }
    }

    /// The bytes of a slot of `class`.
    #[inline]
    pub const fn slot_bytes(self, class: SizeClass) -> u64 {
        let class = class.0 as u32;
        if class < 4 {
            return (class as u64 + 1) << self.slot_shift;
        }
        if class >= self.first_fine() {
            let step = class - self.first_fine();
            return (8 + (step % 8) as u64 + 1) << (step / 8 + self.fine_shift - 3);
        }
        let log = class / 4 + self.slot_shift + 1;
        (4 + (class % 4) as u64 + 1) << (log - 2)
    }

    /// The bytes of a slab of `class`: at least one slab unit, and room for eight slots, or for four where slabs are
    /// [tight](Geometry::tight).
    pub const fn slab_bytes(self, class: SizeClass) -> u64 {
        let (slot_bytes, unit) = (self.slot_bytes(class), 1 << self.slab_shift);
        if !self.tight {
            let eight = (slot_bytes * 8).next_power_of_two();
            return if eight > unit { eight } else { unit };
        }
        let mut bytes = unit;
        while bytes / slot_bytes < 4 || bytes % slot_bytes > bytes / 16 {
            bytes += unit;
        }
        bytes
    }
}

/// The classes of a process's own memory: slots from 16 bytes to 32 KiB.
pub const HOST: Classes = Classes::of(HOST_GEOMETRY);

/// How a process's own memory is counted. Where it is to be compact slabs are small, since of each class one is open, most of it perhaps never
/// used; but where places are drawn at random there is to be something to draw from.
pub const HOST_GEOMETRY: Geometry = {
    let geometry = Geometry::spans(16 << 10).framed(2 << 20);
    if cfg!(feature = "compact") && !cfg!(feature = "hardened") {
        geometry.slabs(16 << 10, 16).tight(32 << 10).fine_from(1 << 10)
    } else {
        geometry.slabs(64 << 10, 16)
    }
};

/// How many classes [`HOST`] has.
pub const HOST_CLASSES: usize = HOST.count();

/// The class of every size of [`HOST`], counted in 16 bytes and rounded up: one load in place of a logarithm.
pub const HOST_TABLE: [u8; (32 << 10) / 16 + 1] = {
    let mut table = [0; (32 << 10) / 16 + 1];
    let mut sixteenths = 1;
    while sixteenths < table.len() {
        table[sixteenths] = match HOST.class(sixteenths as u64 * 16, 1) {
            Some(class) => class.0,
            None => panic!("every size of the table has a class"),
        };
        sixteenths += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_arithmetic_says() {
        for bytes in 0..=32 << 10 {
            let class = SizeClass(HOST_TABLE[(bytes as usize).div_ceil(16)]);
            assert_eq!(HOST.class(bytes, 1), Some(class), "{bytes} bytes");
        }
        assert_eq!(HOST.class((32 << 10) + 1, 1), None);
    }

    const DEVICE: Classes = Classes::of(Geometry::spans(64 << 10).slabs(64 << 10, 512));
    const COARSE: Classes = Classes::of(Geometry::spans(16 << 10).slabs(64 << 10, 16));

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, too much of it to interpret")]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for classes in [HOST, DEVICE, COARSE] {
            let mut class = SizeClass(0);
            for bytes in 1..=classes.max_bytes {
                if bytes > classes.slot_bytes(class) {
                    class.0 += 1;
                }
                assert_eq!(classes.class(bytes, 1), Some(class), "{bytes} bytes");
            }
            assert_eq!(class.0 as usize + 1, classes.count());
            assert!(classes.count() <= Classes::MAX);
            assert_eq!(classes.slot_bytes(class), classes.max_bytes);
            assert_eq!(classes.class(classes.max_bytes + 1, 1), None);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, too much of it to interpret")]
    fn slots_of_an_aligned_size_are_multiples_of_the_alignment() {
        for classes in [HOST, DEVICE, COARSE] {
            for align in (0..=15).map(|shift| 1u64 << shift) {
                for bytes in 0..=classes.max_bytes {
                    if let Some(class) = classes.class(bytes, align) {
                        assert_eq!(classes.slot_bytes(class) % align, 0, "{bytes} bytes aligned to {align}");
                        assert!(classes.slot_bytes(class) >= bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn a_tight_slab_leaves_little_over_and_its_free_bits_fit_its_first_unit() {
        let tight =
            Classes::of(Geometry::spans(16 << 10).slabs(16 << 10, 16).tight(32 << 10).fine_from(1 << 10));
        for class in (0..tight.count()).map(|class| SizeClass(class as u8)) {
            let (slot_bytes, slab_bytes) = (tight.slot_bytes(class), tight.slab_bytes(class));
            let slots = slab_bytes / slot_bytes;
            assert!((4..=1024).contains(&slots), "{slots} of {slot_bytes} bytes");
            assert!(slab_bytes - slots * slot_bytes <= slab_bytes / 16, "{slab_bytes} for {slot_bytes}");
            assert!(slab_bytes <= 160 << 10 && slab_bytes.is_multiple_of(16 << 10), "{slab_bytes}");
        }
    }

    #[test]
    fn an_alignment_above_a_slab_unit_has_no_class() {
        let tight =
            Classes::of(Geometry::spans(16 << 10).slabs(16 << 10, 16).tight(32 << 10).fine_from(1 << 10));
        assert!(tight.class(32 << 10, 16 << 10).is_some());
        assert_eq!((tight.class(1, 32 << 10), tight.class(32 << 10, 32 << 10)), (None, None));
    }

    #[test]
    fn without_slabs_there_is_no_class() {
        let none = Classes::of(Geometry::spans(8));
        assert_eq!((none.count(), none.class(0, 1), none.class(8, 8)), (0, None, None));
    }

    #[test]
    fn sizes_near_the_end_of_the_integers_are_no_class() {
        assert_eq!(HOST.class(u64::MAX, 1), None);
        assert_eq!(HOST.class(1, 1 << 63), None);
    }
}
