//! C++'s `operator new` and `operator delete` in all forms, by the names that the Itanium ABI gives them.
//!
//! A program's C++ library, where it has one, is found at run time: this object links none. Without memory `new` calls the
//! program's new handler until that gives up, then throws `std::bad_alloc` through the library's own thrower; `new` with
//! `std::nothrow` catches nothing, since it throws nothing, and gives null.

use crate::c::{allocate_aligned, free, malloc};
use crate::line::Line;
use core::ffi::{CStr, c_void};
use core::fmt::Write;
use core::mem::transmute;

/// A program's `std::new_handler`. It may throw.
type NewHandler = extern "C-unwind" fn();
/// `std::get_new_handler`.
type GetNewHandler = extern "C" fn() -> Option<NewHandler>;
/// `std::__throw_bad_alloc`.
type ThrowBadAlloc = extern "C-unwind" fn() -> !;

/// A function of the program's C++ library, or null: of the one that every part of the program sees, or of the one that came
/// with a plug-in.
fn cxx_library(name: &CStr) -> *mut c_void {
    // SAFETY: 1. The names are C strings. 2. A library that is loaded already is not loaded again, and is kept, since a
    // function of it is about to be called.
    unsafe {
        let seen = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        if !seen.is_null() {
            return seen;
        }
        for library in [c"libstdc++.so.6", c"libc++.so.1", c"libc++abi.so.1"] {
            let library = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            let found = if library.is_null() { library } else { libc::dlsym(library, name.as_ptr()) };
            if !found.is_null() {
                return found;
            }
        }
    }
    core::ptr::null_mut()
}

/// The handler that the program has set, if any.
fn new_handler() -> Option<NewHandler> {
    let get = cxx_library(c"_ZSt15get_new_handlerv");
    // SAFETY: 1. The mangled name says the type, and null is `None`.
    let get = unsafe { transmute::<*mut c_void, Option<GetNewHandler>>(get) };
    get.and_then(|get| get())
}

/// The block that could not be had, after the program's handler has made room for it; or null, when there is no handler.
#[cold]
#[inline(never)]
extern "C-unwind" fn again(align: usize, bytes: usize) -> *mut c_void {
    while let Some(handler) = new_handler() {
        handler();
        let at = allocate_aligned(align, bytes);
        if !at.is_null() {
            return at;
        }
    }
    core::ptr::null_mut()
}

#[cold]
#[inline(never)]
extern "C-unwind" fn again_or_throw(align: usize, bytes: usize) -> *mut c_void {
    let at = again(align, bytes);
    if !at.is_null() {
        return at;
    }
    let throw = cxx_library(c"_ZSt17__throw_bad_allocv");
    // SAFETY: 1. The mangled name says the type, and null is `None`.
    if let Some(throw) = unsafe { transmute::<*mut c_void, Option<ThrowBadAlloc>>(throw) } {
        throw();
    }
    let mut line = Line::new();
    let _ = writeln!(
        line,
        "democratising: operator new: no memory for {bytes} bytes, and no C++ library to say so"
    );
    line.print(2);
    std::process::abort()
}

#[inline(always)]
fn new(bytes: usize) -> *mut c_void {
    let at = malloc(bytes);
    if at.is_null() { again_or_throw(1, bytes) } else { at }
}

#[inline(always)]
fn new_aligned(bytes: usize, align: usize) -> *mut c_void {
    let at = allocate_aligned(align, bytes);
    if at.is_null() { again_or_throw(align, bytes) } else { at }
}

#[inline(always)]
fn new_or_null(bytes: usize) -> *mut c_void {
    let at = malloc(bytes);
    if at.is_null() { again(1, bytes) } else { at }
}

#[inline(always)]
fn new_aligned_or_null(bytes: usize, align: usize) -> *mut c_void {
    let at = allocate_aligned(align, bytes);
    if at.is_null() { again(align, bytes) } else { at }
}

/// `operator new` in its forms. The handler's exceptions and `std::bad_alloc` go through these frames; nothing in them wants
/// to know.
macro_rules! operators_new {
    ($($symbol:literal $name:ident($($arg:ident),*) = $call:expr;)*) => { $(
        /// `operator new`.
        #[unsafe(export_name = $symbol)]
        pub extern "C-unwind" fn $name($($arg: usize),*) -> *mut c_void {
            $call
        }
    )* };
}

operators_new! {
    "_Znwm" new_object(bytes) = new(bytes);
    "_Znam" new_array(bytes) = new(bytes);
    "_ZnwmSt11align_val_t" new_object_aligned(bytes, align) = new_aligned(bytes, align);
    "_ZnamSt11align_val_t" new_array_aligned(bytes, align) = new_aligned(bytes, align);
}

/// `operator new` that gives null, in its forms; the last argument says so and nothing else. A handler that throws is the
/// program's own affair: there is nobody here to catch.
macro_rules! operators_new_nothrow {
    ($($symbol:literal $name:ident($($arg:ident),*) = $call:expr;)*) => { $(
        /// `operator new` with `std::nothrow`.
        #[unsafe(export_name = $symbol)]
        pub extern "C-unwind" fn $name($($arg: usize,)* _nothrow: *const c_void) -> *mut c_void {
            $call
        }
    )* };
}

operators_new_nothrow! {
    "_ZnwmRKSt9nothrow_t" new_object_nothrow(bytes) = new_or_null(bytes);
    "_ZnamRKSt9nothrow_t" new_array_nothrow(bytes) = new_or_null(bytes);
    "_ZnwmSt11align_val_tRKSt9nothrow_t" new_object_aligned_nothrow(bytes, align) = new_aligned_or_null(bytes, align);
    "_ZnamSt11align_val_tRKSt9nothrow_t" new_array_aligned_nothrow(bytes, align) = new_aligned_or_null(bytes, align);
}

/// `operator delete` in its forms. Sizes and alignments are not trusted: the address knows better, at the cost of a load.
macro_rules! operators_delete {
    ($($symbol:literal $name:ident($($arg:ident: $type:ty),*);)*) => { $(
        /// `operator delete`.
        ///
        /// # Safety
        /// The block is live, or null, and nobody uses it any more.
        #[unsafe(export_name = $symbol)]
        pub unsafe extern "C-unwind" fn $name(at: *mut c_void $(, $arg: $type)*) {
            // SAFETY: 1. The caller's promise, handed on.
            unsafe { free(at) }
        }
    )* };
}

operators_delete! {
    "_ZdlPv" delete_object();
    "_ZdaPv" delete_array();
    "_ZdlPvm" delete_object_sized(_bytes: usize);
    "_ZdaPvm" delete_array_sized(_bytes: usize);
    "_ZdlPvRKSt9nothrow_t" delete_object_nothrow(_nothrow: *const c_void);
    "_ZdaPvRKSt9nothrow_t" delete_array_nothrow(_nothrow: *const c_void);
    "_ZdlPvSt11align_val_t" delete_object_aligned(_align: usize);
    "_ZdaPvSt11align_val_t" delete_array_aligned(_align: usize);
    "_ZdlPvmSt11align_val_t" delete_object_sized_aligned(_bytes: usize, _align: usize);
    "_ZdaPvmSt11align_val_t" delete_array_sized_aligned(_bytes: usize, _align: usize);
    "_ZdlPvSt11align_val_tRKSt9nothrow_t" delete_object_aligned_nothrow(_align: usize, _nothrow: *const c_void);
    "_ZdaPvSt11align_val_tRKSt9nothrow_t" delete_array_aligned_nothrow(_align: usize, _nothrow: *const c_void);
}
