//! Memory that nobody needs goes back.

use crate::common::{Draw, Live, child, role};
use democratising::{Global, gc};
use std::alloc::Layout;
use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn what_blocks_of_one_size_leave_serves_the_next_size() {
    if role("phases") {
        let mut draw = Draw(12);
        for bytes in [24, 400, 64, 1100, 40, 200, 2000, 96] {
            let mut blocks: Vec<Vec<u8>> = (0..(8 << 20) / bytes).map(|_| vec![1u8; bytes]).collect();
            while !blocks.is_empty() {
                blocks.swap_remove(draw.below(blocks.len()));
            }
        }
        let most_bytes = Global::stats().peak_reserved_bytes;
        assert!(most_bytes < 32 << 20, "{} MiB for 8 MiB of blocks and what holds them", most_bytes >> 20);
        return;
    }
    let (code, error) = child("back::what_blocks_of_one_size_leave_serves_the_next_size", "phases");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_block_of_a_size_that_few_are_left_of_is_handed_out_once() {
    if role("few left") {
        for bytes in [40, 1000, 6000] {
            let layout = Layout::from_size_align(bytes, 8).unwrap();
            let take = |count| Vec::from_iter((0..count).map(|at| Live::new(layout, at as u8, false)));
            let many = (4 << 20) / bytes;
            // A few are left of each slab: magazines are emptied, and hold fewer from then on.
            let all = take(many).into_iter().enumerate();
            let (kept, freed): (Vec<_>, Vec<_>) = all.partition(|(at, _)| at % 10 == 0);
            freed.into_iter().for_each(|(_, block)| block.free());
            let kept = Vec::from_iter(kept.into_iter().map(|(_, block)| block));
            // What is taken now is checked when it comes back, beside what was kept.
            let again = take(many);
            let places = HashSet::<usize>::from_iter(kept.iter().chain(&again).map(|block| block.at.addr()));
            assert_eq!(places.len(), kept.len() + again.len(), "of {bytes} bytes");
            kept.into_iter().chain(again).for_each(Live::free);
        }
        return;
    }
    let (code, error) = child("back::a_block_of_a_size_that_few_are_left_of_is_handed_out_once", "few left");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn collecting_gives_memory_back_to_the_system() {
    if role("collecting") {
        let blocks: Vec<Vec<u8>> = (0..300).map(|_| vec![1; 100_000]).collect();
        drop(blocks);
        let small: Vec<Box<[u8; 40]>> = (0..200_000).map(|i| Box::new([i as u8; 40])).collect();
        drop(small);
        let before = Global::stats().reserved_bytes;
        let collected = gc::collect().unwrap();
        let after = Global::stats().reserved_bytes;
        assert!(collected.host_bytes >= 12 << 20, "{collected:?}");
        assert!(after < 8 << 20 && after < before, "{before} bytes before, {after} after");
        return;
    }
    let (code, error) = child("back::collecting_gives_memory_back_to_the_system", "collecting");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn what_nobody_needs_for_a_second_goes_back_as_work_goes_on() {
    if role("decaying") {
        drop((0..500).map(|_| vec![1u8; 100_000]).collect::<Vec<_>>());
        let before = Global::stats().reserved_bytes;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2600) {
            drop(std::hint::black_box(vec![1u8; 100_000]));
            thread::sleep(Duration::from_millis(20));
        }
        let after = Global::stats().reserved_bytes;
        assert!(before > 14 << 20 && after < 8 << 20, "{before} bytes before, {after} after");
        return;
    }
    let (code, error) = child("back::what_nobody_needs_for_a_second_goes_back_as_work_goes_on", "decaying");
    assert_eq!(code, Some(0), "{error}");
}

/// The process's resident memory, as the system counts it.
#[cfg(target_os = "linux")]
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_peak_that_was_freed_is_gone_two_seconds_later_though_nothing_called_the_heap() {
    if role("peak") {
        let mut draw = Draw(11);
        for bytes in [60, 1000, 100_000, 5 << 20] {
            let mut blocks: Vec<Vec<u8>> = (0..(300 << 20) / bytes).map(|_| vec![1u8; bytes]).collect();
            assert!(resident_bytes() > 280 << 20);
            // In any order: the last blocks of a class lie in all of its slabs.
            while !blocks.is_empty() {
                blocks.swap_remove(draw.below(blocks.len()));
            }
            drop(blocks);
            thread::sleep(Duration::from_secs(2));
            assert!(
                resident_bytes() < 40 << 20,
                "{} MiB after blocks of {bytes}: {}",
                resident_bytes() >> 20,
                Global::stats()
            );
        }
        std::process::exit(0);
    }
    let name = "back::a_peak_that_was_freed_is_gone_two_seconds_later_though_nothing_called_the_heap";
    let (code, error) = child(name, "peak");
    assert_eq!(code, Some(0), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn what_lies_free_between_blocks_for_two_seconds_goes_back_as_work_goes_on() {
    if role("between") {
        let mut blocks: Vec<Vec<u8>> = (0..2000).map(|_| vec![1u8; 100_000]).collect();
        // Less than half goes, and no frame as a whole: that is no ebb.
        let mut at = 0;
        blocks.retain(|_| {
            at += 1;
            at % 5 > 1
        });
        let before = resident_bytes();
        for _ in 0..35 {
            thread::sleep(Duration::from_millis(100));
            drop(std::hint::black_box(vec![1u8; 100_000]));
        }
        let (mib, after) = (1 << 20, resident_bytes());
        assert!(
            before > 190 * mib && before.saturating_sub(after) > 60 * mib,
            "{} MiB before, {} after: {}",
            before / mib,
            after / mib,
            Global::stats()
        );
        assert!(blocks.iter().flatten().all(|byte| *byte == 1));
        std::process::exit(0);
    }
    let name = "back::what_lies_free_between_blocks_for_two_seconds_goes_back_as_work_goes_on";
    let (code, error) = child(name, "between");
    assert_eq!(code, Some(0), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn what_a_large_block_leaves_that_becomes_shorter_goes_back_at_once() {
    use allocator_api2::alloc::Allocator;
    use std::alloc::Layout;
    if role("shorter") {
        let shorten = |unsized_too: bool| {
            let at_first = resident_bytes();
            let layout = |bytes| Layout::from_size_align(bytes, 16).unwrap();
            let at = Global.allocate(layout(300 << 20)).unwrap().cast::<u8>();
            // SAFETY: 1. The block has as many bytes, and is used under the address that it has then. 2. It is given back once.
            unsafe {
                at.write_bytes(1, 300 << 20);
                assert!(resident_bytes() > at_first + (250 << 20));
                let at = match unsized_too {
                    true => std::ptr::NonNull::new(Global.realloc_unsized(at.as_ptr(), 100_000)).unwrap(),
                    false => Global.shrink(at, layout(300 << 20), layout(100_000)).unwrap().cast(),
                };
                let more = resident_bytes().saturating_sub(at_first);
                assert!(more < 40 << 20, "{} MiB more: {}", more >> 20, Global::stats());
                assert_eq!((at.read(), at.add(99_999).read()), (1, 1));
                Global.deallocate(at, layout(100_000));
            }
        };
        shorten(false);
        shorten(true);
        std::process::exit(0);
    }
    let name = "back::what_a_large_block_leaves_that_becomes_shorter_goes_back_at_once";
    let (code, error) = child(name, "shorter");
    assert_eq!(code, Some(0), "{error}");
}
