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

/// So many rows whose neighbours lie nearer each other than the elements in them do: those of a transposed matrix.
#[derive(Clone, Copy, Debug)]
struct Rows {
    start: usize,
    rows: Dim,
    columns: Dim,
}

/// What is read of a transposed matrix at once is as long as a line of the processor's cache.
const LINE_BYTES: usize = 64;
/// Of how many columns.
const SQUARE: usize = 32;

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

    /// The next whole rows of a matrix that lies transposed, at most so many elements and so many rows; `None` where there are none, or one.
    fn rows(&mut self, most: usize, most_rows: usize) -> Option<Rows> {
        let inner = self.rank - 1;
        let outer = inner.checked_sub(1)?;
        let (rows, columns) = (self.dims[outer], self.dims[inner]);
        if self.index[inner] != 0 || rows.stride >= columns.stride || self.left == 0 {
            return None;
        }
        let length = (rows.length - self.index[outer]).min(most / columns.length).min(most_rows);
        if length < 2 {
            return None;
        }
        let found = Rows { start: self.at, rows: Dim { length, ..rows }, columns };
        self.left -= length * columns.length;
        self.go_on(outer, length);
        Some(found)
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
        let (mut filled, mut square) = (0, [0; LINE_BYTES * SQUARE]);
        loop {
            let room = (to.len() - filled) / element_bytes;
            if let Some(rows) = self.rows(room, LINE_BYTES / element_bytes) {
                let rows = Rows { start: rows.start - first, ..rows };
                let bytes = rows.rows.length * rows.columns.length * element_bytes;
                let part = &mut to[filled..filled + bytes];
                match element_bytes {
                    1 => turn::<1>(from, rows, part, &mut square),
                    2 => turn::<2>(from, rows, part, &mut square),
                    4 => turn::<4>(from, rows, part, &mut square),
                    _ => turn::<8>(from, rows, part, &mut square),
                }
                filled += bytes;
                continue;
            }
            let Some(run) = self.run(room) else { return filled };
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
    }
}

/// Copies elements of `N` bytes column by column, so that what lies together is read together, and by a square, since rows may lie so that
/// their lines take each other's place in a cache. What stood in the square is of no use.
fn turn<const N: usize>(
    from: &[u8],
    Rows { start, rows, columns }: Rows,
    to: &mut [u8],
    square: &mut [u8; LINE_BYTES * SQUARE],
) {
    for first in (0..columns.length).step_by(SQUARE) {
        let count = SQUARE.min(columns.length - first);
        for column in 0..count {
            let (mut at, step) = ((start + (first + column) * columns.stride) * N, rows.stride * N);
            for to in square.chunks_exact_mut(SQUARE * N).take(rows.length) {
                to[column * N..][..N].copy_from_slice(&from[at..at + N]);
                at += step;
            }
        }
        for (to, row) in to.chunks_exact_mut(columns.length * N).zip(square.chunks_exact(SQUARE * N)) {
            to[first * N..][..count * N].copy_from_slice(&row[..count * N]);
        }
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

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use crate::size::Shape;
    use std::vec::Vec;

    /// The bytes of the elements at these places, of which each tells its place.
    fn bytes(places: impl Iterator<Item = usize>, element_bytes: usize) -> Vec<u8> {
        places
            .flat_map(|place| {
                (place as u64)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .to_le_bytes()
                    .into_iter()
                    .take(element_bytes)
            })
            .collect()
    }

    #[test]
    fn what_is_gathered_by_pieces_is_what_a_view_shows() {
        for lengths in [[5, 70, 3], [40, 33, 1], [3, 9, 100], [1, 65, 64]] {
            let all = Layout::row_major(Shape::new(&lengths).unwrap());
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                for view in [all, all.narrowed(1, 2, 6), all.narrowed(2, lengths[2] / 2, 1)] {
                    let view = view.permuted(&order);
                    let first = view.offset();
                    for element_bytes in [1, 2, 4, 8] {
                        let from = bytes(first..view.span().end, element_bytes);
                        let shown = bytes((0..view.elements()).map(|at| view.place(at)), element_bytes);
                        for room in [1, 7, 64, 200, 100_000] {
                            let mut piece = std::vec![0; room * element_bytes];
                            let (mut walk, mut gathered) = (view.walk(), Vec::new());
                            while walk.left() > 0 {
                                let filled = walk.gather(&from, first, element_bytes, &mut piece);
                                assert!(
                                    filled == piece.len() || walk.left() == 0,
                                    "{lengths:?} {order:?} {room}"
                                );
                                gathered.extend_from_slice(&piece[..filled]);
                            }
                            assert!(gathered == shown, "{view:?}, {element_bytes} bytes, {room} at once");
                        }
                    }
                }
            }
        }
    }
}
