//! A Rust library that is linked at run time, and has the heap in it.

pub use democratising;

/// Strings that this library allocates.
pub fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}
