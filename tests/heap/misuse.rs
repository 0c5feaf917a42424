//! What is given back wrongly is told.

use crate::common::{Live, ROLE, child, role};
use democratising::heap::{Misuse, OnMisuse, on_misuse};
use democratising::{BadFree, Global, gc};
use std::alloc::{Layout, dealloc};

/// Frees `at` as a block of `layout` and then as many others of the class as flush its magazine, and with it the wrong one.
fn free_wrongly(at: *mut u8, layout: Layout) {
    if cfg!(feature = "hardened") {
        // Told at once, and in place of being handed out again.
        // SAFETY: 1. It is not sound: this is what the heap must see.
        return unsafe { dealloc(at, layout) };
    }
    let others: Vec<Live> = (0..3000).map(|_| Live::new(layout, 1, false)).collect();
    // SAFETY: 1. It is not sound: this is what the heap must see.
    unsafe { dealloc(at, layout) };
    others.into_iter().for_each(Live::free);
    let _ = gc::collect();
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn misuse_ends_the_process_with_one_line_that_says_what_and_where() {
    let small = Layout::from_size_align(48, 8).unwrap();
    let large = Layout::from_size_align(200_000, 8).unwrap();
    const CASES: [(&str, &str); 6] = [
        ("double-small", "freed twice"),
        ("double-large", "freed twice"),
        ("foreign", "somebody else"),
        ("interior", "inside a block"),
        ("wrong-class", "wrong size"),
        ("wrong-span", "wrong size"),
    ];
    for (name, _) in CASES {
        if role(name) {
            let block = Live::new(
                if name.ends_with("large") || name == "wrong-span" { large } else { small },
                1,
                false,
            );
            let at = block.at;
            match name {
                "double-small" => {
                    block.free();
                    let _ = gc::collect();
                    free_wrongly(at, small);
                }
                "double-large" => {
                    block.free();
                    // SAFETY: 1. It is not sound: this is what the heap must see.
                    unsafe { dealloc(at, large) };
                }
                "foreign" => {
                    let mut mine = [0u64; 6];
                    free_wrongly(mine.as_mut_ptr().cast(), small);
                }
                "interior" => free_wrongly(at.wrapping_add(16), small),
                "wrong-class" => free_wrongly(at, Layout::from_size_align(500, 8).unwrap()),
                // SAFETY: 1. It is not sound: this is what the heap must see.
                _ => unsafe { dealloc(at, Layout::from_size_align(100_000, 8).unwrap()) },
            }
            std::process::exit(0);
        }
    }
    if std::env::var(ROLE).is_ok() {
        return;
    }
    for (name, words) in CASES {
        let (code, error) =
            child("misuse::misuse_ends_the_process_with_one_line_that_says_what_and_where", name);
        let line = error.lines().find(|line| line.starts_with("democratising: 0x"));
        assert!(line.is_some_and(|line| line.contains(words)), "{name}: {error}");
        // On Unix by a signal, on Windows by the status of a process that fails fast.
        let aborted = if cfg!(windows) { Some(0xc000_0409_u32 as i32) } else { None };
        assert_eq!(code, aborted, "{name} ends by an abort");
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_hook_hears_of_misuse_and_the_program_goes_on() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static HEARD: AtomicUsize = AtomicUsize::new(0);
    fn hook(misuse: Misuse) {
        assert!(matches!(misuse.why, BadFree::AlreadyFree { .. }));
        HEARD.fetch_add(1, SeqCst);
    }
    if role("hook") {
        on_misuse(OnMisuse::Hook(hook));
        let layout = Layout::from_size_align(200_000, 8).unwrap();
        let block = Live::new(layout, 1, false);
        let at = block.at;
        block.free();
        // SAFETY: 1. It is not sound, but refused.
        unsafe { dealloc(at, layout) };
        assert_eq!(HEARD.load(SeqCst), 1);
        // Several in one magazine: each is told, and the blocks between them come back.
        let layout = Layout::from_size_align(700, 8).unwrap();
        let blocks: Vec<Live> = (0..3).map(|i| Live::new(layout, i, false)).collect();
        let places: Vec<*mut u8> = blocks.iter().map(|block| block.at).collect();
        let in_use_bytes = Global::stats().in_use_bytes;
        blocks.into_iter().for_each(Live::free);
        gc::collect().unwrap();
        assert!(Global::stats().in_use_bytes < in_use_bytes);
        // SAFETY: 1. It is not sound, but refused.
        places.iter().for_each(|at| unsafe { dealloc(*at, layout) });
        gc::collect().unwrap();
        assert_eq!(HEARD.load(SeqCst), 4);
        Live::new(layout, 2, false).free();
        on_misuse(OnMisuse::Ignore);
        // SAFETY: 1. It is not sound, but refused.
        places.iter().for_each(|at| unsafe { dealloc(*at, layout) });
        gc::collect().unwrap();
        assert_eq!(HEARD.load(SeqCst), 4, "nobody is told, and nothing ends");
        std::process::exit(0);
    }
    let (code, error) = child("misuse::a_hook_hears_of_misuse_and_the_program_goes_on", "hook");
    assert_eq!(code, Some(0), "{error}");
}

/// A log is a hook that allocates, in the middle of a flush of what it takes blocks of.
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_hook_may_allocate_and_has_what_it_took_for_itself() {
    use std::hint::black_box;
    use std::sync::Mutex;
    static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static TAKEN: Mutex<Vec<Live>> = Mutex::new(Vec::new());
    const LAYOUT: Layout = Layout::new::<[u64; 88]>();
    const WRONG: usize = 10;
    fn hook(misuse: Misuse) {
        LOG.lock().unwrap().push(misuse.to_string());
        let mut blocks: Vec<Live> = (0..50).map(|_| Live::new(LAYOUT, 7, false)).collect();
        TAKEN.lock().unwrap().extend(blocks.drain(..25));
        blocks.into_iter().for_each(Live::free);
    }
    /// Takes blocks, and gives them back with some of somebody else's between them.
    fn give() {
        let blocks: Vec<Live> = (0..2 * WRONG as u8).map(|i| Live::new(LAYOUT, i, false)).collect();
        for (i, block) in blocks.into_iter().enumerate() {
            block.free();
            if i % 2 == 0 {
                // SAFETY: 1. It is not sound, but refused.
                unsafe { dealloc(black_box([0u64; 88].as_mut_ptr()).cast(), LAYOUT) };
            }
        }
    }
    if role("log") {
        on_misuse(OnMisuse::Hook(hook));
        // A class with most of its slabs free keeps few blocks in a thread, and none for others, who would be given what is wrong.
        let many = || Vec::from_iter((0..4000).map(|_| Live::new(LAYOUT, 3, false)));
        let (held, free): (Vec<_>, Vec<_>) = many().into_iter().enumerate().partition(|(i, _)| i % 50 == 0);
        free.into_iter().for_each(|(_, block)| block.free());
        let ways: [fn(); 2] = [give, || std::thread::spawn(give).join().unwrap()];
        for way in ways {
            way();
            gc::collect().unwrap();
            let after = many();
            TAKEN.lock().unwrap().drain(..).for_each(Live::free);
            after.into_iter().for_each(Live::free);
        }
        held.into_iter().for_each(|(_, block)| block.free());
        let log = std::mem::take(&mut *LOG.lock().unwrap());
        assert_eq!(log.len(), 2 * WRONG, "{log:#?}");
        assert!(log.iter().all(|line| line.contains("somebody else")), "{log:#?}");
        std::process::exit(0);
    }
    let (code, error) = child("misuse::a_hook_may_allocate_and_has_what_it_took_for_itself", "log");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn null_given_back_with_a_layout_is_told_and_takes_nothing_from_those_that_follow() {
    use std::alloc::alloc;
    use std::hint::black_box;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static HEARD: AtomicUsize = AtomicUsize::new(0);
    fn hook(misuse: Misuse) {
        assert_eq!((misuse.addr, misuse.why), (0, BadFree::Foreign));
        HEARD.fetch_add(1, SeqCst);
    }
    if role("null") {
        on_misuse(OnMisuse::Hook(hook));
        let layout = Layout::from_size_align(700, 8).unwrap();
        let nulls = |many: usize| {
            for _ in 0..many {
                // SAFETY: 1. It is not sound, but refused.
                unsafe { dealloc(black_box(std::ptr::null_mut()), layout) };
            }
        };
        let blocks = |many: usize| {
            for _ in 0..many {
                // SAFETY: 1. The layout has a size. What is not given back is gone with the process.
                assert!(!black_box(unsafe { alloc(layout) }).is_null());
            }
        };
        Live::new(layout, 1, false).free();
        nulls(3);
        blocks(200);
        // The hardened heap takes null for nothing to give back.
        let told = usize::from(!cfg!(feature = "hardened"));
        assert_eq!(HEARD.load(SeqCst), 3 * told);
        // More than the thread's two magazines hold: what is too many is flushed, and told there.
        nulls(300);
        blocks(500);
        gc::collect().unwrap();
        assert_eq!(HEARD.load(SeqCst), 303 * told);
        std::process::exit(0);
    }
    let (code, error) = child(
        "misuse::null_given_back_with_a_layout_is_told_and_takes_nothing_from_those_that_follow",
        "null",
    );
    assert_eq!(code, Some(0), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_block_that_is_not_live_is_not_resized_and_what_has_its_place_stays() {
    use allocator_api2::alloc::Allocator;
    use std::alloc::{GlobalAlloc, alloc, realloc};
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static HEARD: AtomicUsize = AtomicUsize::new(0);
    if role("resize") {
        on_misuse(OnMisuse::Hook(|_| _ = HEARD.fetch_add(1, SeqCst)));
        let layout = |bytes| Layout::from_size_align(bytes, 8).unwrap();
        let block = Live::new(layout(200_000), 1, false);
        let at = block.at;
        block.free();
        for bytes in [500, 190_000, 200_000, 400_000, 5 << 20] {
            // SAFETY: 1. It is not sound, but refused.
            assert!(unsafe { realloc(at, layout(200_000), bytes) }.is_null(), "{bytes}");
            // SAFETY: 1. As above.
            assert!(unsafe { Global.realloc_unsized(at, bytes) }.is_null(), "{bytes}");
        }
        assert_eq!(HEARD.load(SeqCst), 10, "each is told once");
        let pages = Layout::from_size_align(200_000, 4096).unwrap();
        // SAFETY: 1. As above.
        assert!(unsafe { Global.grow(NonNull::new(at).unwrap(), layout(200_000), pages) }.is_err());
        // SAFETY: 1. As above.
        assert!(unsafe { Global.shrink(NonNull::new(at).unwrap(), pages, layout(200_000)) }.is_err());
        assert_eq!(HEARD.load(SeqCst), 12);
        // Its place is somebody else's now, who has another size: told, and nothing is read or taken.
        let other = Live::new(layout(300_000), 2, false);
        assert_eq!(other.at, at, "the lowest place that is free");
        // SAFETY: 1. It is not sound, but refused.
        assert!(unsafe { realloc(at, layout(200_000), 400_000) }.is_null());
        assert_eq!(HEARD.load(SeqCst), 13);
        other.free();
        assert_eq!(HEARD.load(SeqCst), 13);
        // SAFETY: 1. The layout has a size. 2. The block is given back once.
        unsafe { Global.dealloc(alloc(layout(200_000)), layout(200_000)) };
        std::process::exit(0);
    }
    let (code, error) =
        child("misuse::a_block_that_is_not_live_is_not_resized_and_what_has_its_place_stays", "resize");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_hook_that_panics_ends_the_process_before_a_block_is_handed_out_twice() {
    use allocator_api2::alloc::Allocator;
    use std::panic::catch_unwind;
    use std::ptr::NonNull;
    if role("panics") {
        let layout = Layout::from_size_align(700, 8).unwrap();
        let take = || Global.allocate(layout).unwrap().cast::<u8>();
        // SAFETY: 1. Where it is not sound, it is refused.
        let give = |at: NonNull<u8>| unsafe { Global.deallocate(at, layout) };
        // Without a message, which would take blocks.
        on_misuse(OnMisuse::Hook(|_| std::panic::resume_unwind(Box::new(()))));
        // By a collection's allocator, out of which may be unwound: the collect gives some to the slabs, meets what is no block, and has some left.
        let blocks: Vec<_> = (0..12).map(|_| take()).collect();
        let caught = catch_unwind(move || {
            blocks[..5].iter().copied().for_each(give);
            give(NonNull::<u64>::dangling().cast());
            blocks[5..].iter().copied().for_each(give);
            gc::collect()
        });
        on_misuse(OnMisuse::Ignore);
        let mut again: Vec<_> = (0..1000).map(|_| take()).collect();
        again.sort();
        let twice = again.windows(2).any(|two| two[0] == two[1]);
        eprintln!("it went on: caught {}, a block twice {twice}", caught.is_err());
        std::process::exit(3);
    }
    let (code, error) =
        child("misuse::a_hook_that_panics_ends_the_process_before_a_block_is_handed_out_twice", "panics");
    assert!(error.contains("democratising: the hook on misuse did not return"), "{error}");
    let aborted = if cfg!(windows) { Some(0xc000_0409_u32 as i32) } else { None };
    assert_eq!(code, aborted, "{error}");
}
