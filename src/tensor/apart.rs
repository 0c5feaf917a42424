//! Views on a device whose elements lie apart: copied to the host with little that they do not show.

#![forbid(unsafe_code)]

use super::dtype::DType;
use super::layout::Layout;
use super::storage::{Storage, check_bools};
use super::value::{PIECE_BYTES, Tensor, no_vec};
use super::walk::Walk;
use crate::device::DeviceMemory;
use crate::error::Result;
use crate::size::MAX_RANK;
use core::cmp::Reverse;
use core::ops::Range;
use std::vec::Vec;

/// What lies between two elements is read along with them up to here: about what a device sends in the time that it takes to ask it again.
const NEAR_BYTES: usize = 64 << 10;

impl Tensor {
    /// A copy of such a view on the host. It has the same elements, and its strides are no longer than they need be.
    pub(super) fn apart_on_host(&self) -> Result<Tensor> {
        let span = self.layout.span();
        let Some(memory) = self.storage.device_memory().filter(|_| span.len() > self.len()) else {
            // Nothing lies between them, or some are shown more often than once.
            let storage = self.storage.on_host(span.clone(), span.start)?;
            return Ok(Tensor::view_of(storage, self.layout.at_start()));
        };
        // In the order in which they lie, which is then seen in the order of the view.
        let mut order: [usize; MAX_RANK] = core::array::from_fn(|axis| axis);
        let order = &mut order[..self.shape().len()];
        order.sort_by_key(|&axis| Reverse(self.strides()[axis]));
        let lying = self.layout.permuted(order);
        let mut back = [0; MAX_RANK];
        for (place, &axis) in order.iter().enumerate() {
            back[axis] = place;
        }
        let layout = Layout::row_major(*lying.shape()).permuted(&back[..order.len()]);
        Ok(Tensor::view_of(picked(memory, self.dtype(), &lying)?, layout))
    }
}

/// The elements of a view one behind the other, read by pieces.
fn picked(memory: &dyn DeviceMemory, dtype: DType, view: &Layout) -> Result<Storage> {
    let element_bytes = dtype.size_bytes();
    let mut piece = Vec::new();
    piece.try_reserve_exact(PIECE_BYTES).map_err(|_| no_vec(PIECE_BYTES))?;
    let mut walk = view.walk();
    Storage::filled(dtype, walk.left(), |mut to| {
        let (mut behind, mut done) = (walk.clone(), 0);
        while let Some((part, count)) = near(&mut walk, element_bytes) {
            piece.resize(part.len() * element_bytes, 0);
            memory.read(part.start * element_bytes, &mut piece)?;
            let filled;
            (filled, to) = to.split_at_mut(count * element_bytes);
            behind.gather(&piece, part.start, element_bytes, filled);
            // Told by its place in the storage.
            if let Some(i) = filled.iter().position(|&byte| dtype == DType::Bool && byte > 1) {
                check_bools(dtype, view.place(done + i), &filled[i..=i])?;
            }
            done += count;
        }
        Ok(())
    })
}

/// The next elements that lie near each other, one behind the other: the part of the storage that they lie in, of a piece at most, and how
/// many they are.
fn near(walk: &mut Walk, element_bytes: usize) -> Option<(Range<usize>, usize)> {
    let (near, most) = (NEAR_BYTES / element_bytes, PIECE_BYTES / element_bytes);
    let mut found: Option<(Range<usize>, usize)> = None;
    loop {
        let before = walk.clone();
        let step = walk.step();
        let Some(run) = walk.run(if step > near { 1 } else { 1 + (most - 1) / step.max(1) }) else {
            return found;
        };
        let end = run.start + (run.count - 1) * run.step + 1;
        match &mut found {
            None => found = Some((run.start..end, run.count)),
            Some((part, count))
                if (part.start..=part.end + near).contains(&run.start) && end <= part.start + most =>
            {
                part.end = part.end.max(end);
                *count += run.count;
            }
            Some(_) => {
                *walk = before;
                return found;
            }
        }
    }
}
