//! The driver's functions, found at run time.
//!
//! They are looked up here and not through cudarc's functions, which panic where the library or one of its functions is
//! missing, even while an error is formatted. Pointers to what the driver keeps (contexts, streams, events) are numbers: they are
//! handed back and never followed.

use core::ffi::{c_char, c_int, c_uint, c_void};
use libloading::Library;
use std::mem::ManuallyDrop;

/// An address on a device.
pub(super) type Address = u64;
/// What the driver gave, to be handed back to it.
pub(super) type Handle = usize;

/// `CUmemAllocationProp`: pinned memory on a device, that nobody else is given. Its newest declaration renamed a field, so it
/// is written down here; the layout has been the same since there was one.
#[repr(C)]
pub(super) struct Properties {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    windows: *mut c_void,
    flags: [u8; 8],
}

/// `CUmemLocation`.
#[repr(C)]
struct Location {
    kind: c_int,
    device: c_int,
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub(super) struct Access {
    location: Location,
    flags: c_int,
}

const PINNED: c_int = 1;
const ON_DEVICE: c_int = 1;
const READ_AND_WRITE: c_int = 3;

const _: () = assert!(size_of::<Access>() == 12);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Properties>() == 32);

impl Properties {
    pub(super) fn on(device: c_int) -> Properties {
        let location = Location { kind: ON_DEVICE, device };
        Properties { kind: PINNED, handle_types: 0, location, windows: core::ptr::null_mut(), flags: [0; 8] }
    }
}

impl Access {
    pub(super) fn of(device: c_int) -> Access {
        Access { location: Location { kind: ON_DEVICE, device }, flags: READ_AND_WRITE }
    }
}

/// Declares a table of functions and how it is filled from a library.
macro_rules! table {
    ($(#[$doc:meta])* $table:ident { $($field:ident = $symbol:literal: fn($($argument:ty),*);)* }) => {
        $(#[$doc])*
        pub(super) struct $table {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl $table {
            /// The table, or the name of the first function that the library lacks.
            fn of(library: &Library) -> Result<$table, &'static str> {
                Ok($table { $(
                    // SAFETY: 1. The type is the one that the driver's header declares for this name, pointers that are
                    // never followed as numbers of their size, and a function's type never changes under a name.
                    $field: *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }.map_err(|_| $symbol)?,
                )* })
            }
        }
    };
}

table! {
    /// What is needed to see whether there is a device.
    Start {
        init = "cuInit": fn(c_uint);
        device_count = "cuDeviceGetCount": fn(*mut c_int);
    }
}

table! {
    /// What every driver of the last ten years has.
    Functions {
        driver_version = "cuDriverGetVersion": fn(*mut c_int);
        device_get = "cuDeviceGet": fn(*mut c_int, c_int);
        device_name = "cuDeviceGetName": fn(*mut c_char, c_int, c_int);
        device_attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
        primary_retain = "cuDevicePrimaryCtxRetain": fn(*mut Handle, c_int);
        context_get = "cuCtxGetCurrent": fn(*mut Handle);
        context_set = "cuCtxSetCurrent": fn(Handle);
        memory_info = "cuMemGetInfo_v2": fn(*mut usize, *mut usize);
        allocate = "cuMemAlloc_v2": fn(*mut Address, usize);
        free = "cuMemFree_v2": fn(Address);
        host_register = "cuMemHostRegister_v2": fn(*mut c_void, usize, c_uint);
        host_unregister = "cuMemHostUnregister": fn(*mut c_void);
        copy_to_device = "cuMemcpyHtoDAsync_v2": fn(Address, *const c_void, usize, Handle);
        copy_to_host = "cuMemcpyDtoHAsync_v2": fn(*mut c_void, Address, usize, Handle);
        copy = "cuMemcpyDtoDAsync_v2": fn(Address, Address, usize, Handle);
        copy_peer = "cuMemcpyPeerAsync": fn(Address, Handle, Address, Handle, usize, Handle);
        set_bytes = "cuMemsetD8Async": fn(Address, u8, usize, Handle);
        stream_create = "cuStreamCreate": fn(*mut Handle, c_uint);
        stream_destroy = "cuStreamDestroy_v2": fn(Handle);
        stream_synchronize = "cuStreamSynchronize": fn(Handle);
        stream_wait = "cuStreamWaitEvent": fn(Handle, Handle, c_uint);
        event_create = "cuEventCreate": fn(*mut Handle, c_uint);
        event_destroy = "cuEventDestroy_v2": fn(Handle);
        event_record = "cuEventRecord": fn(Handle, Handle);
        event_query = "cuEventQuery": fn(Handle);
        event_synchronize = "cuEventSynchronize": fn(Handle);
        can_access_peer = "cuDeviceCanAccessPeer": fn(*mut c_int, c_int, c_int);
    }
}

table! {
    /// Virtual memory management, from CUDA 10.2 on.
    Virtual {
        granularity = "cuMemGetAllocationGranularity": fn(*mut usize, *const Properties, c_int);
        reserve = "cuMemAddressReserve": fn(*mut Address, usize, usize, Address, u64);
        release_addresses = "cuMemAddressFree": fn(Address, usize);
        create = "cuMemCreate": fn(*mut u64, usize, *const Properties, u64);
        release = "cuMemRelease": fn(u64);
        map = "cuMemMap": fn(Address, usize, usize, u64, u64);
        set_access = "cuMemSetAccess": fn(Address, usize, *const Access, usize);
        unmap = "cuMemUnmap": fn(Address, usize);
    }
}

table! {
    /// What is to be known of streams that are captured into graphs, from CUDA 10.1 on.
    Capture {
        is_capturing = "cuStreamIsCapturing": fn(Handle, *mut c_int);
        exchange_mode = "cuThreadExchangeStreamCaptureMode": fn(*mut c_int);
    }
}

/// The names that drivers are installed under.
const LIBRARIES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// A library under the driver's name.
pub(super) struct Found {
    library: ManuallyDrop<Library>,
    pub(super) start: Start,
}

/// Looks for the driver's library.
pub(super) fn find() -> Result<Found, &'static str> {
    // SAFETY: 1. Loading runs the library's constructors, and that is what asking for the CUDA driver means: whoever
    // enables the feature trusts the system's own.
    let library = LIBRARIES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    // It is never unloaded: a driver that was started keeps threads and handlers in the process.
    let Some(library) = library.map(ManuallyDrop::new) else {
        return Err("the CUDA driver's library is not installed; install the NVIDIA driver");
    };
    match Start::of(&library) {
        Ok(start) => Ok(Found { library, start }),
        Err(_) => {
            Err("the library found under the CUDA driver's name is no CUDA driver; install the NVIDIA driver")
        }
    }
}

impl Found {
    /// The functions for work, or the name of one that is missing; those for virtual memory, and for captures, where all of them are there.
    pub(super) fn functions(&self) -> Result<(Functions, Option<Virtual>, Option<Capture>), &'static str> {
        Ok((Functions::of(&self.library)?, Virtual::of(&self.library).ok(), Capture::of(&self.library).ok()))
    }
}
