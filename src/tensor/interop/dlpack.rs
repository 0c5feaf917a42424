//! DLPack, by which Python's array libraries and candle hand tensors to each other, both ways, through `dlpark`.

use crate::device::Device;
use crate::error::{DemoError, DeviceId, Result};
use crate::size::MAX_RANK;
use crate::tensor::layout::Layout;
use crate::tensor::storage::Storage;
use crate::tensor::{DType, Extent, Tensor};
use core::ffi::c_void;
use core::ptr::NonNull;
use dlpark::SafeManagedTensorVersioned;
use dlpark::ffi::{self, DataType, DataTypeCode, DeviceType, Flags};
use dlpark::traits::{StridedLayout, TensorLike, TensorView};
use std::boxed::Box;
use std::format;
use std::string::String;
use std::vec::Vec;

/// What is handed out: it keeps the elements alive and where they are.
struct Exported(Tensor);

impl TensorLike<StridedLayout> for Exported {
    type Error = DemoError;

    fn data_ptr(&self) -> *mut c_void {
        self.0.storage.as_bytes().map_or(core::ptr::null_mut(), |bytes| bytes.as_ptr().cast_mut().cast())
    }

    fn memory_layout(&self) -> StridedLayout {
        let lengths = self.0.shape().iter().chain(self.0.strides());
        // Lengths are at most isize::MAX where there are elements, and so are their strides.
        StridedLayout::new(lengths.map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect())
    }

    fn device(&self) -> Result<ffi::Device> {
        Ok(ffi::Device { device_type: DeviceType::Cpu, device_id: 0 })
    }

    fn data_type(&self) -> Result<DataType> {
        Ok(data_type(self.0.dtype()))
    }

    fn byte_offset(&self) -> u64 {
        let elements = if self.0.is_empty() { 0 } else { self.0.layout.offset() };
        (elements * self.0.dtype().size_bytes()) as u64
    }
}

impl Tensor {
    /// The tensor for DLPack, sharing its memory, which lives as long as whoever takes it wants. It is marked read-only.
    ///
    /// # Errors
    /// [`DemoError::WrongDevice`] where it is not on the host, [`DemoError::Format`] where it is in a file whose bytes are
    /// damaged.
    pub fn to_dlpack(&self) -> Result<SafeManagedTensorVersioned> {
        if !self.device().is_host() {
            let (held, needed) = (self.device().id(), DeviceId::Host);
            return Err(DemoError::WrongDevice { operation: "to_dlpack", held, needed });
        }
        self.storage.as_bytes()?;
        SafeManagedTensorVersioned::with_flags(Exported(self.clone()), Flags::READ_ONLY)
    }

    /// A tensor of DLPack's, sharing its memory; one of at most 64 bytes, of `bool`s, or whose elements are not aligned, is
    /// copied. Changing it changes a copy.
    ///
    /// # Errors
    /// [`DemoError::Format`] for a dtype, rank or strides that no tensor here has, [`DemoError::DeviceUnavailable`] for a
    /// device that the processor cannot read.
    ///
    /// # Safety
    /// 1. `from` describes memory that is there, as DLPack asks of whoever makes one.
    /// 2. Nobody writes to that memory while this tensor, its clones or its views live.
    /// 3. The memory may be read, and given back, on any thread.
    pub unsafe fn from_dlpack(from: SafeManagedTensorVersioned) -> Result<Tensor> {
        let tensor = from.dl_tensor();
        if !matches!(tensor.device.device_type, DeviceType::Cpu | DeviceType::CudaHost) {
            return Err(DemoError::DeviceUnavailable {
                device: DeviceId::Cuda(tensor.device.device_id.try_into().unwrap_or(0)),
                problem: "its memory is none that the processor can read; copy it to the host first",
            });
        }
        let dtype = dtype(tensor.dtype)?;
        let rank = from.num_dimensions();
        if rank > MAX_RANK {
            return Err(wrong(format!("it has {rank} dimensions, more than {MAX_RANK}")));
        }
        // A rank of 0 may come with null pointers.
        let shape = if rank == 0 { &[][..] } else { from.shape() };
        let shape = numbers(shape).ok_or_else(|| wrong(format!("its shape is {shape:?}")))?;
        let extent = Extent::new(&shape, dtype.size_bytes())?;
        if extent.elements == 0 {
            return Tensor::zeros_with(&shape, dtype, &Device::host());
        }
        let strides = match from.strides().filter(|_| rank > 0) {
            None => Layout::row_major(extent.shape).strides().to_vec(),
            Some(strides) => numbers(strides).ok_or_else(|| wrong(format!("its strides are {strides:?}")))?,
        };
        let reach = shape.iter().zip(&strides).try_fold(1usize, |reach, (&length, &stride)| {
            reach.checked_add((length - 1).checked_mul(stride)?)
        });
        let reach = reach.and_then(|elements| Extent::new(&[elements], dtype.size_bytes()).ok());
        let reach = reach.ok_or_else(|| wrong(format!("its strides are {strides:?}")))?;
        let Some(layout) = Layout::checked(extent.shape, &strides, 0, reach.elements) else {
            return Err(wrong(format!("its strides are {strides:?}")));
        };
        let at = tensor.data.cast::<u8>().wrapping_add(from.byte_offset());
        let at = NonNull::new(at).ok_or_else(|| wrong(String::from("its elements are nowhere")))?;
        // SAFETY: 1. The first and the last element of `reach` are elements of the tensor, so all between is one piece of
        // memory, which is there (1. of the caller), unchanged (2.) and read and given back on any thread (3.). 2. The
        // owner gives it back when it is dropped.
        let storage = unsafe { Storage::foreign(at, reach.bytes, dtype, Box::new(from)) }?;
        Ok(Tensor::view_of(storage, layout))
    }
}

fn numbers(from: &[i64]) -> Option<Vec<usize>> {
    from.iter().map(|&n| n.try_into().ok()).collect()
}

fn wrong(problem: String) -> DemoError {
    DemoError::Format { format: "a DLPack tensor", path: None, at: String::new(), problem }
}

fn data_type(dtype: DType) -> DataType {
    let code = match dtype {
        DType::Bool => DataTypeCode::Bool,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => DataTypeCode::UInt,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => DataTypeCode::Int,
        DType::F16 | DType::F32 | DType::F64 => DataTypeCode::Float,
        DType::BF16 => DataTypeCode::Bfloat,
        DType::F8E4M3 => DataTypeCode::Float8E4m3fn,
        DType::F8E5M2 => DataTypeCode::Float8E5m2,
    };
    DataType { code, bits: 8 * dtype.size_bytes() as u8, lanes: 1 }
}

fn dtype(of: DataType) -> Result<DType> {
    let found = DType::ALL.into_iter().find(|&dtype| data_type(dtype) == of);
    found.ok_or_else(|| {
        wrong(format!("its elements are {:?} of {} bits, {} together", of.code, of.bits, of.lanes))
    })
}
