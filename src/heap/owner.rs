//! Which cache carved a small block: a byte for each KiB of the range.
//!
//! Two blocks of less than a cache line that lie side by side may belong to two threads. Were each to go into the cache of
//! whoever frees it, both threads would go on to work on one line: passive false sharing. So a block of up to 48 bytes
//! that another cache carved goes back to the slabs, from where lines come whole. A tag only guides; nothing rests on it.

use crate::arena::metadata::Metadata;
use crate::size::{HOST, SizeClass};
use crate::space::MappedTables;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use core::ptr::NonNull;

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
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Tags {
    table: &'static AtomicU8,
    mask: usize,
    id: u8,
}

static NO_TAG: AtomicU8 = AtomicU8::new(0);
static TABLE: OnceLock<&'static [AtomicU8]> = OnceLock::new();

impl Tags {
    /// Every block is one's own.
    pub(super) const NONE: Tags = Tags { table: &NO_TAG, mask: 0, id: 0 };

    /// Tags of a new owner, over a range of `bytes`; [`Tags::NONE`] where there is no memory for a table.
    pub(super) fn new(bytes: u64) -> Tags {
        // One of 255 names, in turn: two caches of one name lose no more than what the tags are for.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let len = (bytes >> SHIFT).next_power_of_two() as usize;
        let table = TABLE.get().copied().or_else(|| {
            let table = MappedTables.table::<u8>(len).ok()?.leak();
            // A second thread may have been faster; then this one's table, of which no page was touched, is left unused.
            Some(*TABLE.get_or_init(|| shared(table)))
        });
        let Some(table) = table else { return Tags::NONE };
        let id = (NEXT.fetch_add(1, Relaxed) % 255) as u8 + 1;
        Tags { table: &table[0], mask: table.len() - 1, id }
    }

    #[inline(always)]
    fn at(&self, block: usize) -> &AtomicU8 {
        // SAFETY: 1. The mask is the length of the table less one.
        unsafe { NonNull::from(self.table).add((block >> SHIFT) & self.mask).as_ref() }
    }

    /// Whether a block is one's own.
    #[inline(always)]
    pub(super) fn own(&self, block: *mut u8) -> bool {
        self.at(block as usize).load(Relaxed) == self.id
    }

    /// Makes blocks one's own.
    pub(super) fn claim(&self, blocks: &[usize]) {
        for &block in blocks {
            let tag = self.at(block);
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
