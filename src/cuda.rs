//! CUDA devices, through the driver that the machine has.
//!
//! The driver is a library loaded at run time. Whether it is there and sees devices is asked without cudarc's functions:
//! cudarc panics when the library is missing (even while it formats an error), and versions of it also when the driver is
//! older than its bindings. Of cudarc the names of the driver's error codes are used.

use crate::device::Device;
use crate::error::{DemoError, DeviceId, Result};
use core::ffi::{c_int, c_uint};
use cudarc::driver::sys::CUresult;
use libloading::{Library, Symbol};
use std::mem::ManuallyDrop;
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

/// The names that drivers are installed under.
const LIBRARIES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// How many devices the driver has: at least one.
fn count() -> Result<u32, &'static str> {
    // SAFETY: 1. Loading runs the library's constructors, and that is what asking for the CUDA driver means: whoever
    // enables the feature trusts the system's own.
    let library = LIBRARIES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    // It is never unloaded: a driver that was started keeps threads and handlers in the process.
    let Some(library) = library.map(ManuallyDrop::new) else {
        return Err("the CUDA driver's library is not installed; install the NVIDIA driver");
    };
    const NO_DRIVER: &str =
        "the library found under the CUDA driver's name is no CUDA driver; install the NVIDIA driver";

    // SAFETY: 1. Both have had this signature since the driver's first version, and always will:
    // cuInit(unsigned) and cuDeviceGetCount(int *).
    let (init, get_count): (
        Symbol<'_, unsafe extern "C" fn(c_uint) -> c_int>,
        Symbol<'_, unsafe extern "C" fn(*mut c_int) -> c_int>,
    ) = unsafe {
        (
            library.get(b"cuInit\0").map_err(|_| NO_DRIVER)?,
            library.get(b"cuDeviceGetCount\0").map_err(|_| NO_DRIVER)?,
        )
    };
    // SAFETY: 1. The flags have to be 0. 2. It may be called from any thread, and again.
    checked(unsafe { init(0) })?;
    let mut devices = 0;
    // SAFETY: 1. The driver is started. 2. The pointer is to an integer of ours.
    checked(unsafe { get_count(&mut devices) })?;
    match devices {
        ..=0 => Err(NO_DEVICE),
        devices => Ok(devices as u32),
    }
}

const NO_DEVICE: &str = "the CUDA driver sees no device";

/// The driver's code in words.
fn checked(code: c_int) -> Result<(), &'static str> {
    const fn is(code: CUresult) -> c_int {
        code as c_int
    }
    const NONE: c_int = is(CUresult::CUDA_ERROR_NO_DEVICE);
    const STUB: c_int = is(CUresult::CUDA_ERROR_STUB_LIBRARY);
    const MISMATCH: c_int = is(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
    const MEMORY: c_int = is(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    Err(match code {
        0 => return Ok(()),
        NONE => NO_DEVICE,
        STUB => "the library found is the toolkit's stub and no driver; install the NVIDIA driver",
        MISMATCH => {
            "the driver's library and its kernel module are of different versions; reboot or install again"
        }
        MEMORY => "the CUDA driver found no memory to start in",
        _ => "the CUDA driver does not start; see what nvidia-smi says",
    })
}
