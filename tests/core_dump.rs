//! What a core dump has of a program with this heap: what was used, and not what was reserved for it.

#![cfg(target_os = "linux")]

use democratising::{Global, Tensor};
use std::fs::read_to_string;

#[global_allocator]
static GLOBAL: Global = Global;

/// The bytes of every mapping that core dumps do not leave out (`dd`), and which the program may use so.
fn dumped_bytes(rights: &str) -> u64 {
    let (mut sum, mut kib, mut counts) = (0, 0, false);
    for line in read_to_string("/proc/self/smaps").unwrap().lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Size:") => kib = words.next().unwrap().parse::<u64>().unwrap(),
            Some("VmFlags:") if counts && !words.any(|flag| flag == "dd") => sum += kib << 10,
            Some(word) if !word.ends_with(':') => {
                counts = words.next().is_some_and(|how| how.starts_with(rights))
            }
            _ => {}
        }
    }
    sum
}

/// The kernel dumps what can be written.
#[test]
fn a_core_dump_has_what_was_used_and_little_more() {
    const MIB: u64 = 1 << 20;
    let at_first = dumped_bytes("rw");
    assert!(at_first < 128 * MIB, "{at_first} bytes at first");
    let blocks: Vec<Box<[u8; 1000]>> = (0..200_000).map(|at| Box::new([at as u8; 1000])).collect();
    let tensor = Tensor::zeros(&[50 << 20]).unwrap();
    let used = dumped_bytes("rw");
    // As many bytes as were used, and what was opened beyond of the two heaps.
    assert!(used >= 390 * MIB && used < at_first + 800 * MIB, "{used} bytes with 390 MiB in use");
    assert_eq!(blocks.len() + tensor.len(), 200_000 + (50 << 20));
}

/// gdb's `gcore` dumps what cannot be read too, as zeros.
#[test]
fn a_debuggers_core_dump_has_little_of_what_was_only_reserved() {
    let tensor = Tensor::zeros(&[1 << 20]).unwrap();
    let reserved = dumped_bytes("---");
    assert!(reserved < 512 << 20, "{reserved} bytes beside a tensor of {}", tensor.len());
}
