//! The command `info`: which memories this machine has.

#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::report::Output;
#[cfg(feature = "cuda")]
use crate::units::round;
use democratising::{DemoError, Device, Result};

/// Prints the host and every device; a machine without one says why, and that is no failure.
pub fn run() -> Result<(), Failure> {
    let mut text = format!(
        "democratising {}\nhost: frames of 2 MiB, mapped as they are needed\n",
        env!("CARGO_PKG_VERSION")
    );
    text += &devices(Device::cuda);
    Output::default().print(&text)
}

/// Every device by ordinal, up to the first that is not there; one that fails hides no other.
fn devices(get: impl Fn(u32) -> Result<Device>) -> String {
    let mut text = String::new();
    for ordinal in 0.. {
        match get(ordinal) {
            Ok(device) => text += &about(&device),
            Err(error @ DemoError::DeviceUnavailable { .. }) if ordinal == 0 => {
                return format!("cuda: none; {error}\n");
            }
            Err(DemoError::DeviceUnavailable { .. }) => break,
            Err(error) => text += &format!("{error}\n"),
        }
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;
    use democratising::DeviceId;

    #[test]
    fn a_device_that_fails_hides_no_other() {
        let list = devices(|ordinal| match ordinal {
            0 => Err(DemoError::DeviceFailed {
                device: DeviceId::Cuda(0),
                call: "cuDevicePrimaryCtxRetain",
                name: "CUDA_ERROR_ECC_UNCORRECTABLE",
                code: 214,
                advice: "reset it",
            }),
            1 => Ok(Device::host()),
            _ => Err(DemoError::DeviceUnavailable {
                device: DeviceId::Cuda(ordinal),
                problem: "there is none",
            }),
        });
        let lines: Vec<&str> = list.lines().collect();
        assert!(lines[0].starts_with("cuda:0: cuDevicePrimaryCtxRetain failed"), "{list}");
        assert!(lines.len() == 2 && lines[1].starts_with("host"), "{list}");
    }
}
