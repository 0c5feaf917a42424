//! A fork while other threads are at work: the child has what it needs, and waits for none of them.
#![cfg(all(feature = "std", unix))]

#[path = "common/draw.rs"]
mod draw;
#[path = "common/fork.rs"]
mod fork;

use democratising::fs::{self, Kept, ModelCheckpoint};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{Global, Result, Tensor, gc};
use draw::Draw;
use std::alloc::{GlobalAlloc, Layout};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// A child has the reclaimers of all tests of its parent, so they take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A little of all that the process has but one of.
fn use_everything() -> Result<()> {
    let file = fs::temp_file()?;
    let evictable = Tensor::new(&[16], vec![1u8; 16])?.evictable("one");
    drop(Scope::process().child("a scope").charge(Kind::HostBytes, 100));
    // SAFETY: 1. The layout is not empty. 2. The block is given back once, as it was taken.
    unsafe {
        let block = Global.alloc(Layout::new::<[u64; 9]>());
        assert!(!block.is_null());
        Global.dealloc(block, Layout::new::<[u64; 9]>());
    }
    drop((file, evictable));
    Ok(())
}

/// Threads that use everything until this returns.
fn amid<T>(rounds: usize, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in (0..rounds).take_while(|_| !done.load(Relaxed)) {
                    use_everything().unwrap();
                }
            });
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_child_has_all_of_its_own_whatever_other_threads_were_at() {
    let _turn = turn();
    amid(usize::MAX, || {
        for round in 0..200 {
            let ended = fork::in_child(|| use_everything().is_ok() && gc::collect().is_ok());
            assert_eq!(ended, fork::RIGHT, "round {round}");
        }
    });
}

/// When the process forks, in nanoseconds from the start of its threads.
const MOMENT: &str = "DEMOCRATISING_TEST_FORKS_AT";

// What is made at its first use, and by one thread only, is half made at some moments. Each process has one first use of everything.
#[test]
fn a_child_forked_amid_the_first_use_of_everything_can_use_it() {
    let _turn = turn();
    if let Ok(moment) = std::env::var(MOMENT) {
        let moment = Duration::from_nanos(moment.parse().unwrap());
        let ended = amid(3, || {
            let began = Instant::now();
            while began.elapsed() < moment {
                std::hint::spin_loop();
            }
            fork::in_child(|| use_everything().is_ok() && gc::collect().is_ok())
        });
        assert_eq!(ended, fork::RIGHT);
        return;
    }
    let mut draw = Draw(0x9e37_79b9);
    for _ in 0..300 {
        let moment = draw.below(400_000);
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_forked_amid_the_first_use_of_everything_can_use_it", "--nocapture"])
            .env(MOMENT, moment.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&process.stderr);
        assert!(process.status.success(), "forked after {moment} ns: {said}");
    }
}

#[test]
fn a_child_does_not_count_on_what_its_parent_was_collecting() {
    let _turn = turn();
    use democratising::error::OutOfMemory;
    use democratising::gc::{Deadline, Reclaim};

    static IS_SLOW: AtomicBool = AtomicBool::new(false);
    static IS_ASKED: AtomicBool = AtomicBool::new(false);
    struct Slow;
    impl Reclaim for Slow {
        fn reclaimable_bytes(&self) -> u64 {
            0
        }
        fn reclaim(&self, _: u64, _: Deadline) -> u64 {
            IS_ASKED.store(true, SeqCst);
            while IS_SLOW.load(SeqCst) {
                thread::yield_now();
            }
            0
        }
    }
    // So often it is tried where nothing comes of it: four times where somebody else may still give something.
    let attempts = || {
        let mut attempts = 0;
        let _ = gc::with_retry(|_| -> Result<()> {
            attempts += 1;
            let mut report = OutOfMemory::default();
            report.requested_bytes = 1;
            Err(report.into())
        });
        attempts
    };
    let id = gc::register("slow", 0, Slow);
    thread::scope(|scope| {
        IS_SLOW.store(true, SeqCst);
        scope.spawn(gc::collect);
        while !IS_ASKED.load(SeqCst) {
            thread::yield_now();
        }
        let ended = fork::in_child(|| {
            IS_SLOW.store(false, SeqCst);
            attempts() <= 3
        });
        IS_SLOW.store(false, SeqCst);
        assert_eq!(ended, fork::RIGHT);
    });
    gc::unregister(id);
}

#[test]
fn a_child_finds_what_its_parent_has_and_is_asked_for_it() {
    let _turn = turn();
    let directory = democratising::tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    let tensor = Tensor::new(&[1000], vec![1.5f32; 1000]).unwrap();
    ModelCheckpoint::create(&path).unwrap().add("w", &tensor).unwrap().commit().unwrap();
    let evictable = tensor.evictable("the parent's");
    let ended = fork::in_child(|| {
        let moved = gc::collect().unwrap();
        let back = evictable.get().unwrap();
        let read = ModelCheckpoint::load(&path).unwrap().get("w").unwrap();
        moved.host_bytes >= 4000 && read == back
    });
    assert_eq!(ended, fork::RIGHT);
}

#[test]
fn a_child_sees_an_evictable_tensor_whoever_looks_at_it_in_the_parent() {
    let _turn = turn();
    let kept = Tensor::new(&[100], vec![7u32; 100]).unwrap().evictable("looked at");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                kept.kept();
            }
        });
        for round in 0..200 {
            let ended = fork::in_child(|| kept.kept() == Kept::InPlace && kept.get().is_ok());
            done.store(ended != fork::RIGHT, Relaxed);
            assert_eq!(ended, fork::RIGHT, "round {round}");
        }
        done.store(true, Relaxed);
    });
}

#[test]
fn a_child_has_an_evictable_tensor_that_its_parent_is_moving() {
    let _turn = turn();
    use democratising::gc::{Deadline, Reclaim};

    const BYTES: u64 = 400_000;
    static IS_ASKED: AtomicBool = AtomicBool::new(false);
    static MAY_GIVE: AtomicBool = AtomicBool::new(false);
    /// Gives room when it may.
    struct Room(Mutex<Option<Tensor>>);
    impl Reclaim for Room {
        fn reclaimable_bytes(&self) -> u64 {
            1
        }
        fn reclaim(&self, _: u64, _: Deadline) -> u64 {
            IS_ASKED.store(true, SeqCst);
            while !MAY_GIVE.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            self.0.lock().unwrap().take().map_or(0, |_| BYTES)
        }
    }

    let scope = Scope::process().child("moved");
    scope.set_limit(Kind::HostBytes, BYTES);
    let tensor = || Tensor::new(&[100_000], (0..100_000u32).collect::<Vec<_>>()).unwrap();
    let kept = scope.run(|| tensor().evictable("moved"));
    gc::collect().unwrap();
    assert_eq!(kept.kept(), Kept::File);
    let id = gc::register("room", 0, Room(Mutex::new(Some(scope.run(tensor)))));
    let ended = thread::scope(|threads| {
        let moves = threads.spawn(|| kept.get());
        while !IS_ASKED.load(SeqCst) {
            thread::yield_now();
        }
        let ended = fork::in_child(|| {
            MAY_GIVE.store(true, SeqCst);
            let back = kept.get().unwrap();
            kept.kept() == Kept::InPlace && back == tensor()
        });
        MAY_GIVE.store(true, SeqCst);
        assert_eq!(moves.join().unwrap().unwrap(), tensor());
        ended
    });
    gc::unregister(id);
    assert_eq!(ended, fork::RIGHT);
}

#[cfg(target_os = "linux")]
#[test]
fn an_evicted_tensor_comes_back_wherever_another_process_has_its_file_stand() {
    let _turn = turn();
    let tensor = || Tensor::new(&[5000], (0..5000u32).collect::<Vec<_>>()).unwrap();
    for _ in 0..30 {
        let kept = tensor().evictable("read");
        gc::collect().unwrap();
        assert_eq!(kept.kept(), Kept::File);
        // SAFETY: 1. The child makes system calls, and is killed below.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            // SAFETY: 1. What is no file of this process is an error.
            let stands = |file| unsafe { libc::lseek(file, 4000, libc::SEEK_SET) };
            let mut files = (3..64).filter(|&file| stands(file) == 4000);
            let files = [(); 8].map(|()| files.next().unwrap_or(-1));
            loop {
                files.iter().take_while(|&&file| file >= 0).for_each(|&file| assert!(stands(file) >= 0));
            }
        }
        thread::sleep(Duration::from_millis(5));
        let back = kept.get();
        // SAFETY: 1. The child of a moment ago, and an integer of ours.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, &mut 0, 0);
        }
        assert_eq!(back.unwrap(), tensor());
    }
}

/// With callers, where they can be had.
fn few_events() -> democratising::timeline::Options {
    let options = democratising::timeline::Options::new().capacity(64);
    #[cfg(feature = "backtrace")]
    let options = options.stacks(3);
    options
}

#[test]
fn a_fork_amid_recordings_that_begin_and_end_waits_for_none_of_them() {
    use democratising::timeline;
    const ROUNDS: usize = if cfg!(feature = "backtrace") { 60 } else { 300 };
    let _turn = turn();
    let (done, (tell, told)) = (&*Box::leak(Box::new(AtomicBool::new(false))), std::sync::mpsc::channel());
    let records = || {
        while !done.load(Relaxed) {
            // Each is in the way of the other now and then.
            let _ = timeline::start(few_events());
            drop(Tensor::zeros(&[1000]).unwrap());
            let _ = timeline::stop();
        }
    };
    // Not within a scope: where one waits for ever, this is to fail.
    let threads = [thread::spawn(records), thread::spawn(records)];
    thread::spawn(move || {
        let is_right = || {
            let _ = timeline::stop();
            let is_begun = timeline::start(few_events()).is_ok();
            drop(Tensor::zeros(&[1000]).unwrap());
            is_begun && timeline::stop().is_ok_and(|timeline| !timeline.events().is_empty())
        };
        tell.send((0..ROUNDS).all(|_| fork::in_child(is_right) == fork::RIGHT)).unwrap();
    });
    let all_right =
        told.recv_timeout(Duration::from_secs(60)).expect("a fork, or a recording, waits for ever");
    done.store(true, Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(all_right);
    let _ = timeline::stop();
    assert!(!timeline::is_recording());
}
