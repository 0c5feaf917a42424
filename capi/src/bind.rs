//! `dlopen` without `RTLD_DEEPBIND`.
//!
//! A library that is loaded with that flag prefers the functions of its own libraries to the program's, and the C library is one
//! of them: it would give blocks of this heap to the C library's `free`, which ends there. PHP loads its extensions so.

use core::ffi::{c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

type Open = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;

/// The C library's own, once it was looked up. Relaxed: it is the same whoever looks.
static OPEN: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

#[cold]
#[inline(never)]
fn look_up() -> *mut c_void {
    // SAFETY: 1. The name is a C string.
    let open = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr()) };
    OPEN.store(open, Relaxed);
    open
}

/// Loads a library, bound as the program is.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void {
    let mut open = OPEN.load(Relaxed);
    if open.is_null() {
        open = look_up();
        if open.is_null() {
            return null_mut();
        }
    }
    // SAFETY: 1. The C library's `dlopen` has that type. 2. The rest as the caller promises.
    // The last that is done here, so that it is a jump: the C library sees by the return address who calls, and looks in the folders
    // that this one names.
    unsafe { transmute::<*mut c_void, Open>(open)(name, flags & !libc::RTLD_DEEPBIND) }
}
