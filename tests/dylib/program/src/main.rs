//! A program whose global allocator stands in a library that is linked at run time: both work on one heap.

use shared::democratising::Global;

#[global_allocator]
static GLOBAL: Global = Global;

fn main() {
    let mut numbers = shared::numbers(10_000);
    let theirs = std::thread::spawn(|| shared::numbers(10_000)).join().unwrap();
    assert!(Global::stats().in_use_bytes > 2 * 10_000 * size_of::<String>() as u64);
    numbers.extend(theirs);
    numbers.sort_unstable();
    assert_eq!(numbers.iter().filter(|number| *number == "777").count(), 2);
    println!("one heap in a program and in a library");
}
