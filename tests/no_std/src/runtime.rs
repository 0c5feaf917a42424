//! What a C runtime would bring: the entry, output, exit; and beside it the memory functions that the compiler calls.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("this program starts itself and calls the kernel as x86-64 Linux does; run it there");

#[path = "../../bare/memory_x86_64.rs"]
mod memory;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;

// The kernel leaves the stack aligned to 16 bytes, as a call expects it.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {main}", "ud2", main = sym crate::main);

/// Standard output.
pub struct Output;

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let written: isize;
            // SAFETY: 1. write(1, start, len) reads the borrowed bytes and nothing else. 2. The kernel changes rcx and r11.
            unsafe {
                asm!("syscall", inlateout("rax") 1isize => written, in("rdi") 1, in("rsi") rest.as_ptr(),
                    in("rdx") rest.len(), lateout("rcx") _, lateout("r11") _, options(nostack));
            }
            match usize::try_from(written) {
                Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    // SAFETY: 1. exit_group(code) does not return.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") code, options(noreturn, nostack)) }
}

#[panic_handler]
fn panicked(info: &PanicInfo) -> ! {
    let _ = writeln!(Output, "{info}\n0 passed, 1 failed");
    exit(101)
}

/// The prebuilt `core` names it in its unwind tables. Nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(102)
}
