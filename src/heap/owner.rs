//! Which cache carved a small block: a byte for each KiB of the range.
//!
//! Two blocks of less than a cache line that lie side by side may belong to two threads. Were each to go into the cache of
//! whoever frees it, both threads would go on to work on one line: passive false sharing. So a block of up to 48 bytes
//! that another cache carved goes back to the slabs, from where lines come whole. A tag only guides; nothing rests on it.

use crate::arena::metadata::Metadata;
use crate::size::{HOST, HOST_CLASSES, SizeClass};
use crate::space::MappedTables;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering::Relaxed};
use core::ptr::{NonNull, null_mut};

/// The classes with owners: the smallest ones, up to 48 bytes.
pub(super) const CLASSES: usize = 3;
const _: () = assert!(HOST.slot_bytes(SizeClass(CLASSES as u8 - 1)) == 48);

/// log2 of the bytes that share a tag.
const SHIFT: u32 = 10;

/// Whether blocks of a class have owners.
#[inline(always)]
pub(super) const fn tagged(class: SizeClass) -> bool {
    (class.0 as usize) < CLASSES
}

/// What a cache needs to know its own blocks.
#[repr(C)]
pub(super) struct Tags {
    table: &'static AtomicU8,
    id: u8,
    /// Whether to look at owners at all: there is more than one cache.
    watch: AtomicU8,
    /// For each class the length of the table less one, or 0 where blocks have no owner. Looked up, since a branch on the
    /// class is one that nobody can predict.
    masks: [u32; HOST_CLASSES],
}

static NO_TAG: AtomicU8 = AtomicU8::new(0);
static TABLE: OnceLock<&'static [AtomicU8]> = OnceLock::new();

/// Makes the table for a range of `bytes`, where there is memory for it. Called once, under a lock.
pub(super) fn prepare(bytes: u64) {
    let len = (bytes >> SHIFT).next_power_of_two().max(1 << 8) as usize;
    if let Ok(table) = MappedTables.table::<u8>(len) {
        TABLE.get_or_init(|| shared(table.leak()));
    }
}

impl Tags {
    /// Every block is one's own.
    pub(super) const fn none() -> Tags {
        Tags { table: &NO_TAG, id: 0, watch: AtomicU8::new(0), masks: [0; HOST_CLASSES] }
    }

    /// Tags of a new owner; [`Tags::none`] without a table.
    pub(super) fn new() -> Tags {
        let Some(table) = TABLE.get() else { return Tags::none() };
        // One of 255 names, in turn: two caches of one name lose no more than what the tags are for.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = (NEXT.fetch_add(1, Relaxed) % 255) as u8 + 1;
        let mut masks = [0; HOST_CLASSES];
        masks[..CLASSES].fill(table.len() as u32 - 1);
        Tags { table: &table[0], id, watch: AtomicU8::new(0), masks }
    }

    /// Begins to look at owners, here and in the first cache, unless this is the first.
    pub(super) fn begin(&'static self) {
        static FIRST: AtomicPtr<Tags> = AtomicPtr::new(null_mut());
        let own = (&raw const *self).cast_mut();
        // Relaxed: what is read and written behind the pointer was there before, and is atomic.
        if let Err(first) = FIRST.compare_exchange(null_mut(), own, Relaxed, Relaxed) {
            self.watch.store(1, Relaxed);
            // SAFETY: 1. Only what lives for good is stored there.
            unsafe { (*first).watch.store(1, Relaxed) };
        }
    }

    #[inline(always)]
    fn at(&self, block: usize, mask: u32) -> &AtomicU8 {
        // SAFETY: 1. The mask is the length of the table less one, or 0.
        unsafe { NonNull::from(self.table).add((block >> SHIFT) & mask as usize).as_ref() }
    }

    /// Whether a block of a class goes into one's own magazines: it is one's own, or has no owner.
    ///
    /// # Safety
    /// `class` is less than `HOST_CLASSES`.
    #[inline(always)]
    pub(super) unsafe fn keep(&self, block: *mut u8, class: SizeClass) -> bool {
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
    pub(super) fn claim(&self, blocks: &[usize]) {
        for &block in blocks {
            let tag = self.at(block, self.masks[0]);
            if tag.load(Relaxed) != self.id {
                tag.store(self.id, Relaxed);
            }
        }
    }
}

fn shared(table: &'static mut [u8]) -> &'static [AtomicU8] {
    let (start, len) = (table.as_mut_ptr(), table.len());
    // SAFETY: 1. An atomic byte is laid out as a byte. 2. The exclusive borrow for good ends here.
    unsafe { core::slice::from_raw_parts(start.cast(), len) }
}
