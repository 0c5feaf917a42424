//! Linked into the tests of other crates, this makes the heap their global allocator.

use democratising::Global;

#[global_allocator]
static GLOBAL: Global = Global;

/// To be called by a test of its own: whether what the program allocates comes from the heap.
///
/// # Panics
/// When it does not.
pub fn assert_served() {
    const BYTES: usize = 256 << 20;
    let before = Global::stats().in_use_bytes;
    let block = Vec::<u8>::with_capacity(BYTES);
    let held = Global::stats().in_use_bytes.saturating_sub(before);
    // Other tests allocate and free meanwhile, but not so much.
    assert!(
        held > BYTES as u64 / 2,
        "the heap holds {held} bytes more, and a vector of {}",
        block.capacity()
    );
}
