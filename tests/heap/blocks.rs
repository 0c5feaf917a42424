//! Blocks of every size: their room, their contents, where they grow.

use crate::GLOBAL;
use crate::common::{Draw, Live, child, layout, role};
use democratising::Global;
use std::alloc::{GlobalAlloc, Layout, alloc_zeroed, dealloc, realloc};
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn collections_strings_and_threads_live_in_it() {
    const WORDS: usize = if cfg!(miri) { 100 } else { 5000 };
    const KINDS: usize = if cfg!(miri) { 30 } else { 700 };
    let words: Vec<String> = (0..WORDS).map(|i| format!("word {}", i % KINDS)).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    words.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    assert_eq!(counts.len(), KINDS);
    let sorted: BTreeMap<_, _> = counts.into_iter().collect();
    assert_eq!(sorted.values().sum::<usize>(), WORDS);
    assert!(Global::stats().blocks > WORDS as u64, "{}", Global::stats());
}

#[test]
fn blocks_keep_what_was_written_while_two_threads_allocate_resize_and_swap() {
    // Longer on demand: every block is checked byte for byte where it can go wrong, for as many seconds.
    let seconds = std::env::var("DEMOCRATISING_STRESS_SECONDS").map_or(0, |text| text.parse().unwrap());
    const STEPS: u64 = if cfg!(miri) { 30 } else { 30_000 };
    let (began, for_so_long) = (Instant::now(), Duration::from_secs(seconds));
    let (to_one, from_two) = mpsc::channel::<Live>();
    let (to_two, from_one) = mpsc::channel::<Live>();
    let work = |seed: u64, to: mpsc::Sender<Live>, from: mpsc::Receiver<Live>| {
        let mut draw = Draw(seed);
        let mut live = Vec::new();
        for step in 0u64.. {
            if step >= STEPS && began.elapsed() >= for_so_long {
                break;
            }
            match draw.below(10) {
                0..5 => live.push(Live::new(layout(&mut draw), step as u8, draw.below(4) == 0)),
                5 if !live.is_empty() => {
                    let which = draw.below(live.len());
                    let bytes = layout(&mut draw).size();
                    live[which].resize(bytes);
                }
                6 if !live.is_empty() => to.send(live.swap_remove(draw.below(live.len()))).unwrap_or(()),
                _ => live.extend(from.try_recv()),
            }
            while live.len() > 300 {
                live.swap_remove(draw.below(live.len())).free();
            }
        }
        drop(to);
        live.into_iter().chain(from).for_each(Live::free);
    };
    thread::scope(|scope| {
        scope.spawn(|| work(1, to_two, from_two));
        scope.spawn(|| work(2, to_one, from_one));
    });
}

#[test]
fn every_size_has_its_alignment_and_its_room() {
    for shift in (0..=22).step_by(if cfg!(miri) { 22 } else { 1 }) {
        for bytes in [1, 15, 16, 17, 100, 1000, 4096, 32 << 10, (32 << 10) + 1, 100_000] {
            Live::new(
                Layout::from_size_align(bytes, 1 << shift).unwrap_or(Layout::new::<u8>()),
                shift as u8,
                false,
            )
            .free();
        }
    }
}

#[test]
fn what_cannot_be_had_is_null_and_nothing_is_lost() {
    let before = Global::stats().in_use_bytes;
    // More than can be addressed, or than is reserved.
    let (more, wider) = if cfg!(target_pointer_width = "64") { (46, 40) } else { (30, 30) };
    for (bytes, align) in [(isize::MAX as usize - 63, 64), (1 << more, 8), (4096, 1 << wider)] {
        let layout = Layout::from_size_align(bytes, align).unwrap();
        // SAFETY: 1. The size is not zero.
        assert!(unsafe { GLOBAL.alloc(layout) }.is_null(), "{layout:?}");
        // SAFETY: 1. The size is not zero.
        assert!(unsafe { GLOBAL.alloc_zeroed(layout) }.is_null(), "{layout:?}");
    }
    let mut small = Live::new(Layout::new::<[u64; 9]>(), 3, false);
    // SAFETY: 1. The block is live; what cannot be had leaves it as it is.
    assert!(unsafe { realloc(small.at, small.layout, isize::MAX as usize - 7) }.is_null());
    small.check(72);
    small.resize(100_000);
    small.free();
    // Other tests run beside this one: only a loss that could not be theirs is judged.
    assert!(Global::stats().in_use_bytes < before + (1 << 30));
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn large_blocks_grow_into_what_is_free_behind_them() {
    // Alone in a process, since other tests would take what is free behind a block.
    if role("growing") {
        let mut block = Live::new(Layout::from_size_align(1 << 20, 8).unwrap(), 9, false);
        let start = block.at;
        for bytes in [2 << 20, 3 << 20, 40 << 20] {
            block.resize(bytes);
            assert_eq!(block.at, start, "nothing is in the way of {bytes} bytes");
        }
        block.resize(300_000);
        assert_eq!(block.at, start, "a block that becomes shorter stays where it is");
        let behind = Live::new(Layout::from_size_align(1 << 20, 8).unwrap(), 10, false);
        assert_eq!(
            behind.at as usize,
            start as usize + 300_000usize.next_multiple_of(16 << 10),
            "the rest is free"
        );
        block.resize(3 << 20);
        assert_ne!(block.at, start, "another block is in the way");
        block.free();
        behind.free();
        std::process::exit(0);
    }
    let (code, error) = child("blocks::large_blocks_grow_into_what_is_free_behind_them", "growing");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn freed_memory_is_zero_again_when_zeroed_memory_is_asked_for() {
    for bytes in [24, 5000, 40_000, 3 << 20] {
        for _ in 0..if cfg!(miri) { 2 } else { 100 } {
            Live::new(Layout::from_size_align(bytes, 8).unwrap(), 0xff, false).free();
            Live::new(Layout::from_size_align(bytes, 8).unwrap(), 0xff, true).free();
        }
    }
}

#[test]
fn a_map_lives_in_the_heap_and_in_a_pool_of_its_own() {
    const ENTRIES: u64 = if cfg!(miri) { 100 } else { 1000 };
    let mut heaped = hashbrown::HashMap::new_in(Global);
    heaped.extend((0..ENTRIES).map(|i| (i, i * i)));
    assert_eq!(heaped[&30], 900);
    let space = democratising::space::Mapped::reserve(64 << 20).unwrap();
    let tables = democratising::space::MappedTables;
    let pool: democratising::Pool<_, democratising::HostLock> =
        democratising::Pool::new(space, tables, democratising::PoolConfig::DEFAULT).unwrap();
    let mut own = hashbrown::HashMap::new_in(&pool);
    own.extend((0..ENTRIES).map(|i| (i, i * i)));
    assert_eq!(own[&30], 900);
    assert!(pool.stats().in_use_bytes > 8 * ENTRIES);
    drop(own);
    assert_eq!(pool.stats().in_use_bytes, 0);
}

#[test]
fn a_vector_that_is_empty_when_it_is_shrunk_keeps_no_block() {
    use allocator_api2::{alloc::Allocator, vec::Vec};
    use democratising::{FixedHeap, MemoryPool, StaticMemory, space};
    fn keeps_none(allocator: impl Allocator + Copy, in_use_bytes: impl Fn() -> u64) {
        for capacity in [1, 100, 5000, 100_000] {
            let mut vector = Vec::with_capacity_in(capacity, allocator);
            vector.push(7_u32);
            vector.clear();
            vector.shrink_to_fit();
            assert_eq!((vector.capacity(), in_use_bytes()), (0, 0), "of {capacity}");
            assert_eq!(vector.as_ptr().addr(), align_of::<u32>(), "of {capacity}: where no block is");
            vector.extend(0..100);
            assert!(vector.iter().copied().eq(0..100), "it grows again from nothing");
        }
        assert_eq!(in_use_bytes(), 0);
    }
    static MEMORY: StaticMemory<{ 1 << 20 }> = StaticMemory::new();
    static HEAP: FixedHeap = FixedHeap::over(&MEMORY);
    keeps_none(&HEAP, || HEAP.stats().in_use_bytes);
    let (space, tables) = (space::Mapped::reserve(64 << 20).unwrap(), space::MappedTables);
    let pool: democratising::Pool<_, democratising::HostLock> =
        democratising::Pool::new(space, tables, democratising::PoolConfig::DEFAULT).unwrap();
    keeps_none(&pool, || pool.stats().in_use_bytes);
    // What these two have in use is also other tests'.
    keeps_none(MemoryPool, || 0);
    keeps_none(Global, || 0);
}

#[cfg(target_os = "linux")]
fn zeroed(layout: Layout) -> *mut u8 {
    // SAFETY: 1. The layout is not empty.
    let at = unsafe { alloc_zeroed(layout) };
    assert!(!at.is_null());
    at
}

/// The pages of a block that are real, as the system says.
#[cfg(target_os = "linux")]
fn resident_pages(at: *mut u8, bytes: usize) -> usize {
    let start = at as usize & !4095;
    let pages = (at as usize + bytes - start).div_ceil(4096);
    let mut real = vec![0u8; pages];
    // SAFETY: 1. The range is mapped, and there is a byte for each of its pages.
    let done = unsafe { libc::mincore(start as *mut libc::c_void, pages * 4096, real.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    real.iter().filter(|page| **page & 1 != 0).count()
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn zeroed_memory_that_the_system_gave_is_not_cleared_again_and_dirty_memory_is() {
    // Alone in a process, so that nothing else has used what it gets.
    if role("zeroed") {
        let layout = Layout::from_size_align(64 << 20, 8).unwrap();
        let fresh = zeroed(layout);
        let real = resident_pages(fresh, layout.size());
        // What stands behind a block under the feature `hardened` is a page, of the smallest or of the largest kind.
        assert!(real <= 512, "{real} pages are real before anybody wrote");
        // SAFETY: 1. The block has that many bytes, and is given back once.
        unsafe {
            fresh.write_bytes(0xff, layout.size());
            dealloc(fresh, layout);
        }
        // Of what is kept, nothing is zero; what was given back is again.
        let small = Layout::from_size_align(12 << 20, 8).unwrap();
        let dirty = zeroed(small);
        assert_eq!(dirty, fresh, "the lowest place that is free, and kept");
        assert_eq!(
            resident_pages(dirty, small.size()),
            small.size() / 4096 + 1 - (dirty as usize).is_multiple_of(4096) as usize
        );
        // SAFETY: 1. The block has that many bytes, and is given back once.
        unsafe {
            assert!((0..small.size()).step_by(8).all(|i| dirty.add(i).cast::<u64>().read() == 0));
            dealloc(dirty, small);
        }
        std::process::exit(0);
    }
    let name = "blocks::zeroed_memory_that_the_system_gave_is_not_cleared_again_and_dirty_memory_is";
    let (code, error) = child(name, "zeroed");
    assert_eq!(code, Some(0), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_large_zeroed_block_does_not_become_real_because_a_little_of_it_was_used_before() {
    // Alone in a process, so that nothing else has used what it gets.
    if role("sparse") {
        let (used, large) =
            (Layout::from_size_align(3 << 20, 8).unwrap(), Layout::from_size_align(256 << 20, 8).unwrap());
        Live::new(used, 0xff, false).free();
        let at = zeroed(large);
        assert!(resident_pages(at, used.size()) > 512, "it stands elsewhere than the block before");
        let real = resident_pages(at, large.size());
        assert!(real <= (8 << 20) / 4096, "{real} pages are real before anybody wrote");
        // SAFETY: 1. The block has that many bytes, and is given back once.
        unsafe {
            assert!((0..8 << 20).step_by(8).all(|i| at.add(i).cast::<u64>().read() == 0));
            at.add(large.size() / 2).write_bytes(0xff, 5 << 20);
            dealloc(at, large);
            let at = zeroed(large);
            assert!(resident_pages(at, large.size()) <= (32 << 20) / 4096);
            assert!((0..large.size()).step_by(4096).all(|i| at.add(i).read() == 0));
            dealloc(at, large);
        }
        std::process::exit(0);
    }
    let name = "blocks::a_large_zeroed_block_does_not_become_real_because_a_little_of_it_was_used_before";
    let (code, error) = child(name, "sparse");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn a_block_that_changes_its_alignment_has_it_and_keeps_its_bytes() {
    use allocator_api2::alloc::Allocator;
    for align in [1, 64, 4096, 1 << 16] {
        for bytes in [1, 48, 80, 1000, 5000, 100_000] {
            let (old, new) = (Layout::from_size_align(bytes, 16), Layout::from_size_align(2 * bytes, align));
            let (old, new) = (old.unwrap(), new.unwrap());
            let is_kept = |block: &[u8]| block[..bytes] == vec![5; bytes];
            // SAFETY: 1. Each block comes from there with the layout that is told, has its bytes, and is used no more once it is given.
            unsafe {
                let mut block = Global.allocate(old).unwrap();
                block.as_mut()[..bytes].fill(5);
                let mut grown = Global.grow(block.cast(), old, new).unwrap();
                assert!(grown.cast::<u8>().addr().get().is_multiple_of(align), "{bytes} bytes to {align}");
                grown.as_mut()[bytes..].fill(6);
                assert!(is_kept(grown.as_ref()), "{bytes} bytes to {align}");
                let shrunk = Global.shrink(grown.cast(), new, old).unwrap();
                assert!(shrunk.cast::<u8>().addr().get().is_multiple_of(16) && is_kept(shrunk.as_ref()));
                Global.deallocate(shrunk.cast(), old);
            }
        }
    }
}
