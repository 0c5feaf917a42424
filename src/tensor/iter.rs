//! The elements of a view, one after the other.

#![forbid(unsafe_code)]

use super::layout::Layout;
use super::walk::{Run, Walk};
use core::fmt;
use core::iter::FusedIterator;
use std::vec::Vec;

/// The elements of a tensor in row-major order; made by [`Tensor::iter`](super::Tensor::iter).
#[derive(Clone)]
pub struct Iter<'a, T> {
    all: &'a [T],
    walk: Walk,
    /// What is left of the run under way. All of a contiguous tensor is one run.
    run: Run,
}

impl<'a, T> Iter<'a, T> {
    /// The layout lies within `all`.
    pub(super) fn new(all: &'a [T], layout: &Layout) -> Iter<'a, T> {
        Iter { all, walk: layout.walk(), run: Run { start: 0, step: 0, count: 0 } }
    }

    /// Appends what is left, run by run: `Vec::extend` would ask for one element after the other.
    pub(super) fn append_to(mut self, vec: &mut Vec<T>)
    where
        T: Copy,
    {
        while self.run.count > 0 || self.next_run() {
            let Run { start, step, count } =
                core::mem::replace(&mut self.run, Run { start: 0, step: 0, count: 0 });
            match step {
                1 => vec.extend_from_slice(&self.all[start..start + count]),
                _ => vec.extend((0..count).map(|i| self.all[start + i * step])),
            }
        }
    }

    fn next_run(&mut self) -> bool {
        match self.walk.run(usize::MAX) {
            Some(run) => {
                self.run = run;
                true
            }
            None => false,
        }
    }
}

impl<T: Copy> Iterator for Iter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        if self.run.count == 0 && !self.next_run() {
            return None;
        }
        let element = self.all[self.run.start];
        self.run.count -= 1;
        self.run.start += self.run.step;
        Some(element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.run.count + self.walk.left();
        (left, Some(left))
    }

    /// Run by run, which a compiler can turn into vector instructions: `sum` and `for_each` come here.
    fn fold<B, F: FnMut(B, T) -> B>(mut self, init: B, mut f: F) -> B {
        let mut folded = init;
        while self.run.count > 0 || self.next_run() {
            let Run { start, step, count } =
                core::mem::replace(&mut self.run, Run { start: 0, step: 0, count: 0 });
            folded = match step {
                1 => self.all[start..start + count].iter().copied().fold(folded, &mut f),
                _ => (0..count).map(|i| self.all[start + i * step]).fold(folded, &mut f),
            };
        }
        folded
    }
}

impl<T: Copy> ExactSizeIterator for Iter<'_, T> {}

impl<T: Copy> FusedIterator for Iter<'_, T> {}

impl<T: Copy + fmt::Debug> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("left", &self.size_hint().0).finish()
    }
}
