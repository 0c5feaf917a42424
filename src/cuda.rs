//! CUDA devices, through the driver that the machine has.
//!
//! 1. A device's memory is a [`Pool`](crate::Pool) of the same core as the host's, over [`CudaSpace`]: addresses reserved once, and
//!    frames of physical memory that are mapped where they are needed and moved when they idle. A driver that cannot map gives
//!    ranges, each with a pool of its own.
//! 2. Blocks belong to a [`Stream`]. Freed on it, they are used on it again at once; another stream waits first, for an event that
//!    is recorded once for all that was freed since the last.
//! 3. The driver is a library loaded at run time. Nothing here panics where it, one of its functions or a device is missing, or
//!    where one of its calls fails, and formatting an error asks it nothing.
//! 4. The device's primary context is used and shared with whoever else does. Each call is made with it current, and the
//!    caller's is current again afterwards.
//! 5. A process that was forked after the driver was started is refused: the driver does not survive that.

mod block;
mod buffer;
mod cache;
mod context;
mod driver;
mod gpu;
mod leftovers;
mod memory;
mod order;
mod pinned;
mod pool;
mod ranges;
pub mod raw;
mod result;
mod shortage;
mod space;
mod staging;
mod stream;
mod sys;
mod taken;
mod uses;

pub use buffer::DeviceBuf;
pub use pool::{
    DeviceInfo, MemoryInfo, MemoryPool, MemoryPoolBuilder, PoolStats, get_device_info, get_memory_info,
    set_memory_limit,
};
pub use space::CudaSpace;
pub use stream::Stream;

use crate::device::Device;
use crate::error::{DemoError, DeviceId, Result};
use std::vec::Vec;

impl Device {
    /// The CUDA device with this ordinal.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`], saying which it is: no driver, a driver that does not start, no device, an
    /// ordinal that the machine does not have. [`DemoError::DeviceFailed`] where the driver refuses to work with it.
    pub fn cuda(ordinal: u32) -> Result<Device> {
        let gpu = gpu::get(ordinal)?;
        Ok(Device::of_driver(gpu.id(), gpu))
    }

    /// Every CUDA device of the machine, by ordinal.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`], as [`Device::cuda`] says it of ordinal 0. A machine without a device is an
    /// error and no empty list, so that a loop over the list cannot pass for work done. [`DemoError::DeviceFailed`] where the driver refuses
    /// to work with one of them; [`Device::cuda`] gives the others.
    pub fn cuda_all() -> Result<Vec<Device>> {
        let unavailable = |problem| DemoError::DeviceUnavailable { device: DeviceId::Cuda(0), problem };
        let devices = driver::driver().map_err(unavailable)?.devices;
        (0..devices).map(Device::cuda).collect()
    }
}
