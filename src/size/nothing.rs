//! Blocks without bytes, as the allocator interfaces hand them out.
//!
//! Collections hold such a block as room for nothing and never give it back: a vector that is empty when it is shrunk to fit would keep
//! the smallest block for good. Rust's own allocator takes no memory for it either.

use core::alloc::Layout;
use core::ptr::{NonNull, without_provenance_mut};

/// The block of a layout without bytes: an address aligned as asked, where nothing lies. Giving it back does nothing. `None`: the layout has
/// bytes.
#[inline]
pub(crate) fn nothing(layout: Layout) -> Option<NonNull<[u8]>> {
    (layout.size() == 0).then(|| {
        let at = NonNull::new(without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling());
        NonNull::slice_from_raw_parts(at, 0)
    })
}

/// Whether a block is [`nothing`]. What else has no bytes is a real block, as `GlobalAlloc` and the allocators' own functions give one.
#[inline]
pub(crate) fn is_nothing(at: NonNull<u8>, layout: Layout) -> bool {
    layout.size() == 0 && at.addr().get() == layout.align()
}
