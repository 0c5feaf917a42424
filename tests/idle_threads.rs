//! What `gc::collect` takes out of the caches of threads that sleep, and of threads that go on meanwhile.

#![cfg(unix)]

#[path = "common/again.rs"]
mod again;
#[path = "common/fork.rs"]
mod fork;

use democratising::{Global, gc};
use std::alloc::{GlobalAlloc, Layout};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use std::{thread, vec};

// Not the global allocator: the statistics are of what the tests allocate here, and of nothing else.

/// What a child of this test program is to do.
const ROLE: &str = "DEMOCRATISING_TEST_ROLE";

/// Whether a thread's word can be changed by others (`heap/thread/place.rs`), and is: hardened heaps leave that to the thread.
const PARTED: bool = cfg!(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(any(feature = "dylib", feature = "hardened"))
));

/// Runs `body` in a process of its own, which is given five minutes.
fn alone(test: &str, body: fn()) {
    if std::env::var(ROLE).is_ok_and(|role| role == test) {
        return body();
    }
    let mut child = again::again()
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, test)
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if began.elapsed() > Duration::from_secs(300) => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it hangs");
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    assert!(status.success(), "{status}");
}

/// A live block, whose bytes say whose it is.
struct Live {
    at: *mut u8,
    layout: Layout,
    pattern: u8,
}

// SAFETY: 1. A block is owned by whoever has it, in whichever thread.
unsafe impl Send for Live {}

impl Live {
    fn new(bytes: usize, pattern: u8) -> Live {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        // SAFETY: 1. The layout has a size, and the block as many bytes.
        let at = unsafe {
            let at = Global.alloc(layout);
            assert!(!at.is_null());
            at.write_bytes(pattern, bytes);
            at
        };
        Live { at, layout, pattern }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // SAFETY: 1. The block is live, with its layout, and given back once.
        unsafe {
            let bytes = std::slice::from_raw_parts(self.at, self.layout.size());
            // All the same, and the first is right: by comparing ranges, since byte by byte takes a minute without optimization.
            let whole = bytes[0] == self.pattern && bytes[1..] == bytes[..bytes.len() - 1];
            assert!(whole, "{:?}: somebody else writes there", self.at);
            Global.dealloc(self.at, self.layout);
        }
    }
}

/// Sizes of as many classes, some with owners, none of which is the first of its slab alone.
const SIZES: [usize; 12] = [16, 32, 48, 64, 160, 512, 1000, 2000, 4000, 8000, 16000, 30000];

/// Leaves two full magazines of each class in this thread's cache.
fn fill(pattern: u8) {
    for bytes in SIZES {
        drop(Vec::from_iter((0..200).map(|_| Live::new(bytes, pattern))));
    }
}

/// Work with a shadow: takes and frees at random, and exchanges blocks with another thread.
fn work(seed: u8, until: &dyn Fn() -> bool, to: &Sender<Live>, from: &Receiver<Live>) {
    let random = RandomState::new();
    let mut live = vec::Vec::new();
    for round in 0u64.. {
        if round % 64 == 0 && until() {
            break;
        }
        let mut hasher = random.build_hasher();
        hasher.write_u64(round);
        let draw = hasher.finish() as usize;
        match draw % 8 {
            0..4 => live.push(Live::new(SIZES[draw / 8 % SIZES.len()], seed ^ round as u8)),
            4..7 if !live.is_empty() => drop(live.swap_remove(draw / 8 % live.len())),
            7 if !live.is_empty() => {
                let _ = to.send(live.swap_remove(draw / 8 % live.len()));
                live.extend(from.try_iter());
            }
            _ => (),
        }
        if live.len() > 300 {
            live.truncate(50);
        }
    }
}

const THREADS: usize = 4;

#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    // SAFETY: 1. Asks for a constant of the system.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * page_bytes
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> usize {
    0
}

/// Waits until all threads have had their caches for longer than one may that is about to end and tells nobody.
fn settle() {
    thread::sleep(Duration::from_millis(80));
}

/// Threads fill their caches and sleep; `asleep` looks at the heap; then they work for `work_ms`, beside `beside`.
fn sleepers(work_ms: u64, asleep: impl FnOnce(), mut beside: impl FnMut()) {
    let (filled, wait_filled) = mpsc::channel();
    let ended = AtomicBool::new(false);
    let (send, mut receive): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<Live>()).unzip();
    receive.rotate_left(1);
    thread::scope(|scope| {
        let (mut wake, mut threads) = (Vec::new(), Vec::new());
        for (seed, (to, from)) in send.into_iter().zip(receive).enumerate() {
            let (waker, woken) = mpsc::channel::<()>();
            wake.push(waker);
            let (filled, ended) = (filled.clone(), &ended);
            threads.push(scope.spawn(move || {
                fill(seed as u8);
                filled.send(()).unwrap();
                woken.recv().unwrap();
                work(seed as u8, &|| ended.load(Relaxed), &to, &from);
                fill(seed as u8);
            }));
        }
        (0..THREADS).for_each(|_| wait_filled.recv().unwrap());
        settle();
        asleep();
        wake.iter().for_each(|waker| waker.send(()).unwrap());
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(work_ms) {
            beside();
        }
        ended.store(true, Relaxed);
        // The scope does not wait until they have given their caches up.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    gc::collect().unwrap();
    let stats = Global::stats();
    assert_eq!(stats.blocks, 0, "a block is lost: {stats}");
}

#[test]
fn a_collect_leaves_a_block_of_a_class_in_the_cache_of_a_thread_that_sleeps() {
    alone("a_collect_leaves_a_block_of_a_class_in_the_cache_of_a_thread_that_sleeps", || {
        let asleep = || {
            let (before, before_bytes) = (Global::stats(), resident_bytes());
            gc::collect().unwrap();
            let (after, after_bytes) = (Global::stats(), resident_bytes());
            let kept_bytes =
                (THREADS * SIZES.iter().map(|bytes| bytes.next_multiple_of(4096)).sum::<usize>()) as u64;
            println!("{before}\n{after}\n{before_bytes} bytes resident, then {after_bytes}");
            assert!(before.in_use_bytes > 3 * THREADS as u64 * (256 << 10), "{before}");
            if PARTED {
                // And of those with owners one that another thread carved, since two may carve in one place.
                let with_owners = SIZES.iter().filter(|&&bytes| bytes <= 48).count();
                assert!(after.blocks <= (THREADS * (SIZES.len() + with_owners)) as u64, "{after}");
                assert!(after.in_use_bytes < kept_bytes, "{kept_bytes} bytes at most: {after}");
                assert!(
                    after_bytes + (8 << 20) < before_bytes,
                    "{before_bytes} resident, then {after_bytes}"
                );
            } else {
                assert!(after.in_use_bytes < before.in_use_bytes * 2 / 3, "{before}; {after}");
            }
            // And once more, which finds nothing to take.
            gc::collect().unwrap();
            assert_eq!(Global::stats().blocks, after.blocks);
        };
        sleepers(300, asleep, || thread::sleep(Duration::from_millis(1)));
    });
}

/// It may be one that is about to end and tells nobody: what its hits use is left alone.
#[test]
fn of_a_thread_that_has_just_come_a_collect_takes_what_its_hits_do_not_use() {
    alone("of_a_thread_that_has_just_come_a_collect_takes_what_its_hits_do_not_use", || {
        let (freed, wait_freed) = mpsc::channel();
        let (wake, woken) = mpsc::channel::<()>();
        let came = Instant::now();
        let asleep = thread::spawn(move || {
            drop(Vec::from_iter((0..126).map(|_| Live::new(64, 5))));
            freed.send(()).unwrap();
            woken.recv().unwrap();
            // What was asked of it, it does when it next looks for blocks elsewhere.
            drop(Vec::from_iter((0..126).map(|_| Live::new(64, 6))));
        });
        wait_freed.recv().unwrap();
        let before = Global::stats();
        gc::collect().unwrap();
        let after = Global::stats();
        assert!(before.blocks >= 126 && after.blocks <= 64, "{before}; {after}");
        // Hardened heaps draw from few, and keep more of them behind. A slow machine may have made an old one of it.
        let least = if cfg!(feature = "hardened") { 8 } else { 60 };
        assert!(after.blocks >= least || came.elapsed() > Duration::from_millis(40), "{after}");
        wake.send(()).unwrap();
        asleep.join().unwrap();
        gc::collect().unwrap();
        assert_eq!(Global::stats().blocks, 0, "{}", Global::stats());
    });
}

/// Small blocks that another thread took are collected by whoever frees them, to go back together.
#[test]
fn a_collect_takes_what_a_thread_that_sleeps_was_to_give_back_of_anothers() {
    alone("a_collect_takes_what_a_thread_that_sleeps_was_to_give_back_of_anothers", || {
        // Of hardened heaps with what stands behind a block.
        let sizes = if cfg!(feature = "hardened") { [8, 16, 32] } else { [16, 32, 48] };
        let few = || sizes.map(|bytes| Vec::from_iter((0..40).map(|_| Live::new(bytes, 5))));
        let blocks = few();
        let (freed, wait_freed) = mpsc::channel();
        let (wake, woken) = mpsc::channel::<()>();
        let asleep = thread::spawn(move || {
            drop(blocks);
            freed.send(()).unwrap();
            woken.recv().unwrap();
        });
        wait_freed.recv().unwrap();
        settle();
        let before = Global::stats();
        assert!(before.blocks >= 120, "they are in a cache: {before}");
        gc::collect().unwrap();
        let after = Global::stats();
        // Where the thread can be parted from its cache, all but the uppermost of each size.
        let most = if PARTED { 3 } else { 120 };
        assert!(after.blocks <= most, "{before}; {after}");
        // Each of them is somebody's once.
        let again = few();
        wake.send(()).unwrap();
        asleep.join().unwrap();
        drop((again, few()));
        gc::collect().unwrap();
        assert_eq!(Global::stats().blocks, 0, "a block is lost: {}", Global::stats());
    });
}

#[test]
fn nothing_is_lost_when_caches_are_emptied_under_threads_that_work() {
    alone("nothing_is_lost_when_caches_are_emptied_under_threads_that_work", || {
        let mut collects = 0;
        sleepers(
            3000,
            || (),
            || {
                gc::collect().unwrap();
                collects += 1;
            },
        );
        println!("{collects} collects");
        assert!(collects > 100, "{collects}");
    });
}

#[test]
fn threads_end_while_their_caches_are_emptied() {
    alone("threads_end_while_their_caches_are_emptied", || {
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !ended.load(Relaxed) {
                        gc::collect().unwrap();
                    }
                });
            }
            for round in 0..200 {
                let work = move || {
                    fill(round);
                    if round % 10 == 0 {
                        settle();
                        fill(round);
                    }
                };
                let threads = [0, 1].map(|_| thread::spawn(work));
                threads.into_iter().for_each(|thread| thread.join().unwrap());
            }
            ended.store(true, Relaxed);
        });
        gc::collect().unwrap();
        assert_eq!(Global::stats().blocks, 0, "{}", Global::stats());
    });
}

/// A thread that comes to the heap first in the system's last round of its keys' destructors, which leaves nobody to give its
/// cache up. It ends on a stack of ours, which is gone then, and with it the thread's word.
#[cfg(target_os = "linux")]
fn come_last() {
    use std::ptr::null_mut;
    use std::sync::atomic::AtomicI32;

    static KEY: AtomicI32 = AtomicI32::new(-1);
    static ROUNDS: AtomicI32 = AtomicI32::new(0);
    const STACK_BYTES: usize = 1 << 20;

    extern "C" fn again(value: *mut libc::c_void) {
        let round = value as usize;
        ROUNDS.store(round as i32, Relaxed);
        // As many as there are: `PTHREAD_DESTRUCTOR_ITERATIONS`.
        if round == 4 {
            fill(9);
        } else {
            // SAFETY: 1. The key is one, and its value is a number.
            unsafe { libc::pthread_setspecific(KEY.load(Relaxed) as libc::pthread_key_t, (round + 1) as _) };
        }
    }

    extern "C" fn run(_: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: 1. As above.
        unsafe { libc::pthread_setspecific(KEY.load(Relaxed) as libc::pthread_key_t, 1 as _) };
        null_mut()
    }

    // SAFETY: 1. Every place is valid. 2. The thread has ended when its stack goes.
    unsafe {
        if KEY.load(Relaxed) < 0 {
            let mut key = 0;
            assert_eq!(libc::pthread_key_create(&mut key, Some(again)), 0);
            KEY.store(key as i32, Relaxed);
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let stack = libc::mmap(null_mut(), STACK_BYTES, protection, flags, -1, 0);
        assert_ne!(stack, libc::MAP_FAILED);
        let (mut with, mut thread) = (std::mem::zeroed(), std::mem::zeroed());
        assert_eq!(libc::pthread_attr_init(&mut with), 0);
        assert_eq!(libc::pthread_attr_setstack(&mut with, stack, STACK_BYTES), 0);
        assert_eq!(libc::pthread_create(&mut thread, &with, run, null_mut()), 0);
        assert_eq!(libc::pthread_join(thread, null_mut()), 0);
        assert_eq!(libc::munmap(stack, STACK_BYTES), 0);
        libc::pthread_attr_destroy(&mut with);
    }
    assert_eq!(ROUNDS.load(Relaxed), 4);
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_thread_leaves_that_ends_and_tells_nobody_is_taken_and_its_cache_is_another_ones() {
    alone("what_a_thread_leaves_that_ends_and_tells_nobody_is_taken_and_its_cache_is_another_ones", || {
        fill(1);
        for _ in 0..20 {
            come_last();
            settle();
            gc::collect().unwrap();
            assert_eq!(Global::stats().blocks, 0, "{}", Global::stats());
        }
        let child = fork::in_child(|| {
            come_last();
            settle();
            let forked = thread::spawn(|| gc::collect().unwrap());
            forked.join().unwrap();
            fill(2);
            true
        });
        assert_eq!(child, fork::RIGHT);
    });
}

#[test]
fn a_process_forked_while_caches_are_emptied_has_caches_and_can_empty_them() {
    alone("a_process_forked_while_caches_are_emptied_has_caches_and_can_empty_them", || {
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let collects = || {
                while !ended.load(Relaxed) {
                    gc::collect().unwrap();
                    thread::yield_now();
                }
            };
            scope.spawn(collects);
            for _ in 0..3 {
                scope.spawn(|| {
                    while !ended.load(Relaxed) {
                        fill(3);
                    }
                });
            }
            for round in 0..50 {
                fill(round);
                let child = fork::in_child(|| {
                    fill(round ^ 1);
                    gc::collect().unwrap();
                    fill(round ^ 2);
                    true
                });
                assert_eq!(child, fork::RIGHT, "round {round}");
            }
            ended.store(true, Relaxed);
        });
    });
}

/// Lets the kernel refuse `membarrier` to this process, as a sandbox may.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn refuse_barriers() {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        op(LOAD_NUMBER, 0, 0, 0),
        op(IS, 0, 1, libc::SYS_membarrier as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: 1. The filter and its program are there until the call returns.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter), 0);
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn without_a_barrier_half_is_taken_and_a_thread_that_wakes_gives_the_rest() {
    alone("without_a_barrier_half_is_taken_and_a_thread_that_wakes_gives_the_rest", || {
        refuse_barriers();
        let asleep = || {
            let before = Global::stats();
            gc::collect().unwrap();
            let after = Global::stats();
            println!("{before}\n{after}");
            assert!(after.in_use_bytes < before.in_use_bytes * 2 / 3, "{before}; {after}");
            assert!(after.blocks > (THREADS * SIZES.len()) as u64, "there was a barrier: {after}");
        };
        sleepers(500, asleep, || {
            gc::collect().unwrap();
        });
        // What is asked of a thread it does when its loaded magazine does not help.
        let (ask, asked) = mpsc::channel::<()>();
        let (answer, answered) = mpsc::channel::<()>();
        let asleep = thread::spawn(move || {
            fill(1);
            answer.send(()).unwrap();
            asked.recv().unwrap();
            drop(Vec::from_iter((0..70).map(|_| Live::new(64, 1))));
            answer.send(()).unwrap();
            asked.recv().unwrap();
        });
        answered.recv().unwrap();
        gc::collect().unwrap();
        let before = Global::stats();
        ask.send(()).unwrap();
        answered.recv().unwrap();
        let after = Global::stats();
        ask.send(()).unwrap();
        asleep.join().unwrap();
        // Of the size that it worked with it has two magazines again, at most.
        assert!(after.in_use_bytes < before.in_use_bytes / 2 && after.blocks < 200, "{before}; then {after}");
    });
}

/// A thread in the midst of hits, held by a signal between any two of their instructions while its cache is emptied.
#[cfg(target_os = "linux")]
#[test]
fn a_hit_that_was_interrupted_ends_well_after_the_cache_was_emptied() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// 1: the thread is to be held; 2: it is held; 0: it goes on.
    static STATE: AtomicUsize = AtomicUsize::new(0);
    const ROUNDS: usize = 400;
    const BYTES: usize = 64;

    extern "C" fn hold(_: libc::c_int) {
        STATE.store(2, SeqCst);
        // Not for good: where the thread was inside, the collect waits for it.
        for _ in 0..200 {
            if STATE.load(SeqCst) == 0 {
                return;
            }
            let time = libc::timespec { tv_sec: 0, tv_nsec: 100_000 };
            // SAFETY: 1. The call may be made in a signal's handler, and reads a time.
            unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
        }
    }

    alone("a_hit_that_was_interrupted_ends_well_after_the_cache_was_emptied", || {
        // SAFETY: 1. The handler calls nothing that is not safe there.
        unsafe { libc::signal(libc::SIGUSR1, hold as *const () as libc::sighandler_t) };
        let ended = AtomicBool::new(false);
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: 1. Asks for a name, which with some C libraries is a pointer.
                tell.send(unsafe { libc::pthread_self() } as usize).unwrap();
                // A few blocks in the magazine, of which the uppermost come and go.
                drop(Vec::from_iter((0..8).map(|_| Live::new(BYTES, 1))));
                while !ended.load(Relaxed) {
                    let (one, two) = (Live::new(BYTES, 1), Live::new(BYTES, 1));
                    drop((one, two));
                }
            });
            let hitting = told.recv().unwrap() as libc::pthread_t;
            settle();
            for _ in 0..ROUNDS {
                STATE.store(1, SeqCst);
                // SAFETY: 1. The thread is there: it has not been told to end.
                unsafe { libc::pthread_kill(hitting, libc::SIGUSR1) };
                while STATE.load(SeqCst) == 1 {
                    thread::yield_now();
                }
                gc::collect().unwrap();
                let mine = Vec::from_iter((0..200).map(|_| Live::new(BYTES, 2)));
                STATE.store(0, SeqCst);
                thread::sleep(Duration::from_micros(300));
                drop(mine);
            }
            ended.store(true, Relaxed);
            // The scope does not wait until the thread has given its cache up.
            thread.join().unwrap();
        });
        gc::collect().unwrap();
        assert_eq!(Global::stats().blocks, 0, "a block is lost: {}", Global::stats());
    });
}
