//! Blocks by address, for whoever keeps account of them: a C interface, another framework's allocator.
//!
//! Streams are named by the driver's handles, and each that was named once is kept account of for good.

use super::block::ALIGN;
use super::gpu::{self, Gpu};
use super::stream::Stream;
use crate::device::Device;
use crate::device::handover::Slots;
use crate::error::{BadFree, Result};
use crate::sync::{HostLock, Lock};
use core::alloc::Layout;
use std::vec::Vec;

/// The streams that were named so far, over all devices.
static STREAMS: Lock<HostLock, Vec<Stream>> = Lock::new(Vec::new());

/// `bytes` of device memory, aligned to 256, for use on a stream: its address. Zero bytes are no block: address 0.
///
/// # Errors
/// [`DemoError::OutOfMemory`](crate::DemoError::OutOfMemory) after everything reclaimable was given back,
/// [`DemoError::DeviceUnavailable`](crate::DemoError::DeviceUnavailable) and
/// [`DemoError::DeviceFailed`](crate::DemoError::DeviceFailed) as for a tensor.
///
/// # Safety
/// `stream` is a stream of that device, or 0 for its default one, and lives as long as the process uses the device.
pub unsafe fn allocate(bytes: usize, ordinal: u32, stream: usize) -> Result<u64> {
    if bytes == 0 {
        return Ok(0);
    }
    let gpu = gpu::get(ordinal)?;
    let Ok(layout) = Layout::from_size_align(bytes, ALIGN) else {
        return Err(super::shortage::refused(gpu, bytes as u64));
    };
    // SAFETY: 1. The caller's promise.
    let stream = unsafe { known(gpu, stream) }?;
    Ok(gpu.allocate(layout, &stream.0)?.0)
}

/// Gives back a block of [`allocate`]. Work that is queued on `stream` may still use it. Address 0 is no block.
///
/// # Errors
/// [`DemoError::BadFree`](crate::DemoError::BadFree) where no block of that size is live there, or where it was freed on the same stream
/// already. A block that was freed on another stream and lies in its cache is still one for this test: what is freed twice so is
/// found when the caches give it back.
///
/// # Safety
/// 1. As [`allocate`]. 2. All work that uses the block was queued on `stream`, or `stream` waits for it.
pub unsafe fn free(at: u64, bytes: usize, ordinal: u32, stream: usize) -> Result<()> {
    if at == 0 {
        return Ok(());
    }
    let gpu = gpu::get(ordinal)?;
    let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| BadFree::Foreign)?;
    let held_bytes = gpu.memory.usable_bytes(at)?;
    if !gpu.memory.is_size_of(layout, held_bytes) {
        return Err(BadFree::WrongSize { offset_bytes: at, held_bytes, given_bytes: bytes as u64 }.into());
    }
    // SAFETY: 1. The caller's promise.
    let stream = unsafe { known(gpu, stream) }?;
    if gpu.is_cached(at, layout, &stream.0) {
        return Err(BadFree::AlreadyFree { offset_bytes: at }.into());
    }
    gpu.give(at, layout, held_bytes, &stream.0, Slots::NONE);
    Ok(())
}

/// The stream of a handle.
///
/// # Safety
/// It is one of that device, and lives for good.
unsafe fn known(gpu: &'static Gpu, handle: usize) -> Result<Stream> {
    if handle == 0 {
        return Ok(gpu.default_stream().clone());
    }
    let mut streams = STREAMS.lock();
    let found = streams.iter().find(|stream| stream.0.handle == handle && core::ptr::eq(stream.0.gpu, gpu));
    if let Some(stream) = found {
        return Ok(stream.clone());
    }
    let device = Device::of_driver(gpu.id(), gpu);
    // SAFETY: 1. The caller's promise.
    let stream = unsafe { Stream::from_raw(&device, handle) }?;
    streams.push(stream.clone());
    Ok(stream)
}
