//! Blocks by address, for whoever keeps account of them: a C interface, another framework's allocator.
//!
//! Streams are named by the driver's handles, and each that was named once is kept account of for good.

use super::block::ALIGN;
use super::gpu::{self, Gpu};
use super::stream::Stream;
use super::taken::{self, Taken};
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
    let owner = unsafe { known(gpu, stream) }?.0.clone();
    let (at, held_bytes) = gpu.allocate(layout, &owner)?;
    taken::enter(at, Taken { owner: owner.clone(), held_bytes }).inspect_err(|_| {
        gpu.give(at, layout, held_bytes, &owner, &owner, Slots::NONE);
    })?;
    Ok(at)
}

/// Gives back a block of [`allocate`]. Work that is queued on `stream` may still use it: that is the stream on which it is used again at
/// once. Whichever it is, the block no longer counts for the one that it was taken on. Address 0 is no block.
///
/// # Errors
/// [`DemoError::BadFree`](crate::DemoError::BadFree) where no block of that size is live there, where it was freed already, on
/// whichever stream, and where it is no block of [`allocate`] but a tensor's.
///
/// # Safety
/// 1. As [`allocate`]. 2. All work that uses the block was queued on `stream`, or `stream` waits for it.
pub unsafe fn free(at: u64, bytes: usize, ordinal: u32, stream: usize) -> Result<()> {
    if at == 0 {
        return Ok(());
    }
    let gpu = gpu::get(ordinal)?;
    let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| BadFree::Foreign)?;
    // SAFETY: 1. The caller's promise.
    let stream = unsafe { known(gpu, stream) }?;
    let is_it = |held_bytes| gpu.memory.is_size_of(layout, held_bytes);
    let taken = taken::take_off(at, ordinal, is_it).map_err(|held_bytes| match held_bytes {
        Some(held_bytes) => BadFree::WrongSize { offset_bytes: at, held_bytes, given_bytes: bytes as u64 },
        None => not_taken(gpu, at),
    })?;
    gpu.give(at, layout, taken.held_bytes, &taken.owner, &stream.0, Slots::NONE);
    Ok(())
}

/// Why there is no block of [`allocate`] at an address.
#[cold]
fn not_taken(gpu: &Gpu, at: u64) -> BadFree {
    match gpu.memory.usable_bytes(at) {
        Err(why) => why,
        // To the pool what lies in a cache is live.
        Ok(_) if gpu.streams().iter().any(|stream| stream.cache.lock().holds(at)) => {
            BadFree::AlreadyFree { offset_bytes: at }
        }
        Ok(_) => BadFree::Foreign,
    }
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
