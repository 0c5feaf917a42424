//! The functions of C and POSIX, and those that the GNU C library adds.
//!
//! The busiest are `extern "C-unwind"` though nothing unwinds out of them: a fault ends the process where it is found, see
//! `start`. "C" would put a net under every slow path, which then is a call from a frame, where it is a jump now.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use heap::Global;

/// The alignment of every block: what `max_align_t` asks for.
const ALIGN: usize = 16;

/// Sizes up to here have a class: a table, a pop.
const SMALL: usize = 32 << 10;

/// The largest size that is not refused at once: differences of pointers are signed.
const MOST: usize = isize::MAX as usize - ALIGN + 1;

/// Sets `errno`.
pub(crate) fn set_errno(number: c_int) {
    // SAFETY: 1. The function gives the place of this thread's own number.
    unsafe { *libc::__errno_location() = number };
}

fn errno() -> c_int {
    // SAFETY: 1. As in `set_errno`.
    unsafe { *libc::__errno_location() }
}

#[cold]
fn refused(number: c_int) -> *mut c_void {
    set_errno(number);
    null_mut()
}

/// A layout whose size is at most [`MOST`].
#[inline(always)]
const fn layout(bytes: usize) -> Layout {
    // SAFETY: 1. The alignment is a power of two. 2. The size, rounded up to it, is no more than `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(bytes, ALIGN) }
}

#[cold]
#[inline(never)]
fn allocate_large(bytes: usize) -> *mut c_void {
    if bytes > MOST {
        return refused(libc::ENOMEM);
    }
    // SAFETY: 1. A size of zero gets the smallest block, and this one is larger.
    unsafe { Global.alloc(layout(bytes)).cast() }
}

/// A block of at least `bytes`, or null with ENOMEM.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn malloc(bytes: usize) -> *mut c_void {
    if bytes > SMALL {
        return allocate_large(bytes);
    }
    // SAFETY: 1. A size of zero gets the smallest block. The heap sets `errno` where it gives null.
    unsafe { Global.alloc(layout(bytes)).cast() }
}

/// Takes a block back, whatever it was allocated with; null is none. `errno` stays.
///
/// # Safety
/// The block is live, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn free(at: *mut c_void) {
    // SAFETY: 1. The caller's promise, handed on.
    unsafe { Global.free_unsized(at.cast()) }
}

/// A block of `count * bytes` zeros.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn calloc(count: usize, bytes: usize) -> *mut c_void {
    match count.checked_mul(bytes) {
        // SAFETY: 1. A size of zero gets the smallest block.
        Some(bytes) if bytes <= MOST => unsafe { Global.alloc_zeroed(layout(bytes)).cast() },
        _ => refused(libc::ENOMEM),
    }
}

/// The block with another size, perhaps elsewhere; null: it is as it was. As in the GNU C library, no block and a size make
/// one, and a block and no size free it and give null.
///
/// # Safety
/// As for [`free`], unless null is returned and `bytes` is not 0.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn realloc(at: *mut c_void, bytes: usize) -> *mut c_void {
    if bytes == 0 && !at.is_null() {
        // SAFETY: 1. The caller gives the block up.
        unsafe { free(at) };
        return null_mut();
    }
    // SAFETY: 1. The caller's promise, handed on.
    unsafe { Global.realloc_unsized(at.cast(), bytes).cast() }
}

/// [`realloc`] to `count * bytes`.
///
/// # Safety
/// As for [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn reallocarray(at: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
    match count.checked_mul(bytes) {
        // SAFETY: 1. The caller's promise, handed on.
        Some(bytes) => unsafe { realloc(at, bytes) },
        None => refused(libc::ENOMEM),
    }
}

/// A block at a multiple of `align`, which is a power of two.
#[inline]
pub(crate) fn allocate_aligned(align: usize, bytes: usize) -> *mut c_void {
    match Layout::from_size_align(bytes, align.max(ALIGN)) {
        // SAFETY: 1. A size of zero gets the smallest block.
        Ok(layout) => unsafe { Global.alloc(layout).cast() },
        Err(_) => refused(libc::ENOMEM),
    }
}

/// Stores a block at a multiple of `align`, a power of two and a multiple of a pointer's size, and returns 0; or returns
/// EINVAL or ENOMEM, and stores nothing. `errno` stays.
///
/// # Safety
/// `place` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, bytes: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let kept = errno();
    let at = allocate_aligned(align, bytes);
    if at.is_null() {
        set_errno(kept);
        return libc::ENOMEM;
    }
    // SAFETY: 1. The caller's promise.
    unsafe { *place = at };
    0
}

/// A block at a multiple of `align`; EINVAL where that is no power of two. The size need not be a multiple of it.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        return refused(libc::EINVAL);
    }
    allocate_aligned(align, bytes)
}

/// A block at a multiple of `align`, or, as in the GNU C library, of the power of two above it.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, bytes: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => allocate_aligned(align, bytes),
        None => refused(libc::EINVAL),
    }
}

fn os_page_bytes() -> usize {
    // SAFETY: 1. Asks for a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

/// A block that starts at a page of the operating system.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(bytes: usize) -> *mut c_void {
    allocate_aligned(os_page_bytes(), bytes)
}

/// A block of whole pages of the operating system, one at least.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(bytes: usize) -> *mut c_void {
    let page_bytes = os_page_bytes();
    match bytes.max(1).checked_next_multiple_of(page_bytes) {
        Some(bytes) => allocate_aligned(page_bytes, bytes),
        None => refused(libc::ENOMEM),
    }
}

/// The bytes of a block that may be used; of null, none.
///
/// # Safety
/// The block is live, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(at: *mut c_void) -> usize {
    // SAFETY: 1. The caller's promise, handed on.
    unsafe { Global.usable_bytes(at.cast()) }.unwrap_or(0)
}

/// [`free`], under an old name.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(at: *mut c_void) {
    // SAFETY: 1. The caller's promise, handed on.
    unsafe { free(at) }
}

/// [`free`] of a block of `malloc`, `calloc` or `realloc` whose size the caller knows (C23). The size is not trusted.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(at: *mut c_void, _bytes: usize) {
    // SAFETY: 1. The caller's promise, handed on.
    unsafe { free(at) }
}

/// [`free`] of a block of `aligned_alloc` whose alignment and size the caller knows (C23). They are not trusted.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(at: *mut c_void, _align: usize, _bytes: usize) {
    // SAFETY: 1. The caller's promise, handed on.
    unsafe { free(at) }
}

/// The names under which the GNU C library has these functions as well: what calls one must not get another heap's block.
macro_rules! aliases {
    ($($(#[$safety:meta])* fn $alias:ident = $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => { $(
        /// The same function under the GNU C library's own name.
        ///
        /// # Safety
        /// As for the function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $alias($($arg: $type),*) $(-> $result)? {
            #[allow(unused_unsafe)]
            // SAFETY: 1. The caller's promise, handed on.
            unsafe { $name($($arg),*) }
        }
    )* };
}

aliases! {
    fn __libc_malloc = malloc(bytes: usize) -> *mut c_void;
    fn __libc_free = free(at: *mut c_void);
    fn __libc_cfree = free(at: *mut c_void);
    fn __libc_calloc = calloc(count: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc = realloc(at: *mut c_void, bytes: usize) -> *mut c_void;
    fn __libc_reallocarray = reallocarray(at: *mut c_void, count: usize, bytes: usize) -> *mut c_void;
    fn __libc_memalign = memalign(align: usize, bytes: usize) -> *mut c_void;
    fn __libc_valloc = valloc(bytes: usize) -> *mut c_void;
    fn __libc_pvalloc = pvalloc(bytes: usize) -> *mut c_void;
    fn __posix_memalign = posix_memalign(place: *mut *mut c_void, align: usize, bytes: usize) -> c_int;
}
