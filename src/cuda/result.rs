//! The driver's codes in words: what each means and what to do. Asks the driver for nothing, so that formatting cannot fail.

#![forbid(unsafe_code)]

use crate::error::{DemoError, DeviceId};
use core::ffi::c_int;
use cudarc::driver::sys::CUresult;

/// A call that the driver refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    /// The driver's function.
    pub(super) call: &'static str,
    pub(super) code: c_int,
}

pub(super) const OUT_OF_MEMORY: c_int = CUresult::CUDA_ERROR_OUT_OF_MEMORY as c_int;
pub(super) const CAPTURED: c_int = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED as c_int;
pub(super) const INVALID_HANDLE: c_int = CUresult::CUDA_ERROR_INVALID_HANDLE as c_int;
pub(super) const NOT_READY: c_int = CUresult::CUDA_ERROR_NOT_READY as c_int;
/// This process is the fork of one that started the driver. No code of the driver's.
pub(super) const FORKED: c_int = -1;

impl Refused {
    /// Whether there was no memory, and nothing else is wrong.
    pub(super) fn is_out_of_memory(self) -> bool {
        self.code == OUT_OF_MEMORY
    }

    /// The error that programs see.
    pub(super) fn on(self, ordinal: u32) -> DemoError {
        let device = DeviceId::Cuda(ordinal);
        if self.code == FORKED {
            return DemoError::DeviceUnavailable { device, problem: IS_FORKED };
        }
        let (name, advice) = words(self.code);
        DemoError::DeviceFailed { device, call: self.call, name, code: self.code, advice }
    }
}

/// What a forked process is told.
pub(super) const IS_FORKED: &str = "this process was forked after its parent had started the CUDA driver, which does not survive that; \
     start it anew (spawn, not fork), or fork before the first use of a device";

/// The driver's name for a code, and advice.
pub(super) fn words(code: c_int) -> (&'static str, &'static str) {
    const fn is(code: CUresult) -> c_int {
        code as c_int
    }
    macro_rules! codes {
        ($($name:ident: $advice:expr,)*) => {{
            $(#[allow(non_upper_case_globals)] const $name: c_int = is(CUresult::$name);)*
            match code {
                $($name => (stringify!($name), $advice),)*
                _ => ("a code of this driver's own", UNKNOWN),
            }
        }};
    }
    codes! {
        CUDA_ERROR_INVALID_VALUE: "an argument cannot be; this is a bug here, or memory of another owner was handed in",
        CUDA_ERROR_OUT_OF_MEMORY: "the driver found no memory; free some, or see with nvidia-smi who holds it",
        CUDA_ERROR_NOT_INITIALIZED: "the driver was not started in this process",
        CUDA_ERROR_DEINITIALIZED: "the process is ending, and the driver with it; free devices' memory before",
        CUDA_ERROR_STUB_LIBRARY: "the library found is the toolkit's stub and no driver; install the NVIDIA driver",
        CUDA_ERROR_DEVICE_UNAVAILABLE: "the device is busy or in exclusive use by another process",
        CUDA_ERROR_NO_DEVICE: "the CUDA driver sees no device",
        CUDA_ERROR_INVALID_DEVICE: "there is no device of this ordinal; they count from 0",
        CUDA_ERROR_INVALID_CONTEXT: "the device's context is gone: somebody destroyed or reset it",
        CUDA_ERROR_ECC_UNCORRECTABLE: "the device's memory is damaged; reset the device and start the program anew",
        CUDA_ERROR_INVALID_HANDLE: "a stream or event is gone: somebody destroyed it while it was in use",
        CUDA_ERROR_ILLEGAL_ADDRESS: "a kernel touched memory that is not its own, and the device's context is lost; start the program anew",
        CUDA_ERROR_LAUNCH_FAILED: "a kernel failed, and the device's context is lost; start the program anew",
        CUDA_ERROR_LAUNCH_TIMEOUT: "a kernel took too long, and the device's context is lost; start the program anew",
        CUDA_ERROR_HARDWARE_STACK_ERROR: "a kernel's stack is damaged, and the device's context is lost; start the program anew",
        CUDA_ERROR_CONTEXT_IS_DESTROYED: "the device's context is gone: somebody destroyed or reset it",
        CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: "somebody else has pinned this memory",
        CUDA_ERROR_NOT_PERMITTED: "the driver does not allow that here",
        CUDA_ERROR_NOT_SUPPORTED: "the device or its driver cannot do that",
        CUDA_ERROR_SYSTEM_NOT_READY: "the system is not ready for CUDA; is the fabric manager running?",
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: "the driver's library and its kernel module are of different versions; reboot or install again",
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: "this cannot be done while a stream is captured into a graph; do it before the capture begins or after it ends",
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: "the stream's capture into a graph was broken off; end it, and begin anew",
        CUDA_ERROR_STREAM_CAPTURE_ISOLATION: "a stream that is captured into a graph cannot wait for work outside of the graph",
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT: "the default stream waits for one that is captured into a graph, which it cannot; use another, or capture a stream that does not wait for it",
        CUDA_ERROR_CAPTURED_EVENT: "the event was recorded while its stream was captured into a graph, and stands for nothing outside of that",
        CUDA_ERROR_UNKNOWN: UNKNOWN,
    }
}

const UNKNOWN: &str = "the driver says no more; see what nvidia-smi and the system's log say";

/// Why the driver does not start, in words.
pub(super) fn start(code: c_int) -> Result<(), &'static str> {
    const NONE: c_int = CUresult::CUDA_ERROR_NO_DEVICE as c_int;
    const STUB: c_int = CUresult::CUDA_ERROR_STUB_LIBRARY as c_int;
    const MISMATCH: c_int = CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH as c_int;
    Err(match code {
        0 => return Ok(()),
        NONE | STUB | MISMATCH => words(code).1,
        OUT_OF_MEMORY => "the CUDA driver found no memory to start in",
        _ => "the CUDA driver does not start; see what nvidia-smi says",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_refused_call_says_device_call_code_and_what_to_do() {
        let text = Refused { call: "cuMemCreate", code: 700 }.on(3).to_string();
        let parts =
            ["cuda:3", "cuMemCreate", "CUDA_ERROR_ILLEGAL_ADDRESS", "(700)", "start the program anew"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        let text = Refused { call: "cuInit", code: 12345 }.on(0).to_string();
        assert!(text.contains("12345") && text.contains("nvidia-smi"), "{text}");
        let text = Refused { call: "fork", code: FORKED }.on(1).to_string();
        assert!(text.contains("cuda:1") && text.contains("fork"), "{text}");
    }
}
