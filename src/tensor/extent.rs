//! What a shape comes to: elements and bytes, counted once and checked.

#![forbid(unsafe_code)]

use super::ALIGN_BYTES;
use crate::error::{DemoError, Result};
use crate::size::{MAX_RANK, Shape};

/// A shape whose bytes an allocation can have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) shape: Shape,
    pub(crate) elements: usize,
    pub(crate) bytes: usize,
}

/// No allocation is larger than `isize::MAX` once it is rounded up to its alignment (`Layout` says so).
const MAX_BYTES: usize = isize::MAX as usize - (ALIGN_BYTES - 1);

impl Extent {
    /// What `lengths` of elements of `element_bytes` come to.
    pub(crate) fn new(lengths: &[usize], element_bytes: usize) -> Result<Extent> {
        let impossible = |problem| {
            let fitting = Shape::new(&lengths[..lengths.len().min(MAX_RANK)]).unwrap_or_default();
            DemoError::ImpossibleShape { lengths: fitting, problem }
        };
        let Some(shape) = Shape::new(lengths) else {
            return Err(impossible("it has more than 8 dimensions, of which these are the first"));
        };
        let Some(elements) = shape.elements() else {
            return Err(impossible("its elements are more than can be counted"));
        };
        match elements.checked_mul(element_bytes) {
            Some(bytes) if bytes <= MAX_BYTES => Ok(Extent { shape, elements, bytes }),
            _ => Err(impossible("its bytes are more than can be addressed")),
        }
    }

    /// The same, where `given` elements are there to fill it.
    pub(crate) fn filled_by(lengths: &[usize], element_bytes: usize, given: usize) -> Result<Extent> {
        let extent = Extent::new(lengths, element_bytes)?;
        if extent.elements != given {
            return Err(DemoError::ElementCount { shape: extent.shape, needed: extent.elements, given });
        }
        Ok(extent)
    }
}

const _: () = assert!(MAX_RANK == 8, "the message above names the number");

#[cfg(test)]
mod tests {
    use super::{Extent, MAX_BYTES};
    use crate::error::DemoError;

    #[test]
    fn the_largest_extent_is_one_that_a_layout_takes() {
        assert_eq!(Extent::new(&[MAX_BYTES], 1).unwrap().bytes, MAX_BYTES);
        assert!(matches!(Extent::new(&[MAX_BYTES + 1], 1), Err(DemoError::ImpossibleShape { .. })));
        assert!(matches!(Extent::new(&[usize::MAX / 2], 8), Err(DemoError::ImpossibleShape { .. })));
    }

    #[test]
    fn nothing_at_all_may_be_as_long_as_it_likes() {
        assert_eq!(Extent::new(&[usize::MAX, 0, usize::MAX], 8).unwrap().bytes, 0);
    }
}
