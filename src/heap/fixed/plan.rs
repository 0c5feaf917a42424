//! How a range is counted, by its length: granules, and the steps of the sizes that slabs serve.

#![forbid(unsafe_code)]

use crate::arena::index::fit::marks;
use crate::size::Geometry;

/// The units of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// log2 of the bytes of a granule.
    pub(super) granule_shift: u32,
    /// log2 of the bytes between the sizes of small slots.
    pub(super) unit_shift: u32,
    /// Granules that a slab has at least.
    pub(super) slab_granules: u32,
}

impl Plan {
    /// The units for a range of `len` bytes.
    ///
    /// Below 256 KiB there are no slabs, since in so little memory they cost more than they save, and spans are found by one
    /// pass over the bits of at most 8,192 granules. From there on what is shorter than a block of the fit table (1 KiB)
    /// comes from slabs: a quarter of a granule between two sizes, half a granule where slabs are few.
    pub(super) const fn of(len: usize) -> Plan {
        let granule_shift = match len >> 10 {
            0..16 => 3,
            16..128 => 4,
            _ => {
                let most_granules = (marks::MOST_BLOCKS as u64) << 5;
                let mut shift = 5;
                while (len as u64) >> shift > most_granules {
                    shift += 1;
                }
                shift
            }
        };
        let few = len < 4 << 20;
        Plan {
            granule_shift,
            unit_shift: granule_shift - if few { 1 } else { 2 },
            slab_granules: if few { 32 } else { 64 },
        }
    }

    /// The same for a space.
    pub(super) const fn geometry(self) -> Geometry {
        Geometry::spans(1 << self.granule_shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_has_more_blocks_than_a_link_can_name() {
        for shift in 0..usize::BITS - 1 {
            for len in [(1usize << shift) - 1, 1 << shift, (1 << shift) + 1] {
                let plan = Plan::of(len);
                assert!(len as u64 >> plan.granule_shift >> 5 <= marks::MOST_BLOCKS as u64, "{len}: {plan:?}");
                assert!(plan.unit_shift >= 2 && plan.geometry().granule_bytes() >= 8);
            }
        }
    }
}
