//! The shape of a tensor: up to eight lengths, inline.

use core::fmt;
use core::ops::Deref;

/// The most dimensions that a tensor can have.
pub const MAX_RANK: usize = 8;

/// The lengths of a tensor's dimensions, outermost first. A scalar has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    lengths: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape with these lengths, or `None` when there are more than [`MAX_RANK`].
    pub fn new(lengths: &[usize]) -> Option<Shape> {
        let mut shape = Shape { lengths: [0; MAX_RANK], rank: lengths.len().try_into().ok()? };
        shape.lengths.get_mut(..lengths.len())?.copy_from_slice(lengths);
        Some(shape)
    }

    /// How many elements it holds (1 for a scalar), or `None` when that is more than `usize` counts.
    pub fn elements(&self) -> Option<usize> {
        if self.contains(&0) {
            return Some(0);
        }
        self.iter().try_fold(1usize, |n, &length| n.checked_mul(length))
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.lengths[..self.rank as usize]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, length) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{length}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;

    #[test]
    fn a_scalar_holds_one_element_and_a_zero_length_none() {
        assert_eq!(Shape::new(&[]).unwrap().elements(), Some(1));
        assert_eq!(Shape::new(&[usize::MAX, 2, 0]).unwrap().elements(), Some(0));
        assert_eq!(Shape::new(&[2, 3]).unwrap().elements(), Some(6));
    }

    #[test]
    fn too_many_elements_and_too_many_dimensions_are_told() {
        assert_eq!(Shape::new(&[usize::MAX, 2]).unwrap().elements(), None);
        assert_eq!(Shape::new(&[1; 9]), None);
    }
}
