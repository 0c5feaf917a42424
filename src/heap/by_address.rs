//! The class of a block by its address alone: what a `free` without a size needs, and finds without a lock.
//!
//! 1. Slabs start at multiples of the slab unit, so all slots that start in one unit are of one class. A table has a byte for
//!    each unit of the pool's range: the class plus one, or 0 where no slab is known.
//! 2. Whoever took slots from the slabs writes their units' bytes, and whoever took a span clears the byte of its first
//!    unit, before anybody else has the block. This is done outside of the pool's lock, and only where the byte differs.
//! 3. That is early enough. Whoever holds a slot keeps its slab open, and whoever holds a span keeps its first granule, so
//!    the byte is written before the block is given back, and thus before its unit can become anything else. Two that
//!    write the same byte at once both hold blocks of that unit, and write the same.
//! 4. Whoever frees a block has its address from somebody who had it after the byte was written. What carries the address
//!    from thread to thread orders the byte as well, so relaxed loads and stores do.
//! 5. An address that was never handed out, or that was given back, may read the class of a slab that is gone. Then the block
//!    goes into a magazine of that class, and the flush of that magazine says what is wrong with it.

use super::{Global, cache, errno, hardened, misuse, shared};
use crate::size::{HOST, HOST_CLASSES, HOST_GEOMETRY, SizeClass};
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

/// log2 of the bytes of a slab unit.
pub(super) const UNIT_SHIFT: u32 = match HOST_GEOMETRY.slab_shift() {
    Some(shift) => shift,
    None => panic!("the host's memory has slabs"),
};

const _: () = assert!(HOST_CLASSES < u8::MAX as usize, "a class plus one is a byte");

/// The bytes of a slot by its class plus one.
const SLOT_BYTES: [u32; HOST_CLASSES + 1] = {
    let mut table = [0; HOST_CLASSES + 1];
    let mut class = 0;
    while class < HOST_CLASSES {
        table[class + 1] = HOST.slot_bytes(SizeClass(class as u8)) as u32;
        class += 1;
    }
    table
};

/// The table, side by side with what finds a place in it. Written once, before the pool hands out its first block.
struct Units {
    /// Where the first unit starts: the start of the pool's range, or a part of a unit before it.
    base: AtomicUsize,
    /// The bytes that the table covers. 0 without a pool, so that nothing is found.
    bytes: AtomicUsize,
    classes: AtomicPtr<AtomicU8>,
}

static UNITS: Units =
    Units { base: AtomicUsize::new(0), bytes: AtomicUsize::new(0), classes: AtomicPtr::new(null_mut()) };

/// The bytes of a range's last unit count as a whole one, too.
pub(super) fn table_len(bytes: u64) -> usize {
    (bytes >> UNIT_SHIFT) as usize + 1
}

/// From now on the table is that of the process's range, which nobody has a block of yet. To be called once.
///
/// # Safety
/// The table is of that [length](table_len), goes along with that range, which starts at a unit, and lives for good.
pub(super) unsafe fn cover(start: NonNull<u8>, bytes: u64, classes: NonNull<u8>) {
    debug_assert!(start.as_ptr().addr().is_multiple_of(1 << UNIT_SHIFT), "{start:?} is no unit's");
    UNITS.classes.store(classes.as_ptr().cast(), Ordering::Relaxed);
    UNITS.base.store(start.as_ptr() as usize, Ordering::Relaxed);
    // Release: pairs with the Acquire of whoever asks without having a block.
    UNITS.bytes.store(bytes as usize, Ordering::Release);
}

/// The byte of the unit that an address lies in, or `None` outside of the pool's range. `order` is Relaxed for whoever has a
/// block, whose address has come to it with everything else, and Acquire for whoever may have none.
#[inline(always)]
fn byte(at: usize, order: Ordering) -> Option<&'static AtomicU8> {
    let bytes = UNITS.bytes.load(order);
    let distance = at.wrapping_sub(UNITS.base.load(Ordering::Relaxed));
    if distance >= bytes {
        return None;
    }
    let classes = UNITS.classes.load(Ordering::Relaxed);
    // SAFETY: 1. A range that is not empty was stored after the table: it is not null. 2. The table has a byte for every unit of
    // that range, lives for good, and is only seen as atomic bytes, which have the layout of bytes and no invalid value.
    unsafe {
        core::hint::assert_unchecked(!classes.is_null());
        Some(&*classes.add(distance >> UNIT_SHIFT))
    }
}

/// The class of the slot at an address, plus one; 0 for a span, and for what is nobody's.
#[inline(always)]
fn class_plus_one(at: *mut u8, order: Ordering) -> u8 {
    byte(at as usize, order).map_or(0, |byte| byte.load(Ordering::Relaxed))
}

/// The bytes of a slot, from the table.
#[inline]
pub(super) fn slot_bytes(class: SizeClass) -> usize {
    SLOT_BYTES[class.0 as usize + 1] as usize
}

/// The class of the live slot at an address; `None` of a span.
pub(super) fn class_of(at: NonNull<u8>) -> Option<SizeClass> {
    class_plus_one(at.as_ptr(), Ordering::Relaxed).checked_sub(1).map(SizeClass)
}

/// Says that slots of a class start at these addresses, as the slabs gave them out: slab by slab.
pub(super) fn slots_taken(class: SizeClass, slots: &[usize]) {
    // Each slab was gone through in order: what lies between two slots of a unit is of that unit too.
    if let [first, .., last] = *slots
        && first >> UNIT_SHIFT == last >> UNIT_SHIFT
        && !hardened::ON
    {
        return write(first, class.0 + 1);
    }
    let mut last = None;
    for &at in slots {
        let unit = at >> UNIT_SHIFT;
        if last != Some(unit) {
            last = Some(unit);
            write(at, class.0 + 1);
        }
    }
}

/// Says that a span starts at an address.
#[inline]
pub(super) fn span_taken(at: NonNull<u8>) {
    write(at.as_ptr() as usize, 0);
}

#[inline]
fn write(at: usize, value: u8) {
    match byte(at, Ordering::Relaxed) {
        // A line that other threads read is not taken from them for nothing. Relaxed: see 4. above.
        Some(byte) if byte.load(Ordering::Relaxed) != value => byte.store(value, Ordering::Relaxed),
        Some(_) => {}
        None => debug_assert!(false, "{at:#x} is in the pool's range"),
    }
}

impl Global {
    /// The bytes of the block that starts at `at`: at least those that were asked for, and all of them may be used. `None`
    /// where no block is known to start there.
    ///
    /// Of a block of up to 32 KiB this is the size of its class, without a look at whether the block is live. With the feature
    /// `hardened` it is what was asked for, of live blocks only.
    ///
    /// ```
    /// use democratising::Global;
    /// use std::alloc::{GlobalAlloc, Layout};
    ///
    /// let layout = Layout::new::<[u8; 100]>();
    /// // SAFETY: the layout has a size; the block is given back once, with its layout.
    /// unsafe {
    ///     let at = Global.alloc(layout);
    ///     assert!(Global.usable_bytes(at) >= Some(100));
    ///     Global.dealloc(at, layout);
    ///     assert_eq!(Global.usable_bytes(&mut 0), None);
    /// }
    /// ```
    ///
    /// # Safety
    /// Where a block starts at `at`, nobody gives it back or resizes it meanwhile: with `hardened` its size stands in its memory.
    #[inline]
    pub unsafe fn usable_bytes(&self, at: *mut u8) -> Option<usize> {
        if hardened::ON {
            // SAFETY: 1. As the caller promises.
            return unsafe { hardened::asked_bytes(NonNull::new(at)?) };
        }
        match class_plus_one(at, Ordering::Acquire) {
            0 => NonNull::new(at).and_then(|at| shared::usable_bytes(at).ok()),
            class => Some(SLOT_BYTES[class as usize] as usize),
        }
    }

    /// Gives a block back whose layout is not known, as C's `free` does. Null is nothing to give back.
    ///
    /// ```
    /// use democratising::Global;
    /// use std::alloc::{GlobalAlloc, Layout};
    ///
    /// for bytes in [0, 100, 100_000] {
    ///     // SAFETY: a block of no size is one too; each is given back once.
    ///     unsafe { Global.free_unsized(Global.alloc(Layout::from_size_align(bytes, 64).unwrap())) };
    /// }
    /// ```
    ///
    /// # Safety
    /// `at` is null, or a block of this allocator's that nobody uses any more. One that is not is told as all misuse is:
    /// see `heap::on_misuse`.
    #[inline]
    pub unsafe fn free_unsized(&self, at: *mut u8) {
        if hardened::ON {
            return hardened::free(at, None);
        }
        match class_plus_one(at, Ordering::Relaxed) {
            0 => free_span(at),
            // SAFETY: 1. Only classes of the host, plus one, are written to the table. 2. The caller gives the block up. 3. It is
            // not 0. (Said so, the subtraction becomes part of an address.)
            class => unsafe { cache::free(at, SizeClass(class.unchecked_sub(1))) },
        }
    }

    /// Makes a block one of `new_bytes`, aligned to 16 bytes if it moves: where it stands if it can be, else elsewhere, with
    /// its contents. Null: that cannot be had, and the block stays as it is.
    ///
    /// A block that becomes shorter stays where it is down to half its size, and below that where there is no memory for another: C's
    /// programs seldom ask whether that went well. Null as the block is as a new one asked for.
    ///
    /// ```
    /// use democratising::Global;
    ///
    /// // SAFETY: each address is used until the next call, and the last block given back once.
    /// unsafe {
    ///     let at = Global.realloc_unsized(std::ptr::null_mut(), 5);
    ///     at.write(7);
    ///     let at = Global.realloc_unsized(at, 50_000);
    ///     assert_eq!(at.read(), 7);
    ///     assert!(Global.realloc_unsized(at, usize::MAX).is_null());
    ///     Global.free_unsized(at);
    /// }
    /// ```
    ///
    /// # Safety
    /// As for [`free_unsized`](Self::free_unsized), unless null is returned; nobody uses the block under its old address
    /// afterwards.
    pub unsafe fn realloc_unsized(&self, at: *mut u8, new_bytes: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_bytes, 16) else {
            errno::no_memory();
            return null_mut();
        };
        let Some(old) = NonNull::new(at) else {
            // SAFETY: 1. A size of zero gets the smallest block.
            return unsafe { self.alloc(new) };
        };
        if hardened::ON {
            // SAFETY: 1. The caller's promise, handed on.
            return unsafe { hardened::reallocate(old, None, new) };
        }
        let old_bytes = match class_plus_one(at, Ordering::Relaxed) {
            0 => match resize_span(old, new_bytes) {
                Resized::InPlace => return at,
                Resized::Stays { bytes } => bytes,
                Resized::Refused => return null_mut(),
            },
            class => {
                let bytes = SLOT_BYTES[class as usize] as usize;
                if new_bytes <= bytes && new_bytes >= bytes / 2 {
                    return at;
                }
                bytes
            }
        };
        let shrinks = new_bytes <= old_bytes;
        let kept = shrinks.then(errno::Kept::now);
        // SAFETY: 1. A size of zero gets the smallest block.
        let moved = unsafe { self.alloc(new) };
        drop(kept);
        if moved.is_null() {
            // What it has is enough, and its size is found by its address.
            return if shrinks { at } else { null_mut() };
        }
        // SAFETY: 1. Both blocks are live and apart, and each is at least as long as the shorter size. 2. The old one is the
        // caller's to give up, which it is only where there is a new one.
        unsafe {
            moved.copy_from_nonoverlapping(at, old_bytes.min(new_bytes));
            self.free_unsized(at);
        }
        moved
    }
}

/// What became of a span that was to have another size.
enum Resized {
    InPlace,
    /// It is as it was.
    Stays {
        bytes: usize,
    },
    /// It is no live block, which was told.
    Refused,
}

#[cold]
#[inline(never)]
fn free_span(at: *mut u8) {
    if let Some(at) = NonNull::new(at) {
        shared::free_unsized(at);
    }
}

fn resize_span(at: NonNull<u8>, new_bytes: usize) -> Resized {
    let bytes = match shared::usable_bytes(at) {
        Ok(bytes) => bytes,
        Err(why) => {
            misuse::found(at, 0, why);
            return Resized::Refused;
        }
    };
    // What fits a slab moves there, unless staying costs less than as much again.
    let stays = new_bytes >= bytes / 2 || HOST.class(new_bytes as u64, 1).is_none();
    match Layout::from_size_align(bytes, 16).map(|old| stays.then(|| shared::resize(at, old, new_bytes))) {
        Ok(Some(Some(true))) => Resized::InPlace,
        Ok(Some(None)) => Resized::Refused,
        _ => Resized::Stays { bytes },
    }
}
