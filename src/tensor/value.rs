//! `Tensor`: dtype, shape and device as values.

#![forbid(unsafe_code)]

use super::dtype::DType;
use super::element::Element;
use super::elements::{IntoElements, sealed::IntoStorage};
use super::extent::Extent;
use super::iter::Iter;
use super::layout::Layout;
use super::storage::{Storage, check_bools};
use crate::device::Device;
use crate::error::{DemoError, OutOfMemory, Result};
use crate::size::Shape;
use core::ops::Range;
use std::vec::Vec;

/// An array of numbers of one type and any shape of up to eight dimensions.
///
/// Up to 64 bytes are held in the tensor itself. A `Vec` larger than that is taken over as it is, aligned as it was;
/// everything else comes from the process's pool, 64-byte aligned. A clone shares the memory, and whoever changes
/// elements that are shared changes a copy. Views ([`narrow`](Self::narrow), [`transpose`](Self::transpose), ..) share it
/// too; their elements need not lie in row-major order, and what wants them so says when they do not.
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
    pub(super) storage: Storage,
    pub(super) layout: Layout,
    pub(super) device: Device,
}

/// What is copied at once from a device.
pub(super) const PIECE_BYTES: usize = 2 << 20;

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
        let storage = match device.backend() {
            None => Storage::zeros(dtype, extent.elements)?,
            Some(backend) => Storage::zeros_on(dtype, extent.elements, backend, None)?,
        };
        Ok(Tensor { device: device.clone(), ..Tensor::from_storage(extent.shape, storage) })
    }

    /// A tensor on the host. The shape was counted, and the storage has that many elements.
    pub(crate) fn from_storage(shape: Shape, storage: Storage) -> Tensor {
        debug_assert_eq!(shape.elements(), Some(storage.elements()));
        Tensor { storage, layout: Layout::row_major(shape), device: Device::host() }
    }

    /// The elements of the same storage in another layout, which was checked against it.
    pub(crate) fn with_layout(self, layout: Layout) -> Tensor {
        Tensor { layout, ..self }
    }

    /// Copies the elements in row-major order to `piece`, as many as fit, and hands each filled piece on. Of what is on a device no more than
    /// that is on the host at once; a view whose elements lie apart is as a whole.
    pub(crate) fn gather_pieces(
        &self,
        piece: &mut [u8],
        hand_on: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        if let (Some(memory), Ok(range)) = (self.storage.device_memory(), self.in_one_piece()) {
            let element_bytes = self.dtype().size_bytes();
            let (room, end) = (piece.len() / element_bytes * element_bytes, range.end * element_bytes);
            for at in (range.start * element_bytes..end).step_by(room) {
                let out = &mut piece[..room.min(end - at)];
                memory.read(at, out)?;
                check_bools(self.dtype(), at / element_bytes - range.start, out)?;
                hand_on(out)?;
            }
            return Ok(());
        }
        if !self.device.is_host() {
            return self.to_device(&Device::host())?.gather_pieces(piece, hand_on);
        }
        let all = self.storage.as_bytes()?;
        let mut walk = self.layout.walk();
        loop {
            match walk.gather(all, 0, self.dtype().size_bytes(), piece) {
                0 => return Ok(()),
                filled => hand_on(&mut piece[..filled])?,
            }
        }
    }

    /// A view of a storage on the host. The layout was checked against it.
    pub(crate) fn view_of(storage: Storage, layout: Layout) -> Tensor {
        Tensor { storage, layout, device: Device::host() }
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
        self.layout.shape()
    }

    /// How many elements lie between neighbours, for each dimension. The last is 1 in row-major order.
    pub fn strides(&self) -> &[usize] {
        self.layout.strides()
    }

    /// Whether the elements lie one behind the other, the last index fastest.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_row_major()
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
        self.layout.elements()
    }

    /// Whether there are no elements: some dimension has length 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that all elements come to.
    pub fn byte_len(&self) -> usize {
        // A broadcast view can have more elements than memory has bytes.
        self.len().saturating_mul(self.dtype().size_bytes())
    }

    /// The bytes of all elements, in row-major order and the machine's byte order.
    ///
    /// # Errors
    /// [`DemoError::NotContiguous`] where the elements of a view lie apart, [`DemoError::Format`] where they are in a file
    /// whose bytes are damaged.
    pub fn as_bytes(&self) -> Result<&[u8]> {
        let element_bytes = self.dtype().size_bytes();
        let range = self.in_one_piece()?;
        Ok(&self.storage.as_bytes()?[range.start * element_bytes..range.end * element_bytes])
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// [`DemoError::DTypeMismatch`] where they are no `T`, and those of [`as_bytes`](Self::as_bytes).
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        let all = self.storage.as_slice()?.ok_or_else(|| self.mismatch::<T>())?;
        Ok(&all[self.in_one_piece()?])
    }

    /// The elements in row-major order, to be changed. Where they are shared, with a clone or a file, or lie apart, this
    /// tensor gets a copy of its own first.
    ///
    /// # Errors
    /// [`DemoError::DTypeMismatch`] where they are no `T`, [`DemoError::OutOfMemory`] where the copy has no room,
    /// [`DemoError::Format`] where they are in a file whose bytes are damaged.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        let mismatch = self.mismatch::<T>();
        if self.dtype() != T::DTYPE {
            return Err(mismatch);
        }
        let whole = self.len() == self.storage.elements();
        let in_place = self.layout.is_row_major() && (whole || self.storage.is_writable());
        if !in_place {
            // Only what the view shows is copied, not all that it is a view of.
            self.storage = self.storage.gathered(&self.layout)?;
            self.layout = Layout::row_major(*self.layout.shape());
        }
        let range = self.in_one_piece()?;
        self.storage.as_mut_slice()?.map(|all| &mut all[range]).ok_or(mismatch)
    }

    /// A vector with a copy of the elements, in row-major order.
    ///
    /// # Errors
    /// [`DemoError::DTypeMismatch`] where they are no `T`, [`DemoError::OutOfMemory`] where there is no room,
    /// [`DemoError::Format`] where they are in a file whose bytes are damaged.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let mut vec = Vec::new();
        let mut reserve = || vec.try_reserve_exact(self.len()).map_err(|_| no_vec(self.byte_len()));
        match self.in_one_piece() {
            _ if self.device.is_host() => {
                let elements = self.iter::<T>()?;
                reserve()?;
                elements.append_to(&mut vec);
            }
            // Beside the vector no more than a piece is on the host at once.
            Ok(range) if T::DTYPE == self.dtype() => {
                reserve()?;
                let most = PIECE_BYTES / size_of::<T>();
                for start in range.clone().step_by(most) {
                    let end = range.end.min(start + most);
                    let piece = self.storage.on_host(start..end, start - range.start)?;
                    vec.extend_from_slice(piece.as_slice::<T>()?.ok_or_else(|| self.mismatch::<T>())?);
                }
            }
            Ok(_) => return Err(self.mismatch::<T>()),
            Err(_) => return self.to_device(&Device::host())?.to_vec(),
        }
        Ok(vec)
    }

    /// The elements one after the other, in row-major order, of a view too.
    ///
    /// ```
    /// use democratising::Tensor;
    ///
    /// let t = Tensor::new(&[2, 3], [1, 2, 3, 4, 5, 6])?.transpose(0, 1)?;
    /// assert_eq!(t.iter::<i32>()?.collect::<Vec<_>>(), [1, 4, 2, 5, 3, 6]);
    /// # Ok::<(), democratising::DemoError>(())
    /// ```
    ///
    /// # Errors
    /// [`DemoError::DTypeMismatch`] where they are no `T`, [`DemoError::Format`] where they are in a file whose bytes are
    /// damaged.
    pub fn iter<T: Element>(&self) -> Result<Iter<'_, T>> {
        let all = self.storage.as_slice()?.ok_or_else(|| self.mismatch::<T>())?;
        Ok(Iter::new(all, &self.layout))
    }

    /// All elements of the storage that this is a view of.
    #[cfg(feature = "ndarray")]
    pub(super) fn elements_of_storage<T: Element>(&self) -> Result<&[T]> {
        self.storage.as_slice()?.ok_or_else(|| self.mismatch::<T>())
    }

    /// Which elements of the storage are this tensor's, where they lie one behind the other.
    pub(super) fn in_one_piece(&self) -> Result<Range<usize>> {
        if !self.layout.is_row_major() {
            return Err(DemoError::NotContiguous { shape: *self.layout.shape(), dtype: self.dtype().name() });
        }
        let start = self.layout.offset();
        Ok(start..start + self.len())
    }

    /// The bytes that come free when this tensor goes: none where others share them, where they are in the tensor itself, or a file's.
    pub(crate) fn sole_bytes(&self) -> u64 {
        self.storage.sole_bytes()
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

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Tensor>();
};
