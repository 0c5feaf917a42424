//! Walks over the elements of a view, the last index fastest.

#![forbid(unsafe_code)]

use crate::size::MAX_RANK;

/// One dimension: how many, and how far apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dim {
    pub(super) length: usize,
    pub(super) stride: usize,
}

/// A way over the elements of a view, in runs that lie evenly apart.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// Outermost first, as many as `rank`: one at least.
    dims: [Dim; MAX_RANK],
    rank: usize,
    index: [usize; MAX_RANK],
    at: usize,
    left: usize,
}

/// Elements at `start`, `start + step`, ..
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) start: usize,
    pub(crate) step: usize,
    pub(crate) count: usize,
}

impl Walk {
    /// Over `left` elements of these dimensions, outermost first.
    pub(super) fn over(mut dims: [Dim; MAX_RANK], mut rank: usize, offset: usize, left: usize) -> Walk {
        if rank == 0 {
            dims[0] = Dim { length: left, stride: 1 };
            rank = 1;
        }
        Walk { dims, rank, index: [0; MAX_RANK], at: offset, left }
    }

    /// How many elements are still to come.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// How far apart those are that [`run`](Self::run) finds.
    pub(super) fn step(&self) -> usize {
        self.dims[self.rank - 1].stride
    }

    /// The next elements that lie evenly, at most so many; `None` at the end.
    pub(crate) fn run(&mut self, most: usize) -> Option<Run> {
        let inner = self.rank - 1;
        let Dim { length, stride } = self.dims[inner];
        let count = (length - self.index[inner]).min(most).min(self.left);
        if count == 0 {
            return None;
        }
        let run = Run { start: self.at, step: stride, count };
        self.left -= count;
        self.go_on(inner, count);
        Some(run)
    }

    /// So many indices of a dimension further, which are there, and on in those outside it where that was its last.
    fn go_on(&mut self, mut axis: usize, indices: usize) {
        self.index[axis] += indices;
        self.at += indices * self.dims[axis].stride;
        while self.index[axis] == self.dims[axis].length && axis > 0 {
            self.at -= self.index[axis] * self.dims[axis].stride;
            self.index[axis] = 0;
            axis -= 1;
            self.index[axis] += 1;
            self.at += self.dims[axis].stride;
        }
    }

    /// Copies the next elements, of `element_bytes` each, to `to`; returns how many bytes of it they fill. `from` begins with the storage's
    /// element `first`.
    pub(super) fn gather(&mut self, from: &[u8], first: usize, element_bytes: usize, to: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(run) = self.run((to.len() - filled) / element_bytes) {
            let run = Run { start: run.start - first, ..run };
            let bytes = run.count * element_bytes;
            let part = &mut to[filled..filled + bytes];
            match (run.step, element_bytes) {
                (1, _) => part.copy_from_slice(&from[run.start * element_bytes..][..bytes]),
                (_, 1) => pick::<1>(from, run, part),
                (_, 2) => pick::<2>(from, run, part),
                (_, 4) => pick::<4>(from, run, part),
                _ => pick::<8>(from, run, part),
            }
            filled += bytes;
        }
        filled
    }
}

/// Copies elements of `N` bytes that lie apart.
fn pick<const N: usize>(from: &[u8], run: Run, to: &mut [u8]) {
    let (mut at, step) = (run.start * N, run.step * N);
    for to in to.chunks_exact_mut(N) {
        to.copy_from_slice(&from[at..at + N]);
        at += step;
    }
}
