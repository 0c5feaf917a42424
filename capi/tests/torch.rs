//! The functions for PyTorch and RMM, called as those call them, on the software driver.
#![cfg(feature = "cuda")]

#[allow(dead_code)]
#[path = "../../tests/softcuda/harness.rs"]
mod harness;

use harness::{EAGER, LAZY, RANGES, in_modes};
use std::ffi::{CString, c_int, c_void};

type Alloc = unsafe extern "C" fn(isize, c_int, *mut c_void) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, isize, c_int, *mut c_void);

fn functions() -> (Alloc, Free) {
    // Beside the test's own folder.
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().parent().unwrap().join("libdemocratising.so");
    let library = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: 1. The names end with a zero. 2. The functions have these signatures.
    unsafe {
        let library = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(
            !library.is_null(),
            "no {test:?}/../../libdemocratising.so: run cargo build with the features and the profile of this test first"
        );
        let find = |name: &std::ffi::CStr| libc::dlsym(library, name.as_ptr());
        let (alloc, free) = (find(c"democratising_torch_alloc"), find(c"democratising_torch_free"));
        assert!(!alloc.is_null() && !free.is_null());
        (std::mem::transmute::<*mut c_void, Alloc>(alloc), std::mem::transmute::<*mut c_void, Free>(free))
    }
}

#[test]
fn blocks_come_and_go_by_pytorchs_signatures() {
    in_modes("blocks_come_and_go_by_pytorchs_signatures", &[EAGER, LAZY, RANGES], || {
        let (alloc, free) = functions();
        let null = std::ptr::null_mut();
        // SAFETY: 1. The default stream. 2. Nobody works on the blocks.
        unsafe {
            let sizes = [1isize, 512, 1000, 70_000, 5 << 20, 100 << 20];
            let blocks: Vec<(usize, isize)> =
                sizes.iter().map(|&size| (alloc(size, 0, null) as usize, size)).collect();
            assert!(blocks.iter().all(|&(at, _)| at != 0 && at % 256 == 0), "{blocks:?}");
            for pair in blocks.windows(2) {
                let ((a, a_len), (b, b_len)) = (pair[0], pair[1]);
                assert!(a + a_len as usize <= b || b + b_len as usize <= a, "{blocks:?}");
            }
            assert!(harness::used_bytes(0) >= 105 << 20);
            for refused in [
                alloc(0, 0, null),
                alloc(-1, 0, null),
                alloc(10, 7, null),
                alloc(10, -1, null),
                alloc(5 << 30, 0, null),
            ] {
                assert!(refused.is_null());
            }
            let other = alloc(4 << 20, 1, null);
            assert!(!other.is_null() && harness::used_bytes(1) >= 4 << 20);
            free(other, 4 << 20, 1, null);
            for &(at, size) in &blocks {
                free(at as *mut c_void, size, 0, null);
            }
            // Refused in words, and nothing is lost.
            free(blocks[4].0 as *mut c_void, blocks[4].1, 0, null);
            free(12345 as *mut c_void, 10, 0, null);
            free(null, 10, 0, null);
            let whole = alloc(1 << 30, 0, null);
            assert!(!whole.is_null(), "every byte of the device can be had again");
            free(whole, 1 << 30, 0, null);
        }
    });
}
