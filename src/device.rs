//! Where a tensor's bytes live.
//!
//! A [`Device`] is a value: it is chosen at run time, kept beside the tensors that live on it, and printed. Having one
//! means that it can be used; everything that can be wrong with a device is said where it is asked for.

#![forbid(unsafe_code)]

use crate::error::DeviceId;
#[cfg(not(feature = "cuda"))]
use crate::error::{DemoError, Result};
use core::fmt;
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
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Device {
    id: DeviceId,
}

impl Device {
    /// The machine's own memory.
    pub const fn host() -> Device {
        Device { id: DeviceId::Host }
    }

    /// Which memory this is.
    pub const fn id(&self) -> DeviceId {
        self.id
    }

    /// Whether the processor can touch the bytes.
    pub const fn is_host(&self) -> bool {
        matches!(self.id, DeviceId::Host)
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
