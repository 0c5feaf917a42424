//! Typed device memory for kernels that are launched through cudarc.

use super::block::Block;
use super::result::Refused;
use super::stream::{PER_THREAD, Stream};
use super::uses::Uses;
use crate::device::DeviceMemory;
use crate::error::{DemoError, OutOfMemory, Result};
use core::fmt;
use core::marker::PhantomData;
use cudarc::driver::sys::{CUdeviceptr, CUresult};
use cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, DriverError, SyncOnDrop, ValidAsZeroBits,
};
use std::sync::Arc;
use std::vec::Vec;

/// `len` elements on a device, out of its pool, that cudarc's kernels take as they take a `CudaSlice`.
///
/// It is given back on its stream when it is dropped. Used on another stream, that one waits for what was queued before, and the
/// memory is used for nothing else before it is done there too.
///
/// ```no_run
/// use cudarc::driver::{CudaContext, DevicePtr};
/// use democratising::cuda::DeviceBuf;
///
/// let context = CudaContext::new(0)?;
/// let stream = context.new_stream()?;
/// let numbers = DeviceBuf::from_slice(&stream, &[1.0f32, 2.0, 3.0])?;
/// let (address, _in_use) = numbers.device_ptr(&stream);
/// assert_ne!(address, 0);
/// assert_eq!(numbers.to_vec()?, [1.0, 2.0, 3.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DeviceBuf<T> {
    block: Block,
    len: usize,
    stream: Arc<CudaStream>,
    used: Uses,
    elements: PhantomData<T>,
}

impl<T: DeviceRepr> DeviceBuf<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] after everything reclaimable was given back, [`DemoError::DeviceUnavailable`] and
    /// [`DemoError::DeviceFailed`] as for a tensor.
    pub fn zeros(stream: &Arc<CudaStream>, len: usize) -> Result<DeviceBuf<T>>
    where
        T: ValidAsZeroBits,
    {
        let block = Block::zeros(bytes::<T>(len)?, &Stream::from_cudarc(stream)?)?;
        Ok(DeviceBuf { block, len, stream: stream.clone(), used: Uses::none(), elements: PhantomData })
    }

    /// A copy of these elements, which may be dropped at once.
    ///
    /// # Errors
    /// As [`DeviceBuf::zeros`].
    pub fn from_slice(stream: &Arc<CudaStream>, elements: &[T]) -> Result<DeviceBuf<T>> {
        let len = elements.len();
        let first = elements.as_ptr().cast::<u8>();
        // SAFETY: 1. `DeviceRepr` says that the type is copied to a device byte by byte, as cudarc does it too.
        let bytes = unsafe { core::slice::from_raw_parts(first, size_of_val(elements)) };
        let block = Block::of(bytes, &Stream::from_cudarc(stream)?)?;
        Ok(DeviceBuf { block, len, stream: stream.clone(), used: Uses::none(), elements: PhantomData })
    }

    /// The elements, when everything that was queued on them is done.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] of the host where the vector has no room, [`DemoError::DeviceFailed`] where the copy failed.
    pub fn to_vec(&self) -> Result<Vec<T>>
    where
        T: ValidAsZeroBits,
    {
        let bytes = self.block.bytes();
        self.gather()?;
        let mut elements: Vec<T> = Vec::new();
        let no_room = |_| OutOfMemory {
            requested_bytes: bytes as u64,
            limit_bytes: u64::MAX,
            ..OutOfMemory::default()
        };
        elements.try_reserve_exact(self.len).map_err(no_room)?;
        // SAFETY: 1. There is room for as many elements, and all zeros is a value of each (`ValidAsZeroBits`). 2. What is copied
        // over them came from such elements or from zeros, or is what a kernel wrote as such.
        unsafe {
            elements.as_mut_ptr().write_bytes(0, self.len);
            let out = core::slice::from_raw_parts_mut(elements.as_mut_ptr().cast::<u8>(), bytes);
            self.block.read(0, out)?;
            elements.set_len(self.len);
        }
        Ok(elements)
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> DeviceBuf<T> {
    /// The buffer's own stream waits for the last uses on others.
    fn gather(&self) -> Result<()> {
        let gpu = self.block.gpu();
        self.await_uses(self.stream.cu_stream() as usize).map_err(|refused| gpu.failed(refused))
    }

    fn await_uses(&self, stream: usize) -> Result<(), Refused> {
        let context = self.block.gpu().context();
        self.used.events().try_for_each(|event| context.wait(stream, event.cu_event() as usize))
    }

    /// This thread waits for everything that was queued on the memory.
    fn finish(&self) -> Result<(), Refused> {
        self.block.gpu().context().wait_here(self.block.mark()?)?;
        self.wait_for_uses()
    }

    /// This thread waits for the last uses on other streams than the buffer's own.
    fn wait_for_uses(&self) -> Result<(), Refused> {
        let context = self.block.gpu().context();
        self.used.events().try_for_each(|event| context.wait_here(event.cu_event() as usize))
    }

    /// `stream` waits for everything that was queued on the memory; what it does then is behind what this returns.
    fn used_on<'a>(&'a self, stream: &'a CudaStream) -> SyncOnDrop<'a> {
        // Default streams of two devices have the same handle.
        let is_of_context = stream.context() == self.stream.context();
        if is_of_context && self.stream.cu_stream() == stream.cu_stream() {
            self.note(self.gather());
            return SyncOnDrop::Record(None);
        }
        let (gpu, other) = (self.block.gpu(), stream.cu_stream() as usize);
        // What is queued there from now on runs when the graph is launched: nobody can wait for it, and it cannot wait.
        if other > PER_THREAD && gpu.context().is_captured(other) {
            self.note(self.finish().map_err(|refused| gpu.failed(refused)));
            return SyncOnDrop::Record(None);
        }
        // The name of a default stream means the one of the device that is asked: another device's cannot be made to wait from here.
        let waits = if is_of_context || other > PER_THREAD {
            let behind = self.block.mark().and_then(|event| gpu.context().wait(other, event));
            behind.and_then(|()| self.await_uses(other))
        } else {
            self.finish()
        };
        self.note(waits.map_err(|refused| gpu.failed(refused)));
        // An event belongs to the context that it was made in; a stream of another one is waited for.
        match is_of_context.then(|| self.used.event_of(stream)).flatten() {
            Some(event) if stream.context().is_managing_stream_synchronization() => {
                SyncOnDrop::Record(Some((event, stream)))
            }
            _ => SyncOnDrop::sync_stream(stream),
        }
    }

    /// cudarc keeps what went wrong where nothing can be returned, and its next call tells.
    fn note(&self, result: Result<()>) {
        let Err(error) = result else { return };
        let code = match error {
            DemoError::DeviceFailed { code, .. } => code,
            _ => CUresult::CUDA_ERROR_UNKNOWN as i32,
        };
        let known = [
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_INVALID_HANDLE,
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ];
        let code =
            known.into_iter().find(|known| *known as i32 == code).unwrap_or(CUresult::CUDA_ERROR_UNKNOWN);
        self.stream.context().record_err::<()>(Err(DriverError(code)));
    }
}

impl<T> DeviceSlice<T> for DeviceBuf<T> {
    fn len(&self) -> usize {
        self.len
    }

    fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl<T> DevicePtr<T> for DeviceBuf<T> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.block.at(), self.used_on(stream))
    }
}

impl<T> DevicePtrMut<T> for DeviceBuf<T> {
    fn device_ptr_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.block.at(), self.used_on(stream))
    }
}

impl<T> Drop for DeviceBuf<T> {
    fn drop(&mut self) {
        // Before the block goes back on its stream, that waits for the others, since they may still work on it: once more where the driver
        // refuses, and then this thread waits.
        let waits = self.gather().or_else(|_| self.gather());
        if waits.is_err() && self.wait_for_uses().or_else(|_| self.wait_for_uses()).is_err() {
            self.block.lose();
        }
        self.note(waits);
    }
}

impl<T> fmt::Debug for DeviceBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBuf({} elements at {:#x} of {})", self.len, self.block.at(), self.block.gpu().id())
    }
}

fn bytes<T>(len: usize) -> Result<usize> {
    len.checked_mul(size_of::<T>()).ok_or_else(|| {
        DemoError::from(OutOfMemory {
            requested_bytes: u64::MAX,
            limit_bytes: u64::MAX,
            ..OutOfMemory::default()
        })
    })
}
