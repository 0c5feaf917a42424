//! Which block of the loaded magazine comes next, where that is drawn.

use super::{EMPTY, MAGAZINE_BYTES};
use crate::heap::thread;
use crate::size::SizeClass;

/// Brings a block of the loaded magazine to its top: the one that `draw` names of so many.
pub(in crate::heap) fn stir(class: SizeClass, draw: impl FnOnce(usize) -> usize) {
    let cache = thread::cache();
    if cache == EMPTY.get() || cache.is_null() {
        return;
    }
    let class = class.0 as usize;
    // SAFETY: 1. The cache is this thread's own. 2. `class` is one of its classes, whose magazines are made where there is one
    // behind. 3. The blocks lie between the start of the capacity and the top, and nobody else has the magazine.
    unsafe {
        // Alone: a visitor may be writing what stands beside it.
        let capacity = (*cache).backs[class].capacity;
        if capacity == 0 {
            return;
        }
        let top = (*cache).tops[class];
        let end = top.map_addr(|top| ((top - 1) | (MAGAZINE_BYTES - 1)) + 1);
        let bottom = end.sub(capacity);
        let blocks = top.offset_from_unsigned(bottom);
        if blocks > 1 {
            core::ptr::swap(bottom.add(draw(blocks)), top.sub(1));
        }
    }
}
