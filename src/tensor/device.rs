//! Tensors on devices: there, back, and from one to another.

#![forbid(unsafe_code)]

use super::layout::Layout;
use super::storage::Storage;
use super::value::Tensor;
use crate::device::{Device, Queue};
use crate::error::{DemoError, Result};
use crate::size::Shape;

impl Tensor {
    /// The same elements on a device. Where they are there already, the memory is shared.
    ///
    /// A copy to a device is queued, and this tensor may be dropped at once. A copy to the host is there when this returns.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] where there is no room, after everything reclaimable was given back;
    /// [`DemoError::DeviceFailed`] where the device's driver refuses; [`DemoError::Format`] where the elements are in a file
    /// whose bytes are damaged.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        self.moved(device, None)
    }

    /// The same on a device, in the order of a stream of that device: what is queued there next finds it done. It is given back in that
    /// order too. A tensor that is on the device already is copied, since its memory belongs to another order.
    ///
    /// # Errors
    /// [`DemoError::WrongDevice`] where the stream is another device's, and those of [`to_device`](Self::to_device).
    pub fn to_device_on(&self, device: &Device, stream: &impl Queue) -> Result<Tensor> {
        if stream.device() != device.id() {
            return Err(DemoError::WrongDevice {
                operation: "to_device_on",
                what: "a stream of",
                held: stream.device(),
                needed: device.id(),
                advice: "make one with cuda::Stream::new",
            });
        }
        self.moved(device, Some(stream))
    }

    fn moved(&self, device: &Device, queue: Option<&dyn Queue>) -> Result<Tensor> {
        if queue.is_none() && *device == self.device {
            return Ok(self.clone());
        }
        let Some(backend) = device.backend() else { return self.on_host() };
        if let Ok(range) = self.in_one_piece() {
            return Ok(self.put(self.storage.on(range, backend, queue)?, device));
        }
        if self.is_on_host() {
            return self.contiguous()?.moved(device, queue);
        }
        // The processor cannot put in order what is on a device: what lies between goes too, and a view stays the same view.
        let storage = self.storage.on(self.layout.span(), backend, queue)?;
        Ok(Tensor { storage, layout: self.layout.at_start(), device: device.clone() })
    }

    /// A copy on the host.
    fn on_host(&self) -> Result<Tensor> {
        match self.in_one_piece() {
            Ok(range) => Ok(self.put(self.storage.on_host(range, 0)?, &Device::host())),
            Err(_) => self.apart_on_host(),
        }
    }

    /// A storage that holds this tensor's elements in row-major order.
    fn put(&self, storage: Storage, device: &Device) -> Tensor {
        let shape: Shape = *self.layout.shape();
        Tensor { storage, layout: Layout::row_major(shape), device: device.clone() }
    }

    /// Whether the processor can touch the elements.
    pub(super) fn is_on_host(&self) -> bool {
        self.device.is_host()
    }

    /// Where the elements start in the device's addresses, for kernels; `None` on the host. They are there as long as this tensor or a
    /// clone is.
    ///
    /// Work that uses them in another order than the tensor's is to be told of: [`used_on`](Self::used_on).
    pub fn device_address(&self) -> Option<u64> {
        let memory = self.storage.device_memory()?;
        Some(memory.address() + (self.layout.offset() * self.dtype().size_bytes()) as u64)
    }

    /// `stream` waits for what was queued on the elements so far, and their memory is used for nothing else before what is queued on
    /// `stream` until the tensor is dropped is done: what PyTorch calls `record_stream`.
    ///
    /// # Errors
    /// [`DemoError::WrongDevice`] where the tensor is on the host, or the stream another device's,
    /// [`DemoError::DeviceFailed`] where the driver refuses.
    pub fn used_on(&self, stream: &impl Queue) -> Result<()> {
        match self.storage.device_memory() {
            Some(memory) => memory.used_on(stream),
            None => Err(DemoError::WrongDevice {
                operation: "used_on",
                what: "a tensor on",
                held: self.device.id(),
                needed: stream.device(),
                advice: "move it with to_device first",
            }),
        }
    }
}
