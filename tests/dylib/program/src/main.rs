//! A program that has the heap from a library which is linked at run time: both work on one.
//!
//! As the global allocator it cannot serve here: Rust's own libraries, linked at run time as well, have another.

use shared::democratising::{Global, Tensor};
use std::alloc::{GlobalAlloc, Layout};

fn main() {
    let layout = Layout::new::<[u64; 5]>();
    // SAFETY: 1. No block is of size zero.
    let mut blocks: Vec<usize> = (0..10_000).map(|_| unsafe { Global.alloc(layout) } as usize).collect();
    blocks.extend(std::thread::spawn(move || shared::blocks(layout, 10_000)).join().unwrap());
    assert!(Global::stats().in_use_bytes >= 20_000 * 48);
    blocks.sort_unstable();
    assert!(blocks.windows(2).all(|pair| pair[1] - pair[0] >= 48), "two blocks overlap");
    for block in blocks {
        // SAFETY: 1. Allocated above with this layout, and used no more.
        unsafe { Global.dealloc(block as *mut u8, layout) };
    }
    let tensor = Tensor::zeros(&[100, 100]).unwrap();
    assert_eq!(tensor.shape(), [100, 100]);
    println!("one heap in a program and in a library");
}
