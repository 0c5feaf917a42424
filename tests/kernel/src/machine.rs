//! The serial line, the way out, and what the compiler wants of a runtime.

#[path = "../../bare/memory_x86_64.rs"]
mod memory;

use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;

const LINE: u16 = 0x3f8;
const LINE_STATUS: u16 = LINE + 5;
const EXIT: u16 = 0xf4;

/// Writes a byte to a port.
///
/// # Safety
/// The device behind the port does nothing to memory.
unsafe fn put(port: u16, byte: u8) {
    // SAFETY: 1. The caller's.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte from a port.
///
/// # Safety
/// As for `put`.
unsafe fn get(port: u16) -> u8 {
    let byte;
    // SAFETY: 1. The caller's.
    unsafe { asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack, preserves_flags)) }
    byte
}

/// The first serial line.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: 1. Both ports are those of the serial line.
            unsafe {
                while get(LINE_STATUS) & 0x20 == 0 {}
                put(LINE, byte);
            }
        }
        Ok(())
    }
}

/// Ends the machine: it exits with 33 when everything held, with 35 otherwise.
pub fn exit(passed: bool) -> ! {
    // SAFETY: 1. The port is that of the device that ends the machine.
    unsafe { put(EXIT, if passed { 16 } else { 17 }) };
    loop {
        // SAFETY: 1. It waits.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panicked(info: &PanicInfo) -> ! {
    let _ = writeln!(Serial, "{info}\n0 passed, 1 failed");
    exit(false)
}

/// The prebuilt `core` names it in its unwind tables. Nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(false)
}
