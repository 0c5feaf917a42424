//! `Global` as the language's global allocator, and as an allocator for collections.

use super::{Global, cache, hardened, shared};
use crate::size::{HOST, HOST_TABLE, SizeClass, is_nothing, nothing};
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

/// In every crate that allocates, so that the class of a layout known at build time is a constant there.
const TABLE: &[u8; HOST_TABLE.len()] = &HOST_TABLE;

/// The size class of a layout, or `None` for a span: that of its size rounded up to its alignment, since slots of such a size are at
/// multiples of it. Of a layout that is known when the program is built, a constant.
#[inline(always)]
pub(super) fn class(layout: Layout) -> Option<SizeClass> {
    class_up_to(layout.size().saturating_sub(1), layout.align())
}

/// The same where the size is not zero; of a layout without bytes `None`.
#[inline(always)]
fn class_of_some(layout: Layout) -> Option<SizeClass> {
    class_up_to(layout.size().wrapping_sub(1), layout.align())
}

/// The class of a block whose last byte this is, before its size is rounded up.
#[inline(always)]
fn class_up_to(last: usize, align: usize) -> Option<SizeClass> {
    let last = last | (align - 1);
    if last >= MOST_BYTES || MOST_ALIGN < MOST_BYTES && align > MOST_ALIGN {
        return None;
    }
    // SAFETY: 1. The table goes to `MOST_BYTES`, and this is below.
    Some(SizeClass(unsafe { *TABLE.get_unchecked((last >> 4) + 1) }))
}

/// The largest size of the table.
const MOST_BYTES: usize = (HOST_TABLE.len() - 1) << 4;

/// The largest alignment that slots have.
const MOST_ALIGN: usize = {
    let mut align = 16;
    while HOST.class(1, 2 * align as u64).is_some() {
        align *= 2;
    }
    align
};

// SAFETY: 1. A block is handed out once and stays until it is given back: a cache's blocks are this thread's, a slab's
// bits and a span's are set under the pool's lock. 2. It has at least the size and alignment of its layout: slots are
// multiples of the alignment, spans start at granules or at multiples of it. 3. Nothing here unwinds.
unsafe impl GlobalAlloc for Global {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if hardened::ON {
            return hardened::allocate(layout);
        }
        match class_of_some(layout) {
            // SAFETY: 1. The class is one of the host's.
            Some(class) => unsafe { cache::allocate(class) },
            None => allocate_span(layout),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if hardened::ON {
            return hardened::free(at, Some(layout));
        }
        match class_of_some(layout) {
            // SAFETY: 1. The class is one of the host's. 2. The caller gives the block up.
            Some(class) => unsafe { cache::free(at, class) },
            None => free_span(at, layout),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if hardened::ON {
            return hardened::allocate_zeroed(layout);
        }
        if class(layout).is_none() {
            return zeroed_span(layout);
        }
        // SAFETY: 1. The caller's layout, handed on. 2. The block has that many bytes.
        unsafe {
            let at = self.alloc(layout);
            if !at.is_null() {
                at.write_bytes(0, layout.size());
            }
            at
        }
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, old: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: 1. The caller promises that `new_bytes`, rounded up to the alignment, is a size.
        let new = unsafe { Layout::from_size_align_unchecked(new_bytes, old.align()) };
        if hardened::ON {
            let Some(at) = NonNull::new(at) else { return null_mut() };
            // SAFETY: 1. The caller's promise, handed on.
            return unsafe { hardened::reallocate(at, Some(old), new) };
        }
        match (class(old), class(new)) {
            (Some(old), Some(new)) if old == new => return at,
            (Some(_), _) => {}
            (None, new) => match resize_span(at, old, new_bytes, new) {
                Some(true) => return at,
                Some(false) => {}
                None => return null_mut(),
            },
        }
        // SAFETY: 1. Both blocks are live and apart, each at least as long as the shorter layout. 2. The old one is the
        // caller's to give up, which it is only where there is a new one.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(at, old.size().min(new_bytes));
                self.dealloc(at, old);
            }
            moved
        }
    }
}

#[cold]
#[inline(never)]
fn allocate_span(layout: Layout) -> *mut u8 {
    // One without bytes has the class of its alignment.
    if let Some(class) = class(layout) {
        // SAFETY: 1. The class is one of the host's.
        return unsafe { cache::allocate(class) };
    }
    shared::allocate(layout).map_or(null_mut(), |block| block.addr.as_ptr())
}

#[cold]
#[inline(never)]
fn free_span(at: *mut u8, layout: Layout) {
    if let Some(class) = class(layout) {
        // SAFETY: 1. The class is one of the host's. 2. The caller of `dealloc` gives the block up.
        return unsafe { cache::free(at, class) };
    }
    if let Some(at) = NonNull::new(at) {
        shared::free(at, layout);
    }
}

/// Gives a span another length where it stands, unless that has a class. Whether it has it now; `None`: it is no live block of its layout,
/// which was told. Then nothing is read of it, and nobody gets a block that would be given back in its place.
#[cold]
#[inline(never)]
fn resize_span(at: *mut u8, old: Layout, new_bytes: usize, new: Option<SizeClass>) -> Option<bool> {
    let at = NonNull::new(at)?;
    let new_bytes = if new.is_some() { old.size() } else { new_bytes };
    let resized = shared::resize(at, old, new_bytes)?;
    Some(resized && new.is_none())
}

#[inline(never)]
fn zeroed_span(layout: Layout) -> *mut u8 {
    let Ok(block) = shared::allocate(layout) else { return null_mut() };
    // SAFETY: 1. The block is new and at least as long as its layout.
    unsafe { shared::zero(&block, layout.size()) };
    block.addr.as_ptr()
}

fn slice(at: *mut u8, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    NonNull::new(at).map(|at| NonNull::slice_from_raw_parts(at, layout.size())).ok_or(AllocError)
}

// SAFETY: 1. As for `GlobalAlloc`. 2. Every `Global` is the same allocator, and it is never gone.
unsafe impl Allocator for Global {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if let Some(nothing) = nothing(layout) {
            return Ok(nothing);
        }
        // SAFETY: 1. The layout has a size.
        slice(unsafe { self.alloc(layout) }, layout)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if let Some(nothing) = nothing(layout) {
            return Ok(nothing);
        }
        // SAFETY: 1. As in `allocate`.
        slice(unsafe { self.alloc_zeroed(layout) }, layout)
    }

    #[inline]
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if is_nothing(at, layout) {
            return;
        }
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { self.dealloc(at.as_ptr(), layout) }
    }

    #[inline]
    unsafe fn grow(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promises are those of `change`.
        unsafe { change(at, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. As for `grow`. 2. The bytes behind the old ones are part of the new block.
        unsafe {
            let block = change(at, old, new)?;
            block.cast::<u8>().add(old.size()).write_bytes(0, new.size() - old.size());
            Ok(block)
        }
    }

    #[inline]
    unsafe fn shrink(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promises are those of `change`.
        unsafe { change(at, old, new) }
    }
}

/// A block of another layout with the same contents.
///
/// # Safety
/// The block was allocated with `old`, and nobody uses it under its old address afterwards.
unsafe fn change(at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
    if is_nothing(at, old) {
        return Allocator::allocate(&Global, new);
    }
    if let Some(nothing) = nothing(new) {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { Allocator::deallocate(&Global, at, old) };
        return Ok(nothing);
    }
    // SAFETY: 1. Where the alignment stays, this is `realloc`. 2. Else both blocks are live and apart, each at least as
    // long as the shorter layout, and the old one is given up once there is a new one.
    unsafe {
        if hardened::ON {
            return slice(hardened::reallocate(at, Some(old), new), new);
        }
        if old.align() == new.align() {
            return slice(Global.realloc(at.as_ptr(), old, new.size()), new);
        }
        if class(old).is_none() {
            resize_span(at.as_ptr(), old, old.size(), None).ok_or(AllocError)?;
        }
        let block = Allocator::allocate(&Global, new)?;
        block.cast::<u8>().copy_from_nonoverlapping(at, old.size().min(new.size()));
        Allocator::deallocate(&Global, at, old);
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_has_the_class_of_its_size_rounded_up_to_its_alignment() {
        let sizes = (0..=40).chain((1..=70).flat_map(|n| [n * 512 - 1, n * 512, n * 512 + 1]));
        for align in (0..=17).map(|shift| 1 << shift) {
            for bytes in sizes.clone() {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                let wanted = HOST.class(bytes as u64, align as u64);
                assert_eq!(class(layout), wanted, "{layout:?}");
                assert_eq!(class_of_some(layout), wanted.filter(|_| bytes > 0), "{layout:?}");
            }
        }
    }
}
