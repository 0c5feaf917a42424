//! Reclaimers: who is asked, in which order, for how much, and what happens when one misbehaves.
//!
//! The registry belongs to the process, so these tests have one of their own and take turns.

#[cfg(unix)]
#[path = "common/fork.rs"]
mod fork;

use democratising::gc::{self, Collected, Deadline, Reclaim, ReclaimerId, Resource};
use democratising::{DemoError, DeviceId, MemoryPool, Result, Tensor};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Registered until the end of the test.
struct Registered(ReclaimerId);

impl Registered {
    fn new(name: &str, priority: i32, reclaimer: impl Reclaim + 'static) -> Registered {
        Registered(gc::register(name, priority, reclaimer))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        gc::unregister(self.0);
    }
}

/// Holds bytes, gives what is asked for, and writes down that it was asked.
struct Cache {
    name: &'static str,
    bytes: AtomicU64,
    resource: Resource,
    asked: Arc<Mutex<Vec<(&'static str, u64)>>>,
}

#[derive(Default, Clone)]
struct Log(Arc<Mutex<Vec<(&'static str, u64)>>>);

impl Log {
    fn cache(&self, name: &'static str, bytes: u64, resource: Resource) -> Arc<Cache> {
        Arc::new(Cache { name, bytes: AtomicU64::new(bytes), resource, asked: self.0.clone() })
    }

    fn host(&self, name: &'static str, bytes: u64) -> Arc<Cache> {
        self.cache(name, bytes, Resource::HostBytes)
    }

    fn take(&self) -> Vec<(&'static str, u64)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Reclaim for Cache {
    fn reclaimable_bytes(&self) -> u64 {
        self.bytes.load(SeqCst)
    }

    fn reclaim(&self, target_bytes: u64, _until: Deadline) -> u64 {
        self.asked.lock().unwrap().push((self.name, target_bytes));
        let given = self.bytes.load(SeqCst).min(target_bytes);
        self.bytes.fetch_sub(given, SeqCst);
        given
    }

    fn resource(&self) -> Resource {
        self.resource
    }
}

/// A reclaimer whose answers are closures.
struct Scripted<H, G>(H, G);

impl<H: Fn() -> u64 + Send + Sync, G: Fn() -> u64 + Send + Sync> Reclaim for Scripted<H, G> {
    fn reclaimable_bytes(&self) -> u64 {
        self.0()
    }

    fn reclaim(&self, _target_bytes: u64, _until: Deadline) -> u64 {
        self.1()
    }
}

fn out_of_memory<T>(requested_bytes: u64) -> Result<T> {
    Err(DemoError::OutOfMemory(gc::host_report(requested_bytes)))
}

const ALL: u64 = u64::MAX;

#[test]
fn low_priorities_are_asked_first_and_among_equals_whoever_has_most() {
    let _turn = turn();
    let log = Log::default();
    let _kept = [
        Registered::new("late", 20, log.host("late", 900)),
        Registered::new("small", 10, log.host("small", 1)),
        Registered::new("large", 10, log.host("large", 500)),
        Registered::new("first", -1, log.host("first", 0)),
        Registered::new("middle", 10, log.host("middle", 50)),
    ];
    assert_eq!(gc::collect().unwrap().host_bytes, 1451);
    assert_eq!(log.take(), [("first", ALL), ("large", ALL), ("middle", ALL), ("small", ALL), ("late", ALL)]);
}

#[test]
fn a_reclaimer_registered_in_a_statement_stays_registered() {
    let _turn = turn();
    static LEFT: AtomicU64 = AtomicU64::new(64);
    gc::register("kept", 10, Scripted(|| LEFT.load(SeqCst), || LEFT.swap(0, SeqCst)));
    assert_eq!(gc::collect().unwrap().host_bytes, 64);
    LEFT.store(5, SeqCst);
    assert_eq!(gc::collect().unwrap().host_bytes, 5);
}

#[test]
fn each_resource_is_counted_apart() {
    let _turn = turn();
    let log = Log::default();
    let _kept = [
        Registered::new("h", 0, log.host("h", 1)),
        Registered::new("d", 0, log.cache("d", 2, Resource::DeviceBytes)),
        Registered::new("c", 0, log.cache("c", 3, Resource::Connections)),
        Registered::new("f", 0, log.cache("f", 4, Resource::Files)),
    ];
    let Collected { host_bytes, device_bytes, connections, files, .. } = gc::collect().unwrap();
    assert_eq!((host_bytes, device_bytes, connections, files), (1, 2, 3, 4));
    assert_eq!(log.take().len(), 4);
}

#[test]
fn a_target_is_asked_for_until_it_is_met_and_connections_are_left_alone() {
    let _turn = turn();
    let log = Log::default();
    let _kept = [
        Registered::new("sockets", 0, log.cache("sockets", 7, Resource::Connections)),
        Registered::new("a", 1, log.host("a", 30)),
        Registered::new("b", 2, log.cache("b", 50, Resource::DeviceBytes)),
        Registered::new("c", 3, log.host("c", 100)),
        Registered::new("d", 4, log.host("d", 100)),
    ];
    let collected = gc::collect_until(120, Deadline::NEVER).unwrap();
    assert_eq!(log.take(), [("a", 120), ("b", 90), ("c", 40)]);
    assert_eq!((collected.host_bytes, collected.device_bytes, collected.connections), (70, 50, 0));
    assert_eq!(gc::collect_until(0, Deadline::NEVER).unwrap().host_bytes, 0);
    assert_eq!(log.take(), []);
}

#[test]
fn no_more_connections_are_asked_for_than_are_missing() {
    let _turn = turn();
    let log = Log::default();
    let connections = |name, count| log.cache(name, count, Resource::Connections);
    let _registered = [
        Registered::new("few", 0, connections("few", 2)),
        Registered::new("enough", 1, connections("enough", 5)),
        Registered::new("spared", 2, connections("spared", 9)),
    ];
    assert_eq!(gc::collect_resource(Resource::Connections, 6).unwrap(), 6);
    assert_eq!(log.take(), [("few", 6), ("enough", 4)]);
}

#[test]
fn what_reclaimers_gave_to_the_pool_goes_to_the_system() {
    struct Tensors(Mutex<Option<Tensor>>);
    impl Reclaim for Tensors {
        fn reclaimable_bytes(&self) -> u64 {
            self.0.lock().unwrap().as_ref().map_or(0, |tensor| tensor.byte_len() as u64)
        }
        fn reclaim(&self, _target_bytes: u64, _until: Deadline) -> u64 {
            self.0.lock().unwrap().take().map_or(0, |tensor| tensor.byte_len() as u64)
        }
    }
    let _turn = turn();
    gc::collect().unwrap();
    let before = MemoryPool::stats().reserved_bytes;
    let tensor = Tensor::zeros(&[8 << 20]).unwrap();
    let _registered = Registered::new("a tensor", 0, Tensors(Mutex::new(Some(tensor))));
    assert!(MemoryPool::stats().reserved_bytes >= before + (32 << 20));
    gc::collect().unwrap();
    assert!(MemoryPool::stats().reserved_bytes <= before);
}

#[test]
fn what_a_reclaimer_throws_may_throw_again_when_it_is_dropped() {
    struct Bomb(u32);
    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Bomb(self.0 - 1));
            }
        }
    }
    struct Throws;
    impl Reclaim for Throws {
        fn reclaimable_bytes(&self) -> u64 {
            1
        }
        fn reclaim(&self, _target_bytes: u64, _until: Deadline) -> u64 {
            std::panic::panic_any(Bomb(2))
        }
    }
    let _turn = turn();
    let _registered = Registered::new("throws", 0, Throws);
    assert_eq!(gc::collect().unwrap().panicked, ["throws"]);
}

#[test]
fn nobody_is_asked_after_the_deadline() {
    let _turn = turn();
    let log = Log::default();
    let slow = Scripted(
        || 1000,
        || {
            thread::sleep(Duration::from_millis(30));
            1
        },
    );
    let _kept = [Registered::new("slow", 0, slow), Registered::new("next", 1, log.host("next", 10))];
    let collected = gc::collect_until(1000, Duration::from_millis(10)).unwrap();
    assert_eq!((collected.host_bytes, log.take()), (1, vec![]));
    assert!(collected.elapsed >= Duration::from_millis(30));
    assert_eq!(gc::collect_until(1000, Instant::now()).unwrap().host_bytes, 0, "over before it began");
}

#[test]
fn a_reclaimer_may_collect_register_and_unregister() {
    let _turn = turn();
    static MINE: OnceLock<ReclaimerId> = OnceLock::new();
    static NESTED: Mutex<Vec<Collected>> = Mutex::new(Vec::new());
    let id = gc::register(
        "nested",
        0,
        Scripted(
            || 1,
            || {
                NESTED.lock().unwrap().push(gc::collect().unwrap());
                let retried = gc::with_retry(|attempt| if attempt == 0 { out_of_memory(1) } else { Ok(()) });
                assert!(retried.is_err());
                let other = gc::register("new", 0, Scripted(|| 0, || 0));
                assert!(gc::unregister(other));
                assert!(gc::unregister(*MINE.get().unwrap()));
                7
            },
        ),
    );
    MINE.set(id).unwrap();
    let collected = gc::collect().unwrap();
    assert_eq!((collected.host_bytes, collected.panicked), (7, vec![]));
    assert_eq!(*NESTED.lock().unwrap(), [Collected::default()], "nothing, and at once");
    assert_eq!(gc::collect().unwrap().host_bytes, 0, "it has unregistered itself");
}

#[test]
fn a_thread_collects_while_another_is_stuck_in_a_reclaimer() {
    let _turn = turn();
    let (let_go, stuck) = mpsc::channel::<()>();
    let (entered, has_entered) = mpsc::channel::<()>();
    let (stuck, calls) = (Mutex::new(stuck), AtomicU32::new(0));
    let entered = Mutex::new(entered);
    let _kept = Registered::new(
        "stuck",
        0,
        Scripted(
            || 1,
            move || {
                if calls.fetch_add(1, SeqCst) == 0 {
                    entered.lock().unwrap().send(()).unwrap();
                    stuck.lock().unwrap().recv_timeout(Duration::from_secs(10)).expect("let go");
                }
                1
            },
        ),
    );
    let first = thread::spawn(|| gc::collect().unwrap());
    has_entered.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(gc::collect().unwrap().host_bytes, 1);
    let_go.send(()).unwrap();
    assert_eq!(first.join().unwrap().host_bytes, 1);
}

/// Panics when it is dropped, as what a panic throws may.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("dropped");
        }
    }
}

#[test]
fn a_reclaimer_that_panics_is_named_and_the_others_still_run() {
    let _turn = turn();
    let log = Log::default();
    let _kept = [
        Registered::new(
            "counts wrong",
            0,
            Scripted(|| panic!("planted"), || unreachable!("not asked any more")),
        ),
        Registered::new("gives wrong", 1, Scripted(|| 10, || panic!("planted"))),
        Registered::new("throws a bomb", 2, Scripted(|| 10, || std::panic::panic_any(Bomb))),
        Registered::new("well", 3, log.host("well", 10)),
    ];
    let collected = gc::collect().unwrap();
    assert_eq!(collected.panicked, ["counts wrong", "gives wrong", "throws a bomb"]);
    assert_eq!(collected.host_bytes, 10);
    assert_eq!(gc::collect().unwrap().panicked.len(), 3, "the thread can collect again");
    assert_eq!(gc::host_report(1).reclaimable_bytes, 20, "a report leaves out who cannot count");
}

#[test]
fn counting_may_fail_for_lack_of_memory_without_asking_forever() {
    let _turn = turn();
    // Whoever counts by allocating runs out of memory too, and its own report must not ask it to count again.
    let counts = || if out_of_memory::<()>(1).is_err() { 10 } else { 0 };
    let _kept = Registered::new("allocates to count", 0, Scripted(counts, || 10));
    assert_eq!(gc::host_report(1).reclaimable_bytes, 10);
    assert_eq!(gc::collect().unwrap().host_bytes, 10);
}

#[test]
fn liars_do_not_overflow_the_sums() {
    let _turn = turn();
    let liar = || Scripted(|| u64::MAX, || u64::MAX);
    let _kept = [Registered::new("one", 0, liar()), Registered::new("two", 0, liar())];
    assert_eq!(gc::collect().unwrap().host_bytes, u64::MAX);
    assert_eq!(gc::collect_until(u64::MAX, Deadline::NEVER).unwrap().host_bytes, u64::MAX);
    assert_eq!(gc::host_report(1).reclaimable_bytes, u64::MAX);
}

/// Uses the registry when it is dropped.
struct DropsBusily(Arc<AtomicU32>);

impl Reclaim for DropsBusily {
    fn reclaimable_bytes(&self) -> u64 {
        0
    }

    fn reclaim(&self, _target_bytes: u64, _until: Deadline) -> u64 {
        0
    }
}

impl Drop for DropsBusily {
    fn drop(&mut self) {
        let id = gc::register("from a drop", 0, Scripted(|| 0, || 0));
        gc::collect().unwrap();
        assert!(gc::unregister(id));
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn an_unregistered_reclaimer_is_dropped_outside_of_the_lock_and_asked_no_more() {
    let _turn = turn();
    let drops = Arc::new(AtomicU32::new(0));
    let id = gc::register("busy", 0, DropsBusily(drops.clone()));
    assert!(gc::unregister(id));
    assert_eq!(drops.load(SeqCst), 1);
    assert!(!gc::unregister(id), "only once");

    let log = Log::default();
    let id = gc::register("gone", 0, log.host("gone", 10));
    gc::unregister(id);
    assert_eq!((gc::collect().unwrap().host_bytes, log.take()), (0, vec![]));
}

#[cfg(unix)]
#[test]
fn a_fork_waits_for_no_thread_that_looks_who_is_registered() {
    let _turn = turn();
    let _registered = Registered::new("here", 0, Scripted(|| 0, || 0));
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    gc::unregister(gc::register("there", 0, Scripted(|| 0, || 0)));
                }
            });
        }
        for round in 0..300 {
            let ended =
                fork::in_child(|| gc::unregister(gc::register("in the child", 0, Scripted(|| 0, || 0))));
            if ended != fork::RIGHT {
                done.store(true, SeqCst);
            }
            assert_eq!(ended, fork::RIGHT, "round {round}");
        }
        done.store(true, SeqCst);
    });
}

#[test]
fn registering_from_many_threads_loses_nobody() {
    let _turn = turn();
    let asked = Arc::new(AtomicU32::new(0));
    let ids: Vec<ReclaimerId> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let asked = &asked;
                scope.spawn(move || {
                    let register = |_| {
                        let asked = asked.clone();
                        gc::register(
                            "one of many",
                            0,
                            Scripted(|| 1, move || asked.fetch_add(1, SeqCst) as u64),
                        )
                    };
                    (0..20).map(register).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    gc::collect().unwrap();
    assert_eq!(asked.load(SeqCst), 160);
    assert!(ids.into_iter().all(gc::unregister));
}

#[test]
fn a_retry_collects_what_was_asked_for_and_everything_only_after_that() {
    let _turn = turn();
    let log = Log::default();
    let _kept = [Registered::new("a", 0, log.host("a", 1000)), Registered::new("b", 1, log.host("b", 1000))];
    let mut attempts = Vec::new();
    let value = gc::with_retry(|attempt| {
        attempts.push(attempt);
        if attempt < 2 { out_of_memory(100) } else { Ok("there") }
    });
    assert_eq!((value.unwrap(), attempts), ("there", vec![0, 1, 2]));
    assert_eq!(log.take(), [("a", 100), ("a", ALL), ("b", ALL)]);
}

#[test]
fn retries_end_when_nothing_is_given_back() {
    let _turn = turn();
    let mut attempts = 0;
    let error = gc::with_retry(|_| -> Result<()> {
        attempts += 1;
        out_of_memory(100)
    });
    assert!(matches!(error, Err(DemoError::OutOfMemory(report)) if report.requested_bytes == 100));
    assert_eq!(attempts, 1);
}

#[test]
fn retries_end_after_a_few_even_when_something_always_comes_back() {
    let _turn = turn();
    let _kept = Registered::new("endless", 0, Scripted(|| 1, || 1));
    let mut attempts = 0;
    let error = gc::with_retry(|attempt| -> Result<()> {
        attempts += 1;
        out_of_memory(u64::from(attempt))
    });
    assert!(matches!(error, Err(DemoError::OutOfMemory(last)) if last.requested_bytes == 3));
    assert_eq!(attempts, 4);
}

#[test]
fn other_errors_and_requests_above_the_limit_are_not_retried() {
    let _turn = turn();
    let log = Log::default();
    let _kept = Registered::new("a", 0, log.host("a", 1000));
    let error = gc::with_retry(|_| -> Result<()> { Err(std::io::Error::other("disk").into()) });
    assert!(matches!(error, Err(DemoError::Io { .. })));
    let mut report = gc::host_report(1 << 20);
    report.limit_bytes = 1 << 10;
    assert!(gc::with_retry(|_| -> Result<()> { Err(report.clone().into()) }).is_err());
    assert_eq!(log.take(), [], "nothing is thrown away for what can never fit");
}

#[test]
fn device_memory_is_asked_of_those_who_hold_some() {
    let _turn = turn();
    let log = Log::default();
    let _kept = [
        Registered::new("host", 0, log.host("host", 1000)),
        Registered::new("device", 1, log.cache("device", 1000, Resource::DeviceBytes)),
    ];
    let mut report = gc::host_report(300);
    report.device = DeviceId::Cuda(0);
    gc::with_retry(|attempt| if attempt == 0 { Err(report.clone().into()) } else { Ok(()) }).unwrap();
    assert_eq!(log.take(), [("device", 300)]);
}

#[test]
fn what_another_thread_collected_is_worth_a_retry() {
    let _turn = turn();
    let log = Log::default();
    let _kept = Registered::new("a", 0, log.host("a", 1000));
    let value = gc::with_retry(|attempt| {
        if attempt > 0 {
            return Ok("there");
        }
        // After this attempt failed and before its own collection, another thread takes everything.
        let failed = out_of_memory(100);
        thread::spawn(gc::collect).join().unwrap().unwrap();
        failed
    });
    assert_eq!(value.unwrap(), "there");
}

#[test]
fn a_report_names_the_largest_holders_of_host_memory() {
    let _turn = turn();
    let log = Log::default();
    let names = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9", "k10", "k11"];
    let mut kept: Vec<_> =
        names.iter().zip(1..).map(|(name, bytes)| Registered::new(name, 0, log.host(name, bytes))).collect();
    kept.push(Registered::new("empty", 0, log.host("empty", 0)));
    kept.push(Registered::new("device", 0, log.cache("device", 1 << 30, Resource::DeviceBytes)));
    let report = gc::host_report(77);
    assert_eq!((report.requested_bytes, report.reclaimable_bytes), (77, 78));
    let named: Vec<_> =
        report.consumers.iter().map(|consumer| (consumer.name.as_str(), consumer.bytes)).collect();
    assert_eq!((named.len(), named[0], named[9]), (10, ("k11", 12), ("k2", 3)));
    assert!(report.to_string().contains("held by \"k11\" 12, \"k10\" 11"), "{report}");
}
