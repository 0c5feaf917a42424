//! Memory that runs short is seen before anything fails: looked at from time to time under a root of the test's own, and told by the
//! kernel where tasks really stall.
#![cfg(all(feature = "std", target_os = "linux"))]

use democratising::gc::{self, Deadline, Pressure, PressureSource, Reclaim};
use democratising::pool::budget::left::MemoryLeft;
use democratising::{DemoError, tempfile};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A file below a root, with the folders to it.
fn put(root: &Path, at: &str, text: &str) {
    let path = root.join(at);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Always has a megabyte, and counts who asks for how much.
#[derive(Default)]
struct Cache {
    asked: AtomicU64,
    target: AtomicU64,
}

impl Reclaim for Cache {
    fn reclaimable_bytes(&self) -> u64 {
        1 << 20
    }

    fn reclaim(&self, target_bytes: u64, until: Deadline) -> u64 {
        assert!(until.remaining().is_some_and(|left| left <= Duration::from_millis(100)));
        self.target.store(target_bytes, SeqCst);
        self.asked.fetch_add(1, SeqCst);
        1 << 20
    }
}

struct Registered(Arc<Cache>, gc::ReclaimerId);

impl Registered {
    fn new() -> Registered {
        let cache = Arc::new(Cache::default());
        let id = gc::register("cache under pressure", -1000, cache.clone());
        Registered(cache, id)
    }

    fn asked(&self) -> u64 {
        self.0.asked.load(SeqCst)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        gc::unregister(self.1);
    }
}

fn within(time: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < time, "{what}: not within {time:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_left_is_the_least_share_of_machine_and_groups() {
    let root = tempfile::tempdir().unwrap();
    let left = || MemoryLeft::read_under(root.path()).map(|left| (left.left_bytes, left.of_bytes));
    assert_eq!(left(), None);
    put(root.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 500 kB\n");
    assert_eq!(left(), Some((512_000, 1_024_000)));
    // Version 2: the group and those around it. Files that nobody looked at lately can go.
    put(root.path(), "proc/self/cgroup", "0::/a/b\n");
    put(root.path(), "sys/fs/cgroup/a/memory.max", "1000000\n");
    put(root.path(), "sys/fs/cgroup/a/memory.current", "900000\n");
    assert_eq!(left(), Some((100_000, 1_000_000)));
    put(root.path(), "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 300000\nactive_file 5\n");
    assert_eq!(left(), Some((400_000, 1_000_000)));
    put(root.path(), "sys/fs/cgroup/a/b/memory.max", "max\n");
    put(root.path(), "sys/fs/cgroup/a/b/memory.current", "899999\n");
    assert_eq!(left(), Some((400_000, 1_000_000)), "no limit, nothing left of it");
    // Version 1.
    put(root.path(), "proc/self/cgroup", "9:cpu,memory:/y\n0::/\n");
    put(root.path(), "sys/fs/cgroup/memory/y/memory.limit_in_bytes", "2000\n");
    put(root.path(), "sys/fs/cgroup/memory/y/memory.usage_in_bytes", "2100\n");
    put(root.path(), "sys/fs/cgroup/memory/y/memory.stat", "inactive_file 1999\ntotal_inactive_file 50\n");
    assert_eq!(left(), Some((0, 2000)), "more is used than there is, for a moment");
}

#[test]
fn a_look_that_finds_little_left_collects_and_one_that_finds_enough_does_not() {
    let _turn = turn();
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 50 kB\n");
    let cache = Registered::new();
    let watch = Pressure::default()
        .root(root.path())
        .every(Duration::from_millis(5))
        .low_permille(50)
        .target_bytes(u64::MAX - 1)
        .watch()
        .unwrap();
    assert_eq!(watch.source(), PressureSource::Polling, "the root of the test has no kernel");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((cache.asked(), watch.collections()), (0, 0), "just as much as it should be");
    put(root.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 49 kB\n");
    within(Duration::from_secs(10), "a collection", || watch.collections() >= 3);
    assert!(cache.asked() >= 3 && watch.given_bytes() >= 3 << 20, "{watch:?}");
    assert!(cache.0.target.load(SeqCst) > 1 << 40, "what was set: {:?}", cache.0.target);
    put(root.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\n");
    std::thread::sleep(Duration::from_millis(50));
    let before = cache.asked();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(cache.asked(), before, "enough again");
    let began = Instant::now();
    drop(watch);
    assert!(began.elapsed() < Duration::from_secs(5), "it ends at once");
    put(root.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 0 kB\n");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(cache.asked(), before, "nobody looks any more");
}

/// Says that it gave so much back.
struct Boasts(gc::Resource, u64);

impl gc::Reclaim for Boasts {
    fn reclaimable_bytes(&self) -> u64 {
        self.1
    }

    fn reclaim(&self, _target: u64, _until: gc::Deadline) -> u64 {
        self.1
    }

    fn resource(&self) -> gc::Resource {
        self.0
    }
}

#[test]
fn sums_that_no_number_holds_stop_at_the_top_and_the_watch_goes_on() {
    let _turn = turn();
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 1 kB\n");
    let boasts = [(gc::Resource::HostBytes, 7), (gc::Resource::MappedBytes, u64::MAX - 5)];
    let boasts = boasts.map(|(resource, given)| gc::register("boasts", -1000, Boasts(resource, given)));
    let watch = Pressure::default().root(root.path()).every(Duration::from_millis(2)).watch().unwrap();
    within(Duration::from_secs(10), "a third collection", || watch.collections() >= 3);
    assert_eq!(watch.given_bytes(), u64::MAX);
    for id in boasts {
        gc::unregister(id);
    }
    drop(watch);
}

/// Owns the watch that calls it, and drops it then; counts what came of that: 1, or 2 where it panicked.
struct Ends {
    watch: Mutex<Option<gc::PressureWatch>>,
    dropped: AtomicU64,
}

impl Reclaim for Ends {
    fn reclaimable_bytes(&self) -> u64 {
        1
    }

    fn reclaim(&self, _target: u64, _until: Deadline) -> u64 {
        if let Some(watch) = self.watch.lock().unwrap().take() {
            let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(watch)));
            self.dropped.store(if dropped.is_ok() { 1 } else { 2 }, SeqCst);
        }
        0
    }
}

#[test]
fn a_reclaimer_may_end_the_watch_that_calls_it() {
    let _turn = turn();
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 1 kB\n");
    let ends = Arc::new(Ends { watch: Mutex::new(None), dropped: AtomicU64::new(0) });
    let id = gc::register("ends", -1000, ends.clone());
    let mut watch = ends.watch.lock().unwrap();
    *watch = Some(Pressure::default().root(root.path()).every(Duration::from_millis(2)).watch().unwrap());
    drop(watch);
    within(Duration::from_secs(10), "the end", || ends.dropped.load(SeqCst) > 0);
    assert_eq!(ends.dropped.load(SeqCst), 1, "it waits for itself");
    gc::unregister(id);
}

#[test]
fn a_source_that_is_not_there_and_settings_that_cannot_be_are_errors() {
    let root = tempfile::tempdir().unwrap();
    let base = || Pressure::default().root(root.path());
    for (pressure, text) in [
        (base().source(PressureSource::Machine), "cannot watch memory pressure by"),
        (base().source(PressureSource::ControlGroup), "cannot watch memory pressure by"),
        (base().stall(Duration::ZERO), "stall"),
        (base().stall(Duration::from_secs(3)), "from 1 ms to 2 s"),
        (base().every(Duration::ZERO), "every"),
        (base().low_permille(0), "low_permille"),
        (base().low_permille(1001), "1001"),
    ] {
        let error = pressure.watch().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(matches!(error, DemoError::Io { .. } | DemoError::InvalidConfig { .. }));
    }
}

/// Stalls for want of a processor are easier to make than stalls for want of memory, and the kernel tells of both in the same way: under the
/// root of this test the one file stands in the other's place.
#[test]
fn the_kernel_wakes_the_watch_when_tasks_stall() {
    let _turn = turn();
    if let Err(error) = fs::OpenOptions::new().write(true).open("/proc/pressure/cpu") {
        assert!(std::env::var_os("CI").is_none(), "this kernel does not tell of stalls: {error}");
        println!("NOT TESTED: this kernel does not tell of stalls: {error}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc/pressure")).unwrap();
    std::os::unix::fs::symlink("/proc/pressure/cpu", root.path().join("proc/pressure/memory")).unwrap();
    let cache = Registered::new();
    let watch = Pressure::default().root(root.path()).stall(Duration::from_millis(100)).watch().unwrap();
    assert_eq!(watch.source(), PressureSource::Machine, "rather than polling");
    let processors = std::thread::available_parallelism().unwrap().get();
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 * processors {
            scope.spawn(|| {
                while done.load(SeqCst) == 0 {
                    std::hint::spin_loop();
                }
            });
        }
        let began = Instant::now();
        while watch.collections() == 0 && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        done.store(1, SeqCst);
    });
    assert!(cache.asked() > 0 && watch.collections() > 0, "no word in 30 s");
    let began = Instant::now();
    drop(watch);
    assert!(began.elapsed() < Duration::from_secs(5), "it ends at once");
}

/// What the machine really has is used where no root is named.
#[test]
fn the_machine_itself_can_be_watched() {
    let _turn = turn();
    let watch = Pressure::default().watch().unwrap();
    println!("{watch:?}");
    let left = MemoryLeft::read().expect("Linux tells");
    assert!(left.left_bytes > 0 && left.left_bytes <= left.of_bytes, "{left:?}");
}
