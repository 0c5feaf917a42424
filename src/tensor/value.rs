//! `Tensor`: dtype, shape and device as values.

#![forbid(unsafe_code)]

use super::dtype::DType;
use super::element::Element;
use super::elements::{IntoElements, sealed::IntoStorage};
use super::extent::Extent;
use super::storage::Storage;
use crate::device::Device;
use crate::error::{DemoError, OutOfMemory, Result};
use crate::size::Shape;
use std::vec::Vec;

/// An array of numbers of one type and any shape of up to eight dimensions, in row-major order.
///
/// Up to 64 bytes are held in the tensor itself. A `Vec` larger than that is taken over as it is, aligned as it was;
/// everything else comes from the process's pool, 64-byte aligned. A clone shares the memory, and whoever changes
/// elements that are shared changes a copy.
///
/// ```
/// # fn main() -> democratising::Result<()> {
/// use democratising::{DType, Tensor};
///
/// let t = Tensor::new(&[2, 2], vec![1.0, 2.0, 3.0, 4.0])?;
/// assert_eq!(t.dtype(), DType::F64); // what Rust takes a literal for; `vec![1.0f32, ..]` makes an F32
/// assert_eq!(t.as_slice::<f64>()?, [1.0, 2.0, 3.0, 4.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tensor {
    storage: Storage,
    shape: Shape,
    device: Device,
}

impl Tensor {
    /// A tensor on the host of these elements: a `Vec<T>`, `[T; N]`, `&[T]` or
    /// [`TensorBuf<T>`](super::TensorBuf), in row-major order.
    ///
    /// # Errors
    /// [`DemoError::ElementCount`] where they do not make the shape, [`DemoError::ImpossibleShape`] where nothing
    /// could, [`DemoError::OutOfMemory`] where they have to be copied and there is no room.
    pub fn new(shape: &[usize], elements: impl IntoElements) -> Result<Tensor> {
        fn element_bytes<I: IntoStorage>(_: &I) -> usize {
            size_of::<I::Element>()
        }
        let extent = Extent::filled_by(shape, element_bytes(&elements), elements.count())?;
        Ok(Tensor::from_storage(extent.shape, elements.into_storage()?))
    }

    /// `f32` zeros on the host.
    ///
    /// # Errors
    /// Those of [`zeros_with`](Self::zeros_with).
    pub fn zeros(shape: &[usize]) -> Result<Tensor> {
        Tensor::zeros_with(shape, DType::F32, &Device::host())
    }

    /// `f32` zeros on a device.
    ///
    /// # Errors
    /// Those of [`zeros_with`](Self::zeros_with).
    pub fn zeros_on(shape: &[usize], device: &Device) -> Result<Tensor> {
        Tensor::zeros_with(shape, DType::F32, device)
    }

    /// Zeros of a dtype on a device.
    ///
    /// # Errors
    /// [`DemoError::ImpossibleShape`] where the bytes cannot be counted, [`DemoError::OutOfMemory`] where there are
    /// none, after everything reclaimable was given back.
    pub fn zeros_with(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let extent = Extent::new(shape, dtype.size_bytes())?;
        on_host(device)?;
        Ok(Tensor::from_storage(extent.shape, Storage::zeros(dtype, extent.elements)?))
    }

    /// A tensor on the host. The shape was counted, and the storage has that many elements.
    pub(crate) fn from_storage(shape: Shape, storage: Storage) -> Tensor {
        debug_assert_eq!(shape.elements(), Some(storage.elements()));
        Tensor { storage, shape, device: Device::host() }
    }

    /// A tensor on the host whose bytes `write` puts into zeroed memory.
    pub(crate) fn filled(
        shape: &[usize],
        dtype: DType,
        write: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Tensor> {
        let extent = Extent::new(shape, dtype.size_bytes())?;
        Ok(Tensor::from_storage(extent.shape, Storage::filled(dtype, extent.elements, write)?))
    }

    /// The lengths of the dimensions, outermost first. A scalar has none.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// Where the bytes live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How many elements there are; 1 in a scalar.
    pub fn len(&self) -> usize {
        self.storage.elements()
    }

    /// Whether there are no elements: some dimension has length 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all elements.
    pub fn byte_len(&self) -> usize {
        self.as_bytes().len()
    }

    /// The bytes of all elements, in row-major order and the machine's byte order.
    pub fn as_bytes(&self) -> &[u8] {
        self.storage.as_bytes()
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// [`DemoError::DTypeMismatch`] where they are no `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.storage.as_slice().ok_or_else(|| self.mismatch::<T>())
    }

    /// The elements in row-major order, to be changed. Where they are shared, with a clone or a file, this tensor gets
    /// a copy of its own first.
    ///
    /// # Errors
    /// [`DemoError::DTypeMismatch`] where they are no `T`, [`DemoError::OutOfMemory`] where the copy has no room.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        let mismatch = self.mismatch::<T>();
        self.storage.as_mut_slice()?.ok_or(mismatch)
    }

    /// A vector with a copy of the elements.
    ///
    /// # Errors
    /// [`DemoError::DTypeMismatch`] where they are no `T`, [`DemoError::OutOfMemory`] where there is no room.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let elements = self.as_slice()?;
        let mut vec = Vec::new();
        vec.try_reserve_exact(elements.len()).map_err(|_| no_vec(self.byte_len()))?;
        vec.extend_from_slice(elements);
        Ok(vec)
    }

    /// The same elements on a device. Where they are there already, the memory is shared.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`] where the device cannot hold them.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        on_host(device)?;
        Ok(self.clone())
    }

    /// The same elements in another shape, sharing the memory.
    ///
    /// # Errors
    /// [`DemoError::ElementCount`] where they do not make that shape.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        let extent = Extent::filled_by(shape, self.dtype().size_bytes(), self.len())?;
        Ok(Tensor { storage: self.storage.clone(), shape: extent.shape, device: self.device.clone() })
    }

    /// Where the bytes are, in a word.
    pub(super) fn place(&self) -> &'static str {
        self.storage.place()
    }

    fn mismatch<T: Element>(&self) -> DemoError {
        DemoError::DTypeMismatch { held: self.dtype().name(), asked: T::DTYPE.name() }
    }
}

/// A `Vec` that found no memory. It is not the pool's, so the pool has no report of it.
#[cold]
pub(crate) fn no_vec(requested_bytes: usize) -> DemoError {
    OutOfMemory { requested_bytes: requested_bytes as u64, limit_bytes: u64::MAX, ..OutOfMemory::default() }
        .into()
}

fn on_host(device: &Device) -> Result<()> {
    if device.is_host() {
        return Ok(());
    }
    Err(DemoError::DeviceUnavailable {
        device: device.id(),
        problem: "this version keeps tensors on the host only; use Device::host()",
    })
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Tensor>();
};
