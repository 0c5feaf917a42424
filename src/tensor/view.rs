//! Views: other shapes and orders of the same elements.

#![forbid(unsafe_code)]

use super::extent::Extent;
use super::layout::Layout;
use super::value::Tensor;
use crate::device::Device;
use crate::error::{DemoError, Result};
use crate::size::MAX_RANK;
use std::format;
use std::string::String;

impl Tensor {
    /// The same elements in another shape. They are shared where strides can say the new shape, as they always can for a
    /// contiguous tensor; else they are copied into that order.
    ///
    /// # Errors
    /// [`DemoError::ElementCount`] where they do not make that shape, [`DemoError::OutOfMemory`] and
    /// [`DemoError::Format`] as in [`contiguous`](Self::contiguous).
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        let extent = Extent::filled_by(shape, self.dtype().size_bytes(), self.len())?;
        match self.layout.reshaped(extent.shape) {
            Some(layout) => Ok(self.seen(layout)),
            None => self.gathered(extent),
        }
    }

    /// `length` indices of dimension `dim`, from `start` on, sharing the memory.
    ///
    /// ```
    /// use democratising::Tensor;
    ///
    /// let t = Tensor::new(&[3, 2], [1, 2, 3, 4, 5, 6])?;
    /// assert_eq!(t.narrow(0, 1, 2)?.as_slice::<i32>()?, [3, 4, 5, 6]);
    /// assert_eq!(t.narrow(1, 0, 1)?.to_vec::<i32>()?, [1, 3, 5]);
    /// # Ok::<(), democratising::DemoError>(())
    /// ```
    ///
    /// # Errors
    /// [`DemoError::NoView`] where there is no such dimension, or it is not that long.
    pub fn narrow(&self, dim: usize, start: usize, length: usize) -> Result<Tensor> {
        let call = || format!("narrow({dim}, {start}, {length})");
        let whole = *self.shape().get(dim).ok_or_else(|| self.no_view(call(), NO_DIMENSION))?;
        match start.checked_add(length) {
            Some(end) if end <= whole => Ok(self.seen(self.layout.narrowed(dim, start, length))),
            _ => Err(self.no_view(call(), "start and length reach beyond the dimension's end")),
        }
    }

    /// Two dimensions in each other's place, sharing the memory.
    ///
    /// # Errors
    /// [`DemoError::NoView`] where there is no such dimension.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Tensor> {
        let rank = self.shape().len();
        if a >= rank || b >= rank {
            return Err(self.no_view(format!("transpose({a}, {b})"), NO_DIMENSION));
        }
        let mut order = in_order();
        order.swap(a, b);
        Ok(self.seen(self.layout.permuted(&order[..rank])))
    }

    /// The dimensions in another order, sharing the memory: dimension `i` of the view is dimension `order[i]` of this.
    ///
    /// # Errors
    /// [`DemoError::NoView`] where `order` does not name each dimension once.
    pub fn permute(&self, order: &[usize]) -> Result<Tensor> {
        let rank = self.shape().len();
        let mut named = [false; MAX_RANK];
        let each_once = order.len() == rank
            && order.iter().all(|&dim| dim < rank && !core::mem::replace(&mut named[dim], true));
        if !each_once {
            return Err(self.no_view(format!("permute({order:?})"), "it has to name each dimension once"));
        }
        Ok(self.seen(self.layout.permuted(order)))
    }

    /// Without dimension `dim`, where that has length 1; else as it is. The memory is shared.
    ///
    /// # Errors
    /// [`DemoError::NoView`] where there is no such dimension.
    pub fn squeeze(&self, dim: usize) -> Result<Tensor> {
        match self.shape().get(dim) {
            Some(1) => Ok(self.seen(self.layout.without(dim))),
            Some(_) => Ok(self.clone()),
            None => Err(self.no_view(format!("squeeze({dim})"), NO_DIMENSION)),
        }
    }

    /// With a dimension of length 1 more, before dimension `dim` or behind all. The memory is shared.
    ///
    /// # Errors
    /// [`DemoError::NoView`] where there is no such place, or eight dimensions already.
    pub fn unsqueeze(&self, dim: usize) -> Result<Tensor> {
        let call = || format!("unsqueeze({dim})");
        if dim > self.shape().len() {
            return Err(self.no_view(call(), NO_DIMENSION));
        }
        match self.layout.with(dim) {
            Some(layout) => Ok(self.seen(layout)),
            None => Err(self.no_view(call(), "it has as many dimensions as a tensor can have")),
        }
    }

    /// The elements in row-major order: shared where they lie so already, else copied.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] where the copy has no room, [`DemoError::Format`] where the elements are in a file whose
    /// bytes are damaged.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        // The view may be larger than its storage where one element is seen several times.
        let extent = Extent::new(self.shape(), self.dtype().size_bytes())?;
        self.gathered(extent)
    }

    /// A copy in row-major order, on the same device. What a device holds is put in order on the host: a copy there and back.
    fn gathered(&self, extent: Extent) -> Result<Tensor> {
        if !self.device.is_host() {
            return self.to_device(&Device::host())?.gathered(extent)?.to_device(&self.device);
        }
        Ok(Tensor::from_storage(extent.shape, self.storage.gathered(&self.layout)?))
    }

    fn seen(&self, layout: Layout) -> Tensor {
        Tensor { storage: self.storage.clone(), layout, device: self.device.clone() }
    }

    #[cold]
    fn no_view(&self, call: String, problem: &'static str) -> DemoError {
        DemoError::NoView { call, shape: *self.layout.shape(), problem }
    }
}

const NO_DIMENSION: &str = "it has no such dimension; they count from 0";

fn in_order() -> [usize; MAX_RANK] {
    core::array::from_fn(|dim| dim)
}
