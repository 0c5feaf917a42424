//! The memory functions that the compiler calls, where no C library brings them.
//!
//! In assembly, since the compiler would make a loop that copies into a call of the very function.

use core::arch::asm;

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
