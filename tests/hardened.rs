//! The process's heap with the feature `hardened`: what it tells, when, and where.

#![cfg(feature = "hardened")]

use democratising::heap::{Misuse, OnMisuse, on_misuse};
use democratising::{BadFree, Global};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, Mutex, Once, PoisonError};
use std::thread;

#[global_allocator]
static GLOBAL: Global = Global;

const FREED: u8 = 0xdf;

thread_local! {
    /// What this thread was told last. Misuse is found where it happens, so nobody else's is in it.
    static TOLD: Cell<Option<Misuse>> = const { Cell::new(None) };
}
static IN_ALL: AtomicUsize = AtomicUsize::new(0);

/// A collection empties every thread's cache. Whoever counts on what is in his own holds this.
static COLLECTS: Mutex<()> = Mutex::new(());

/// What is told while `act` runs, in this thread.
fn told(act: impl FnOnce()) -> Option<Misuse> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        on_misuse(OnMisuse::Hook(|misuse| {
            IN_ALL.fetch_add(1, SeqCst);
            TOLD.set(Some(misuse));
        }));
    });
    TOLD.set(None);
    act();
    TOLD.take()
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

fn take(bytes: usize) -> *mut u8 {
    // SAFETY: 1. No size here is zero.
    let at = unsafe { alloc(layout(bytes)) };
    assert!(!at.is_null());
    black_box(at)
}

fn free(at: *mut u8, bytes: usize) {
    // SAFETY: 1. Where the block is not live, or not of that size, this is what the heap must refuse.
    unsafe { dealloc(at, layout(bytes)) }
}

/// Small classes, large ones, spans.
const SIZES: [usize; 9] = [1, 8, 24, 40, 100, 700, 5000, 30_000, 200_000];

#[test]
fn a_second_free_is_told_at_once() {
    for bytes in SIZES {
        let at = take(bytes);
        assert_eq!(told(|| free(at, bytes)), None);
        let misuse = told(|| free(at, bytes)).unwrap_or_else(|| panic!("{bytes} bytes: not told"));
        assert!(matches!(misuse.why, BadFree::AlreadyFree { .. }), "{bytes}: {misuse}");
        assert_eq!((misuse.addr, misuse.bytes), (at as usize, bytes));
        // The way of C.
        // SAFETY: 1. It is refused.
        let misuse = told(|| unsafe { Global.free_unsized(at) }).unwrap();
        assert!(matches!(misuse.why, BadFree::AlreadyFree { .. }), "{bytes}: {misuse}");
    }
}

#[test]
fn addresses_of_others_and_inside_of_blocks_are_told_at_once() {
    let mut mine = [0u64; 8];
    let misuse = told(|| free(mine.as_mut_ptr().cast(), 64)).unwrap();
    assert_eq!(misuse.why, BadFree::Foreign);
    for bytes in [40, 700, 30_000, 200_000] {
        let at = take(bytes);
        for inside in [1, 8, 16, 32] {
            let misuse = told(|| free(at.wrapping_add(inside), bytes)).unwrap();
            assert!(matches!(misuse.why, BadFree::Interior { .. }), "{inside} in {bytes}: {misuse}");
        }
        assert_eq!(told(|| free(at, bytes)), None, "the block itself is live still");
    }
}

#[test]
fn a_free_with_another_size_is_told_though_the_class_is_the_same() {
    for (bytes, wrong) in
        [(100, 99), (100, 101), (100, 2000), (700, 200_000), (200_000, 200_001), (200_000, 16)]
    {
        let at = take(bytes);
        let misuse = told(|| free(at, wrong)).unwrap_or_else(|| panic!("{bytes} as {wrong}"));
        assert!(
            matches!(misuse.why, BadFree::WrongSize { held_bytes, given_bytes, .. }
                if (held_bytes, given_bytes) == (bytes as u64, wrong as u64)),
            "{misuse}"
        );
        assert_eq!(told(|| free(at, bytes)), None);
    }
}

#[test]
fn a_write_one_byte_behind_the_end_is_told_when_the_block_is_freed() {
    for bytes in SIZES {
        for sized in [true, false] {
            let at = take(bytes);
            // SAFETY: 1. It is not the program's byte, but lies in the block's own room.
            let kept = unsafe { at.add(bytes).read() };
            // SAFETY: 1. As above. A zero, as the end of a text that is one too long, wherever that changes something.
            unsafe { at.add(bytes).write(if kept == 0 { 1 } else { 0 }) };
            // SAFETY: 1. It is refused.
            let free = || unsafe { if sized { dealloc(at, layout(bytes)) } else { Global.free_unsized(at) } };
            let misuse = told(free).unwrap_or_else(|| panic!("behind {bytes} bytes"));
            let BadFree::Overrun { byte, .. } = misuse.why else { panic!("{misuse}") };
            assert!(!sized || byte == bytes as u64, "{misuse}");
            // SAFETY: 1. As above; the block is whole again.
            unsafe { at.add(bytes).write(kept) };
            assert_eq!(told(free), None);
        }
    }
}

#[test]
fn a_write_after_the_free_is_told_when_the_block_would_be_handed_out() {
    let _alone = COLLECTS.lock().unwrap_or_else(PoisonError::into_inner);
    for (bytes, byte) in [(8, 0), (24, 17), (100, 99), (5000, 4000), (30_000, 29_999)] {
        let layout = layout(bytes);
        // A thread of its own: what is in its cache is only what this did.
        let misuse = thread::spawn(move || {
            // The list first: making it could find the damage too.
            let (mut found, mut blocks) = (None, Vec::with_capacity(3000));
            let at = take(bytes);
            free(at, layout.size());
            // SAFETY: 1. It is not sound: this is what the heap must see. The memory is mapped.
            unsafe { at.add(byte).write(7) };
            while found.is_none() && blocks.len() < 3000 {
                let mut block = std::ptr::null_mut();
                found = told(|| block = take(bytes));
                assert_ne!(block, at, "it is not handed out again");
                blocks.push(block);
            }
            blocks.into_iter().for_each(|block| free(block, layout.size()));
            found.map(|misuse| (misuse, at as usize))
        })
        .join()
        .unwrap();
        let (misuse, at) = misuse.unwrap_or_else(|| panic!("byte {byte} of {bytes}"));
        assert_eq!(misuse.addr, at);
        assert!(
            matches!(misuse.why, BadFree::WrittenAfterFree { byte: told, .. } if told == byte as u64),
            "{misuse}"
        );
    }
}

#[test]
fn a_write_after_the_free_is_told_when_the_block_goes_back_to_the_slabs() {
    let _alone = COLLECTS.lock().unwrap_or_else(PoisonError::into_inner);
    let heard = IN_ALL.load(SeqCst);
    let misuse = told(|| {
        let at = take(1300);
        free(at, 1300);
        // SAFETY: 1. It is not sound: this is what the heap must see.
        unsafe { at.add(600).write(0) };
        democratising::gc::collect().unwrap();
    })
    .unwrap();
    assert!(matches!(misuse.why, BadFree::WrittenAfterFree { byte: 600, .. }), "{misuse}");
    assert!(IN_ALL.load(SeqCst) > heard);
}

#[test]
fn free_and_fresh_memory_shows_the_pattern_and_zeroed_memory_none() {
    for bytes in [8, 24, 100, 700, 5000, 30_000] {
        let at = take(bytes);
        // SAFETY: 1. The block has that many bytes. What was freed is mapped, and read by bytes.
        unsafe {
            assert!((0..bytes).all(|i| at.add(i).read() == FREED), "fresh: {bytes}");
            at.write_bytes(1, bytes);
            free(at, bytes);
            assert!((0..bytes).all(|i| at.add(i).read_volatile() == FREED), "freed: {bytes}");
            let at = alloc_zeroed(layout(bytes));
            assert!((0..bytes).all(|i| at.add(i).read() == 0), "zeroed: {bytes}");
            free(at, bytes);
        }
    }
}

#[test]
fn addresses_of_one_class_come_in_no_order() {
    for bytes in [8, 40, 100, 1000] {
        let blocks: Vec<*mut u8> = (0..500).map(|_| take(bytes)).collect();
        let places: Vec<usize> = blocks.iter().map(|at| *at as usize).collect();
        let steps: Vec<isize> = places.windows(2).map(|pair| pair[1] as isize - pair[0] as isize).collect();
        let up = steps.iter().filter(|step| **step > 0).count();
        assert!((150..350).contains(&up), "{bytes}: {up} of 499 steps lead up");
        let kinds: BTreeSet<isize> = steps.iter().copied().collect();
        assert!(kinds.len() > 40, "{bytes}: {} distances", kinds.len());
        blocks.into_iter().for_each(|at| free(at, bytes));
    }
}

#[test]
fn what_was_freed_last_is_seldom_what_comes_next() {
    let blocks: Vec<*mut u8> = (0..40).map(|_| take(100)).collect();
    blocks.into_iter().for_each(|at| free(at, 100));
    let again = (0..1000)
        .filter(|_| {
            let at = take(100);
            free(at, 100);
            let next = take(100);
            free(next, 100);
            at == next
        })
        .count();
    assert!(again < 300, "{again} of 1000");
}

#[test]
fn two_processes_draw_other_places() {
    const ROLE: &str = "DEMOCRATISING_TEST_PLACES";
    const NAME: &str = "two_processes_draw_other_places";
    if std::env::var_os(ROLE).is_some() {
        let blocks: Vec<usize> = (0..100).map(|_| take(72) as usize).collect();
        // Distances, since the range itself lies elsewhere each time.
        let steps: Vec<isize> = blocks.windows(2).map(|pair| pair[1] as isize - pair[0] as isize).collect();
        eprintln!("steps {steps:?}");
        return;
    }
    let run = || {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(ROLE, "")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().find(|line| line.starts_with("steps [")).expect("distances").to_owned()
    };
    assert_ne!(run(), run());
}

#[test]
fn of_two_threads_that_free_one_block_at_once_one_is_told() {
    let mut refused = 0;
    for round in 0..300 {
        let bytes = SIZES[round % SIZES.len()];
        let at = take(bytes) as usize;
        let start = Barrier::new(2);
        let free = || {
            start.wait();
            told(|| free(at as *mut u8, bytes)).is_some() as usize
        };
        let both = thread::scope(|scope| {
            let other = scope.spawn(free);
            free() + other.join().unwrap()
        });
        assert_eq!(both, 1, "round {round}, {bytes} bytes");
        refused += both;
    }
    assert_eq!(refused, 300);
}

#[test]
fn blocks_that_are_resized_keep_their_contents_and_their_guard() {
    for (from, to) in [
        (10, 12),
        (100, 60),
        (100, 5000),
        (5000, 100),
        (30_000, 200_000),
        (200_000, 300_000),
        (300_000, 50),
        (65_536, 65_529),
    ] {
        let at = take(from);
        // SAFETY: 1. Both blocks have the bytes of their layouts. 2. What lies behind is the block's own room.
        unsafe {
            (0..from).for_each(|i| at.add(i).write(i as u8));
            let mut moved = std::ptr::null_mut();
            assert_eq!(told(|| moved = realloc(at, layout(from), to)), None, "{from} to {to}");
            assert!((0..from.min(to)).all(|i| moved.add(i).read() == i as u8), "{from} to {to}");
            (0..to).for_each(|i| moved.add(i).write(!i as u8));
            let kept = moved.add(to).read();
            moved.add(to).write(!kept);
            let misuse = told(|| free(moved, to)).unwrap_or_else(|| panic!("behind {from} as {to}"));
            assert!(matches!(misuse.why, BadFree::Overrun { .. }), "{misuse}");
            // A realloc of what is not whole is refused, and the block stays.
            assert!(told(|| assert!(realloc(moved, layout(to), 2 * to).is_null())).is_some());
            moved.add(to).write(kept);
            assert_eq!(told(|| free(moved, to)), None);
        }
    }
}

#[test]
fn a_second_free_after_the_block_was_handed_out_again_is_told_to_who_has_it() {
    let bytes = 1700;
    thread::spawn(move || {
        let stale = take(bytes);
        free(stale, bytes);
        let mut blocks = vec![take(bytes)];
        while blocks.last() != Some(&stale) {
            blocks.push(take(bytes));
        }
        assert_eq!(told(|| free(stale, bytes)), None, "it looks as the free of who has it");
        let misuse = told(|| free(blocks.pop().unwrap(), bytes)).unwrap();
        assert!(matches!(misuse.why, BadFree::AlreadyFree { .. }), "{misuse}");
        blocks.into_iter().for_each(|at| free(at, bytes));
    })
    .join()
    .unwrap();
}

#[test]
fn the_usable_bytes_are_those_asked_for() {
    for bytes in SIZES {
        let at = take(bytes);
        // SAFETY: 1. It is this test's.
        assert_eq!(unsafe { Global.usable_bytes(at) }, Some(bytes));
        free(at, bytes);
        // SAFETY: 1. No block starts there any more.
        assert_eq!(unsafe { Global.usable_bytes(at) }, None);
    }
}

#[test]
fn every_alignment_holds_and_nothing_is_told_of_a_program_that_is_right() {
    let wrong = told(|| {
        for shift in 0..=21 {
            for bytes in [1, 8, 100, 4088, 4096, 32 << 10, 100_000] {
                let layout = Layout::from_size_align(bytes, 1 << shift).unwrap();
                // SAFETY: 1. The size is not zero; the block is written within it, and freed once.
                unsafe {
                    let at = alloc(layout);
                    assert!(!at.is_null() && (at as usize).is_multiple_of(1 << shift), "{layout:?}");
                    at.write_bytes(0xff, bytes);
                    dealloc(at, layout);
                }
            }
        }
    });
    assert_eq!(wrong, None);
}
