//! The process's heap as the global allocator of this very test program, and around the edges of a thread's life.

use democratising::heap::{Misuse, OnMisuse, on_misuse};
use democratising::{BadFree, Global, gc};
use std::alloc::{GlobalAlloc, Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[global_allocator]
static GLOBAL: Global = Global;

/// What a child of this test program is to do: see `child`.
const ROLE: &str = "DEMOCRATISING_TEST_ROLE";

/// Runs this program again, with only the named test, in a role. Ends it after a minute: a heap that hangs is a failure.
fn child(test: &str, role: &str) -> (Option<i32>, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{test} as {role} hangs");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn role(name: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|role| role == name)
}

/// A small generator: xorshift.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// A live block with what was written into it.
struct Live {
    at: *mut u8,
    layout: Layout,
    pattern: u8,
}

// SAFETY: 1. A block is owned by whoever has it, in whichever thread.
unsafe impl Send for Live {}

impl Live {
    fn new(layout: Layout, pattern: u8, zeroed: bool) -> Live {
        // SAFETY: 1. No layout here has a size of zero.
        let at = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        assert!(!at.is_null() && (at as usize).is_multiple_of(layout.align()), "{layout:?} at {at:p}");
        let live = Live { at, layout, pattern };
        assert!(!zeroed || live.edges().all(|i| live.byte(i) == 0), "{layout:?} was to be zero");
        live.fill();
        live
    }

    fn edges(&self) -> impl Iterator<Item = usize> + use<> {
        let bytes = self.layout.size();
        (0..bytes.min(64)).chain((4096..bytes).step_by(4096)).chain(bytes.saturating_sub(64).max(64)..bytes)
    }

    fn byte(&self, i: usize) -> u8 {
        assert!(i < self.layout.size());
        // SAFETY: 1. The block has that many bytes.
        unsafe { self.at.add(i).read() }
    }

    fn fill(&self) {
        // SAFETY: 1. The block has that many bytes.
        self.edges().for_each(|i| unsafe { self.at.add(i).write(self.pattern ^ i as u8) });
    }

    fn check(&self, bytes: usize) {
        for i in self.edges().filter(|i| *i < bytes) {
            assert_eq!(self.byte(i), self.pattern ^ i as u8, "byte {i} of {:?}", self.layout);
        }
    }

    fn resize(&mut self, bytes: usize) {
        let kept = bytes.min(self.layout.size());
        // SAFETY: 1. The block is live with this layout. 2. The new size is not zero.
        self.at = unsafe { realloc(self.at, self.layout, bytes) };
        assert!(!self.at.is_null());
        // Every byte that `fill` wrote and that is kept.
        for i in self.edges().filter(|i| *i < kept) {
            assert_eq!(self.byte(i), self.pattern ^ i as u8, "byte {i} moved to {bytes} bytes");
        }
        self.layout = Layout::from_size_align(bytes, self.layout.align()).unwrap();
        self.fill();
    }

    fn free(self) {
        self.check(self.layout.size());
        // SAFETY: 1. The block is live with this layout, and nobody uses it.
        unsafe { dealloc(self.at, self.layout) }
    }
}

fn layout(draw: &mut Draw) -> Layout {
    let bytes = match draw.below(10) {
        0 => 1 + draw.below(3 << 20),
        1 => 1 + draw.below(200_000),
        2 | 3 => 1 + draw.below(20_000),
        _ => 1 + draw.below(600),
    };
    let align = match draw.below(8) {
        0 => 1 << draw.below(13),
        _ => 8,
    };
    Layout::from_size_align(bytes, align).unwrap()
}

#[test]
fn collections_strings_and_threads_live_in_it() {
    let words: Vec<String> = (0..5000).map(|i| format!("word {}", i % 700)).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    words.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    assert_eq!(counts.len(), 700);
    let sorted: BTreeMap<_, _> = counts.into_iter().collect();
    assert_eq!(sorted.values().sum::<usize>(), 5000);
    assert!(Global::stats().blocks > 5000, "{}", Global::stats());
}

#[test]
fn blocks_keep_what_was_written_while_two_threads_allocate_resize_and_swap() {
    // Longer on demand: every block is checked byte for byte where it can go wrong, for as many seconds.
    let seconds = std::env::var("DEMOCRATISING_STRESS_SECONDS").map_or(0, |text| text.parse().unwrap());
    let (began, for_so_long) = (Instant::now(), Duration::from_secs(seconds));
    let (to_one, from_two) = mpsc::channel::<Live>();
    let (to_two, from_one) = mpsc::channel::<Live>();
    let work = |seed: u64, to: mpsc::Sender<Live>, from: mpsc::Receiver<Live>| {
        let mut draw = Draw(seed);
        let mut live = Vec::new();
        for step in 0u64.. {
            if step >= 30_000 && began.elapsed() >= for_so_long {
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
    for shift in 0..=22 {
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
    for (bytes, align) in [(isize::MAX as usize - 63, 64), (1 << 46, 8), (4096, 1 << 40)] {
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
    let (code, error) = child("large_blocks_grow_into_what_is_free_behind_them", "growing");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn freed_memory_is_zero_again_when_zeroed_memory_is_asked_for() {
    for bytes in [24, 5000, 40_000, 3 << 20] {
        for _ in 0..100 {
            Live::new(Layout::from_size_align(bytes, 8).unwrap(), 0xff, false).free();
            Live::new(Layout::from_size_align(bytes, 8).unwrap(), 0xff, true).free();
        }
    }
}

#[test]
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
    let (code, error) = child("blocks_of_threads_that_ended_are_used_again", "threads");
    assert_eq!(code, Some(0), "{error}");
}

thread_local! {
    static LAST: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Allocates and frees while its thread's other values are being dropped.
struct Late(Vec<String>);

impl Drop for Late {
    fn drop(&mut self) {
        let more: Vec<String> = (0..1000).map(|i| format!("{i} while the thread ends")).collect();
        self.0.clear();
        drop(more);
        let _ = LAST.try_with(|last| *last.borrow_mut() = Some(vec![String::from("and again"); 100]));
    }
}

#[test]
fn a_thread_may_allocate_and_free_while_it_ends() {
    thread_local! { static LATE: RefCell<Option<Late>> = const { RefCell::new(None) }; }
    for _ in 0..50 {
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
    let take = || Live::new(layout, 7, false);
    let first = take();
    let blocks = Global::stats().blocks;
    let others = [(); 5].map(|()| take());
    let from_the_slabs = Global::stats().blocks - blocks;
    first.free();
    others.into_iter().for_each(Live::free);
    // SAFETY: 1. They ask the system; `_exit` ends the process without coming back here.
    unsafe {
        if libc::getpid() as libc::c_long != libc::syscall(libc::SYS_gettid) {
            libc::_exit(3);
        }
        // The first fills a magazine.
        if from_the_slabs != 0 {
            libc::_exit(4);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_first_thread_has_a_cache_for_what_runs_at_exit() {
    if role("exit") {
        // SAFETY: 1. The function does not unwind.
        assert_eq!(unsafe { libc::atexit(allocates_at_exit) }, 0);
        return;
    }
    let (code, error) = child("the_first_thread_has_a_cache_for_what_runs_at_exit", "exit");
    assert_eq!(
        code,
        Some(0),
        "3: another thread than the first; 4: one block after another from the slabs. {error}"
    );
}

#[test]
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
    let (code, error) = child("a_thread_that_only_frees_gives_the_blocks_to_others", "freeing");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn a_small_block_that_another_thread_carved_is_not_what_its_freer_gets_next() {
    // On its own: a thread that takes over another's cache has what was in it.
    if !role("neighbours") {
        let name = "a_small_block_that_another_thread_carved_is_not_what_its_freer_gets_next";
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

#[test]
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
    let (code, error) = child("what_blocks_of_one_size_leave_serves_the_next_size", "phases");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
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
    let (code, error) = child("collecting_gives_memory_back_to_the_system", "collecting");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
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
    let (code, error) = child("what_nobody_needs_for_a_second_goes_back_as_work_goes_on", "decaying");
    assert_eq!(code, Some(0), "{error}");
}

/// The process's resident memory, as the system counts it.
#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[test]
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
    let name = "a_peak_that_was_freed_is_gone_two_seconds_later_though_nothing_called_the_heap";
    let (code, error) = child(name, "peak");
    assert_eq!(code, Some(0), "{error}");
}

#[cfg(unix)]
#[test]
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
            // SAFETY: 1. The child allocates, frees and ends: what this heap promises to allow.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0);
            if pid == 0 {
                let vecs: Vec<Vec<u8>> = (1..300).map(|i| vec![0; i * i]).collect();
                drop(vecs);
                // SAFETY: 1. Ends the child without running anything else.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: 1. Waits for the child made above.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert_eq!(status, 0);
        }
        std::process::exit(0);
    }
    let (code, error) = child("a_child_forked_while_other_threads_allocate_can_allocate", "forking");
    assert_eq!(code, Some(0), "{error}");
}

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
        let (code, error) = child("misuse_ends_the_process_with_one_line_that_says_what_and_where", name);
        let line = error.lines().find(|line| line.starts_with("democratising: 0x"));
        assert!(line.is_some_and(|line| line.contains(words)), "{name}: {error}");
        assert_eq!(code, None, "{name} ends by SIGABRT");
    }
}

#[test]
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
        std::process::exit(0);
    }
    let (code, error) = child("a_hook_hears_of_misuse_and_the_program_goes_on", "hook");
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn a_map_lives_in_the_heap_and_in_a_pool_of_its_own() {
    let mut heaped = hashbrown::HashMap::new_in(Global);
    heaped.extend((0..1000).map(|i| (i, i * i)));
    assert_eq!(heaped[&30], 900);
    let space = democratising::space::Mapped::reserve(64 << 20).unwrap();
    let tables = democratising::space::MappedTables;
    let pool: democratising::Pool<_, democratising::HostLock> =
        democratising::Pool::new(space, tables, democratising::PoolConfig::DEFAULT).unwrap();
    let mut own = hashbrown::HashMap::new_in(&pool);
    own.extend((0..1000).map(|i| (i, i * i)));
    assert_eq!(own[&30], 900);
    assert!(pool.stats().in_use_bytes > 8000);
    drop(own);
    assert_eq!(pool.stats().in_use_bytes, 0);
}
