//! Memory: files that stand for physical memory, ranges of addresses, and what can be touched.

use crate::state::{
    ALREADY_MAPPED, Answer, Code, Handle, Hole, INVALID_DEVICE, INVALID_VALUE, Mapping, OUT_OF_MEMORY, State,
};
use libc::{
    FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE,
    MAP_PRIVATE, MAP_SHARED, MFD_CLOEXEC, PROT_NONE, PROT_READ, PROT_WRITE,
};

/// What handles and their addresses are multiples of.
pub const GRANULARITY: usize = 2 << 20;
/// Of what a device's file holds and nobody has: pages that are kept cost no faults, whatever is in them is garbage to the next.
const KEPT: usize = 256 << 20;
const FRESH: u8 = 0xCD;
const FREED: u8 = 0xDD;

/// Addresses that nothing can touch yet.
fn reserve(bytes: usize) -> Result<u64, Code> {
    // SAFETY: 1. A new mapping where the system likes.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    };
    if at == MAP_FAILED { Err(OUT_OF_MEMORY) } else { Ok(at as u64) }
}

fn protect(at: u64, bytes: usize, protection: i32) -> Answer {
    // SAFETY: 1. The range is one of ours.
    if unsafe { libc::mprotect(at as *mut _, bytes, protection) } == 0 { Ok(()) } else { Err(INVALID_VALUE) }
}

fn unmap(at: u64, bytes: usize) {
    // SAFETY: 1. The range is one of ours, and forgotten.
    unsafe { libc::munmap(at as *mut _, bytes) };
}

fn fill(at: u64, bytes: usize, byte: u8) {
    // SAFETY: 1. The range is ours and can be written.
    unsafe { std::ptr::write_bytes(at as *mut u8, byte, bytes) }
}

impl State {
    fn take_physical(&mut self, device: usize, bytes: usize) -> Answer {
        if self.devices[device].used_bytes + bytes > self.settings.memory_bytes {
            return Err(OUT_OF_MEMORY);
        }
        self.devices[device].used_bytes += bytes;
        Ok(())
    }

    /// `cuMemAlloc`.
    pub fn allocate(&mut self, device: usize, bytes: usize) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let rounded = bytes.checked_next_multiple_of(512).ok_or(OUT_OF_MEMORY)?;
        self.take_physical(device, rounded)?;
        let at = reserve(rounded).inspect_err(|_| self.devices[device].used_bytes -= rounded)?;
        protect(at, rounded, PROT_READ | PROT_WRITE)?;
        if self.settings.poison {
            fill(at, rounded, FRESH);
        }
        self.allocations.insert(at, (rounded, device));
        Ok(at)
    }

    pub fn free(&mut self, at: u64) -> Answer {
        let (bytes, device) = self.allocations.remove(&at).ok_or(INVALID_VALUE)?;
        self.note_violations(at, bytes);
        self.devices[device].used_bytes -= bytes;
        unmap(at, bytes);
        Ok(())
    }

    /// Whether memory of a device is there from `at` on.
    pub fn can_touch(&self, at: u64, bytes: usize) -> bool {
        let Some(end) = at.checked_add(bytes as u64) else { return false };
        if let Some((start, (len, _))) = self.allocations.range(..=at).next_back()
            && end <= start + *len as u64
        {
            return true;
        }
        let mut reached = at;
        while reached < end {
            match self.mappings.range(..=reached).next_back() {
                Some((start, mapping)) if reached < start + mapping.bytes as u64 => {
                    reached = start + mapping.bytes as u64;
                }
                _ => return false,
            }
        }
        true
    }

    /// Whether an address was ever a device's: in a reservation, or nobody's any more.
    pub fn is_device_address(&self, at: u64) -> bool {
        let reserved = self.reservations.range(..=at).next_back();
        reserved.is_some_and(|(start, len)| at < start + *len as u64)
    }

    pub fn reserve_addresses(&mut self, bytes: usize, align: usize) -> Result<u64, Code> {
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) || (align != 0 && !align.is_power_of_two()) {
            return Err(INVALID_VALUE);
        }
        let align = align.max(GRANULARITY);
        let roomy = bytes.checked_add(align).ok_or(OUT_OF_MEMORY)?;
        let got = reserve(roomy)?;
        let at = got.next_multiple_of(align as u64);
        if at > got {
            unmap(got, (at - got) as usize);
        }
        let end = at + bytes as u64;
        if got + roomy as u64 > end {
            unmap(end, (got + roomy as u64 - end) as usize);
        }
        self.reservations.insert(at, bytes);
        Ok(at)
    }

    pub fn free_addresses(&mut self, at: u64, bytes: usize) -> Answer {
        let mapped = self.mappings.range(at..at + bytes as u64).next().is_some();
        if self.reservations.get(&at) != Some(&bytes) || mapped {
            return Err(INVALID_VALUE);
        }
        self.reservations.remove(&at);
        unmap(at, bytes);
        Ok(())
    }

    /// `cuMemCreate`.
    pub fn create(&mut self, device: usize, bytes: usize) -> Result<u64, Code> {
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
            return Err(INVALID_VALUE);
        }
        if device >= self.devices.len() {
            return Err(INVALID_DEVICE);
        }
        self.take_physical(device, bytes)?;
        let physical = &mut self.devices[device];
        let file = match physical.file {
            Some(file) => file,
            None => {
                // SAFETY: 1. The name ends with a zero.
                let file = unsafe { libc::memfd_create(c"softcuda".as_ptr(), MFD_CLOEXEC) };
                if file < 0 {
                    physical.used_bytes -= bytes;
                    return Err(OUT_OF_MEMORY);
                }
                physical.file = Some(file);
                file
            }
        };
        let hole = physical.file_holes.iter().rposition(|hole| hole.bytes == bytes);
        let offset = match hole {
            Some(hole) => physical.file_holes.swap_remove(hole).offset,
            None => {
                let offset = physical.file_end;
                physical.file_end += bytes;
                // SAFETY: 1. The descriptor is ours.
                unsafe { libc::ftruncate(file, physical.file_end as i64) };
                offset
            }
        };
        let handle = self.id();
        self.handles.insert(handle, Handle { device, bytes, offset, mappings: 0, released: false });
        Ok(handle)
    }

    pub fn release(&mut self, handle: u64) -> Answer {
        let held = self.handles.get_mut(&handle).filter(|held| !held.released).ok_or(INVALID_VALUE)?;
        held.released = true;
        self.forget_unused(handle);
        Ok(())
    }

    /// Physical memory lives as long as its handle or a mapping.
    fn forget_unused(&mut self, handle: u64) {
        let Some(held) = self.handles.get(&handle) else { return };
        if !held.released || held.mappings > 0 {
            return;
        }
        let Some(held) = self.handles.remove(&handle) else { return };
        let device = &mut self.devices[held.device];
        device.used_bytes -= held.bytes;
        let kept = device.file_holes.iter().filter(|hole| hole.kept).map(|hole| hole.bytes).sum::<usize>();
        let kept = kept + held.bytes <= KEPT;
        device.file_holes.push(Hole { offset: held.offset, bytes: held.bytes, kept });
        if let Some(file) = device.file
            && !kept
        {
            let how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
            // SAFETY: 1. The descriptor is ours, and nobody maps that part of it.
            unsafe { libc::fallocate(file, how, held.offset as i64, held.bytes as i64) };
        }
    }

    pub fn map(&mut self, at: u64, bytes: usize, offset: usize, handle: u64) -> Answer {
        let end = at + bytes as u64;
        let reserved = self.reservations.range(..=at).next_back();
        let inside = reserved.is_some_and(|(start, len)| end <= start + *len as u64);
        let taken = self.mappings.range(..end).next_back();
        if taken.is_some_and(|(start, mapping)| start + mapping.bytes as u64 > at) {
            return Err(ALREADY_MAPPED);
        }
        let held = self.handles.get_mut(&handle).ok_or(INVALID_VALUE)?;
        if !inside
            || offset != 0
            || !at.is_multiple_of(GRANULARITY as u64)
            || bytes != held.bytes
            || held.released
        {
            return Err(INVALID_VALUE);
        }
        let file = self.devices[held.device].file.ok_or(INVALID_VALUE)?;
        // SAFETY: 1. The range lies in a reservation of ours, and nothing is mapped there.
        let mapped = unsafe {
            libc::mmap(at as *mut _, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, file, held.offset as i64)
        };
        if mapped == MAP_FAILED {
            return Err(OUT_OF_MEMORY);
        }
        held.mappings += 1;
        self.mappings.insert(at, Mapping { bytes, handle });
        Ok(())
    }

    pub fn allow(&mut self, at: u64, bytes: usize, write: bool) -> Answer {
        if bytes == 0 || !self.can_touch(at, bytes) {
            return Err(INVALID_VALUE);
        }
        protect(at, bytes, if write { PROT_READ | PROT_WRITE } else { PROT_NONE })?;
        if write && self.settings.poison {
            let fresh: Vec<(u64, usize)> = self
                .mappings
                .range(at..at + bytes as u64)
                .filter(|(_, mapping)| {
                    self.handles.get(&mapping.handle).is_some_and(|held| held.mappings == 1)
                })
                .map(|(at, mapping)| (*at, mapping.bytes))
                .collect();
            for (at, bytes) in fresh {
                // What was never written holds zeros, which programs would take for cleared memory.
                // SAFETY: 1. Mapped and writable, as of a moment ago.
                if unsafe { *(at as *const u64) } == 0 {
                    fill(at, bytes, FRESH);
                }
            }
        }
        Ok(())
    }

    pub fn unmap(&mut self, at: u64, bytes: usize) -> Answer {
        let end = at + bytes as u64;
        let starts: Vec<u64> = self.mappings.range(at..end).map(|(start, _)| *start).collect();
        let whole: usize = starts.iter().map(|start| self.mappings[start].bytes).sum();
        if starts.is_empty() || whole != bytes {
            return Err(INVALID_VALUE);
        }
        self.note_violations(at, bytes);
        for start in starts {
            let Some(mapping) = self.mappings.remove(&start) else { continue };
            let last = self.handles.get(&mapping.handle).is_some_and(|held| held.mappings == 1);
            if self.settings.poison && last && protect(start, mapping.bytes, PROT_READ | PROT_WRITE).is_ok() {
                fill(start, mapping.bytes, FREED);
            }
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
            // SAFETY: 1. The range lies in a reservation of ours.
            unsafe { libc::mmap(start as *mut _, mapping.bytes, PROT_NONE, flags, -1, 0) };
            if let Some(held) = self.handles.get_mut(&mapping.handle) {
                held.mappings -= 1;
            }
            self.forget_unused(mapping.handle);
        }
        Ok(())
    }
}
