//! The workloads under next to nothing: what they cost by themselves.
//!
//! Free blocks lie in a list for each class and thread, threaded through them, newest first. Nothing is checked, returned, shared or
//! counted, and what a thread that ended had free is lost. No allocator can do much less, so what a workload takes here is no
//! allocator's to save. Above 32 KiB it is the C library's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const MOST: usize = 32 << 10;
const CHUNK: usize = 64 << 10;
const RESERVED: usize = 256 << 30;
const CLASSES: usize = 64;

/// Sixteenths of a kilobyte to classes: four for each doubling, but multiples of 16.
const CLASS_OF: [u8; MOST / 16 + 1] = {
    let mut table = [0; MOST / 16 + 1];
    let (mut class, mut bytes, mut at) = (0, 16, 0);
    while at < table.len() {
        if at * 16 > bytes {
            class += 1;
            bytes = next(bytes);
        }
        table[at] = class;
        at += 1;
    }
    table
};

/// The size of the class behind one of `bytes`.
const fn next(bytes: usize) -> usize {
    let quarter = 1 << (bytes.ilog2() - 2);
    bytes + if quarter < 16 { 16 } else { quarter }
}

const BYTES_OF: [usize; CLASSES] = {
    let mut table = [16; CLASSES];
    let mut class = 1;
    while class < CLASSES {
        table[class] = next(table[class - 1]);
        class += 1;
    }
    table
};

/// A class: its free blocks, each of which holds the address of the next, and memory that was never handed out.
#[derive(Clone, Copy)]
struct List {
    free: *mut *mut u8,
    fresh: *mut u8,
    end: *mut u8,
}

thread_local! {
    static LISTS: UnsafeCell<[List; CLASSES]> =
        const { UnsafeCell::new([List { free: null_mut(), fresh: null_mut(), end: null_mut() }; CLASSES]) };
}

/// What was cut off the reservation, and where that is.
static CUT: AtomicUsize = AtomicUsize::new(0);
static RESERVATION: AtomicUsize = AtomicUsize::new(0);

/// Memory for a class, at a multiple of its length.
#[cold]
#[inline(never)]
fn chunk() -> *mut u8 {
    if RESERVATION.load(Relaxed) == 0 {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: 1. A new private mapping, placed by the system. 2. The advice is about that mapping.
        unsafe {
            let at = libc::mmap(null_mut(), RESERVED, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED, "no addresses for the workloads to run in");
            libc::madvise(at, RESERVED, libc::MADV_HUGEPAGE);
            // Before `main` there is one thread.
            RESERVATION.store((at as usize).next_multiple_of(CHUNK), Relaxed);
        }
    }
    (RESERVATION.load(Relaxed) + CUT.fetch_add(CHUNK, Relaxed)) as *mut u8
}

struct Floor;

#[inline(always)]
fn class(layout: Layout) -> Option<usize> {
    // A power of two lies at a multiple of itself, since a chunk does.
    let bytes = if layout.align() > 16 {
        layout.size().max(layout.align()).next_power_of_two()
    } else {
        layout.size()
    };
    CLASS_OF.get(bytes.div_ceil(16)).map(|&class| class as usize)
}

// SAFETY: 1. A block is in one list, or handed out, or the C library's. 2. It is as long as its class, which is no shorter than
// the layout, and at a multiple of 16, or of its length where that is a power of two. 3. Nothing here unwinds.
unsafe impl GlobalAlloc for Floor {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: 1. The caller's layout, handed on.
        let Some(class) = class(layout) else { return unsafe { System.alloc(layout) } };
        LISTS.with(|lists| {
            // SAFETY: 1. The lists are this thread's, and nothing refers to them across calls. 2. A free block holds an address.
            unsafe {
                let list = &mut (*lists.get())[class];
                if list.free.is_null() {
                    if list.fresh == list.end {
                        list.fresh = chunk();
                        list.end = list.fresh.add(CHUNK / BYTES_OF[class] * BYTES_OF[class]);
                    }
                    let block = list.fresh;
                    list.fresh = block.add(BYTES_OF[class]);
                    return block;
                }
                let block = list.free;
                list.free = (*block).cast();
                block.cast()
            }
        })
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: 1. The caller's block and layout, handed on.
        let Some(class) = class(layout) else { return unsafe { System.dealloc(at, layout) } };
        LISTS.with(|lists| {
            // SAFETY: 1. As in `alloc`. 2. The block is the caller's to give up, and has room for an address.
            unsafe {
                let list = &mut (*lists.get())[class];
                let block = at.cast::<*mut u8>();
                *block = list.free.cast();
                list.free = block;
            }
        });
    }
}

#[global_allocator]
static GLOBAL: Floor = Floor;

fn main() -> std::process::ExitCode {
    compare::child::main()
}
