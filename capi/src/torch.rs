//! Device memory for PyTorch's `CUDAPluggableAllocator` and RMM's `CallbackMemoryResource`: see docs/pytorch.md.

use core::ffi::{c_int, c_void};
use heap::DemoError;
use heap::cuda::raw;

/// `bytes` of memory of a CUDA device for work on `stream` (`cudaStream_t`), aligned to 256; null where there is none, with the reason
/// on standard error. No bytes are null too.
///
/// # Safety
/// `stream` is a stream of that device, or null for its default one, and lives as long as the process uses the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn democratising_torch_alloc(
    bytes: isize,
    device: c_int,
    stream: *mut c_void,
) -> *mut c_void {
    let result = match (usize::try_from(bytes), u32::try_from(device)) {
        // SAFETY: 1. The caller's promise.
        (Ok(bytes), Ok(device)) => unsafe { raw::allocate(bytes, device, stream as usize) },
        _ => return told("democratising_torch_alloc", &"a size or an ordinal below 0"),
    };
    match result {
        Ok(at) => at as *mut c_void,
        Err(error) => told("democratising_torch_alloc", &error),
    }
}

/// Gives back what [`democratising_torch_alloc`] gave. Work that is queued on `stream` may still use it. A block that is not live, or not
/// of that size, is left as it is, with the reason on standard error. Null is no block.
///
/// # Safety
/// 1. As [`democratising_torch_alloc`]. 2. All work that uses the block was queued on `stream`, or `stream` waits for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn democratising_torch_free(
    at: *mut c_void,
    bytes: isize,
    device: c_int,
    stream: *mut c_void,
) {
    let result: Result<(), DemoError> = match (usize::try_from(bytes), u32::try_from(device)) {
        // SAFETY: 1. and 2. The caller's promise.
        (Ok(bytes), Ok(device)) => unsafe { raw::free(at as u64, bytes, device, stream as usize) },
        _ => {
            told("democratising_torch_free", &"a size or an ordinal below 0");
            return;
        }
    };
    if let Err(error) = result {
        told("democratising_torch_free", &error);
    }
}

/// Says what went wrong, since these signatures have no place for it.
fn told(function: &str, problem: &dyn core::fmt::Display) -> *mut c_void {
    use std::io::Write;
    // Where standard error is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{function}: {problem}");
    core::ptr::null_mut()
}
