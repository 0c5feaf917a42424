//! Where a tensor's bytes live.
//!
//! A [`Device`] is a value: it is chosen at run time, kept beside the tensors that live on it, and printed. Having one
//! means that it can be used; everything that can be wrong with a device is said where it is asked for.
//!
//! What a device can do is a [`Backend`], which the room of its driver implements, so that nothing here imports that room.

#![forbid(unsafe_code)]

pub mod handover;
#[cfg(feature = "std")]
mod memory;

#[cfg(feature = "std")]
pub(crate) use memory::{Backend, DeviceMemory};

use crate::error::DeviceId;
#[cfg(not(feature = "cuda"))]
use crate::error::{DemoError, Result};
use core::any::Any;
use core::fmt;
use core::hash::{Hash, Hasher};
#[cfg(all(feature = "std", not(feature = "cuda")))]
use std::vec::Vec;

/// A device that memory can be taken from.
///
/// ```
/// use democratising::Device;
///
/// let device = Device::cuda(0).unwrap_or(Device::host());
/// println!("working on {device}");
/// ```
#[derive(Clone)]
pub struct Device {
    id: DeviceId,
    #[cfg(feature = "std")]
    backend: Option<&'static dyn Backend>,
}

/// An order in which a device does its work: a stream. `cuda::Stream` is one.
pub trait Queue: Any + Send + Sync {
    /// The device whose work it orders.
    fn device(&self) -> DeviceId;
}

impl Device {
    /// The machine's own memory.
    pub const fn host() -> Device {
        Device {
            id: DeviceId::Host,
            #[cfg(feature = "std")]
            backend: None,
        }
    }

    /// Which memory this is.
    pub const fn id(&self) -> DeviceId {
        self.id
    }

    /// Whether the processor can touch the bytes.
    pub const fn is_host(&self) -> bool {
        matches!(self.id, DeviceId::Host)
    }

    /// A device that its driver's room answers for.
    #[cfg(feature = "cuda")]
    pub(crate) fn of_driver(id: DeviceId, backend: &'static dyn Backend) -> Device {
        Device { id, backend: Some(backend) }
    }

    /// What the device can do; `None` on the host.
    #[cfg(feature = "std")]
    pub(crate) fn backend(&self) -> Option<&'static dyn Backend> {
        self.backend
    }
}

impl Default for Device {
    fn default() -> Device {
        Device::host()
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        self.id == other.id
    }
}

impl Eq for Device {}

impl Hash for Device {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("id", &self.id).finish()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}

/// The same functions with a driver behind them are in `cuda`, so that nothing here imports it.
#[cfg(not(feature = "cuda"))]
impl Device {
    /// The CUDA device with this ordinal.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`], always: this build has no CUDA. Enable the feature `cuda`.
    pub fn cuda(ordinal: u32) -> Result<Device> {
        Err(not_built(ordinal))
    }

    /// Every CUDA device of the machine, by ordinal.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`], always: this build has no CUDA. Enable the feature `cuda`.
    #[cfg(feature = "std")]
    pub fn cuda_all() -> Result<Vec<Device>> {
        Err(not_built(0))
    }
}

#[cfg(not(feature = "cuda"))]
fn not_built(ordinal: u32) -> DemoError {
    DemoError::DeviceUnavailable {
        device: DeviceId::Cuda(ordinal),
        problem: "this build has no CUDA; build with the feature `cuda`",
    }
}
