//! A fixed range of bytes: a static array, a linker section, a buffer. Backed from the start, for good.

use super::{Alignment, Contents, Geometry, HostSpace, Offset, Space, SpaceError, Span};
use crate::arena::index::{FitTable, Unframed};
use crate::arena::metadata::{Borrowed, Metadata};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// The largest alignment of a block: 2 MiB.
pub(crate) const MAX_ALIGN: usize = 1 << 21;

/// The caller's bytes, for as long as they are borrowed.
#[derive(Debug)]
pub struct Fixed<'a> {
    start: NonNull<u8>,
    len: usize,
    bytes: PhantomData<&'a mut [MaybeUninit<u8>]>,
    geometry: Geometry,
}

impl<'a> Fixed<'a> {
    /// All of `bytes` that makes whole, aligned granules, in the geometry that suits its length.
    pub fn new(bytes: &'a mut [MaybeUninit<u8>]) -> Fixed<'a> {
        let geometry = Fixed::geometry_for(bytes.len() as u64);
        Fixed::with_geometry(bytes, geometry)
    }

    /// The same, counted in `geometry`, whose frames are of no use here.
    pub fn with_geometry(bytes: &'a mut [MaybeUninit<u8>], geometry: Geometry) -> Fixed<'a> {
        let granule = geometry.granule_bytes() as usize;
        let skip = (bytes.as_ptr() as usize).wrapping_neg() % granule;
        let bytes = bytes.get_mut(skip..).unwrap_or_default();
        let len = bytes.len() / granule * granule;
        let start = NonNull::from(bytes).cast();
        Fixed { start, len, bytes: PhantomData, geometry: geometry.unframed() }
    }

    /// Granules that follow the length: 8 bytes below 16 KiB, 16 below 64 KiB, 32 below 1 MiB, 64 below 32 MiB, 256 at
    /// 128 MiB, and so on, half a million of them at most; slabs from 64 KiB on, since in less they cost more than they
    /// save.
    pub const fn geometry_for(len_bytes: u64) -> Geometry {
        let granule: usize = match len_bytes >> 10 {
            0..16 => 8,
            16..64 => 16,
            64..1024 => 32,
            1024..32768 => 64,
            _ => {
                let granule = len_bytes.next_power_of_two() >> 19;
                if granule > 1 << 16 { 1 << 16 } else { granule as usize }
            }
        };
        let geometry = Geometry::spans(granule);
        match len_bytes >> 10 {
            0..64 => geometry,
            64..1024 => geometry.slabs(1 << 10, 16),
            1024..32768 => geometry.slabs(4 << 10, 16),
            _ => geometry.slabs(if granule > 16 << 10 { granule } else { 16 << 10 }, 16),
        }
    }
}

// SAFETY: 1. It is an exclusive borrow of bytes, which any thread may hold.
unsafe impl Send for Fixed<'_> {}
// SAFETY: 1. Through a shared one only numbers are computed; no byte is touched.
unsafe impl Sync for Fixed<'_> {}

// SAFETY: 1. `addr` stays in the borrowed bytes, since the offset is less than their length; `offset` subtracts the
// same start. 2. The borrow is exclusive, so no other space has these bytes.
unsafe impl<'a> Space for Fixed<'a> {
    type Addr = NonNull<u8>;
    // Fuller at the first failure than the buddy tree at every size, and faster where spans are long: `benches/fixed.rs`.
    type Index<M: Metadata> = FitTable<M, Unframed>;
    type Tables = Borrowed<'a>;

    #[inline]
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    #[inline]
    fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    #[inline]
    fn alignment(&self) -> Alignment {
        Alignment {
            max_bytes: MAX_ALIGN as u64,
            skew_bytes: (self.start.as_ptr() as usize % MAX_ALIGN) as u64,
        }
    }

    #[inline]
    fn addr(&self, at: Offset) -> NonNull<u8> {
        assert!(at.0 < self.len as u64, "{at} of a space of {} bytes", self.len);
        // SAFETY: 1. The offset is less than the length of the borrowed bytes.
        unsafe { self.start.add(at.0 as usize) }
    }

    #[inline]
    fn offset(&self, addr: NonNull<u8>) -> Option<Offset> {
        // Below the start it wraps, beyond every length.
        let at = (addr.as_ptr() as usize).wrapping_sub(self.start.as_ptr() as usize);
        (at < self.len).then_some(Offset(at as u64))
    }

    fn commit(&self, _frames: Span) -> Result<Contents, SpaceError> {
        Ok(Contents::Unknown)
    }

    fn decommit(&self, _frames: Span) {}

    fn rehome(&self, _from: Span, to: Span) -> Result<Contents, SpaceError> {
        Err(SpaceError::new(self.geometry.bytes(to.granules), 0))
    }
}

// SAFETY: 1. The bytes are the caller's, borrowed exclusively and writable.
unsafe impl HostSpace for Fixed<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_too_small_for_a_granule_is_an_empty_space() {
        for len in 0..8 {
            let mut bytes = [MaybeUninit::uninit(); 8];
            let space = Fixed::with_geometry(&mut bytes[..len], Geometry::spans(64));
            assert_eq!(space.len_bytes(), 0, "{len} bytes");
        }
    }

    #[test]
    fn every_length_has_a_geometry_of_at_most_a_million_granules_below_64_gib() {
        for shift in 0..36 {
            for len in [(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1] {
                let geometry = Fixed::geometry_for(len);
                assert!(geometry.granules(len).unwrap() <= 1 << 20, "{len}: {geometry:?}");
                assert!(geometry.frame_bytes().is_none());
            }
        }
    }
}
