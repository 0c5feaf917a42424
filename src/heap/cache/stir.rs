//! Which block of the loaded magazine comes next, where that is drawn.

use super::exchange::widen;
use super::{MAGAZINE_BYTES, empty};
use crate::heap::thread;
use crate::size::SizeClass;

/// The blocks that a draw is from, at least: else what was freed last would be what comes next. Small magazines have half.
const WIDE: usize = 16;

/// Brings a block of the loaded magazine to its top: the one that `draw` names of so many.
pub(in crate::heap) fn stir(class: SizeClass, draw: impl FnOnce(usize) -> usize) {
    let (mut bottom, mut blocks) = loaded(class);
    if blocks < WIDE {
        widen(class, WIDE);
        (bottom, blocks) = loaded(class);
    }
    if blocks > 1 {
        // SAFETY: 1. As many blocks lie at the bottom, in a magazine that is this thread's own.
        unsafe { core::ptr::swap(bottom.add(draw(blocks)), bottom.add(blocks - 1)) };
    }
}

/// Where the loaded blocks of this thread begin, and how many there are.
fn loaded(class: SizeClass) -> (*mut usize, usize) {
    let cache = thread::cache();
    if cache == empty() || cache.is_null() {
        return (core::ptr::null_mut(), 0);
    }
    let class = class.0 as usize;
    // SAFETY: 1. The cache is this thread's own. 2. `class` is one of its classes, whose magazines are made where there is one
    // behind. 3. The blocks lie between the start of the capacity and the top, and nobody else has the magazine.
    unsafe {
        // Alone: a visitor may be writing what stands beside it.
        let capacity = (*cache).backs[class].capacity;
        if capacity == 0 {
            return (core::ptr::null_mut(), 0);
        }
        let top = (*cache).front.tops[class];
        let end = top.map_addr(|top| ((top - 1) | (MAGAZINE_BYTES - 1)) + 1);
        let bottom = end.sub(capacity);
        (bottom, top.offset_from_unsigned(bottom))
    }
}
