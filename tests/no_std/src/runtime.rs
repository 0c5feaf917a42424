//! What a C runtime would bring: the entry, output, exit, and the memory functions that the compiler calls.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("this program starts itself and calls the kernel as x86-64 Linux does; run it there");

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

// In assembly, since the compiler would make a loop that copies into a call of the very function.

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: 1. The caller promises both ranges, apart. 2. The direction flag is clear, as every call expects.
    unsafe {
        asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= bytes {
        // SAFETY: 1. The caller promises both ranges. 2. `to` is not inside `from`, so a copy upwards reads each byte in time.
        return unsafe { memcpy(to, from, bytes) };
    }
    // SAFETY: 1. The caller promises both ranges, and they are not empty here. 2. Downwards, each byte is read in time. 3. The
    // direction flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") bytes => _, inout("rdi") to.add(bytes - 1) => _,
            inout("rsi") from.add(bytes - 1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    // SAFETY: 1. The caller promises the range. 2. The direction flag is clear.
    unsafe {
        asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    for i in 0..bytes {
        // SAFETY: 1. The caller promises both ranges.
        let (a, b) = unsafe { (*a.add(i), *b.add(i)) };
        if a != b {
            return a as i32 - b as i32;
        }
    }
    0
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    // SAFETY: 1. The caller promises both ranges.
    unsafe { memcmp(a, b, bytes) }
}
