//! One device's driver calls, each with its arguments' promises, made with the device's own context whatever the caller's is.

use super::driver::{Driver, not_forked, with_device};
use super::result::{CAPTURED, NOT_READY, Refused};
use super::sys::{Access, Address, Functions, Handle, Properties, Virtual};
use crate::error::Result;
use crate::sync::Cell;
use core::ffi::{c_char, c_int, c_void};
use core::ptr::NonNull;
use std::string::String;

/// A device's primary context, kept for good: it is shared with whoever else uses the device.
pub(super) struct Context {
    driver: &'static Driver,
    device: c_int,
    handle: Handle,
}

std::thread_local! {
    /// The context that this thread is in already, between the first call of an operation and its last; 0 outside.
    static WITHIN: Cell<Handle> = const { Cell::new(0) };
}

/// The device's context is current, until this is dropped; then the caller's is again.
pub(super) struct Entered<'a> {
    driver: &'a Driver,
    before: Option<Handle>,
    within: Handle,
    /// What this thread may do beside a stream that is captured, when it may again do no more than before.
    mode: Option<c_int>,
}

impl Entered<'_> {
    /// Until this is dropped, what the driver calls unsafe beside any stream that is captured (memory, and looking at events) does not
    /// break that capture off: nothing of it touches what is captured. A driver that refuses refuses the next call, too.
    fn relaxed(mut self) -> Self {
        let mut mode = RELAXED;
        if let Some(capture) = &self.driver.capture
            // SAFETY: 1. The pointer is to an integer of ours.
            && unsafe { (capture.exchange_mode)(&mut mode) } == 0
        {
            self.mode = Some(mode);
        }
        self
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        WITHIN.set(self.within);
        if let (Some(mut mode), Some(capture)) = (self.mode, &self.driver.capture) {
            // SAFETY: 1. The pointer is to an integer of ours.
            let restored = unsafe { (capture.exchange_mode)(&mut mode) };
            if restored != 0 {
                // SAFETY: 1. As above.
                let _ = unsafe { (capture.exchange_mode)(&mut mode) };
            }
        }
        if let Some(before) = self.before {
            // SAFETY: 1. It was current on this thread a moment ago. Whether that fails is the caller's next call to find.
            let restored = unsafe { (self.driver.functions.context_set)(before) };
            if restored != 0 {
                // SAFETY: 1. As above.
                let _ = unsafe { (self.driver.functions.context_set)(before) };
            }
        }
    }
}

type Answer<T = ()> = Result<T, Refused>;

fn checked(call: &'static str, code: c_int) -> Answer {
    if code == 0 { Ok(()) } else { Err(Refused { call, code }) }
}

/// Gives something back: once more where the driver refuses. What is refused twice is the driver's to clean up.
fn twice(give_back: impl Fn() -> Answer) -> Answer {
    give_back().or_else(|_| give_back())
}

/// The driver's attributes of a device.
const MULTIPROCESSORS: c_int = 16;
const MAJOR: c_int = 75;
const MINOR: c_int = 76;
const HAS_VIRTUAL_MEMORY: c_int = 102;

const NO_TIMING: u32 = 2;
const NON_BLOCKING: u32 = 1;
const PORTABLE: u32 = 1;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const RELAXED: c_int = 2;

impl Context {
    /// The context of a device, made where it has none yet.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`](crate::DemoError) where there is no such device, or the driver's refusal.
    pub(super) fn retain(ordinal: u32) -> Result<Context> {
        let (driver, number) = with_device(ordinal)?;
        let functions = &driver.functions;
        let (mut device, mut handle) = (0, 0);
        let failed = |refused: Refused| refused.on(ordinal);
        // SAFETY: 1. The pointer is to an integer of ours.
        checked("cuDeviceGet", unsafe { (functions.device_get)(&mut device, number) }).map_err(failed)?;
        // SAFETY: 1. The pointer is to an integer of ours. 2. The device is the driver's.
        let retained = unsafe { (functions.primary_retain)(&mut handle, device) };
        checked("cuDevicePrimaryCtxRetain", retained).map_err(failed)?;
        Ok(Context { driver, device, handle })
    }

    pub(super) fn ordinal(&self) -> u32 {
        self.device as u32
    }

    pub(super) fn driver_version(&self) -> i32 {
        self.driver.version
    }

    /// Makes this the current context, once for all calls until what it returns is dropped, whatever streams are captured. No one else's
    /// code runs meanwhile.
    pub(super) fn enter(&self) -> Answer<Entered<'_>> {
        let is_nested = WITHIN.get() == self.handle;
        let entered = self.enter_as_it_is()?;
        // Only this file's calls enter otherwise, and no other call runs within them.
        Ok(if is_nested { entered } else { entered.relaxed() })
    }

    fn enter_as_it_is(&self) -> Answer<Entered<'_>> {
        not_forked()?;
        let (driver, functions) = (self.driver, &self.driver.functions);
        let within = WITHIN.get();
        if within == self.handle {
            return Ok(Entered { driver, before: None, within, mode: None });
        }
        let mut before = 0;
        // SAFETY: 1. The pointer is to an integer of ours.
        checked("cuCtxGetCurrent", unsafe { (functions.context_get)(&mut before) })?;
        let is_current = before == self.handle;
        if !is_current {
            // SAFETY: 1. The context is retained for good.
            checked("cuCtxSetCurrent", unsafe { (functions.context_set)(self.handle) })?;
        }
        WITHIN.set(self.handle);
        Ok(Entered { driver, before: (!is_current).then_some(before), within, mode: None })
    }

    /// Runs a call with this device's context.
    fn call(&self, name: &'static str, run: impl FnOnce(&Functions) -> c_int) -> Answer {
        let entered = self.enter_as_it_is()?;
        checked(name, run(&entered.driver.functions))
    }

    /// The same of one that is unsafe beside captures.
    fn relaxed_call(&self, name: &'static str, run: impl FnOnce(&Functions) -> c_int) -> Answer {
        let entered = self.enter()?;
        checked(name, run(&entered.driver.functions))
    }

    /// Whether a stream is captured into a graph, as far as the driver says.
    pub(super) fn is_captured(&self, stream: Handle) -> bool {
        self.not_captured("cuStreamIsCapturing", stream).is_err_and(|refused| refused.code == CAPTURED)
    }

    /// That a stream is not captured. The driver would take down what is queued there for whenever the graph is launched, with memory that is
    /// somebody else's by then, or break the capture off.
    fn not_captured(&self, name: &'static str, stream: Handle) -> Answer {
        let Some(capture) = &self.driver.capture else { return Ok(()) };
        let mut status = 0;
        // SAFETY: 1. The pointer is to an integer of ours. 2. The stream lives as long as whoever asks.
        self.call("cuStreamIsCapturing", |_| unsafe { (capture.is_capturing)(stream, &mut status) })?;
        if status == 0 { Ok(()) } else { Err(Refused { call: name, code: CAPTURED }) }
    }

    fn virtual_call(&self, name: &'static str, run: impl FnOnce(&Virtual) -> c_int) -> Answer {
        let _entered = self.enter()?;
        match &self.driver.virtual_memory {
            Some(functions) => checked(name, run(functions)),
            None => Err(Refused { call: name, code: 801 }),
        }
    }

    fn attribute(&self, attribute: c_int) -> Answer<c_int> {
        let mut value = 0;
        // SAFETY: 1. The pointer is to an integer of ours. 2. A driver refuses attributes that it does not know.
        self.call("cuDeviceGetAttribute", |f| unsafe {
            (f.device_attribute)(&mut value, attribute, self.device)
        })?;
        Ok(value)
    }

    /// Whether memory can be mapped here. A driver that does not know the question cannot.
    pub(super) fn has_virtual_memory(&self) -> bool {
        self.driver.virtual_memory.is_some()
            && self.attribute(HAS_VIRTUAL_MEMORY).is_ok_and(|value| value != 0)
    }

    /// Compute capability, and the number of multiprocessors.
    pub(super) fn capability(&self) -> Answer<(c_int, c_int, c_int)> {
        Ok((self.attribute(MAJOR)?, self.attribute(MINOR)?, self.attribute(MULTIPROCESSORS)?))
    }

    pub(super) fn name(&self) -> Answer<String> {
        let mut name = [0 as c_char; 256];
        // SAFETY: 1. The pointer is to that many bytes of ours.
        self.call("cuDeviceGetName", |f| unsafe {
            (f.device_name)(name.as_mut_ptr(), name.len() as c_int, self.device)
        })?;
        let bytes = name.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8);
        Ok(String::from_utf8_lossy(&bytes.collect::<std::vec::Vec<u8>>()).into_owned())
    }

    /// Free and total bytes of the device, whoever uses it.
    pub(super) fn memory_info(&self) -> Answer<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: 1. The pointers are to integers of ours.
        self.call("cuMemGetInfo", |f| unsafe { (f.memory_info)(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// A block of the driver's own allocator.
    pub(super) fn allocate(&self, bytes: u64) -> Answer<Address> {
        let mut at = 0;
        // SAFETY: 1. The pointer is to an integer of ours.
        self.relaxed_call("cuMemAlloc", |f| unsafe { (f.allocate)(&mut at, bytes as usize) })?;
        Ok(at)
    }

    /// Gives back what [`allocate`](Self::allocate) gave. Waits for the device.
    pub(super) fn free(&self, at: Address) -> Answer {
        // SAFETY: 1. The driver refuses what it did not hand out. 2. Who frees has seen that nothing in it is live.
        twice(|| self.relaxed_call("cuMemFree", |f| unsafe { (f.free)(at) }))
    }

    /// The unit that handles and their addresses are multiples of.
    pub(super) fn granularity(&self) -> Answer<u64> {
        let (mut bytes, properties) = (0, Properties::on(self.device));
        // SAFETY: 1. The pointers are to values of ours. 2. Option 0: the least.
        self.virtual_call("cuMemGetAllocationGranularity", |f| unsafe {
            (f.granularity)(&mut bytes, &properties, 0)
        })?;
        Ok(bytes as u64)
    }

    /// Addresses, a multiple of `align`, that nothing stands behind.
    pub(super) fn reserve(&self, bytes: u64, align: u64) -> Answer<Address> {
        let mut at = 0;
        // SAFETY: 1. The pointer is to an integer of ours.
        self.virtual_call("cuMemAddressReserve", |f| unsafe {
            (f.reserve)(&mut at, bytes as usize, align as usize, 0, 0)
        })?;
        Ok(at)
    }

    pub(super) fn release_addresses(&self, at: Address, bytes: u64) -> Answer {
        twice(|| {
            self.virtual_call("cuMemAddressFree", |f| {
                // SAFETY: 1. The driver refuses what is not reserved so, or still mapped.
                unsafe { (f.release_addresses)(at, bytes as usize) }
            })
        })
    }

    /// Physical memory.
    pub(super) fn create(&self, bytes: u64) -> Answer<u64> {
        let (mut handle, properties) = (0, Properties::on(self.device));
        // SAFETY: 1. The pointers are to values of ours.
        self.virtual_call("cuMemCreate", |f| unsafe {
            (f.create)(&mut handle, bytes as usize, &properties, 0)
        })?;
        Ok(handle)
    }

    pub(super) fn release(&self, handle: u64) -> Answer {
        // SAFETY: 1. The handle came from `create`, and whoever releases it forgets it.
        twice(|| self.virtual_call("cuMemRelease", |f| unsafe { (f.release)(handle) }))
    }

    pub(super) fn map(&self, at: Address, bytes: u64, handle: u64) -> Answer {
        // SAFETY: 1. The driver refuses addresses that are not reserved or already mapped.
        self.virtual_call("cuMemMap", |f| unsafe { (f.map)(at, bytes as usize, 0, handle, 0) })
    }

    /// Lets this device read and write what is mapped there, and those peers.
    pub(super) fn set_access(&self, at: Address, bytes: u64, peers: u64) -> Answer {
        let mut access = std::vec::Vec::with_capacity(1 + peers.count_ones() as usize);
        access.push(Access::of(self.device));
        access.extend((0..64).filter(|peer| peers >> peer & 1 == 1).map(Access::of));
        // SAFETY: 1. The pointer is to that many descriptions of ours.
        self.virtual_call("cuMemSetAccess", |f| unsafe {
            (f.set_access)(at, bytes as usize, access.as_ptr(), access.len())
        })
    }

    pub(super) fn unmap(&self, at: Address, bytes: u64) -> Answer {
        // SAFETY: 1. The driver refuses what is not mapped. 2. Who unmaps has seen that nobody works there.
        twice(|| self.virtual_call("cuMemUnmap", |f| unsafe { (f.unmap)(at, bytes as usize) }))
    }

    /// Pins memory of the host, so that devices copy from it on their own.
    pub(super) fn pin(&self, at: NonNull<u8>, bytes: usize) -> Answer {
        // SAFETY: 1. The range is committed memory of the caller's, who keeps it until it is unpinned.
        self.relaxed_call("cuMemHostRegister", |f| unsafe {
            (f.host_register)(at.as_ptr().cast::<c_void>(), bytes, PORTABLE)
        })
    }

    pub(super) fn unpin(&self, at: NonNull<u8>) -> Answer {
        twice(|| {
            self.relaxed_call("cuMemHostUnregister", |f| {
                // SAFETY: 1. The driver refuses what is not pinned.
                unsafe { (f.host_unregister)(at.as_ptr().cast::<c_void>()) }
            })
        })
    }

    /// Queues a copy from the host.
    ///
    /// # Safety
    /// `to..to + bytes` is a live block of this device, `from` is readable for as many bytes until the stream has passed
    /// the copy where it is pinned, and until this returns where it is not.
    pub(super) unsafe fn copy_to_device(
        &self,
        to: Address,
        from: *const u8,
        bytes: usize,
        stream: Handle,
    ) -> Answer {
        self.not_captured("cuMemcpyHtoDAsync", stream)?;
        // SAFETY: 1. The caller's promise.
        self.call("cuMemcpyHtoDAsync", |f| unsafe { (f.copy_to_device)(to, from.cast(), bytes, stream) })
    }

    /// Copies to the host, and waits for it.
    pub(super) fn copy_to_host(&self, to: &mut [u8], from: Address, stream: Handle) -> Answer {
        self.not_captured("cuMemcpyDtoHAsync", stream)?;
        // SAFETY: 1. `to` is memory of the caller's, borrowed until the stream was waited for, below. 2. The driver refuses
        // device memory that is not there.
        self.call("cuMemcpyDtoHAsync", |f| unsafe {
            (f.copy_to_host)(to.as_mut_ptr().cast(), from, to.len(), stream)
        })?;
        self.synchronize(stream)
    }

    /// Queues a copy within the device.
    pub(super) fn copy(&self, to: Address, from: Address, bytes: usize, stream: Handle) -> Answer {
        // SAFETY: 1. The driver refuses device memory that is not there; blocks are the callers' own.
        self.call("cuMemcpyDtoDAsync", |f| unsafe { (f.copy)(to, from, bytes, stream) })
    }

    /// Queues a copy from another device, on a stream of this one.
    pub(super) fn copy_from(
        &self,
        other: &Context,
        to: Address,
        from: Address,
        bytes: usize,
        stream: Handle,
    ) -> Answer {
        // SAFETY: 1. As `copy`. 2. Both contexts are retained for good.
        self.call("cuMemcpyPeerAsync", |f| unsafe {
            (f.copy_peer)(to, self.handle, from, other.handle, bytes, stream)
        })
    }

    /// Queues zeros.
    pub(super) fn clear(&self, at: Address, bytes: usize, stream: Handle) -> Answer {
        // SAFETY: 1. The driver refuses device memory that is not there; the block is the caller's own.
        self.call("cuMemsetD8Async", |f| unsafe { (f.set_bytes)(at, 0, bytes, stream) })
    }

    pub(super) fn stream(&self) -> Answer<Handle> {
        let mut stream = 0;
        // SAFETY: 1. The pointer is to an integer of ours.
        self.call("cuStreamCreate", |f| unsafe { (f.stream_create)(&mut stream, NON_BLOCKING) })?;
        Ok(stream)
    }

    /// Destroys a stream that [`stream`](Self::stream) made. What is queued in it still runs.
    pub(super) fn destroy_stream(&self, stream: Handle) -> Answer {
        // SAFETY: 1. Its owner is dropped, and nobody has the handle any more.
        twice(|| self.call("cuStreamDestroy", |f| unsafe { (f.stream_destroy)(stream) }))
    }

    pub(super) fn synchronize(&self, stream: Handle) -> Answer {
        self.not_captured("cuStreamSynchronize", stream)?;
        // SAFETY: 1. The stream lives as long as whoever asks.
        self.relaxed_call("cuStreamSynchronize", |f| unsafe { (f.stream_synchronize)(stream) })
    }

    /// Once more where the driver refuses: what is queued still uses memory that is about to be given back.
    pub(super) fn synchronize_twice(&self, stream: Handle) -> Answer {
        twice(|| self.synchronize(stream))
    }

    pub(super) fn event(&self) -> Answer<Handle> {
        let mut event = 0;
        // SAFETY: 1. The pointer is to an integer of ours.
        self.call("cuEventCreate", |f| unsafe { (f.event_create)(&mut event, NO_TIMING) })?;
        Ok(event)
    }

    /// Destroys an event, which is legal while work waits for it.
    pub(super) fn destroy_event(&self, event: Handle) -> Answer {
        // SAFETY: 1. The event came from `event`, and its owner forgets it.
        twice(|| self.call("cuEventDestroy", |f| unsafe { (f.event_destroy)(event) }))
    }

    pub(super) fn record(&self, event: Handle, stream: Handle) -> Answer {
        self.not_captured("cuEventRecord", stream)?;
        // SAFETY: 1. Both live: the event is the caller's, the stream lives as long as it has a slot.
        self.call("cuEventRecord", |f| unsafe { (f.event_record)(event, stream) })
    }

    /// What is queued in `stream` from now on waits for the event, which may be another device's.
    pub(super) fn wait(&self, stream: Handle, event: Handle) -> Answer {
        self.not_captured("cuStreamWaitEvent", stream)?;
        // SAFETY: 1. As `record`.
        self.call("cuStreamWaitEvent", |f| unsafe { (f.stream_wait)(stream, event, 0) })
    }

    pub(super) fn is_over(&self, event: Handle) -> Answer<bool> {
        // SAFETY: 1. The event is the caller's.
        match self.relaxed_call("cuEventQuery", |f| unsafe { (f.event_query)(event) }) {
            Ok(()) => Ok(true),
            Err(refused) if refused.code == NOT_READY => Ok(false),
            Err(refused) => Err(refused),
        }
    }

    pub(super) fn wait_here(&self, event: Handle) -> Answer {
        // SAFETY: 1. The event is the caller's.
        self.relaxed_call("cuEventSynchronize", |f| unsafe { (f.event_synchronize)(event) })
    }

    /// Whether this device can reach the other's memory on its own.
    pub(super) fn can_reach(&self, other: &Context) -> bool {
        let mut can = 0;
        // SAFETY: 1. The pointer is to an integer of ours.
        let asked = self.call("cuDeviceCanAccessPeer", |f| unsafe {
            (f.can_access_peer)(&mut can, self.device, other.device)
        });
        asked.is_ok() && can != 0
    }
}
