//! The driver's functions but for virtual memory, as its header declares them.

// Every function here writes through pointers that its caller says are good, as the real driver does.
#![allow(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

use crate::state::{
    ALREADY_REGISTERED, CAPTURE_INVALIDATED, CAPTURE_ISOLATION, CAPTURE_MODE, CAPTURE_UNSUPPORTED,
    CAPTURED_EVENT, INVALID_HANDLE, INVALID_VALUE, NO_DEVICE, NOT_INITIALIZED, NOT_READY, NOT_REGISTERED,
    OUT_OF_MEMORY, PEER_ALREADY, context_of, current_context, null_stream, set_context,
};
use crate::work::{Capture, Event, Stream, Work};
use std::ffi::{c_char, c_int, c_uint, c_void};

type R = c_int;

macro_rules! api {
    ($($(#[$doc:meta])* fn $name:ident($state:ident $(, $argument:ident: $type:ty)* $(,)?) $body:block)*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> R {
            $crate::state::call(stringify!($name), |$state| $body)
        }
    )* };
}
pub(crate) use api;

api! {
    fn cuInit(state, _flags: c_uint) {
        if state.devices.is_empty() { return Err(NO_DEVICE) }
        state.started = true;
        Ok(())
    }
    fn cuDriverGetVersion(_state, version: *mut c_int) {
        *version = 12_080;
        Ok(())
    }
    fn cuDeviceGetCount(state, count: *mut c_int) {
        if !state.started { return Err(NOT_INITIALIZED) }
        *count = state.devices.len() as c_int;
        Ok(())
    }
    fn cuDeviceGet(state, device: *mut c_int, ordinal: c_int) {
        if !state.started { return Err(NOT_INITIALIZED) }
        state.ordinal(ordinal)?;
        *device = ordinal;
        Ok(())
    }
    fn cuDeviceGetName(state, name: *mut c_char, room: c_int, device: c_int) {
        let text = format!("softcuda {}\0", state.ordinal(device)?);
        let bytes = text.len().min(room.max(0) as usize);
        std::ptr::copy(text.as_ptr(), name.cast(), bytes);
        Ok(())
    }
    fn cuDeviceGetUuid_v2(state, uuid: *mut u8, device: c_int) {
        std::ptr::write_bytes(uuid, state.ordinal(device)? as u8 + 1, 16);
        Ok(())
    }
    fn cuDeviceTotalMem_v2(state, bytes: *mut usize, device: c_int) {
        state.ordinal(device)?;
        *bytes = state.settings.memory_bytes;
        Ok(())
    }
    fn cuDeviceGetAttribute(state, value: *mut c_int, attribute: c_int, device: c_int) {
        state.ordinal(device)?;
        *value = match attribute {
            1 => 1024,
            10 => 32,
            16 => 132,
            41 => 1,
            75 => 9,
            // Virtual memory management.
            102 => state.settings.vmm as c_int,
            // Stream-ordered memory pools.
            115 => 1,
            _ => 0,
        };
        Ok(())
    }
    fn cuDevicePrimaryCtxRetain(state, context: *mut u64, device: c_int) {
        let device = state.ordinal(device)?;
        state.devices[device].primary += 1;
        *context = context_of(device);
        Ok(())
    }
    fn cuDevicePrimaryCtxRelease_v2(state, device: c_int) {
        let device = state.ordinal(device)?;
        state.devices[device].primary -= 1;
        Ok(())
    }
    fn cuCtxGetCurrent(_state, context: *mut u64) {
        *context = current_context();
        Ok(())
    }
    fn cuCtxSetCurrent(state, context: u64) {
        if context != 0 { state.device_of(context)?; }
        set_context(context);
        Ok(())
    }
    fn cuCtxGetDevice(state, device: *mut c_int) {
        *device = state.current()? as c_int;
        Ok(())
    }
    fn cuCtxSynchronize(state) {
        let device = state.current()?;
        state.drain_device(device)
    }
    fn cuMemGetInfo_v2(state, free: *mut usize, total: *mut usize) {
        let device = state.current()?;
        *total = state.settings.memory_bytes;
        *free = state.settings.memory_bytes - state.devices[device].used_bytes;
        Ok(())
    }
    fn cuMemAlloc_v2(state, at: *mut u64, bytes: usize) {
        let device = state.current()?;
        *at = state.allocate(device, bytes)?;
        Ok(())
    }
    /// Waits for the device, as the real one does.
    fn cuMemFree_v2(state, at: u64) {
        if at == 0 { return Ok(()) }
        let device = state.current()?;
        state.drain_device(device)?;
        state.free(at)
    }
    fn cuMemAllocAsync(state, at: *mut u64, bytes: usize, stream: u64) {
        let stream = state.stream(stream)?;
        let device = state.streams[&stream].device;
        *at = if bytes == 0 { 0 } else { state.allocate(device, bytes)? };
        Ok(())
    }
    fn cuMemFreeAsync(state, at: u64, stream: u64) {
        if at == 0 { return Ok(()) }
        if !state.allocations.contains_key(&at) { return Err(INVALID_VALUE) }
        state.put(stream, Work::Free { at })
    }
    fn cuMemcpyHtoDAsync_v2(state, to: u64, from: *const c_void, bytes: usize, stream: u64) {
        if !state.can_touch(to, bytes) { return Err(INVALID_VALUE) }
        let from = from as u64;
        let pinned = state.pinned.range(..=from).next_back();
        match pinned.map(|(start, (len, _))| start + *len as u64).filter(|end| from < *end) {
            Some(end) if from + bytes as u64 <= end => state.put(stream, Work::Copy { to, from, bytes }),
            // A copy that leaves its pinned range is refused.
            Some(_) => Err(INVALID_VALUE),
            None => {
                let bytes = std::slice::from_raw_parts(from as *const u8, bytes).to_vec();
                state.put(stream, Work::Write { to, bytes })
            }
        }
    }
    fn cuMemcpyDtoHAsync_v2(state, to: *mut c_void, from: u64, bytes: usize, stream: u64) {
        if !state.can_touch(from, bytes) { return Err(INVALID_VALUE) }
        let to = to as u64;
        state.put(stream, Work::Copy { to, from, bytes })?;
        let pinned = state.pinned.range(..=to).next_back().is_some_and(|(start, (len, _))| to < start + *len as u64);
        if pinned { return Ok(()) }
        let stream = state.stream(stream)?;
        state.drain(stream)
    }
    fn cuMemcpyHtoD_v2(state, to: u64, from: *const c_void, bytes: usize) {
        if !state.can_touch(to, bytes) { return Err(INVALID_VALUE) }
        let bytes = std::slice::from_raw_parts(from as *const u8, bytes).to_vec();
        let null = null_stream(state.current()?);
        state.put(0, Work::Write { to, bytes })?;
        state.drain(null)
    }
    fn cuMemcpyDtoH_v2(state, to: *mut c_void, from: u64, bytes: usize) {
        if !state.can_touch(from, bytes) { return Err(INVALID_VALUE) }
        let null = null_stream(state.current()?);
        state.put(0, Work::Copy { to: to as u64, from, bytes })?;
        state.drain(null)
    }
    fn cuMemcpyDtoDAsync_v2(state, to: u64, from: u64, bytes: usize, stream: u64) {
        if !state.can_touch(to, bytes) || !state.can_touch(from, bytes) { return Err(INVALID_VALUE) }
        state.put(stream, Work::Copy { to, from, bytes })
    }
    fn cuMemcpyPeerAsync(state, to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize, stream: u64) {
        state.device_of(to_context)?;
        state.device_of(from_context)?;
        if !state.can_touch(to, bytes) || !state.can_touch(from, bytes) { return Err(INVALID_VALUE) }
        state.put(stream, Work::Copy { to, from, bytes })
    }
    fn cuMemsetD8Async(state, to: u64, value: u8, bytes: usize, stream: u64) {
        if !state.can_touch(to, bytes) { return Err(INVALID_VALUE) }
        state.put(stream, Work::Fill { to, pattern: vec![value], times: bytes })
    }
    fn cuMemsetD32Async(state, to: u64, value: c_uint, times: usize, stream: u64) {
        if !state.can_touch(to, 4 * times) { return Err(INVALID_VALUE) }
        state.put(stream, Work::Fill { to, pattern: value.to_ne_bytes().to_vec(), times })
    }
    fn cuMemHostAlloc(state, at: *mut u64, bytes: usize, _flags: c_uint) {
        let bytes = bytes.max(1);
        let block = libc::calloc(1, bytes) as u64;
        if block == 0 { return Err(OUT_OF_MEMORY) }
        state.pinned.insert(block, (bytes, true));
        *at = block;
        Ok(())
    }
    fn cuMemFreeHost(state, at: u64) {
        if !state.pinned.get(&at).is_some_and(|(_, own)| *own) { return Err(INVALID_VALUE) }
        state.pinned.remove(&at);
        libc::free(at as *mut c_void);
        Ok(())
    }
    fn cuMemHostRegister_v2(state, at: *mut c_void, bytes: usize, _flags: c_uint) {
        let (at, end) = (at as u64, at as u64 + bytes as u64);
        if bytes == 0 { return Err(INVALID_VALUE) }
        if state.pinned.range(..end).next_back().is_some_and(|(start, (len, _))| start + *len as u64 > at) {
            return Err(ALREADY_REGISTERED)
        }
        state.pinned.insert(at, (bytes, false));
        Ok(())
    }
    fn cuMemHostUnregister(state, at: *mut c_void) {
        let at = at as u64;
        if state.pinned.get(&at).is_none_or(|(_, own)| *own) { return Err(NOT_REGISTERED) }
        if let Some((bytes, _)) = state.pinned.remove(&at) { state.note_violations(at, bytes); }
        Ok(())
    }
    fn cuStreamCreate(state, stream: *mut u64, flags: c_uint) {
        let device = state.current()?;
        *stream = state.id();
        state.streams.insert(*stream, Stream::new(device, flags & 1 == 0));
        Ok(())
    }
    fn cuStreamCreateWithPriority(state, stream: *mut u64, flags: c_uint, _priority: c_int) {
        let device = state.current()?;
        *stream = state.id();
        state.streams.insert(*stream, Stream::new(device, flags & 1 == 0));
        Ok(())
    }
    fn cuStreamDestroy_v2(state, stream: u64) {
        if stream <= 2 { return Err(INVALID_HANDLE) }
        let ended = state.streams.get_mut(&stream).filter(|stream| !stream.destroyed).ok_or(INVALID_HANDLE)?;
        ended.destroyed = true;
        state.forget_ended(stream);
        Ok(())
    }
    fn cuStreamSynchronize(state, stream: u64) {
        let stream = state.stream(stream)?;
        if state.invalidate(|id, _| id == stream) { return Err(CAPTURE_UNSUPPORTED) }
        state.order_and_drain(stream)
    }
    fn cuStreamBeginCapture_v2(state, stream: u64, mode: c_int) {
        if stream <= 2 || state.is_captured(stream) { return Err(CAPTURE_UNSUPPORTED) }
        state.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?.capture = Some(Capture { mode, invalid: false });
        Ok(())
    }
    fn cuStreamEndCapture(state, stream: u64, graph: *mut u64) {
        let capture = state.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?.capture.take().ok_or(INVALID_VALUE)?;
        *graph = 0;
        if capture.invalid { return Err(CAPTURE_INVALIDATED) }
        *graph = state.id();
        Ok(())
    }
    fn cuStreamIsCapturing(state, stream: u64, status: *mut c_int) {
        let stream = state.stream(stream)?;
        *status = state.streams[&stream].capture.map_or(0, |capture| 1 + capture.invalid as c_int);
        Ok(())
    }
    fn cuThreadExchangeStreamCaptureMode(_state, mode: *mut c_int) {
        *mode = CAPTURE_MODE.replace(*mode);
        Ok(())
    }
    fn cuStreamQuery(state, stream: u64) {
        let stream = state.stream(stream)?;
        if state.streams[&stream].queue.is_empty() { Ok(()) } else { Err(NOT_READY) }
    }
    fn cuStreamWaitEvent(state, stream: u64, event: u64, _flags: c_uint) {
        let known = state.events.get(&event).filter(|event| !event.destroyed).ok_or(INVALID_HANDLE)?;
        let (turn, captured) = (known.issued, known.captured);
        if turn == 0 { return Ok(()) }
        let waiting = state.stream(stream)?;
        if state.is_captured(waiting) && !captured {
            state.invalidate(|id, _| id == waiting);
            return Err(CAPTURE_ISOLATION)
        }
        if captured && !state.is_captured(waiting) {
            // It joins the capture, and runs nothing any more.
            state.streams.get_mut(&waiting).ok_or(INVALID_HANDLE)?.capture = Some(Capture { mode: 0, invalid: false });
        }
        state.put(stream, Work::Wait { event, turn })
    }
    fn cuEventCreate(state, event: *mut u64, _flags: c_uint) {
        state.current()?;
        *event = state.id();
        state.events.insert(*event, Event::default());
        Ok(())
    }
    /// Legal while work waits for it: the record and the waits stay in force.
    fn cuEventDestroy_v2(state, event: u64) {
        let held = state.events.get_mut(&event).filter(|event| !event.destroyed).ok_or(INVALID_HANDLE)?;
        held.destroyed = true;
        state.sweep(event);
        Ok(())
    }
    fn cuEventRecord(state, event: u64, stream: u64) {
        state.stream(stream)?;
        let held = state.events.get_mut(&event).filter(|event| !event.destroyed).ok_or(INVALID_HANDLE)?;
        held.issued += 1;
        let turn = held.issued;
        state.put(stream, Work::Record { event, turn })
    }
    fn cuEventQuery(state, event: u64) {
        let event = state.events.get(&event).filter(|event| !event.destroyed).ok_or(INVALID_HANDLE)?;
        if event.captured { return Err(CAPTURED_EVENT) }
        if event.done < event.issued { Err(NOT_READY) } else { Ok(()) }
    }
    fn cuEventSynchronize(state, event: u64) {
        let known = state.events.get(&event).filter(|event| !event.destroyed).ok_or(INVALID_HANDLE)?;
        if known.captured { return Err(CAPTURED_EVENT) }
        let turn = known.issued;
        state.run_until(event, turn)
    }
    fn cuEventElapsedTime(_state, ms: *mut f32, _from: u64, _to: u64) {
        *ms = 0.0;
        Ok(())
    }
    fn cuEventElapsedTime_v2(_state, ms: *mut f32, _from: u64, _to: u64) {
        *ms = 0.0;
        Ok(())
    }
    fn cuDeviceCanAccessPeer(state, can: *mut c_int, device: c_int, peer: c_int) {
        let (device, peer) = (state.ordinal(device)?, state.ordinal(peer)?);
        *can = (state.settings.peer && device != peer) as c_int;
        Ok(())
    }
    fn cuCtxEnablePeerAccess(state, context: u64, _flags: c_uint) {
        let peer = state.device_of(context)?;
        if peer == state.current()? { return Err(PEER_ALREADY) }
        Ok(())
    }
    fn cuDeviceGetDefaultMemPool(state, pool: *mut u64, device: c_int) {
        *pool = 0x9000 + state.ordinal(device)? as u64;
        Ok(())
    }
    fn cuMemPoolSetAttribute(_state, _pool: u64, _attribute: c_int, _value: *mut c_void) { Ok(()) }
    fn cuMemPoolTrimTo(_state, _pool: u64, _bytes: usize) { Ok(()) }
    fn cuGetErrorName(_state, code: c_int, name: *mut *const c_char) {
        *name = match code { 0 => c"CUDA_SUCCESS", 1 => c"CUDA_ERROR_INVALID_VALUE", 2 => c"CUDA_ERROR_OUT_OF_MEMORY", _ => c"CUDA_ERROR_UNKNOWN" }.as_ptr();
        Ok(())
    }
    fn cuGetErrorString(_state, _code: c_int, text: *mut *const c_char) {
        *text = c"an error of the software driver".as_ptr();
        Ok(())
    }
}

impl crate::state::State {
    /// Waits for a stream, the null stream's order with the others included.
    fn order_and_drain(&mut self, stream: u64) -> crate::state::Answer {
        if self.streams[&stream].device < self.devices.len()
            && stream == null_stream(self.streams[&stream].device)
        {
            // The null stream waits for every blocking stream.
            let device = self.streams[&stream].device;
            let blocking: Vec<u64> = self
                .streams
                .iter()
                .filter(|(_, other)| other.device == device && other.blocking)
                .map(|(id, _)| *id)
                .collect();
            for other in blocking {
                self.drain(other)?;
            }
        }
        self.drain(stream)
    }
}
