//! Where the elements of a view lie in its storage: shape, strides, offset; integers only.
//!
//! Element `(i, j, ..)` of a view is element `offset + i * strides[0] + j * strides[1] + ..` of its storage. Every view
//! is made from another one, or from a shape and strides that were checked against the storage (`checked`), so that
//! none reaches beyond it.

#![forbid(unsafe_code)]

use super::walk::{Dim, Walk};
use crate::size::{MAX_RANK, Shape};
use core::ops::Range;

/// A shape, and how far apart its elements are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    shape: Shape,
    /// In elements; as many as the shape has lengths.
    strides: [usize; MAX_RANK],
    /// The storage's element that the first one is.
    offset: usize,
}

impl Layout {
    /// All elements of a storage, the last index fastest.
    pub(crate) fn row_major(shape: Shape) -> Layout {
        let mut strides = [0; MAX_RANK];
        let mut step = 1usize;
        for (stride, &length) in strides.iter_mut().zip(shape.iter()).rev() {
            *stride = step;
            // Only a shape without elements can wrap here, and then no stride is ever used.
            step = step.wrapping_mul(length);
        }
        Layout { shape, strides, offset: 0 }
    }

    /// A view with these strides, or `None` where it does not lie within `elements`.
    pub(crate) fn checked(shape: Shape, strides: &[usize], offset: usize, elements: usize) -> Option<Layout> {
        if strides.len() != shape.len() {
            return None;
        }
        let mut kept = [0; MAX_RANK];
        kept[..strides.len()].copy_from_slice(strides);
        if shape.contains(&0) {
            return (offset <= elements).then_some(Layout { shape, strides: kept, offset });
        }
        let mut last = offset;
        for (&length, &stride) in shape.iter().zip(strides) {
            last = last.checked_add((length - 1).checked_mul(stride)?)?;
        }
        // A broadcast view may have more elements than its storage, but no more than can be counted.
        shape.elements()?;
        (last < elements).then_some(Layout { shape, strides: kept, offset })
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.len()]
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// How many elements the view has. They were counted when it was made.
    pub(crate) fn elements(&self) -> usize {
        self.shape.elements().unwrap_or(0)
    }

    /// Whether the elements lie one behind the other, the last index fastest.
    pub(crate) fn is_row_major(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut step = 1;
        for (&length, &stride) in self.shape.iter().zip(self.strides()).rev() {
            // The stride of a dimension of length 1 is never used.
            if length != 1 && stride != step {
                return false;
            }
            step *= length;
        }
        true
    }

    /// The same elements in another shape of as many, or `None` where no strides can say so.
    pub(crate) fn reshaped(&self, shape: Shape) -> Option<Layout> {
        if self.is_row_major() {
            return Some(Layout { offset: self.offset, ..Layout::row_major(shape) });
        }
        let (dims, rank) = self.merged();
        let mut strides = [0; MAX_RANK];
        // From the innermost on: each run of old elements that lie evenly has to be cut by new lengths alone.
        let mut old = rank;
        let (mut left, mut step) = (1, 1);
        for axis in (0..shape.len()).rev() {
            let length = shape[axis];
            if length == 1 {
                strides[axis] = step;
                continue;
            }
            if left == 1 {
                old = old.checked_sub(1)?;
                (left, step) = (dims[old].length, dims[old].stride);
            }
            if left % length != 0 {
                return None;
            }
            strides[axis] = step;
            step *= length;
            left /= length;
        }
        Some(Layout { shape, strides, offset: self.offset })
    }

    /// `length` indices of one dimension, from `start` on; the caller has seen that they are there.
    pub(crate) fn narrowed(mut self, axis: usize, start: usize, length: usize) -> Layout {
        let mut lengths = [0; MAX_RANK];
        let rank = self.shape.len();
        lengths[..rank].copy_from_slice(&self.shape);
        lengths[axis] = length;
        if !self.shape.contains(&0) {
            // At the very end of a dimension nothing is left, and the offset may not pass the storage's end.
            self.offset += if length == 0 { 0 } else { start * self.strides[axis] };
        }
        self.shape = Shape::new(&lengths[..rank]).unwrap_or_default();
        self
    }

    /// The dimensions in this order; the caller has seen that it names each once.
    pub(crate) fn permuted(&self, order: &[usize]) -> Layout {
        let mut lengths = [0; MAX_RANK];
        let mut strides = [0; MAX_RANK];
        for (to, &from) in order.iter().enumerate() {
            lengths[to] = self.shape[from];
            strides[to] = self.strides[from];
        }
        let shape = Shape::new(&lengths[..order.len()]).unwrap_or_default();
        Layout { shape, strides, offset: self.offset }
    }

    /// Without a dimension of length 1.
    pub(crate) fn without(&self, axis: usize) -> Layout {
        let mut order = [0; MAX_RANK];
        let kept = (0..self.shape.len()).filter(|&other| other != axis);
        let count = order.iter_mut().zip(kept).map(|(to, from)| *to = from).count();
        self.permuted(&order[..count])
    }

    /// With a dimension of length 1 before `axis`; `None` where that is one dimension too many.
    pub(crate) fn with(&self, axis: usize) -> Option<Layout> {
        let rank = self.shape.len();
        if rank == MAX_RANK {
            return None;
        }
        let mut lengths = [0; MAX_RANK];
        lengths[..rank].copy_from_slice(&self.shape);
        lengths.copy_within(axis..rank, axis + 1);
        lengths[axis] = 1;
        let mut strides = self.strides;
        strides.copy_within(axis..rank, axis + 1);
        strides[axis] = 1;
        Some(Layout { shape: Shape::new(&lengths[..=rank])?, strides, offset: self.offset })
    }

    /// The dimensions that matter, outermost first: those of length 1 are left out, and neighbours that lie as one do
    /// are one.
    fn merged(&self) -> ([Dim; MAX_RANK], usize) {
        let mut dims = [Dim { length: 1, stride: 1 }; MAX_RANK];
        let mut rank = 0usize;
        for (&length, &stride) in self.shape.iter().zip(self.strides()) {
            if length == 1 {
                continue;
            }
            match rank.checked_sub(1).map(|outer| &mut dims[outer]) {
                Some(outer) if Some(outer.stride) == stride.checked_mul(length) => {
                    *outer = Dim { length: outer.length * length, stride };
                }
                _ => {
                    dims[rank] = Dim { length, stride };
                    rank += 1;
                }
            }
        }
        (dims, rank)
    }

    /// The part of the storage from the first element to the last; empty where there are none.
    pub(crate) fn span(&self) -> Range<usize> {
        if self.shape.contains(&0) {
            return self.offset..self.offset;
        }
        let steps = self.shape.iter().zip(self.strides()).map(|(&length, &stride)| (length - 1) * stride);
        self.offset..self.offset + steps.sum::<usize>() + 1
    }

    /// The same view of a storage that begins where its span does.
    pub(crate) fn at_start(self) -> Layout {
        Layout { offset: 0, ..self }
    }

    /// The storage's element that is so many behind the first, the last index fastest; the caller has seen that it is there.
    pub(crate) fn place(&self, mut behind: usize) -> usize {
        let mut place = self.offset;
        for (&length, &stride) in self.shape.iter().zip(self.strides()).rev() {
            place += behind % length * stride;
            behind /= length;
        }
        place
    }

    /// A walk over all elements, the last index fastest.
    pub(crate) fn walk(&self) -> Walk {
        let elements = self.elements();
        let (dims, rank) =
            if elements == 0 { ([Dim { length: 0, stride: 0 }; MAX_RANK], 1) } else { self.merged() };
        Walk::over(dims, rank, self.offset, elements)
    }
}

#[cfg(test)]
mod tests {
    use super::super::walk::Run;
    use super::Layout;
    use crate::size::Shape;
    use std::vec::Vec;

    fn layout(lengths: &[usize]) -> Layout {
        Layout::row_major(Shape::new(lengths).unwrap())
    }

    fn elements(layout: Layout) -> Vec<usize> {
        let mut walk = layout.walk();
        let mut all = Vec::new();
        while let Some(Run { start, step, count }) = walk.run(3) {
            all.extend((0..count).map(|i| start + i * step));
        }
        assert_eq!(walk.left(), 0);
        all
    }

    #[test]
    fn a_walk_sees_every_element_in_order() {
        assert_eq!(elements(layout(&[2, 3, 2])), (0..12).collect::<Vec<_>>());
        assert_eq!(elements(layout(&[2, 3]).permuted(&[1, 0])), [0, 3, 1, 4, 2, 5]);
        assert_eq!(elements(layout(&[3, 4]).narrowed(1, 1, 2)), [1, 2, 5, 6, 9, 10]);
        assert_eq!(elements(layout(&[])), [0]);
        assert_eq!(elements(layout(&[4, 0, 2])), [0usize; 0]);
        assert_eq!(elements(layout(&[1, 1, 1])), [0]);
    }

    #[test]
    fn a_place_is_where_a_walk_comes_by_and_a_span_holds_all_places() {
        let cut = layout(&[4, 5, 6]).narrowed(1, 1, 3).narrowed(2, 2, 2);
        for view in [layout(&[]), layout(&[2, 3, 2]), cut, cut.permuted(&[2, 0, 1]), layout(&[4, 0, 2])] {
            let places = elements(view);
            assert_eq!((0..places.len()).map(|at| view.place(at)).collect::<Vec<_>>(), places);
            let (first, last) = (places.iter().min(), places.iter().max());
            assert_eq!(view.span(), first.map_or(0..0, |first| *first..last.unwrap() + 1));
        }
    }

    #[test]
    fn only_what_lies_evenly_can_be_reshaped_in_place() {
        let turned = layout(&[2, 3, 4]).permuted(&[1, 0, 2]);
        assert!(turned.reshaped(Shape::new(&[6, 4]).unwrap()).is_none());
        let cut = turned.reshaped(Shape::new(&[3, 2, 2, 2]).unwrap()).unwrap();
        assert_eq!(cut.strides(), [4, 12, 2, 1]);
        assert_eq!(elements(cut), elements(turned));
        let column = layout(&[4, 6]).narrowed(1, 2, 3).reshaped(Shape::new(&[2, 2, 3, 1]).unwrap()).unwrap();
        assert_eq!(elements(column), [2, 3, 4, 8, 9, 10, 14, 15, 16, 20, 21, 22]);
        let among_ones = turned.reshaped(Shape::new(&[1, 3, 1, 2, 4, 1]).unwrap()).unwrap();
        assert_eq!(elements(among_ones), elements(turned));
    }

    #[test]
    fn strides_from_elsewhere_are_held_to_the_storage() {
        let shape = Shape::new(&[2, 3]).unwrap();
        assert!(Layout::checked(shape, &[3, 1], 0, 6).is_some());
        assert!(Layout::checked(shape, &[3, 1], 1, 6).is_none());
        assert!(Layout::checked(shape, &[0, 0], 5, 6).is_some(), "one element, broadcast");
        assert!(Layout::checked(shape, &[usize::MAX, 1], 0, 6).is_none());
        assert!(Layout::checked(shape, &[3], 0, 6).is_none());
        assert!(Layout::checked(Shape::new(&[0]).unwrap(), &[1], 7, 6).is_none());
        let without_end = Shape::new(&[usize::MAX, usize::MAX]).unwrap();
        assert!(Layout::checked(without_end, &[0, 0], 0, 6).is_none(), "more than can be counted");
    }
}
