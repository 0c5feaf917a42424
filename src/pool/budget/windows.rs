//! What Windows says of the machine's memory.

#![allow(unsafe_code)]

use super::left::MemoryLeft;
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};

/// What is left of what is built in.
pub(super) fn physical() -> Option<MemoryLeft> {
    let mut all =
        MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..MEMORYSTATUSEX::default() };
    // SAFETY: 1. `all` is a valid place for the answer, and says how long it is.
    let known = unsafe { GlobalMemoryStatusEx(&mut all) } != 0;
    // Wine says zeros where two threads ask it at once.
    let told = MemoryLeft { left_bytes: all.ullAvailPhys, of_bytes: all.ullTotalPhys };
    (known && told.of_bytes > 0).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::super::machine::MachineMemory;
    use super::*;

    #[test]
    fn the_machine_has_memory_and_some_of_it_is_left() {
        let MemoryLeft { left_bytes, of_bytes } = MemoryLeft::read().unwrap();
        assert!(left_bytes > 0 && left_bytes <= of_bytes, "{left_bytes} of {of_bytes}");
        assert_eq!(MachineMemory::read().limit_bytes(), Some(of_bytes));
    }
}
