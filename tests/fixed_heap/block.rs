//! Memory for a heap, and blocks with a pattern in them.

use democratising::FixedHeap;
use democratising::heap::fixed::NotClaimed;
use democratising::lock_api::RawMutex;
use std::alloc::Layout;
use std::ptr::NonNull;

/// Memory that a heap may have for as long as a test runs.
pub struct Ram {
    start: NonNull<u8>,
    layout: Layout,
}

impl Ram {
    pub fn new(bytes: usize) -> Ram {
        let layout = layout(bytes, 16);
        // SAFETY: 1. No test asks for nothing.
        let start = NonNull::new(unsafe { std::alloc::alloc(layout) }).expect("there is memory for the test");
        Ram { start, layout }
    }

    /// The address of a byte.
    pub fn at(&self, at: usize) -> *mut u8 {
        assert!(at <= self.layout.size());
        self.start.as_ptr().wrapping_add(at)
    }

    /// Gives `len` bytes from `at` to a heap.
    pub fn give<L: RawMutex, const N: usize, const SLABS: bool>(
        &self,
        heap: &FixedHeap<L, N, SLABS>,
        at: usize,
        len: usize,
    ) -> Result<u64, NotClaimed> {
        assert!(len <= self.layout.size() - at);
        // SAFETY: 1. The tests drop the heap before the memory, and use it through the heap alone.
        unsafe { heap.claim(self.at(at), len) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: 1. It was allocated so, and the heap is gone.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

pub fn layout(bytes: usize, align: usize) -> Layout {
    Layout::from_size_align(bytes, align).unwrap()
}

pub struct Live {
    pub at: NonNull<u8>,
    pub layout: Layout,
    pub pattern: u8,
}

impl Live {
    pub fn fill(&self) {
        // SAFETY: 1. The block is live, the test's and as long as its layout.
        unsafe { self.at.write_bytes(self.pattern, self.layout.size()) }
    }

    pub fn holds(&self, bytes: usize, pattern: u8) -> bool {
        // SAFETY: 1. As in `fill`, which has written all of it.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), bytes) == vec![pattern; bytes] }
    }
}
