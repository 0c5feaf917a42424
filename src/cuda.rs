//! CUDA devices, through the driver that the machine has.
//!
//! The driver is a library loaded at run time. cudarc panics when it is missing, even while it formats an error, so
//! the library is asked for first, and its error codes are compared, never printed by it.

use crate::device::Device;
use crate::error::{DemoError, DeviceId, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use std::vec::Vec;

impl Device {
    /// The CUDA device with this ordinal.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`], saying which it is: no driver, a driver that does not start, no device, an
    /// ordinal that the machine does not have, or a device that is there but cannot hold tensors in this version.
    pub fn cuda(ordinal: u32) -> Result<Device> {
        let unavailable = |problem| DemoError::DeviceUnavailable { device: DeviceId::Cuda(ordinal), problem };
        let devices = count().map_err(unavailable)?;
        if ordinal >= devices {
            return Err(unavailable("the machine has no CUDA device of this ordinal; they count from 0"));
        }
        Err(unavailable(NO_ARENA))
    }

    /// Every CUDA device of the machine, by ordinal.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`], as [`Device::cuda`] says it of ordinal 0. A machine without a device is an
    /// error and no empty list, so that a loop over the list cannot pass for work done.
    pub fn cuda_all() -> Result<Vec<Device>> {
        Device::cuda(0).map(|first| Vec::from([first]))
    }
}

/// Why a device that answers is refused all the same.
const NO_ARENA: &str = "the device is there, but this version keeps no memory on devices; use Device::host()";

/// How many devices the driver has: at least one.
fn count() -> Result<u32, &'static str> {
    // SAFETY: 1. It opens and closes a library by name. 2. Running that library's constructors is what asking for the
    // CUDA driver means; whoever enables the feature wants the system's own.
    if !unsafe { sys::is_culib_present() } {
        return Err("the CUDA driver's library is not installed; install the NVIDIA driver");
    }
    result::init().map_err(problem)?;
    match result::device::get_count().map_err(problem)? {
        ..=0 => Err("the CUDA driver sees no device"),
        devices => Ok(devices as u32),
    }
}

/// The driver's code in words.
fn problem(error: DriverError) -> &'static str {
    match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => "the CUDA driver sees no device",
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the library found is the toolkit's stub and no driver; install the NVIDIA driver"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the driver's library and its kernel module are of different versions; reboot or install again"
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "the CUDA driver found no memory to start in",
        _ => "the CUDA driver does not start; see what nvidia-smi says",
    }
}
