//! Streams: the order of a device's work, and the owner of the blocks that are used in it.

use super::cache::Cache;
use super::context::Context;
use super::gpu::{self, Gpu};
use super::sys::Handle;
use crate::device::handover::Slot;
use crate::device::{Device, Queue};
use crate::error::{DemoError, DeviceId, Result};
use crate::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::{HostLock, Lock};
use core::fmt;
use cudarc::driver::CudaStream;
use std::sync::Arc;

/// An order in which a device does its work, which runs beside other streams'.
///
/// A block that is freed on a stream is used again on it at once; on another, that one waits for the free first. A clone is the
/// same stream.
///
/// ```no_run
/// use democratising::{Device, Tensor, cuda};
///
/// let device = Device::cuda(0)?;
/// let stream = cuda::Stream::new(&device)?;
/// let there = Tensor::zeros(&[1000, 1000])?.to_device_on(&device, &stream)?;
/// stream.synchronize()?;
/// # Ok::<(), democratising::DemoError>(())
/// ```
pub struct Stream(pub(super) Arc<Inner>);

/// The stream itself.
pub(super) struct Inner {
    pub(super) gpu: &'static Gpu,
    pub(super) handle: Handle,
    pub(super) slot: Slot,
    owner: Owner,
    /// How many [`Stream`]s of it there are; blocks keep it too.
    handles: AtomicUsize,
    pub(super) cache: Lock<HostLock, Cache>,
    pub(super) in_use_bytes: AtomicU64,
    pub(super) cached_bytes: AtomicU64,
}

/// The driver's name for the default stream of whichever thread says it, `CU_STREAM_PER_THREAD`.
pub(super) const PER_THREAD: Handle = 2;

/// Whose the driver's handle is.
enum Owner {
    /// Ours, to be destroyed.
    This,
    /// Somebody else's, who keeps it for as long as this.
    Other,
    /// cudarc's, kept by this.
    Cudarc(Arc<CudaStream>),
}

impl Stream {
    /// A new stream of a device. It does not wait for the default stream, nor that for it.
    ///
    /// # Errors
    /// [`DemoError::WrongDevice`] for the host,
    /// [`DemoError::DeviceUnavailable`] where the device has 128 already,
    /// [`DemoError::DeviceFailed`] where the driver refuses.
    pub fn new(device: &Device) -> Result<Stream> {
        let gpu = gpu::of(device, "cuda::Stream::new")?;
        let handle = gpu.context().stream().map_err(|refused| gpu.failed(refused))?;
        Stream::with(gpu, handle, Owner::This).inspect_err(|_| {
            // Refused twice, it is the driver's to clean up.
            let _ = gpu.context().destroy_stream(handle);
        })
    }

    /// A stream of cudarc's, which lives as long as this. What is made of it while this lives is the same stream.
    ///
    /// # Errors
    /// As [`Stream::new`].
    pub fn from_cudarc(stream: &Arc<CudaStream>) -> Result<Stream> {
        let gpu = gpu::get(stream.context().ordinal() as u32)?;
        let handle = stream.cu_stream() as usize;
        let known = |known: &Arc<Inner>| known.handle == handle && matches!(known.owner, Owner::Cudarc(_));
        match gpu.streams().into_iter().find(known) {
            Some(known) => Ok(Stream::of(known)),
            None => Stream::with(gpu, handle, Owner::Cudarc(stream.clone())),
        }
    }

    /// A stream of somebody else's, by the driver's handle (`CUstream`, `cudaStream_t`); 0 is the default stream.
    ///
    /// # Errors
    /// As [`Stream::new`].
    ///
    /// # Safety
    /// It is a stream of this device, and lives until this, its clones and every block that was taken on it are dropped.
    pub unsafe fn from_raw(device: &Device, handle: usize) -> Result<Stream> {
        Stream::with(gpu::of(device, "cuda::Stream::from_raw")?, handle, Owner::Other)
    }

    /// The default stream, which the driver orders with others by itself.
    pub(super) fn default_of(gpu: &'static Gpu) -> Result<Stream> {
        Stream::with(gpu, 0, Owner::Other)
    }

    fn with(gpu: &'static Gpu, handle: Handle, owner: Owner) -> Result<Stream> {
        if handle == PER_THREAD {
            return Err(DemoError::DeviceUnavailable {
                device: gpu.id(),
                problem: "CU_STREAM_PER_THREAD is another stream in each thread, and nothing can wait for it by name; \
                          make a stream and use that",
            });
        }
        let slot = gpu.order().enter(handle)?;
        let inner = Arc::new(Inner {
            gpu,
            handle,
            slot,
            owner,
            handles: AtomicUsize::new(0),
            cache: Lock::new(Cache::new()),
            in_use_bytes: AtomicU64::new(0),
            cached_bytes: AtomicU64::new(0),
        });
        gpu.know(&inner);
        Ok(Stream::of(inner))
    }

    fn of(inner: Arc<Inner>) -> Stream {
        // Relaxed: whoever makes one has another, or is the first.
        inner.handles.fetch_add(1, Relaxed);
        Stream(inner)
    }

    /// Waits until everything that is queued in it is done.
    ///
    /// # Errors
    /// [`DemoError::DeviceFailed`] where that failed.
    pub fn synchronize(&self) -> Result<()> {
        self.context().synchronize(self.0.handle).map_err(|refused| self.0.gpu.failed(refused))
    }

    /// The driver's handle, `CUstream`, as a number; 0 is the default stream. It lives as long as this.
    pub fn as_raw(&self) -> usize {
        self.0.handle
    }

    fn context(&self) -> &Context {
        self.0.gpu.context()
    }
}

impl Clone for Stream {
    fn clone(&self) -> Stream {
        Stream::of(self.0.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `has_ended`: what was queued by this handle was queued before.
        self.0.handles.fetch_sub(1, Release);
    }
}

impl Inner {
    /// Whether nobody can queue anything in it any more but the blocks that were taken on it, each for itself. Somebody else's stream may go on
    /// without this.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.owner, Owner::This) && self.handles.load(Acquire) == 0
    }

    #[inline]
    pub(super) fn took(&self, bytes: u64) {
        self.in_use_bytes.fetch_add(bytes, Relaxed);
    }

    #[inline]
    pub(super) fn gave(&self, bytes: u64) {
        self.in_use_bytes.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.gpu.empty(self);
        let is_known = self.gpu.order().leave(self.slot);
        match &self.owner {
            Owner::This if is_known => {
                // Refused twice, it is the driver's to clean up.
                let _ = self.gpu.context().destroy_stream(self.handle);
            }
            Owner::Other if !is_known => self.gpu.order().forget(self.slot),
            // It stays for good, so that it can be asked again.
            Owner::Cudarc(stream) if !is_known => core::mem::forget(stream.clone()),
            _ => {}
        }
    }
}

impl Queue for Stream {
    fn device(&self) -> DeviceId {
        DeviceId::Cuda(self.0.gpu.context().ordinal())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:#x} of {})", self.0.handle, self.device())
    }
}
