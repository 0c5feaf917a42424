//! Each system call by which memory is had fails once, and twice, where it can: what was asked for is refused and told, nothing else has
//! changed, and the next request gets it.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]

#[path = "common/alone.rs"]
mod alone;
#[path = "fs/child.rs"]
mod child;
#[path = "common/refuse.rs"]
mod refuse;

use allocator_api2::alloc::Allocator;
use democratising::arena::Metadata;
use democratising::pool::Stats;
use democratising::space::{Mapped, MappedTables};
use democratising::{Global, HostLock, MemoryPool, Pool, PoolConfig, Tensor, gc};
use refuse::refusing;
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

type Host = Pool<Mapped, HostLock>;

const MIB: usize = 1 << 20;
/// The most that a pool may have: little more than what is asked of it at once.
const MOST: u64 = 96 << 20;

/// What the C library may map meanwhile, for threads of this test program, in MiB.
const NOISE: usize = 400;

/// The addresses that the process has, in MiB.
fn mapped_mib() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').next().unwrap().parse::<usize>().unwrap() >> 8
}

/// Tries again as often as calls were to fail; how often that was.
fn at_last<T, E: std::fmt::Debug>(most: usize, mut attempt: impl FnMut() -> Result<T, E>) -> (T, usize) {
    for failed in 0..most {
        if let Ok(done) = attempt() {
            return (done, failed);
        }
    }
    (attempt().unwrap(), most)
}

/// What a request that failed leaves as it was.
fn unchanged(stats: Stats) -> [u64; 6] {
    let [live, most] = [stats.in_use_bytes, stats.peak_in_use_bytes];
    [live, most, stats.blocks, stats.allocations, stats.reserved_bytes, stats.idle_bytes]
}

fn make(count: usize) -> Result<(Host, usize), impl std::fmt::Debug> {
    // Where the first tries of its own fail, a quarter of that, and a quarter of it.
    let (space, failed) = at_last(count, || Mapped::reserve(16 << 30));
    Pool::new(space, MappedTables, PoolConfig::DEFAULT.slack_permille(0).max_bytes(MOST))
        .map(|pool| (pool, failed))
}

/// Some bytes of a block, the same wherever it begins.
fn places(at: NonNull<u8>, bytes: usize) -> impl Iterator<Item = NonNull<u8>> {
    const STEP: usize = 64 << 10;
    let first = at.addr().get().wrapping_neg() % STEP;
    // SAFETY: 1. Each is one of the block's bytes.
    [0, bytes - 1].into_iter().chain((first..bytes).step_by(STEP)).map(move |place| unsafe { at.add(place) })
}

/// What is done to a pool, in order.
#[derive(Clone, Copy)]
enum Step {
    Take(usize),
    /// Of those that live, by the order in which they came.
    Give(usize),
    /// Gives what lies idle back, and what lies between blocks.
    GiveBack,
}

/// Blocks of all sizes, some in the place of one that was written, some in frames of others; 90 MiB live at most.
const STEPS: [Step; 15] = [
    Step::Take(100),
    Step::Take(5 * MIB),
    Step::Take(100_000),
    Step::Take(20 * MIB),
    Step::Give(1),
    Step::GiveBack,
    Step::Take(5 * MIB),
    Step::Take(200_000),
    Step::Take(3 * MIB),
    Step::Give(4),
    Step::GiveBack,
    Step::Take(200_000),
    Step::Give(2),
    Step::Take(60 * MIB),
    Step::Take(3000),
];

/// Takes these steps, then gives everything back; how many requests were refused.
fn play(pool: &Host, count: usize) -> usize {
    let mut refused = 0;
    let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
    let give = |(at, layout, byte): (NonNull<u8>, Layout, u8)| {
        // SAFETY: 1. It came from there, and nobody uses it.
        unsafe {
            assert!(places(at, layout.size()).all(|place| place.read() == byte), "{layout:?}");
            pool.deallocate(at, layout);
        }
    };
    for (number, step) in STEPS.into_iter().enumerate() {
        let bytes = match step {
            Step::Take(bytes) => bytes,
            Step::Give(which) => {
                give(live.remove(which));
                continue;
            }
            Step::GiveBack => {
                pool.purge();
                pool.trim(0);
                continue;
            }
        };
        let layout = Layout::from_size_align(bytes, 64).unwrap();
        let (block, failed) = at_last(count, || {
            let before = pool.stats();
            let answer = Allocator::allocate_zeroed(&pool, layout);
            if answer.is_err() {
                assert_eq!(unchanged(pool.stats()), unchanged(before), "{bytes} bytes");
            }
            answer
        });
        refused += failed;
        let (at, byte) = (block.cast::<u8>(), number as u8 + 1);
        // SAFETY: 1. The block has so many bytes, which are ours.
        unsafe {
            assert!(places(at, bytes).all(|place| place.read() == 0), "{bytes} bytes of zeros");
            places(at, bytes).for_each(|place| place.write(byte));
        }
        live.push((at, layout, byte));
    }
    live.into_iter().for_each(give);
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.in_use_bytes, stats.idle_bytes), (0, 0, stats.reserved_bytes));
    refused
}

/// Fails each of these calls of `run` in turn, `count` at a time; at how many places, and the sum of what `run` said.
fn at_every(
    call: libc::c_long,
    count: usize,
    run: impl Fn() -> usize + Copy + Send + 'static,
) -> (usize, usize) {
    let mut sum = 0;
    for first in 1..300 {
        let (said, seen) = refusing(call, first, count, run);
        if seen < first {
            return (first - 1, sum);
        }
        sum += said;
    }
    panic!("it makes fewer than 300 of call {call}");
}

fn a_pool_that_is_made_and_used(count: usize) -> usize {
    let before_mib = mapped_mib();
    let (pool, failed) =
        (0..=count).find_map(|_| make(count).ok()).expect("no more than that many calls fail");
    let refused = failed + play(&pool, count);
    drop(pool);
    let left_mib = mapped_mib().saturating_sub(before_mib);
    assert!(left_mib < NOISE, "{left_mib} MiB are still mapped");
    refused
}

#[test]
fn a_reservation_has_the_addresses_that_it_says_and_gives_all_of_them_back() {
    const COUNT: usize = 1000;
    let _alone = alone::alone();
    let before_mib = mapped_mib();
    // Wherever the last one ends, with as much in between that the next begins at another part of a frame, and that does not fit elsewhere.
    let reserve = || (Mapped::reserve(32 * MIB).unwrap(), MappedTables.table::<u8>(5 * MIB / 2).unwrap());
    let held: Vec<_> = (0..COUNT).map(|_| reserve()).collect();
    let held_mib = mapped_mib() - before_mib;
    let least_mib = COUNT * 69 / 2;
    assert!((least_mib..least_mib + NOISE).contains(&held_mib), "{held_mib} MiB are mapped, not {least_mib}");
    drop(held);
    let left_mib = mapped_mib().saturating_sub(before_mib);
    assert!(left_mib < NOISE, "{left_mib} MiB are still mapped");
}

#[test]
fn a_pool_of_which_any_call_fails_loses_nothing() {
    let _alone = alone::alone();
    for (call, count, is_told) in [
        (libc::SYS_mmap, 1, false),
        (libc::SYS_mmap, 2, false),
        (libc::SYS_mprotect, 1, false),
        // What is opened ahead, then what is asked for, and that frame by frame.
        (libc::SYS_mprotect, 4, true),
        (libc::SYS_mprotect, 5, true),
        (libc::SYS_madvise, 1, false),
        (libc::SYS_madvise, 9, false),
    ] {
        let (places, refused) = at_every(call, count, move || a_pool_that_is_made_and_used(count));
        println!("{count} calls {call} at a time: {places} places, {refused} requests refused");
        // Of what is backed but a few calls make it readable, however many requests there are.
        assert!(call != libc::SYS_mprotect || places < 8, "{places}");
        assert!(places >= 3 && (refused > 0) == is_told, "{call}: {places} places, {refused} refused");
    }
}

/// Far behind all that a heap has backed here, in its range where that is as long as ever.
const FAR: usize = 32 << 30;

/// Uses the process's heap and its pool for the first time; how many requests each refused.
fn use_both_heaps(count: usize, large_first: bool) -> [usize; 2] {
    let mut refused = [0; 2];
    let mut live = Vec::new();
    let mut sizes = [40, 1000, 20_000, 200_000, 3 * MIB, 40 * MIB];
    if large_first {
        sizes.reverse();
    }
    for bytes in sizes {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        let (at, failed) = at_last(count, || {
            // SAFETY: 1. The place of this thread's own error number is there. 2. The layout is not empty.
            unsafe {
                *libc::__errno_location() = 77;
                let at = NonNull::new(Global.alloc_zeroed(layout));
                let told = *libc::__errno_location();
                assert_eq!(told, if at.is_some() { 77 } else { libc::ENOMEM }, "{bytes} bytes");
                at.ok_or(bytes)
            }
        });
        refused[0] += failed;
        // SAFETY: 1. The block has so many bytes, which are ours. 2. Nobody else has any, so that nothing starts behind them.
        unsafe {
            assert!(places(at, bytes).all(|place| place.read() == 0));
            // Of all the range it can be asked what is there.
            let far = at.as_ptr().wrapping_add(FAR);
            assert_eq!(Global.usable_bytes(far), None);
            at.write_bytes(7, bytes);
        }
        live.push((at, layout));
    }
    for elements in [100, 100_000, 10_000_000] {
        let (tensor, failed) = at_last(count, || Tensor::zeros(&[elements]));
        refused[1] += failed;
        assert!(tensor.as_slice::<f32>().unwrap().iter().step_by(1000).all(|number| *number == 0.0));
    }
    for (at, layout) in live {
        // SAFETY: 1. It came from there, and nobody uses it.
        unsafe {
            assert!(places(at, layout.size()).all(|place| place.read() == 7));
            Global.dealloc(at.as_ptr(), layout);
        }
    }
    gc::collect().unwrap();
    let (heap, pool) = (Global::stats(), MemoryPool::stats());
    assert_eq!((heap.blocks, heap.idle_bytes, pool.blocks), (0, 0, 0), "{heap}; {pool}");
    assert_eq!(heap.reserved_bytes, 0, "{heap}");
    refused
}

#[test]
fn a_process_of_which_any_call_fails_has_its_heaps_at_the_next_request() {
    const NAME: &str = "a_process_of_which_any_call_fails_has_its_heaps_at_the_next_request";
    if let Some(asked) = child::child() {
        let asked: Vec<usize> =
            asked.to_str().unwrap().split('-').map(|text| text.parse().unwrap()).collect();
        let [call, count, first, order] = asked[..] else { panic!("{asked:?}") };
        let run = move || use_both_heaps(count, order == 1);
        let ([heap, pool], seen) = refusing(call as libc::c_long, first, count, run);
        println!("[{heap}-{pool}-{seen}-{}]", mapped_mib());
        return;
    }
    let run = |call: libc::c_long, count: usize, first: usize, large_first: bool| {
        let asked = format!("{call}-{count}-{first}-{}", u8::from(large_first));
        let output = child::command(&[], NAME, asked.as_ref()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{asked}: {said}{}", String::from_utf8_lossy(&output.stderr));
        let numbers = said.split_once('[').unwrap().1.split_once(']').unwrap().0;
        let numbers: Vec<usize> = numbers.split('-').map(|text| text.parse().unwrap()).collect();
        (numbers[0], numbers[1], numbers[2], numbers[3])
    };
    let _alone = alone::alone();
    let (.., most_mib) = run(libc::SYS_mmap, 0, 1, false);
    for (call, count) in [
        (libc::SYS_mmap, 1),
        (libc::SYS_mmap, 3),
        (libc::SYS_mprotect, 1),
        (libc::SYS_mprotect, 4),
        (libc::SYS_mprotect, 9),
        (libc::SYS_madvise, 1),
    ] {
        let (mut places, mut sums) = (0, [0; 2]);
        for first in 1..300 {
            let (heap, pool, seen, mib) = run(call, count, first, first % 2 == 0);
            assert!(
                mib < most_mib + NOISE,
                "{call}, {first}: {mib} MiB are mapped, {most_mib} where none failed"
            );
            if seen < first {
                break;
            }
            places += 1;
            sums = [sums[0] + heap, sums[1] + pool];
        }
        println!("{count} calls {call} at a time: {places} places, {sums:?} requests refused");
        assert!(places >= 4, "{places}");
        // The heap makes do with a shorter range.
        assert!(call != libc::SYS_mmap || sums[0] == 0, "{sums:?}");
        assert!(count < 9 || sums[0] > 0 && sums[1] > 0, "{sums:?}");
    }
}
