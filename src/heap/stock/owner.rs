//! Which cache carved a small block: a byte for each KiB of the range.
//!
//! Two blocks of less than a cache line that lie side by side may belong to two threads. Were each to go into the cache of
//! whoever frees it, both threads would go on to work on one line: passive false sharing. So a block of up to 48 bytes
//! that another cache carved goes back to the slabs, from where lines come whole. A tag only guides; nothing rests on it.

use crate::size::{HOST, HOST_CLASSES, SizeClass};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use crate::sync::const_unless_loom;
use core::ptr::{NonNull, null_mut};

/// The classes with owners: the smallest ones, up to 48 bytes.
pub const CLASSES: usize = 3;
const _: () = assert!(HOST.slot_bytes(SizeClass(CLASSES as u8 - 1)) == 48);

/// log2 of the bytes that share a tag.
pub const SHIFT: u32 = 10;
const TAGGED_BYTES: usize = 1 << SHIFT;

/// Whether blocks of a class have owners.
#[inline(always)]
pub const fn tagged(class: SizeClass) -> bool {
    (class.0 as usize) < CLASSES
}

/// What a cache needs to know its own blocks.
#[repr(C)]
pub struct Tags {
    /// The first of the tags: a pointer, since a reference would be to that one alone.
    table: NonNull<AtomicU8>,
    id: u8,
    /// Whether to look at owners at all: there is more than one cache.
    watch: AtomicU8,
    /// For each class the length of the table less one, or 0 where blocks have no owner. Looked up, since a branch on the
    /// class is one that nobody can predict.
    masks: [u32; HOST_CLASSES],
}

// SAFETY: 1. The table is of atomic bytes, and lives for good.
unsafe impl Send for Tags {}
// SAFETY: 1. As above.
unsafe impl Sync for Tags {}

/// Who carved what, and the names that caches go by.
pub struct Owners {
    /// Null without a table; its length is a power of two.
    table: AtomicPtr<AtomicU8>,
    len: AtomicUsize,
    named: AtomicUsize,
    /// The tags of the first cache.
    first: AtomicPtr<Tags>,
}

impl Owners {
    const_unless_loom! {
        /// No table: blocks have no owner.
        pub const fn new() -> Owners {
            Owners {
                table: AtomicPtr::new(null_mut()),
                len: AtomicUsize::new(0),
                named: AtomicUsize::new(0),
                first: AtomicPtr::new(null_mut()),
            }
        }
    }

    /// The length of the table for a range of `bytes`: of a longer one, places that lie 2 TiB apart share their tags.
    pub fn table_len(bytes: u64) -> usize {
        (bytes >> SHIFT).next_power_of_two().clamp(1 << 8, 1 << 31) as usize
    }

    /// Gives it its table, whose length is one of [`table_len`](Self::table_len). One that has a table keeps that.
    pub fn furnish(&self, table: &'static [AtomicU8]) {
        assert!(table.len().is_power_of_two() && table.len() >= 1 << 8, "a table of {} tags", table.len());
        if self.table.load(Relaxed).is_null() {
            self.len.store(table.len(), Relaxed);
            // Release: pairs with the Acquire in `tags`.
            self.table.store(table.as_ptr().cast_mut(), Ordering::Release);
        }
    }

    /// Tags of a new owner; `None` without a table.
    pub fn tags(&self) -> Option<Tags> {
        // Acquire: pairs with the Release in `furnish`.
        let table = NonNull::new(self.table.load(Ordering::Acquire))?;
        // One of 255 names, in turn: two caches of one name lose no more than what the tags are for.
        let id = (self.named.fetch_add(1, Relaxed) % 255) as u8 + 1;
        let mut masks = [0; HOST_CLASSES];
        masks[..CLASSES].fill(self.len.load(Relaxed) as u32 - 1);
        Some(Tags { table, id, watch: AtomicU8::new(0), masks })
    }

    /// Begins to look at owners, for these tags and for the first ones, unless these are the first.
    pub fn begin(&self, tags: &'static Tags) {
        let own = (&raw const *tags).cast_mut();
        // Release and Acquire: the first tags are there for whoever finds them.
        if let Err(first) = self.first.compare_exchange(null_mut(), own, Ordering::Release, Ordering::Acquire)
        {
            tags.watch.store(1, Relaxed);
            // SAFETY: 1. Only what lives for good is stored there.
            unsafe { (*first).watch.store(1, Relaxed) };
        }
    }
}

#[cfg(not(democratising_loom))]
static NO_TAG: AtomicU8 = AtomicU8::new(0);

impl Tags {
    /// Every block is one's own.
    #[cfg(not(democratising_loom))]
    pub const fn none() -> Tags {
        // SAFETY: 1. No static is at address zero.
        let table = unsafe { NonNull::new_unchecked((&raw const NO_TAG).cast_mut()) };
        Tags { table, id: 0, watch: AtomicU8::new(0), masks: [0; HOST_CLASSES] }
    }

    /// Whether it looks at owners.
    #[cfg(democratising_loom)]
    pub fn watches(&self) -> bool {
        self.watch.load(Relaxed) != 0
    }

    #[inline(always)]
    fn at(&self, block: usize, mask: u32) -> &AtomicU8 {
        // SAFETY: 1. The mask is the length of the table less one, or 0.
        unsafe { self.table.add((block >> SHIFT) & mask as usize).as_ref() }
    }

    /// Whether a block of a class goes into one's own magazines: it is one's own, or has no owner.
    ///
    /// # Safety
    /// `class` is less than `HOST_CLASSES`.
    #[inline(always)]
    pub unsafe fn keep(&self, block: *mut u8, class: SizeClass) -> bool {
        if self.watch.load(Relaxed) == 0 {
            return true;
        }
        // SAFETY: 1. As the caller promises.
        let mask = unsafe { *self.masks.get_unchecked(class.0 as usize) };
        let tag = self.at(block as usize, mask).load(Relaxed);
        // The lowest byte of a mask is all ones or all zeros.
        (tag ^ self.id) & mask as u8 == 0
    }

    /// Makes blocks one's own.
    pub fn claim(&self, blocks: &[usize]) {
        // As a slab gives them where nothing between them is taken: some share a tag, and no tag lies between two of them.
        if let [first, second, .., last] = *blocks
            && let Some(step @ 1..TAGGED_BYTES) = first.checked_sub(second)
            && first.wrapping_sub(last) == step * (blocks.len() - 1)
        {
            return (last >> SHIFT..=first >> SHIFT).for_each(|tag| self.claim_one(tag << SHIFT));
        }
        blocks.iter().for_each(|&block| self.claim_one(block));
    }

    #[inline(always)]
    fn claim_one(&self, block: usize) {
        let tag = self.at(block, self.masks[0]);
        if tag.load(Relaxed) != self.id {
            tag.store(self.id, Relaxed);
        }
    }
}
