//! Numbers with a type: where a block starts, how long it is, which class serves it.
//!
//! Bookkeeping works on these integers alone; only a [`Space`](crate::space::Space) turns one into an address.

#![forbid(unsafe_code)]

mod class;
mod nothing;
mod shape;

pub use class::{Classes, HOST, HOST_CLASSES, HOST_GEOMETRY, HOST_TABLE, SizeClass};
pub(crate) use nothing::{is_nothing, nothing};
pub use shape::{MAX_RANK, Shape};

use core::fmt;

/// The number of a granule: the smallest piece of a space that a span is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Granule(pub u32);

/// A distance in bytes from the start of a space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Offset(pub u64);

/// A run of granules, `start..start + granules`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// The first granule.
    pub start: Granule,
    /// How many granules there are.
    pub granules: u32,
}

impl Span {
    /// The span of `granules` granules from `start`.
    pub const fn new(start: u32, granules: u32) -> Span {
        Span { start: Granule(start), granules }
    }

    /// The first granule behind the span.
    pub const fn end(self) -> u32 {
        self.start.0 + self.granules
    }

    /// Whether the span has no granule.
    pub const fn is_empty(self) -> bool {
        self.granules == 0
    }
}

impl fmt::Display for Granule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "granule {}", self.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {:#x}", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "granules {}..{}", self.start.0, self.end())
    }
}

/// The units a space is counted in. Every one is a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    granule_shift: u32,
    frame_shift: Option<u32>,
    slot_shift: u32,
    slab_shift: Option<u32>,
    largest_slot_shift: u32,
    tight: bool,
    fine_shift: u32,
}

impl Geometry {
    /// Spans of `granule_bytes`; no frames (everything is backed from the start) and no slabs.
    ///
    /// # Panics
    /// When `granule_bytes` is not a power of two. In a constant this is a compile error.
    pub const fn spans(granule_bytes: usize) -> Geometry {
        assert!(granule_bytes.is_power_of_two(), "a granule is a power of two of bytes");
        let granule_shift = granule_bytes.trailing_zeros();
        Geometry {
            granule_shift,
            frame_shift: None,
            slot_shift: granule_shift,
            slab_shift: None,
            largest_slot_shift: 0,
            tight: false,
            fine_shift: u32::MAX,
        }
    }

    /// The same, backed in frames of `frame_bytes`.
    ///
    /// # Panics
    /// When `frame_bytes` is no power of two or less than a granule.
    pub const fn framed(mut self, frame_bytes: usize) -> Geometry {
        assert!(frame_bytes.is_power_of_two(), "a frame is a power of two of bytes");
        assert!(frame_bytes.trailing_zeros() >= self.granule_shift, "a frame holds whole granules");
        self.frame_shift = Some(frame_bytes.trailing_zeros());
        self
    }

    /// The same without frames: everything is backed from the start.
    pub const fn unframed(mut self) -> Geometry {
        self.frame_shift = None;
        self
    }

    /// The same, with slabs of `slab_bytes` cut into slots of `slot_bytes` and more.
    ///
    /// # Panics
    /// When either is no power of two, a slot is less than 8 bytes, a slab less than a granule or than 64 smallest slots.
    pub const fn slabs(mut self, slab_bytes: usize, slot_bytes: usize) -> Geometry {
        assert!(
            slab_bytes.is_power_of_two() && slot_bytes.is_power_of_two(),
            "slabs and slots are powers of two"
        );
        assert!(slab_bytes.trailing_zeros() >= self.granule_shift, "a slab holds whole granules");
        assert!(slot_bytes >= 8, "a slot has at least 8 bytes");
        assert!(slab_bytes / slot_bytes >= 64, "a slab holds at least 64 of the smallest slots");
        self.slab_shift = Some(slab_bytes.trailing_zeros());
        self.slot_shift = slot_bytes.trailing_zeros();
        self.largest_slot_shift = slab_bytes.trailing_zeros() - 1;
        self
    }

    /// The same, with slots of up to `bytes`, and slabs as small as they can be: of the fewest units that hold four slots and leave no
    /// more than a 16th over. Without, slots go up to half a unit, and slabs are powers of two with room for eight.
    ///
    /// # Panics
    /// When that is no power of two.
    pub const fn tight(mut self, bytes: usize) -> Geometry {
        assert!(bytes.is_power_of_two(), "the largest slot is a power of two");
        self.largest_slot_shift = bytes.trailing_zeros();
        self.tight = true;
        self
    }

    /// The same, with eight size classes to each doubling from `bytes` on, and four before.
    ///
    /// # Panics
    /// When that is no power of two, or less than eight of the smallest slots. In a constant this is a compile error.
    pub const fn fine_from(mut self, bytes: usize) -> Geometry {
        assert!(bytes.is_power_of_two(), "classes become finer at a power of two");
        self.fine_shift = bytes.trailing_zeros();
        assert!(self.fine_shift >= self.slot_shift + 3, "a step is at least a smallest slot");
        self
    }

    /// Bytes of a granule.
    pub const fn granule_bytes(self) -> u64 {
        1 << self.granule_shift
    }

    /// log2 of the bytes of a granule.
    pub const fn granule_shift(self) -> u32 {
        self.granule_shift
    }

    /// log2 of the granules of a frame, or `None` where everything is backed from the start.
    pub const fn frame_granules_shift(self) -> Option<u32> {
        match self.frame_shift {
            Some(shift) => Some(shift - self.granule_shift),
            None => None,
        }
    }

    /// Bytes of a frame, or `None` where everything is backed from the start.
    pub const fn frame_bytes(self) -> Option<u64> {
        match self.frame_shift {
            Some(shift) => Some(1 << shift),
            None => None,
        }
    }

    /// log2 of the bytes of the smallest slab, or `None` without slabs.
    pub const fn slab_shift(self) -> Option<u32> {
        self.slab_shift
    }

    /// log2 of the bytes of the largest slot.
    pub(crate) const fn largest_slot_shift(self) -> u32 {
        self.largest_slot_shift
    }

    /// Whether slabs are as small as they can be.
    pub(crate) const fn is_tight(self) -> bool {
        self.tight
    }

    /// log2 of the bytes from which on there are eight classes to a doubling.
    pub(crate) const fn fine_shift(self) -> u32 {
        self.fine_shift
    }

    /// log2 of the bytes of the smallest slot.
    pub const fn slot_shift(self) -> u32 {
        self.slot_shift
    }

    /// How many granules hold `bytes`, or `None` when a space cannot be that large.
    pub const fn granules(self, bytes: u64) -> Option<u32> {
        let granules = (bytes >> self.granule_shift) + (bytes & (self.granule_bytes() - 1) != 0) as u64;
        if granules <= u32::MAX as u64 { Some(granules as u32) } else { None }
    }

    /// The bytes of `granules` granules.
    pub const fn bytes(self, granules: u32) -> u64 {
        (granules as u64) << self.granule_shift
    }

    /// Where a granule starts.
    pub const fn offset(self, at: Granule) -> Offset {
        Offset((at.0 as u64) << self.granule_shift)
    }

    /// The granule that holds an offset.
    pub const fn granule(self, at: Offset) -> Granule {
        Granule((at.0 >> self.granule_shift) as u32)
    }
}
