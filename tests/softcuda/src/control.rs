//! What tests ask: how often the driver was called, what is held, and that a call may fail.

use crate::state::{Code, lock};
use std::ffi::{CStr, c_char};

/// Calls of the driver so far.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_calls() -> u64 {
    lock().calls
}

/// Calls of one function so far.
///
/// # Safety
/// `name` is a string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn softcuda_calls_of(name: *const c_char) -> u64 {
    // SAFETY: 1. The caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    lock().calls_of.get(&*name).copied().unwrap_or(0)
}

/// Nanoseconds of processor time spent in the driver so far.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_busy_ns() -> u64 {
    lock().busy.as_nanos() as u64
}

/// Fails the `n`-th call from now on, and `more` behind it, with `code`; 0 ends it.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_fail_in(n: u64, more: u64, code: Code) {
    let mut state = lock();
    state.fail_in = n;
    state.fail_more = if n > 0 { more } else { 0 };
    state.fail_code = code;
    state.failed = None;
}

/// Refuses the next `times` calls of a function with `code`; 0 ends it.
///
/// # Safety
/// `name` is a string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn softcuda_refuse(name: *const c_char, times: u64, code: Code) {
    // SAFETY: 1. The caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    lock().refusing = Some((name, times, code));
}

/// Whether the call that was to fail has come.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_has_failed() -> bool {
    lock().failed.is_some()
}

/// The name of the call that was made to fail, into `out`, which ends with a zero.
///
/// # Safety
/// `out` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn softcuda_failed(out: *mut c_char, room: usize) {
    let name = lock().failed.unwrap_or("");
    let bytes = &name.as_bytes()[..name.len().min(room.saturating_sub(1))];
    // SAFETY: 1. There is room: the caller's promise.
    unsafe {
        std::ptr::copy(bytes.as_ptr(), out.cast(), bytes.len());
        *out.add(bytes.len()) = 0;
    }
}

/// Every call with this device's context fails from now on.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_lose(device: usize, lost: bool) {
    if let Some(device) = lock().devices.get_mut(device) {
        device.lost = lost;
    }
}

/// Bytes of physical memory that are held on a device.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_used_bytes(device: usize) -> u64 {
    lock().devices.get(device).map_or(0, |device| device.used_bytes as u64)
}

/// What is held: 0 handles, 1 mappings, 2 reservations, 3 `cuMemAlloc`, 4 pinned ranges, 5 streams, 6 events.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_held(what: u32) -> u64 {
    let state = lock();
    let held = match what {
        0 => state.handles.len(),
        1 => state.mappings.len(),
        2 => state.reservations.len(),
        3 => state.allocations.len(),
        4 => state.pinned.len(),
        5 => state.streams.values().filter(|stream| !stream.destroyed).count() - state.devices.len(),
        6 => state.events.values().filter(|event| !event.hidden).count(),
        _ => 0,
    };
    held as u64
}

/// How often memory went away under queued work, or queued work found its memory gone.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_violations() -> u64 {
    lock().violations
}

/// Work that is queued, in all streams.
#[unsafe(no_mangle)]
pub extern "C" fn softcuda_queued() -> u64 {
    lock().streams.values().map(|stream| stream.queue.len() as u64).sum()
}
