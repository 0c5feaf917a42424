//! The driver's virtual memory management.

// As in `api`.
#![allow(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

use crate::api::api;
use crate::memory::GRANULARITY;
use crate::state::{INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED, State};
use std::ffi::c_int;

type R = c_int;

/// `CUmemAllocationProp`, as far as it is looked at.
#[repr(C)]
pub struct Properties {
    kind: c_int,
    handle_types: c_int,
    location_kind: c_int,
    location: c_int,
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub struct Access {
    location_kind: c_int,
    location: c_int,
    flags: c_int,
}

fn supported(state: &State) -> Result<(), c_int> {
    if state.settings.vmm { Ok(()) } else { Err(NOT_SUPPORTED) }
}

api! {
    fn cuMemGetAllocationGranularity(state, bytes: *mut usize, properties: *const Properties, _option: c_int) {
        supported(state)?;
        state.ordinal((*properties).location)?;
        *bytes = GRANULARITY;
        Ok(())
    }
    fn cuMemAddressReserve(state, at: *mut u64, bytes: usize, align: usize, _hint: u64, flags: u64) {
        supported(state)?;
        if flags != 0 { return Err(INVALID_VALUE) }
        *at = state.reserve_addresses(bytes, align)?;
        Ok(())
    }
    fn cuMemAddressFree(state, at: u64, bytes: usize) { state.free_addresses(at, bytes) }
    fn cuMemCreate(state, handle: *mut u64, bytes: usize, properties: *const Properties, _flags: u64) {
        supported(state)?;
        let properties = &*properties;
        // Pinned memory on a device.
        if properties.kind != 1 || properties.location_kind != 1 || properties.handle_types != 0 {
            return Err(INVALID_VALUE)
        }
        let device = usize::try_from(properties.location).map_err(|_| INVALID_DEVICE)?;
        *handle = state.create(device, bytes)?;
        Ok(())
    }
    fn cuMemRelease(state, handle: u64) { state.release(handle) }
    fn cuMemMap(state, at: u64, bytes: usize, offset: usize, handle: u64, flags: u64) {
        if flags != 0 { return Err(INVALID_VALUE) }
        state.map(at, bytes, offset, handle)
    }
    fn cuMemSetAccess(state, at: u64, bytes: usize, access: *const Access, count: usize) {
        if count == 0 { return Err(INVALID_VALUE) }
        let access = std::slice::from_raw_parts(access, count);
        for one in access {
            if one.location_kind != 1 { return Err(INVALID_VALUE) }
            state.ordinal(one.location)?;
        }
        // The processor stands in for every device, so the widest access decides.
        state.allow(at, bytes, access.iter().any(|one| one.flags == 3))
    }
    fn cuMemUnmap(state, at: u64, bytes: usize) { state.unmap(at, bytes) }
}
