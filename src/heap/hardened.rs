//! Misuse found at once, where the feature `hardened` is on: every allocation and free of the process's heap goes this way then.
//!
//! 1. A **mark** for every block in the program's hands (`marks`). A free clears it, and only what it cleared is given back:
//!    a second free, a foreign address and one inside a block are told at the free itself.
//! 2. Every block has a **trailer** behind what was asked for (`fill`), compared when it comes back: a write behind the end is
//!    told, and so is a free with another size than was asked for.
//! 3. Blocks of the size classes are filled with a **pattern** while they are free, and compared when they are handed out or go
//!    back to the slabs: a write after the free is told. Whoever reads freed or fresh memory reads the pattern.
//! 4. **Places are drawn**: slots from the whole slab (`arena/slab/drawn`), blocks from all of the loaded magazine, which has 16 at least
//!    then, or half of what it holds (`cache/stir`). What was freed last is seldom what comes next.
//!
//! Not found: reads of any kind, a write behind the end that skips trailer and pattern, a write after the free once the block is
//! handed out again, or once it is in a slab, or of a block above the size classes, and a second free after the block was
//! handed out again, which takes it from its new holder (who is told, when freeing it).

mod fill;

use super::dispatch::class;
use super::marks::Marks;
use super::{by_address, cache, errno, misuse, shared};
use crate::arena::Block;
use crate::arena::draw::{Draw, mix};
use crate::error::BadFree;
use crate::size::SizeClass;
use crate::space::Contents;
use crate::sync::atomic::AtomicU8;
use crate::sync::{Cell, OnceLock};
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use fill::{Bytes, TRAILER, Trailer};

/// Whether all of this is in use. A constant: without the feature nothing of it is in a program.
pub(super) const ON: bool = cfg!(feature = "hardened");

/// What is made with the pool.
struct Guard {
    marks: Marks,
    /// What trailers are scrambled with.
    secret: u64,
}

static GUARD: OnceLock<Guard> = OnceLock::new();

/// The length of the marks of a range.
pub(super) fn table_len(bytes: u64) -> usize {
    Marks::len_for(bytes) as usize
}

/// From now on the marks are those of the process's range, which nobody has a block of yet.
///
/// # Safety
/// They are of that [length](table_len), go along with that range, and live for good.
pub(super) unsafe fn cover(start: NonNull<u8>, bytes: u64, table: NonNull<u8>) {
    let bits = table.as_ptr().cast::<AtomicU8>();
    // SAFETY: 1. An atomic byte is laid out as a byte. 2. As the caller promises; the table is seen in no other way.
    let bits = unsafe { core::slice::from_raw_parts(bits, Marks::len_for(bytes) as usize) };
    GUARD.get_or_init(|| Guard {
        marks: Marks::new(start.as_ptr() as usize, bits),
        secret: Draw::seeded().next(),
    });
}

std::thread_local! {
    /// The thread's generator; 0 before its first draw.
    static DRAW: Cell<u64> = const { Cell::new(0) };
}

/// A block that came back and is marked no more: whoever has this has the block.
#[derive(Clone, Copy)]
struct Held {
    block: Bytes,
    /// The class of a slot; `None` of a span.
    class: Option<SizeClass>,
    asked_bytes: usize,
}

/// A layout with room for the trailer.
fn with_trailer(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(TRAILER)?, layout.align()).ok()
}

fn slot(at: NonNull<u8>, class: SizeClass) -> Bytes {
    Bytes { at, bytes: by_address::slot_bytes(class) }
}

/// A block of any layout.
pub(super) fn allocate(layout: Layout) -> *mut u8 {
    place(layout).map_or(null_mut(), |block| block.addr.as_ptr())
}

/// A block of zeros.
pub(super) fn allocate_zeroed(layout: Layout) -> *mut u8 {
    let Some(block) = place(layout) else { return null_mut() };
    // SAFETY: 1. The block is new and has the bytes of its layout.
    unsafe {
        match by_address::class_of(block.addr) {
            Some(_) => block.addr.write_bytes(0, layout.size()),
            None => shared::zero(&block, layout.size()),
        }
    }
    block.addr.as_ptr()
}

fn place(layout: Layout) -> Option<Block<NonNull<u8>>> {
    let Some(inner) = with_trailer(layout) else {
        errno::no_memory();
        return None;
    };
    let block = match class(inner) {
        Some(class) => {
            let Bytes { at, bytes } = take_slot(class)?;
            Block { addr: at, bytes: bytes as u64, contents: Contents::Unknown }
        }
        None => shared::allocate(inner).ok()?,
    };
    hand_out(Bytes { at: block.addr, bytes: block.bytes as usize }, layout.size());
    Some(block)
}

/// A slot that is as it was when it was freed. One that is not is told of and used no more.
fn take_slot(class: SizeClass) -> Option<Bytes> {
    loop {
        DRAW.with(|state| {
            let mut draw = match state.get() {
                0 => {
                    Draw::from_state(mix(Draw::seeded().next() ^ GUARD.get().map_or(0, |guard| guard.secret)))
                }
                state => Draw::from_state(state),
            };
            cache::stir(class, |blocks| draw.below(blocks));
            state.set(draw.state());
        });
        // SAFETY: 1. The class is one of the host's.
        let at = NonNull::new(unsafe { cache::allocate(class) })?;
        if intact(class, at.as_ptr() as usize) {
            return Some(slot(at, class));
        }
    }
}

/// Makes a block that is this thread's alone the program's.
fn hand_out(block: Bytes, asked_bytes: usize) {
    let Some(guard) = GUARD.get() else { return };
    // SAFETY: 1. The block is nobody else's. 2. Its size was asked for with room for the trailer.
    unsafe { block.close(guard.secret, asked_bytes) };
    let marked = guard.marks.set(block.at.as_ptr() as usize);
    debug_assert!(marked, "a block is handed out once");
}

/// Takes a block's mark, and thereby the block, if it is whole. Else it stays as it is, and that is told.
fn claim(at: NonNull<u8>, told: Option<Layout>) -> Option<Held> {
    let addr = at.as_ptr() as usize;
    let refuse = |why| misuse::found(at, told.map_or(0, |layout| layout.size()), why);
    let Some(guard) = GUARD.get() else {
        refuse(BadFree::Foreign);
        return None;
    };
    if !guard.marks.clear(addr) {
        let offset_bytes = guard.marks.offset_bytes(addr);
        // What is live to the slabs and spans is in a cache, or on its way.
        refuse(shared::usable_bytes(at).err().unwrap_or(BadFree::AlreadyFree { offset_bytes }));
        return None;
    }
    let offset_bytes = guard.marks.offset_bytes(addr);
    let (block, class) = match by_address::class_of(at) {
        Some(class) => (slot(at, class), Some(class)),
        None => match shared::usable_bytes(at) {
            Ok(bytes) => (Bytes { at, bytes }, None),
            Err(why) => {
                refuse(why);
                return None;
            }
        },
    };
    // SAFETY: 1. The mark was this block's, and this thread took it: nobody else has the block.
    let why = match unsafe { block.check(guard.secret, told.map(|layout| layout.size())) } {
        Trailer::Whole { asked_bytes } => match told {
            Some(layout) if layout.size() != asked_bytes => BadFree::WrongSize {
                offset_bytes,
                held_bytes: asked_bytes as u64,
                given_bytes: layout.size() as u64,
            },
            _ => return Some(Held { block, class, asked_bytes }),
        },
        Trailer::Overrun { byte } => BadFree::Overrun { offset_bytes, byte: byte as u64 },
    };
    guard.marks.set(addr);
    refuse(why);
    None
}

/// Gives a block up that was claimed.
fn release(held: Held) {
    match held.class {
        // SAFETY: 1. The block was claimed: it is this thread's alone, a slot of that class, and nobody uses it.
        Some(class) => unsafe {
            held.block.make_free();
            cache::free(held.block.at.as_ptr(), class);
        },
        None => shared::free_unsized(held.block.at),
    }
}

/// Takes a block back. `told` is its layout, where the caller knows it; null is none.
pub(super) fn free(at: *mut u8, told: Option<Layout>) {
    if let Some(held) = NonNull::new(at).and_then(|at| claim(at, told)) {
        release(held);
    }
}

/// The block with the contents of the one at `at` and layout `new`: in place where that works. Null, and the block as it was:
/// there is no memory, or `at` is no whole block.
///
/// # Safety
/// The block is the caller's, who uses it under its old address no more unless it gets null.
pub(super) unsafe fn reallocate(at: NonNull<u8>, told: Option<Layout>, new: Layout) -> *mut u8 {
    let Some(inner) = with_trailer(new) else {
        errno::no_memory();
        return null_mut();
    };
    let Some(held) = claim(at, told) else { return null_mut() };
    let is_aligned = (at.as_ptr() as usize).is_multiple_of(new.align());
    let stays = match (held.class, class(inner)) {
        _ if !is_aligned => false,
        // Its class is found by its address: the slot may be larger than need be, if not after many small cuts.
        (Some(_), Some(_)) => {
            inner.size() <= held.block.bytes
                && inner.size() >= held.block.bytes / 4
                && new.size() >= held.asked_bytes / 2
        }
        (None, class) if class.is_none() || new.size() >= held.asked_bytes / 2 => {
            Layout::from_size_align(held.block.bytes, 16)
                .is_ok_and(|old| shared::resize(at, old, inner.size()) == Some(true))
        }
        _ => false,
    };
    if stays {
        let bytes = match held.class {
            Some(_) => held.block.bytes,
            None => shared::usable_bytes(at).unwrap_or(held.block.bytes),
        };
        hand_out(Bytes { at, bytes }, new.size());
        return at.as_ptr();
    }
    let shrinks = is_aligned && new.size() <= held.asked_bytes;
    let placed = if shrinks { errno::keeping(|| place(new)) } else { place(new) };
    let Some(Block { addr: to, .. }) = placed else {
        if shrinks {
            // What it has is enough.
            hand_out(held.block, new.size());
            return at.as_ptr();
        }
        if let Some(guard) = GUARD.get() {
            guard.marks.set(at.as_ptr() as usize);
        }
        return null_mut();
    };
    // SAFETY: 1. Both blocks are this thread's, apart, and at least as long as the shorter size.
    unsafe { to.copy_from_nonoverlapping(at, held.asked_bytes.min(new.size())) };
    release(held);
    to.as_ptr()
}

/// What was asked for of the block that starts at `at`; `None` where no whole block does.
///
/// # Safety
/// Nobody gives it back or resizes it meanwhile.
pub(super) unsafe fn asked_bytes(at: NonNull<u8>) -> Option<usize> {
    let guard = GUARD.get().filter(|guard| guard.marks.is_set(at.as_ptr() as usize))?;
    let block = match by_address::class_of(at) {
        Some(class) => slot(at, class),
        None => Bytes { at, bytes: shared::usable_bytes(at).ok()? },
    };
    // SAFETY: 1. The block is live, as its mark says, and stays so, as the caller promises.
    match unsafe { block.check(guard.secret, None) } {
        Trailer::Whole { asked_bytes } => Some(asked_bytes),
        Trailer::Overrun { .. } => None,
    }
}

/// Blocks that come from the slabs, which nobody has yet: they get the pattern of free ones.
pub(super) fn fresh(class: SizeClass, blocks: &[usize]) {
    for at in blocks.iter().filter_map(|&at| NonNull::new(at as *mut u8)) {
        // SAFETY: 1. The slots were taken for this thread, and lie in committed memory.
        unsafe { slot(at, class).make_free() };
    }
}

/// Whether a free block of a class, which this thread has, is as it was when it was freed. Else that is told.
pub(super) fn intact(class: SizeClass, at: usize) -> bool {
    let (Some(start), Some(guard)) = (NonNull::new(at as *mut u8), GUARD.get()) else { return true };
    let block = slot(start, class);
    // SAFETY: 1. The block is in this thread's cache, or was: nobody else has it.
    let Some(byte) = (unsafe { block.written() }) else { return true };
    let offset_bytes = guard.marks.offset_bytes(at);
    let why = BadFree::WrittenAfterFree { offset_bytes, byte: byte as u64 };
    misuse::found(start, block.bytes, why);
    false
}
