//! Blocks whose size nobody says: their class is found by their address, whoever took them and whatever stood there before.

use democratising::heap::{Misuse, OnMisuse, on_misuse};
use democratising::{BadFree, Global, gc};
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError, RwLock, mpsc};
use std::thread;

/// Taken alone by whoever frees what is free: the memory must not be somebody else's by then.
static ALONE: RwLock<()> = RwLock::new(());

/// Misuse that the hook heard of, with the address.
static HEARD: Mutex<Vec<(usize, BadFree)>> = Mutex::new(Vec::new());

/// Addresses that a test gives back wrongly; of any other, misuse is a fault of the heap's.
static WRONG: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn hook(misuse: Misuse) {
    if !WRONG.lock().unwrap().contains(&misuse.addr) {
        eprintln!("{misuse}");
        std::process::abort();
    }
    HEARD.lock().unwrap().push((misuse.addr, misuse.why));
}

/// Gives back what cannot be.
fn free_wrongly(at: *mut u8) {
    WRONG.lock().unwrap().push(at as usize);
    free(at);
}

/// What was heard about an address.
fn heard(at: *mut u8) -> Option<BadFree> {
    HEARD.lock().unwrap().iter().find(|(addr, _)| *addr == at as usize).map(|(_, why)| *why)
}

fn take(bytes: usize, align: usize) -> *mut u8 {
    // SAFETY: 1. A size of zero gets the smallest block.
    let at = unsafe { Global.alloc(Layout::from_size_align(bytes, align).unwrap()) };
    assert!(!at.is_null() && (at as usize).is_multiple_of(align));
    at
}

fn free(at: *mut u8) {
    // SAFETY: 1. Null, or a block that the caller gives up; or misuse, which is what the test is about.
    unsafe { Global.free_unsized(at) }
}

/// A block with a pattern in all of it that may be used.
struct Filled {
    at: *mut u8,
    bytes: usize,
    pattern: u8,
}

// SAFETY: 1. A block is owned by whoever has it.
unsafe impl Send for Filled {}

impl Filled {
    fn new(asked: usize, align: usize, pattern: u8) -> Filled {
        let at = take(asked, align);
        // SAFETY: 1. It is this thread's.
        let bytes = unsafe { Global.usable_bytes(at) }.expect("a live block");
        assert!(bytes >= asked, "{bytes} bytes where {asked} were asked for");
        // SAFETY: 1. The block has so many bytes.
        unsafe { at.write_bytes(pattern, bytes) };
        Filled { at, bytes, pattern }
    }

    fn check(&self, bytes: usize) {
        // SAFETY: 1. The block is live and has been written.
        let held = unsafe { std::slice::from_raw_parts(self.at, bytes) };
        assert!(held.iter().all(|byte| *byte == self.pattern), "{bytes} bytes at {:p}", self.at);
    }

    fn resize(&mut self, asked: usize) {
        // SAFETY: 1. The block is live, and its old address is used no more.
        self.at = unsafe { Global.realloc_unsized(self.at, asked) };
        assert!(!self.at.is_null() && (self.at as usize).is_multiple_of(16));
        // SAFETY: 1. It is this thread's.
        let now = unsafe { Global.usable_bytes(self.at) }.expect("a live block");
        assert!(now >= asked);
        self.check(asked.min(self.bytes));
        self.bytes = now;
        // SAFETY: 1. The block has so many bytes.
        unsafe { self.at.write_bytes(self.pattern, self.bytes) };
    }

    fn free(self) {
        self.check(self.bytes);
        free(self.at);
    }
}

const SIZES: [usize; 16] = [
    0,
    1,
    16,
    17,
    100,
    500,
    1000,
    4096,
    8192,
    9000,
    20_000,
    32 << 10,
    (32 << 10) + 1,
    65_536,
    300_000,
    3 << 20,
];

#[test]
fn every_size_and_alignment_is_found_again_by_its_address() {
    let _together = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    for bytes in SIZES {
        for align in [1, 16, 64, 4096, 32 << 10, 64 << 10, 1 << 20] {
            Filled::new(bytes, align, 7).free();
        }
    }
    free(null_mut());
}

#[test]
fn memory_that_changes_its_class_is_known_by_the_new_one() {
    let _together = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    // Each round takes what the last one gave back: slabs become spans, spans slabs, and slabs those of another class.
    for round in 0..40 {
        let bytes = SIZES[(round * 5) % SIZES.len()];
        let blocks: Vec<Filled> =
            (0..(4 << 20) / bytes.max(64)).map(|i| Filled::new(bytes, 16, i as u8)).collect();
        blocks.into_iter().for_each(Filled::free);
        gc::collect().unwrap();
    }
}

#[test]
fn blocks_are_known_in_threads_that_never_took_one() {
    let _together = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    let (to, from) = mpsc::channel::<Filled>();
    let other = thread::spawn(move || {
        for (turn, mut block) in from.into_iter().enumerate() {
            block.check(block.bytes);
            if turn % 3 == 0 {
                block.resize(SIZES[turn % SIZES.len()]);
            }
            block.free();
        }
    });
    for turn in 0..6_000 {
        to.send(Filled::new(SIZES[turn % 13], 16, turn as u8)).unwrap();
    }
    drop(to);
    other.join().unwrap();
}

#[test]
fn a_block_of_another_size_keeps_its_contents_and_small_cuts_keep_its_place() {
    let _together = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    for from in SIZES {
        for to in SIZES {
            let mut block = Filled::new(from, 16, 9);
            let (at, had) = (block.at, block.bytes);
            block.resize(to);
            if to <= had && to >= had / 2 {
                assert_eq!(block.at, at, "{from} to {to}");
            }
            if to < had / 2 && had > 64 {
                let most = to + if to <= 32 << 10 { to / 4 + 16 } else { 16 << 10 };
                assert!(block.bytes <= most, "{from} to {to} keeps {} of {had} bytes", block.bytes);
            }
            block.free();
        }
    }
}

#[test]
fn what_cannot_be_had_leaves_the_block_as_it_is() {
    let _together = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    for bytes in [100, 100_000] {
        let block = Filled::new(bytes, 16, 3);
        for wanted in [usize::MAX, isize::MAX as usize, isize::MAX as usize - 20, isize::MAX as usize / 3] {
            // SAFETY: 1. Null is returned, so the block is live still.
            assert!(unsafe { Global.realloc_unsized(block.at, wanted) }.is_null());
        }
        block.free();
    }
}

#[test]
fn addresses_that_are_no_blocks_are_told() {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    on_misuse(OnMisuse::Hook(hook));
    let mut mine = [0u8; 64];
    free_wrongly(mine.as_mut_ptr());
    assert_eq!(heard(mine.as_mut_ptr()), Some(BadFree::Foreign));
    // SAFETY: 1. No block.
    assert_eq!(unsafe { Global.usable_bytes(mine.as_mut_ptr()) }, None);
    // SAFETY: 1. No block, which is refused.
    assert!(unsafe { Global.realloc_unsized(mine.as_mut_ptr(), 10) }.is_null());

    // Before the large block, whose address would be told of.
    let small = take(700, 16);
    let large = take(5 << 20, 16);
    let inside = large.wrapping_add(5000);
    free_wrongly(inside);
    assert!(matches!(heard(inside), Some(BadFree::Interior { .. })), "{:?}", heard(inside));
    free(large);
    free_wrongly(large);
    assert!(matches!(heard(large), Some(BadFree::AlreadyFree { .. })), "{:?}", heard(large));

    let inside = small.wrapping_add(16);
    free_wrongly(inside);
    gc::collect().unwrap();
    assert!(matches!(heard(inside), Some(BadFree::Interior { .. })), "{:?}", heard(inside));
    assert_eq!(heard(small), None);
    free(small);
}
