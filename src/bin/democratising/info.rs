//! The command `info`: which memories this machine has.

#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::report::Output;
#[cfg(feature = "cuda")]
use crate::units::round;
use democratising::Device;
use std::fmt::Write;

/// Prints the host and every device; a machine without one says why, and that is no failure.
pub fn run() -> Result<(), Failure> {
    let mut text = format!(
        "democratising {}\nhost: frames of 2 MiB, mapped as they are needed\n",
        env!("CARGO_PKG_VERSION")
    );
    match Device::cuda_all() {
        Ok(devices) => {
            for device in devices {
                // Writing to a string does not fail.
                let _ = write!(text, "{}", about(&device));
            }
        }
        Err(error) => {
            let _ = writeln!(text, "cuda: none; {error}");
        }
    }
    Output::default().print(&text)
}

#[cfg(feature = "cuda")]
fn about(device: &Device) -> String {
    let info = match democratising::cuda::get_device_info(device) {
        Ok(info) => info,
        Err(error) => return format!("{device}: {error}\n"),
    };
    let (major, minor) = (info.driver_version / 1000, info.driver_version % 1000 / 10);
    let way = if info.virtual_memory {
        "frames of 2 MiB, mapped and moved"
    } else {
        "ranges of the driver's allocator"
    };
    let memory = info.memory;
    format!(
        "{device}: {}, compute capability {}.{}, {} multiprocessors, driver {major}.{minor}\n  {} of {} free, limit {}, {} \
         reserved, {} in use; {way}\n",
        info.name,
        info.capability.0,
        info.capability.1,
        info.multiprocessors,
        round(memory.free),
        round(memory.total),
        round(memory.limit),
        round(memory.reserved),
        round(memory.in_use)
    )
}

#[cfg(not(feature = "cuda"))]
fn about(device: &Device) -> String {
    format!("{device}\n")
}
