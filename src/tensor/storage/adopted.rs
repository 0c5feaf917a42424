//! A vector's own memory, taken over as it is.

use super::bytes_of;
use crate::tensor::element::Element;
use core::ptr::NonNull;
use core::slice;
use std::mem::ManuallyDrop;
use std::vec::Vec;

/// A `Vec<T>` of some `T: Element`, as bytes.
///
/// Its memory must be given back with the layout of `Vec<T>`, capacity and alignment of `T` included, so `free`
/// remembers `T`: it is the function that turns the parts into that very `Vec<T>` again.
pub(super) struct Adopted {
    at: NonNull<u8>,
    bytes: usize,
    capacity: usize,
    free: unsafe fn(NonNull<u8>, usize),
}

impl Adopted {
    pub(super) fn new<T: Element>(vec: Vec<T>) -> Adopted {
        unsafe fn free<T: Element>(at: NonNull<u8>, capacity: usize) {
            // SAFETY: 1. The caller's: `at` and `capacity` came from a `Vec<T>` that was taken apart. 2. Elements
            // need no drop, so a length of 0 loses nothing.
            drop(unsafe { Vec::<T>::from_raw_parts(at.cast().as_ptr(), 0, capacity) });
        }

        let mut vec = ManuallyDrop::new(vec);
        // The vector's own pointer: one made from its slice would be valid for the elements only, and not for freeing
        // the rest of the capacity.
        // SAFETY: 1. The pointer of a vector is never null.
        let at = unsafe { NonNull::new_unchecked(vec.as_mut_ptr()) };
        let bytes = bytes_of(vec.as_slice()).len();
        Adopted { at: at.cast(), bytes, capacity: vec.capacity(), free: free::<T> }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: 1. The vector's initialised elements, without padding. 2. Owned, so unchanged during `&self`.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: 1. As in `bytes`. 2. `&mut self` makes the access the only one.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.bytes) }
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        // SAFETY: 1. The parts are those of the vector that `free` was made for. 2. Nobody uses them after this.
        unsafe { (self.free)(self.at, self.capacity) }
    }
}

// SAFETY: 1. It owns a `Vec` of elements, and elements are `Send`.
unsafe impl Send for Adopted {}

// SAFETY: 1. Shared, its elements are only read, and elements are `Sync`.
unsafe impl Sync for Adopted {}
