//! Around the edges of a thread's life, and of a process's.

#[cfg(target_os = "linux")]
use crate::back::resident_bytes;
use crate::common::{Live, child, role};
#[cfg(unix)]
use crate::fork;
use democratising::{Global, gc};
use std::alloc::Layout;
use std::cell::RefCell;
use std::iter::successors;
use std::sync::Barrier;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn blocks_of_threads_that_ended_are_used_again() {
    let layout = Layout::from_size_align(1000, 8).unwrap();
    let fill = move || {
        let blocks: Vec<Live> = (0..1000).map(|i| Live::new(layout, i as u8, false)).collect();
        blocks.into_iter().for_each(Live::free);
    };
    if role("threads") {
        thread::spawn(fill).join().unwrap();
        let first = Global::stats().reserved_bytes;
        for _ in 0..200 {
            thread::spawn(fill).join().unwrap();
        }
        let last = Global::stats().reserved_bytes;
        assert!(last <= first + (4 << 20), "{first} bytes after one thread, {last} after 201");
        return;
    }
    let (code, error) = child("threads::blocks_of_threads_that_ended_are_used_again", "threads");
    assert_eq!(code, Some(0), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_collect_gives_the_memory_of_caches_back_whose_threads_ended() {
    const THREADS: usize = 300;
    if role("spare") {
        let all_there = Barrier::new(THREADS);
        let before = resident_bytes();
        thread::scope(|scope| {
            let work = || {
                scope.spawn(|| {
                    // One block of nearly every class.
                    let sizes = successors(Some(16usize), |size| Some(size + size / 4 + 8));
                    let layouts = sizes
                        .take_while(|size| *size < 32 << 10)
                        .map(|size| Layout::from_size_align(size, 8));
                    let blocks: Vec<Live> =
                        layouts.map(|layout| Live::new(layout.unwrap(), 1, false)).collect();
                    all_there.wait();
                    blocks.into_iter().for_each(Live::free);
                })
            };
            let threads: Vec<_> = (0..THREADS).map(|_| work()).collect();
            // A scope waits for what its threads do, not until they are gone.
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        gc::collect().unwrap();
        let more = resident_bytes().saturating_sub(before);
        assert!(more < THREADS * (44 << 10), "{more} bytes");
        return;
    }
    let (code, error) =
        child("threads::a_collect_gives_the_memory_of_caches_back_whose_threads_ended", "spare");
    assert_eq!(code, Some(0), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn collects_that_find_a_thread_asleep_need_one_cache_for_all_of_them() {
    if role("vessel") {
        let (woken, wake) = (Barrier::new(2), Barrier::new(2));
        let sleep = || {
            Live::new(Layout::new::<[u64; 9]>(), 1, false).free();
            woken.wait();
            wake.wait();
        };
        thread::scope(|scope| {
            scope.spawn(sleep);
            woken.wait();
            (0..5).for_each(|_| drop(gc::collect().unwrap()));
            let before = resident_bytes();
            (0..2000).for_each(|_| drop(gc::collect().unwrap()));
            let more = resident_bytes().saturating_sub(before);
            // Before anything is asserted: the scope waits for the thread.
            wake.wait();
            assert!(more < 4 << 20, "{more} bytes more after 2000 collects");
        });
        return;
    }
    let (code, error) =
        child("threads::collects_that_find_a_thread_asleep_need_one_cache_for_all_of_them", "vessel");
    assert_eq!(code, Some(0), "{error}");
}

#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn the_cache_of_a_thread_that_forked_is_emptied_by_other_threads_of_the_child() {
    if role("forked cache") {
        // No more than two magazines hold: none of it is in a depot.
        let fill = || {
            for bytes in [4000, 8000, 16000, 30000] {
                let layout = Layout::from_size_align(bytes, 8).unwrap();
                let blocks = Vec::from_iter((0..12).map(|_| Live::new(layout, 3, false)));
                blocks.into_iter().for_each(Live::free);
            }
        };
        fill();
        let ended = fork::in_child(|| {
            gc::collect().unwrap();
            fill();
            // Of a thread that has had its cache for so long, others take all.
            thread::sleep(Duration::from_millis(80));
            let (before, after) = thread::spawn(|| {
                let before = Global::stats().in_use_bytes;
                gc::collect().unwrap();
                (before, Global::stats().in_use_bytes)
            })
            .join()
            .unwrap();
            after + (300 << 10) < before
        });
        assert_eq!(ended, fork::RIGHT);
        return;
    }
    let (code, error) = child(
        "threads::the_cache_of_a_thread_that_forked_is_emptied_by_other_threads_of_the_child",
        "forked cache",
    );
    assert_eq!(code, Some(0), "{error}");
}

thread_local! {
    static LAST: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Allocates and frees while its thread's other values are being dropped.
struct Late(Vec<String>);

impl Drop for Late {
    fn drop(&mut self) {
        let more: Vec<String> =
            (0..if cfg!(miri) { 20 } else { 1000 }).map(|i| format!("{i} while the thread ends")).collect();
        self.0.clear();
        drop(more);
        let _ = LAST.try_with(|last| *last.borrow_mut() = Some(vec![String::from("and again"); 100]));
    }
}

#[test]
fn a_thread_may_allocate_and_free_while_it_ends() {
    thread_local! { static LATE: RefCell<Option<Late>> = const { RefCell::new(None) }; }
    for _ in 0..if cfg!(miri) { 3 } else { 50 } {
        let theirs = thread::spawn(|| {
            // Registered before the cache's own end in some rounds, behind it in others.
            LATE.with(|late| *late.borrow_mut() = Some(Late(vec![String::from("x"); 10])));
            LAST.with(|last| *last.borrow_mut() = Some(Vec::new()));
            vec![String::from("left to the one who joins"); 100]
        });
        assert_eq!(theirs.join().unwrap().len(), 100);
    }
}

/// Run by `exit`, after the values of the thread that called it were dropped.
#[cfg(target_os = "linux")]
extern "C" fn allocates_at_exit() {
    let layout = Layout::from_size_align(1500, 8).unwrap();
    let block = Live::new(layout, 7, false);
    let blocks = Global::stats().blocks;
    block.free();
    let given_back = blocks - Global::stats().blocks;
    // SAFETY: 1. They ask the system; `_exit` ends the process without coming back here.
    unsafe {
        if libc::getpid() as libc::c_long != libc::syscall(libc::SYS_gettid) {
            libc::_exit(3);
        }
        // It is in a magazine.
        if given_back != 0 {
            libc::_exit(4);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn the_first_thread_has_a_cache_for_what_runs_at_exit() {
    if role("exit") {
        // SAFETY: 1. The function does not unwind.
        assert_eq!(unsafe { libc::atexit(allocates_at_exit) }, 0);
        return;
    }
    let (code, error) = child("threads::the_first_thread_has_a_cache_for_what_runs_at_exit", "exit");
    assert_eq!(
        code,
        Some(0),
        "3: another thread than the first; 4: what is freed goes to the slabs at once. {error}"
    );
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_thread_that_only_frees_gives_the_blocks_to_others() {
    let layout = Layout::from_size_align(100, 8).unwrap();
    if role("freeing") {
        for round in 0..100 {
            let blocks: Vec<Live> = (0..5000).map(|_| Live::new(layout, round, false)).collect();
            thread::spawn(move || blocks.into_iter().for_each(Live::free)).join().unwrap();
        }
        let stats = Global::stats();
        assert!(stats.peak_reserved_bytes < 32 << 20, "{stats}");
        return;
    }
    let (code, error) = child("threads::a_thread_that_only_frees_gives_the_blocks_to_others", "freeing");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_small_block_that_another_thread_carved_is_not_what_its_freer_gets_next() {
    // On its own: a thread that takes over another's cache has what was in it.
    if !role("neighbours") {
        let name = "threads::a_small_block_that_another_thread_carved_is_not_what_its_freer_gets_next";
        let (code, error) = child(name, "neighbours");
        return assert_eq!(code, Some(0), "{error}");
    }
    const LINE: usize = 64;
    let blocks: Vec<Box<u64>> = (0..64).map(Box::new).collect();
    let (mine, yours): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let lines = |blocks: &[(usize, Box<u64>)]| -> Vec<usize> {
        blocks.iter().map(|(_, block)| &raw const **block as usize / LINE).collect()
    };
    let kept = lines(&mine);
    thread::spawn(move || {
        for (_, block) in yours {
            drop(block);
            let again = std::hint::black_box(Box::new(1u64));
            let line = &raw const *again as usize / LINE;
            assert!(!kept.contains(&line), "it works on a line of the thread that has the neighbour");
        }
    })
    .join()
    .unwrap();
    drop(mine);
}

#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn a_child_forked_while_other_threads_allocate_can_allocate() {
    if role("forking") {
        for _ in 0..2 {
            thread::spawn(|| {
                loop {
                    let vecs: Vec<Vec<u8>> = (1..200).map(|i| vec![0; i * i]).collect();
                    drop(vecs);
                }
            });
        }
        thread::sleep(Duration::from_millis(50));
        for _ in 0..40 {
            let ended = fork::in_child(|| {
                let vecs: Vec<Vec<u8>> = (1..300).map(|i| vec![0; i * i]).collect();
                drop(vecs);
                true
            });
            assert_eq!(ended, fork::RIGHT);
        }
        std::process::exit(0);
    }
    let (code, error) = child("threads::a_child_forked_while_other_threads_allocate_can_allocate", "forking");
    assert_eq!(code, Some(0), "{error}");
}

/// Whether the handlers below do anything: other tests fork too.
#[cfg(target_os = "linux")]
static HANDLES: AtomicBool = AtomicBool::new(false);

/// What runs around a fork takes more blocks than a cache has.
#[cfg(target_os = "linux")]
extern "C" fn allocates_around_a_fork() {
    if HANDLES.load(Ordering::Relaxed) {
        let vecs: Vec<Vec<u8>> = (1..300).map(|i| vec![0; i * i]).collect();
        drop(vecs);
    }
}

#[cfg(target_os = "linux")]
extern "C" fn registers_before_the_program() {
    // SAFETY: 1. The functions live as long as the program.
    unsafe {
        libc::pthread_atfork(
            Some(allocates_around_a_fork),
            Some(allocates_around_a_fork),
            Some(allocates_around_a_fork),
        )
    };
}

// SAFETY: 1. The loader calls what stands in this section, once and before the program, with arguments that are not asked for.
#[cfg(all(target_os = "linux", not(miri)))]
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_THE_PROGRAM: extern "C" fn() = registers_before_the_program;

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri starts no other program")]
fn handlers_of_forks_that_were_registered_before_the_program_began_may_allocate() {
    if role("handlers") {
        HANDLES.store(true, Ordering::Relaxed);
        let ended = fork::in_child(|| {
            allocates_around_a_fork();
            true
        });
        assert_eq!(ended, fork::RIGHT);
        return;
    }
    let (code, error) = child(
        "threads::handlers_of_forks_that_were_registered_before_the_program_began_may_allocate",
        "handlers",
    );
    assert_eq!(code, Some(0), "{error}");
}
