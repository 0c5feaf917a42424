//! DLPack, by which Python's array libraries and candle hand tensors to each other, both ways, through `dlpark`.

use crate::device::Device;
use crate::error::{DemoError, DeviceId, Result};
use crate::size::MAX_RANK;
use crate::tensor::layout::Layout;
use crate::tensor::storage::Storage;
use crate::tensor::{DType, Extent, Tensor};
use core::ptr::NonNull;
use dlpark::ffi::{DLDataType, DLDataTypeCode, DLDevice, DLDeviceType};
use dlpark::metadata::Dynamic;
use dlpark::versioned::Dlpack;
use dlpark::{DlpackFlags, Managed, ManagedTensorBase};
use std::boxed::Box;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

impl Tensor {
    /// The tensor for DLPack, sharing its memory, which lives as long as whoever takes it wants. It is marked read-only.
    ///
    /// # Errors
    /// [`DemoError::WrongDevice`] where it is not on the host, [`DemoError::Format`] where it is in a file whose bytes are
    /// damaged.
    pub fn to_dlpack(&self) -> Result<Dlpack> {
        if !self.device().is_host() {
            let (held, needed) = (self.device().id(), DeviceId::Host);
            return Err(DemoError::WrongDevice {
                operation: "to_dlpack",
                what: "a tensor on",
                held,
                needed,
                advice: "move it with to_device first",
            });
        }
        // It keeps the elements alive and where they are: those of a small tensor lie in the box.
        let kept = Box::new(self.clone());
        let data = kept.storage.as_bytes()?.as_ptr();
        let metadata = Dynamic::new(self.shape(), self.strides());
        let mut handed = metadata.initialize(kept).map_err(|why| wrong(why.to_string()))?;
        let elements = if self.is_empty() { 0 } else { self.layout.offset() };
        handed
            .set_data(data.cast_mut().cast())
            .set_device(DLDevice { device_type: DLDeviceType::CPU, device_id: 0 })
            .set_dtype(data_type(self.dtype()))
            .set_byte_offset((elements * self.dtype().size_bytes()) as u64)
            .set_flags(DlpackFlags::READ_ONLY)
            .map_err(|why| wrong(why.to_string()))?;
        // SAFETY: 1. Address, shape, strides and offset are those of the tensor in the box, which lives until the deleter runs.
        // 2. It is marked as what may not be written to.
        Ok(unsafe { handed.finish() })
    }

    /// A tensor of DLPack's, sharing its memory; one of at most 64 bytes, of `bool`s, or whose elements are not aligned, is
    /// copied. Changing it changes a copy.
    ///
    /// # Errors
    /// [`DemoError::Format`] for a dtype, rank or strides that no tensor here has, and for a device that is none of CUDA's,
    /// [`DemoError::DeviceUnavailable`] for one of those, whose memory the processor cannot read.
    ///
    /// # Safety
    /// 1. `from` describes memory that is there, as DLPack asks of whoever makes one.
    /// 2. Nobody writes to that memory while this tensor, its clones or its views live.
    /// 3. The memory may be read, and given back, on any thread.
    pub unsafe fn from_dlpack<M: ManagedTensorBase + 'static>(from: Managed<M>) -> Result<Tensor> {
        let tensor = from.validate().map_err(|why| wrong(why.to_string()))?;
        let device = tensor.device();
        match (device.device_type, u32::try_from(device.device_id)) {
            (DLDeviceType::CPU | DLDeviceType::CUDAHOST, _) => {}
            (DLDeviceType::CUDA | DLDeviceType::CUDAMANAGED, Ok(ordinal)) => {
                return Err(DemoError::DeviceUnavailable {
                    device: DeviceId::Cuda(ordinal),
                    problem: "its memory is none that the processor can read; copy it to the host first",
                });
            }
            (DLDeviceType(kind), _) => {
                let id = device.device_id;
                return Err(wrong(format!(
                    "it is on device {id} of DLPack's kind {kind}; copy it to the host first"
                )));
            }
        }
        let dtype = dtype(tensor.dtype())?;
        let (shape, rank) = (tensor.shape(), tensor.ndim());
        if rank > MAX_RANK {
            return Err(wrong(format!("it has {rank} dimensions, more than {MAX_RANK}")));
        }
        let shape = numbers(shape).ok_or_else(|| wrong(format!("its shape is {shape:?}")))?;
        let extent = Extent::new(&shape, dtype.size_bytes())?;
        if extent.elements == 0 {
            return Tensor::zeros_with(&shape, dtype, &Device::host());
        }
        let strides = match tensor.strides().filter(|_| rank > 0) {
            None => Layout::row_major(extent.shape).strides().to_vec(),
            Some(strides) => forward(&shape, strides).ok_or_else(|| {
                wrong(format!(
                    "its strides are {strides:?}, and none may be negative; copy it into row-major order"
                ))
            })?,
        };
        let too_far = || wrong(format!("its strides are {strides:?}, which lead further than memory does"));
        let reach = shape.iter().zip(&strides).try_fold(1usize, |reach, (&length, &stride)| {
            reach.checked_add((length - 1).checked_mul(stride)?)
        });
        let reach = reach.and_then(|elements| Extent::new(&[elements], dtype.size_bytes()).ok());
        let reach = reach.ok_or_else(too_far)?;
        let layout = Layout::checked(extent.shape, &strides, 0, reach.elements).ok_or_else(too_far)?;
        let at = NonNull::new(tensor.data_ptr().cast::<u8>().cast_mut());
        let at = at.ok_or_else(|| wrong(String::from("its elements are at the address null")))?;
        let skipped = usize::try_from(tensor.byte_offset()).ok();
        let skipped =
            skipped.filter(|&skipped| at.addr().checked_add(skipped).is_some()).ok_or_else(|| {
                wrong(format!("its first element is {} bytes in, which is no address", tensor.byte_offset()))
            })?;
        // Not `add`, for which the memory would have to be there.
        let at = at.map_addr(|at| at.saturating_add(skipped));
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

/// Strides that lead forward. That of a dimension of length 1 is never used, and may be anything.
fn forward(shape: &[usize], strides: &[i64]) -> Option<Vec<usize>> {
    let lengths = shape.iter().zip(strides);
    lengths.map(|(&length, &stride)| if length == 1 { Some(1) } else { stride.try_into().ok() }).collect()
}

fn wrong(problem: String) -> DemoError {
    DemoError::Format { format: "a DLPack tensor", path: None, at: String::new(), problem }
}

fn data_type(dtype: DType) -> DLDataType {
    let code = match dtype {
        DType::Bool => DLDataTypeCode::BOOL,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => DLDataTypeCode::UINT,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => DLDataTypeCode::INT,
        DType::F16 | DType::F32 | DType::F64 => DLDataTypeCode::FLOAT,
        DType::BF16 => DLDataTypeCode::BFLOAT,
        DType::F8E4M3 => DLDataTypeCode::FLOAT8_E4M3FN,
        DType::F8E5M2 => DLDataTypeCode::FLOAT8_E5M2,
    };
    DLDataType { code, bits: 8 * dtype.size_bytes() as u8, lanes: 1 }
}

fn dtype(of: DLDataType) -> Result<DType> {
    let found = DType::ALL.into_iter().find(|&dtype| data_type(dtype) == of);
    found.ok_or_else(|| {
        wrong(format!("its elements are of kind {} and {} bits, {} together", of.code.0, of.bits, of.lanes))
    })
}
