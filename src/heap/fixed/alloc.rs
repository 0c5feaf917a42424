//! A fixed heap as the program's allocator, and as that of a collection.

#![allow(unsafe_code)]

use super::call::without_unwinding;
use super::state::State;
use super::{COPIES, FixedHeap};
use crate::heap::misuse::Misuse;
use crate::size::{is_nothing, nothing};
use crate::sync::Held;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use lock_api::RawMutex;

impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> FixedHeap<L, ARENAS, SLABS> {
    /// A block of layout `new` with the contents of the one at `at`: in place where that works, else copied. `None`: there is no
    /// memory, or the block is not live, or not of layout `old`; then it is neither read nor written, and the program is told. A
    /// `global` allocator must not unwind.
    ///
    /// # Safety
    /// Nobody uses the block under its old address afterwards, unless there is none under a new one.
    unsafe fn move_to(&self, at: *mut u8, old: Layout, new: Layout, global: bool) -> Option<NonNull<u8>> {
        let mut state = self.held();
        let Some(placed) = state.place(at, old, new) else {
            self.refused(state, at, old, global);
            return None;
        };
        let to = match placed {
            Some(to) => {
                drop(state);
                to
            }
            None => {
                let elsewhere = if global {
                    NonNull::new(self.take_global_anyhow(state, new))
                } else {
                    self.take_anyhow(state, new).map(|block| block.0)
                };
                match elsewhere {
                    Some(to) => to,
                    // What the program gave back may lie right behind it.
                    None if self.held().grew_at_last(at, old, new) => return NonNull::new(at),
                    None => return None,
                }
            }
        };
        if to.as_ptr() == at {
            return Some(to);
        }
        // SAFETY: 1. The old block is live and has the bytes of `old`, the new one is the caller's and has those of `new`.
        // 2. Two live blocks lie apart.
        unsafe { ptr::copy_nonoverlapping(at, to.as_ptr(), old.size().min(new.size())) };
        // Nobody uses the old one any more.
        let mut state = self.held();
        let class = if COPIES { state.class_of(old) } else { None };
        let distance = state.distance(at);
        match class.and_then(|class| state.give_near_slot(distance, class)) {
            Some(0) => {}
            Some(chore) => Self::give_last(state, chore),
            None if state.give_else(at, old).is_some() => {}
            None => {
                self.refused(state, at, old, global);
                return None;
            }
        }
        Some(to)
    }

    /// Tells the program of a block that is not what it was to be given back as.
    #[cold]
    #[inline(never)]
    fn refused(
        &self,
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        at: *mut u8,
        layout: Layout,
        global: bool,
    ) {
        let misuse = Misuse { addr: at as usize, bytes: layout.size(), why: state.why(at, layout.size()) };
        let then = if COPIES {
            // Through the heap: it is an argument of the last call of `dealloc` then, and the size, which is another, not in the register
            // that a shift takes.
            drop(state);
            self.held().misused()
        } else {
            let then = state.misused();
            drop(state);
            then
        };
        if global {
            without_unwinding(&mut || Self::tell(then, misuse));
        } else {
            Self::tell(then, misuse);
        }
    }

    /// `move_to` for `Allocator`.
    ///
    /// # Safety
    /// As `move_to`.
    unsafe fn moved(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if is_nothing(at, old) {
            return Allocator::allocate(self, new);
        }
        if let Some(nothing) = nothing(new) {
            // SAFETY: 1. The caller's promise, handed on.
            unsafe { self.deallocate(at, old) };
            return Ok(nothing);
        }
        // SAFETY: 1. The caller's promise, handed on.
        let to = unsafe { self.move_to(at.as_ptr(), old, new, false) }.ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(to, new.size()))
    }

    /// `take` for `GlobalAlloc`: the function for low memory may run in it, and must not unwind.
    #[inline(always)]
    fn take_global(&self, layout: Layout) -> *mut u8 {
        if !COPIES {
            return Self::take_global_else(self.held(), layout, self);
        }
        // Whatever is not usual is the last that is done, with what it takes where the registers have it, so that what is usual keeps and
        // moves nothing for it.
        let Some(mut state) = self.state.try_lock() else { return self.take_global_waiting(layout) };
        let Some(class) = state.class_of(layout) else { return Self::take_global_aside(state, layout, self) };
        state.take_near_slot(class).unwrap_or_else(|| Self::take_global_far(state, layout, self))
    }

    #[inline(never)]
    fn take_global_far(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        layout: Layout,
        heap: &Self,
    ) -> *mut u8 {
        let slot = state.class_of(layout).and_then(|class| state.take_far_slot(class));
        slot.unwrap_or_else(|| Self::take_global_else(state, layout, heap))
    }

    #[inline(never)]
    fn take_global_aside(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        layout: Layout,
        heap: &Self,
    ) -> *mut u8 {
        state.take_aside(layout).unwrap_or_else(|| Self::take_global_span(state, layout, heap))
    }

    #[inline(never)]
    fn take_global_span(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        layout: Layout,
        heap: &Self,
    ) -> *mut u8 {
        match state.take_span(layout) {
            Some((at, _)) => at.as_ptr(),
            None => Self::take_global_else(state, layout, heap),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_global_waiting(&self, layout: Layout) -> *mut u8 {
        Self::take_global_else(self.held(), layout, self)
    }

    #[cfg_attr(target_pointer_width = "64", inline(never))]
    fn take_global_else(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        layout: Layout,
        heap: &Self,
    ) -> *mut u8 {
        match state.allocate(layout) {
            Some((at, _)) => at.as_ptr(),
            None => heap.take_global_anyhow(state, layout),
        }
    }

    #[cold]
    #[cfg_attr(not(panic = "abort"), inline(never))]
    fn take_global_anyhow<'a>(
        &'a self,
        state: Held<'a, L, State<L, ARENAS, SLABS>>,
        layout: Layout,
    ) -> *mut u8 {
        let (mut block, mut state) = (None, Some(state));
        without_unwinding(&mut || block = state.take().and_then(|state| self.take_anyhow(state, layout)));
        block.map_or(ptr::null_mut(), |(at, _)| at.as_ptr())
    }

    #[inline(never)]
    fn give_global_aside(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        at: *mut u8,
        align: usize,
        heap: &Self,
        bytes: usize,
    ) {
        match state.set_aside(at, bytes) {
            Some(()) => {}
            None => Self::give_global_span(state, at, align, heap, bytes),
        }
    }

    #[inline(never)]
    fn give_global_span(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        at: *mut u8,
        align: usize,
        heap: &Self,
        bytes: usize,
    ) {
        // SAFETY: 1. `dealloc` has taken a layout apart.
        let layout = unsafe { Layout::from_size_align_unchecked(bytes, align) };
        match state.give_span(at, layout) {
            Some(()) => {}
            None => heap.give_global_else(state, at, layout),
        }
    }

    #[inline(never)]
    fn give_global_far(
        state: Held<'_, L, State<L, ARENAS, SLABS>>,
        distance: usize,
        align: usize,
        heap: &Self,
        bytes: usize,
    ) {
        // SAFETY: 1. `dealloc` has taken a layout apart.
        let layout = unsafe { Layout::from_size_align_unchecked(bytes, align) };
        let at = state.pointer(distance);
        heap.give_global_else(state, at, layout);
    }

    #[cold]
    #[inline(never)]
    fn give_global_waiting(&self, at: *mut u8, layout: Layout) {
        self.give_global_else(self.held(), at, layout);
    }

    #[cfg_attr(target_pointer_width = "64", inline(never))]
    fn give_global_else(&self, mut state: Held<'_, L, State<L, ARENAS, SLABS>>, at: *mut u8, layout: Layout) {
        if state.free(at, layout).is_none() {
            self.refused(state, at, layout, true);
        }
    }
}

// SAFETY: 1. A block is never shorter than its layout nor less aligned: the arena rounds both up. 2. It is nobody else's until
// it is freed. 3. Nothing unwinds: what the program has asked to be called is called through a function that cannot.
unsafe impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> GlobalAlloc for FixedHeap<L, ARENAS, SLABS> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take_global(layout)
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if !COPIES {
            return self.give_global_else(self.held(), at, layout);
        }
        let Some(mut state) = self.state.try_lock() else { return self.give_global_waiting(at, layout) };
        // A layout apart: to shift by a number takes the register that its size comes in.
        let (bytes, align) = (layout.size(), layout.align());
        let Some(class) = state.class_of(layout) else {
            return Self::give_global_aside(state, at, align, self, bytes);
        };
        let distance = state.distance(at);
        match state.give_near_slot(distance, class) {
            Some(0) => {}
            Some(chore) => Self::give_last(state, chore),
            None => Self::give_global_far(state, distance, align, self, bytes),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let at = self.take_global(layout);
        if !at.is_null() {
            // SAFETY: 1. The block is new and has the bytes of the layout.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at
    }

    unsafe fn realloc(&self, at: *mut u8, old: Layout, new_bytes: usize) -> *mut u8 {
        if new_bytes > isize::MAX as usize - (old.align() - 1) {
            return ptr::null_mut();
        }
        // SAFETY: 1. The alignment is a layout's. 2. Rounded up to it the size is an `isize`.
        let new = unsafe { Layout::from_size_align_unchecked(new_bytes, old.align()) };
        if COPIES {
            let mut state = self.state.lock();
            // A slot's bytes are few: they are copied under the lock, since taking it twice costs more.
            match state.take_for_slot(at, old, new) {
                Some(None) => return at,
                Some(Some((to, slot))) => {
                    // SAFETY: 1. The old block is live and has the bytes of `old`, the new one has those of `new`. 2. Two live blocks
                    // lie apart.
                    unsafe { ptr::copy_nonoverlapping(at, to, old.size().min(new_bytes)) };
                    match state.give_seen(slot) {
                        0 => {}
                        chore => Self::give_last(state, chore),
                    }
                    return to;
                }
                None => {}
            }
        }
        // SAFETY: 1. The caller uses the old address no more unless it gets null.
        unsafe { self.move_to(at, old, new, true) }.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

// SAFETY: 1. A block stays valid until it is freed: it lies in memory that was claimed for good, not in the heap's own struct,
// which may be moved. 2. There are no copies of a heap. 3. A block is never shorter than its layout nor less aligned.
unsafe impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> Allocator for FixedHeap<L, ARENAS, SLABS> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if let Some(nothing) = nothing(layout) {
            return Ok(nothing);
        }
        let (at, _) = self.take(layout).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if let Some(nothing) = nothing(layout) {
            return Ok(nothing);
        }
        let (at, _) = self.take(layout).ok_or(AllocError)?;
        // SAFETY: 1. The block is new and has the bytes of the layout.
        unsafe { at.write_bytes(0, layout.size()) };
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    #[inline]
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if is_nothing(at, layout) {
            return;
        }
        // SAFETY: 1. The caller uses the block no more.
        if let Err(why) = unsafe { self.free(at, layout) } {
            self.misused(at.as_ptr(), layout.size(), why);
        }
    }

    unsafe fn grow(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { self.moved(at, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promise, handed on.
        let block = unsafe { self.moved(at, old, new) }?;
        // SAFETY: 1. The bytes behind the old ones are part of the new block. 2. `new` is not shorter than `old`: the caller's.
        unsafe { block.cast::<u8>().add(old.size()).write_bytes(0, new.size() - old.size()) };
        Ok(block)
    }

    unsafe fn shrink(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { self.moved(at, old, new) }
    }
}
