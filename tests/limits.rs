//! Limits hold: a budget and a pool under many threads.

#[cfg(target_os = "linux")]
#[path = "fs/child.rs"]
mod child;
#[path = "common/draw.rs"]
mod draw;

use democratising::pool::budget::Budget;
use democratising::space::{Mapped, MappedTables, Simulated, Space};
use democratising::{HostLock, Pool, PoolConfig, Tensor};
use draw::Draw;
use std::alloc::Layout;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

#[test]
fn eight_threads_never_hold_more_than_the_limit() {
    const LIMIT: u64 = 1000;
    let budget = Budget::new(LIMIT);
    // What is really held, counted by those who hold it: after they were granted, until before they give back.
    let held = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 1..=8 {
            let (budget, held, refused) = (&budget, &held, &refused);
            scope.spawn(move || {
                let mut draw = Draw(seed);
                let mut charges = Vec::new();
                for _ in 0..20_000 {
                    let amount = draw.below(300);
                    match budget.charge(amount) {
                        Ok(charge) => {
                            let now = held.fetch_add(amount, SeqCst) + amount;
                            assert!(now <= LIMIT, "{now} held of {LIMIT}");
                            charges.push(charge);
                        }
                        Err(error) => {
                            assert!(error.left < amount && error.asked == amount && error.limit == LIMIT);
                            refused.fetch_add(1, SeqCst);
                        }
                    }
                    assert!(budget.used() <= LIMIT);
                    while charges.len() > draw.below(4) as usize {
                        let charge = charges.swap_remove(draw.below(charges.len() as u64) as usize);
                        held.fetch_sub(charge.amount(), SeqCst);
                    }
                }
                for charge in charges {
                    held.fetch_sub(charge.amount(), SeqCst);
                }
            });
        }
    });
    assert_eq!((budget.used(), budget.left(), held.into_inner()), (0, LIMIT, 0));
    assert!(budget.peak() <= LIMIT && budget.peak() > LIMIT / 2, "a peak of {}", budget.peak());
    assert!(refused.into_inner() > 0, "the limit was never reached: this test shows nothing");
}

#[test]
fn a_limit_that_moves_under_eight_threads_ends_exactly_where_it_was_set() {
    let budget = Budget::new(500);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let takers: Vec<_> = (1..=8)
            .map(|seed| {
                let budget = &budget;
                scope.spawn(move || {
                    let mut draw = Draw(seed);
                    for _ in 0..5_000 {
                        let Ok(mut charge) = budget.charge(draw.below(100)) else { continue };
                        let before = charge.amount();
                        let after = draw.below(200);
                        let changed = charge.resize(after).is_ok();
                        assert_eq!(charge.amount(), if changed { after } else { before });
                    }
                })
            })
            .collect();
        for seed in [21, 22] {
            let (budget, done) = (&budget, &done);
            scope.spawn(move || {
                let mut draw = Draw(seed);
                while !done.load(SeqCst) {
                    budget.set_limit(draw.below(1000));
                    thread::yield_now();
                }
            });
        }
        for taker in takers {
            taker.join().unwrap();
        }
        done.store(true, SeqCst);
    });
    assert_eq!(budget.set_limit(700), 0);
    assert_eq!((budget.used(), budget.left(), budget.limit()), (0, 700, 700));
    assert!(budget.peak() < 1000, "never above the highest limit");
}

/// Runs `run` while the process may have `most_bytes` of a resource.
#[cfg(target_os = "linux")]
fn within<T>(resource: libc::__rlimit_resource_t, most_bytes: u64, run: impl FnOnce() -> T) -> T {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: 1. A place for the answer.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut limit) }, 0);
    let lower = libc::rlimit { rlim_cur: most_bytes, ..limit };
    // SAFETY: 1. What may be had from now on is less, which no memory is lost by.
    assert_eq!(unsafe { libc::setrlimit(resource, &lower) }, 0);
    let result = run();
    // SAFETY: 1. As it was.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
    result
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_that_the_process_is_given_while_it_runs_holds() {
    use allocator_api2::alloc::Allocator;
    const NAME: &str = "a_limit_that_the_process_is_given_while_it_runs_holds";
    if child::child().is_none() {
        let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    drop(allocator_api2::boxed::Box::new_in(0, democratising::Global));
    let refused = within(libc::RLIMIT_AS, 256 << 20, || Tensor::zeros(&[128 << 20]).unwrap_err());
    assert!(refused.to_string().ends_with("limit 268435456"), "{refused}");
    for resource in [libc::RLIMIT_AS, libc::RLIMIT_DATA] {
        let mut blocks = Vec::with_capacity(1 << 11);
        within(resource, 256 << 20, || {
            while blocks.len() < blocks.capacity()
                && let Ok(block) = democratising::Global.allocate(Layout::new::<[u8; 1 << 20]>())
            {
                blocks.push(block);
            }
        });
        assert!((200..=256).contains(&blocks.len()), "{} MiB of 256", blocks.len());
        for block in blocks {
            // SAFETY: 1. It came from there with this layout, and nobody uses it.
            unsafe { democratising::Global.deallocate(block.cast(), Layout::new::<[u8; 1 << 20]>()) };
        }
    }
    // And what was refused is to be had when it may be.
    let large = democratising::Global.allocate(Layout::new::<[u8; 512 << 20]>()).unwrap();
    // SAFETY: 1. As above.
    unsafe { democratising::Global.deallocate(large.cast(), Layout::new::<[u8; 512 << 20]>()) };
}

#[test]
fn what_is_refused_says_so_in_words() {
    let budget = Budget::new(10);
    let _held = budget.charge(7).unwrap();
    assert_eq!(budget.charge(4).unwrap_err().to_string(), "over budget: 4 asked for, 3 left of 10");
    assert_eq!(
        budget.release(8).unwrap_err().to_string(),
        "8 given back to a budget of which only 7 is held: given back twice?"
    );
}

/// What eight threads do to one pool, and what an observer must never see.
fn eight_threads_on_one_pool<S>(pool: &Pool<S, HostLock, MappedTables>, most_bytes: u64, moving: bool)
where
    S: Space,
    Pool<S, HostLock, MappedTables>: Sync,
{
    let done = AtomicBool::new(false);
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=8)
            .map(|seed| {
                let refused = &refused;
                scope.spawn(move || {
                    let mut draw = Draw(seed);
                    let mut live = Vec::new();
                    for _ in 0..2_000 {
                        let bytes =
                            if draw.below(3) == 0 { draw.below(6 << 20) } else { draw.below(100_000) };
                        let layout = Layout::from_size_align(bytes as usize, 64).unwrap();
                        match pool.allocate(layout) {
                            Ok(block) => live.push((block.addr, layout)),
                            Err(_) => {
                                refused.fetch_add(1, SeqCst);
                            }
                        }
                        while live.len() > draw.below(24) as usize {
                            let (addr, layout) = live.swap_remove(draw.below(live.len() as u64) as usize);
                            // SAFETY: 1. Nobody uses the block.
                            unsafe { pool.free(addr, layout) }.unwrap();
                        }
                    }
                    for (addr, layout) in live {
                        // SAFETY: 1. Nobody uses the block.
                        unsafe { pool.free(addr, layout) }.unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut draw = Draw(99);
            while !done.load(SeqCst) {
                let stats = pool.stats();
                assert!(
                    stats.reserved_bytes <= most_bytes && stats.peak_reserved_bytes <= most_bytes,
                    "{stats}"
                );
                assert!(stats.in_use_bytes <= stats.reserved_bytes, "{stats}");
                if moving {
                    // Below what is in use, too: then new requests fail, and nothing live is lost.
                    pool.configure(pool.config().max_bytes(draw.below(most_bytes + 1)));
                }
                thread::yield_now();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, SeqCst);
    });
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.in_use_bytes), (0, 0));
    assert_eq!(stats.idle_bytes, stats.reserved_bytes);
    assert_eq!(stats.failures, refused.into_inner());
    assert!(stats.failures > 0, "the limit was never reached: this test shows nothing");
    assert!(stats.peak_reserved_bytes > most_bytes / 2, "{stats}");
}

#[test]
fn eight_threads_never_take_a_pool_above_its_maximum() {
    // Little enough that a single thread reaches it, should the others be kept waiting.
    let config = PoolConfig::DEFAULT.max_bytes(16 << 20);
    let simulated = Pool::new(Simulated::device(4 << 30, 2 << 20), MappedTables, config).unwrap();
    eight_threads_on_one_pool(&simulated, 16 << 20, false);
    // SAFETY: 1. Numbers are read.
    assert!(unsafe { simulated.with_space(|space| space.counts().created) } >= 8, "frames were created");
    let grown =
        Pool::new(Mapped::reserve(1 << 30).unwrap(), MappedTables, config.growth_permille(2000)).unwrap();
    eight_threads_on_one_pool(&grown, 16 << 20, false);
}

#[test]
fn a_maximum_that_moves_under_eight_threads_is_never_exceeded() {
    let config = PoolConfig::DEFAULT.max_bytes(16 << 20);
    let pool = Pool::new(Mapped::reserve(1 << 30).unwrap(), MappedTables, config).unwrap();
    eight_threads_on_one_pool(&pool, 16 << 20, true);
}

#[test]
fn an_allocation_that_fails_leaves_the_statistics_as_they_were() {
    let pool: Pool<Mapped, HostLock> =
        Pool::new(Mapped::reserve(1 << 30).unwrap(), MappedTables, PoolConfig::DEFAULT.max_bytes(8 << 20))
            .unwrap();
    let held = Layout::from_size_align(5 << 20, 64).unwrap();
    let block = pool.allocate(held).unwrap();
    let before = pool.stats();
    for bytes in [4 << 20, 1 << 29, isize::MAX as usize & !63] {
        let layout = Layout::from_size_align(bytes, 64).unwrap();
        assert!(pool.allocate(layout).is_err(), "{bytes} bytes");
    }
    let mut after = pool.stats();
    assert_eq!(after.failures, before.failures + 3);
    after.failures = before.failures;
    // What a request created and gave up again is no part of what is held.
    (after.creates, after.unmaps) = (before.creates, before.unmaps);
    assert_eq!(after, before);
    // SAFETY: 1. Nobody uses the block.
    unsafe { pool.free(block.addr, held) }.unwrap();
}

#[test]
fn a_maximum_lowered_below_what_is_backed_holds_for_what_is_asked_for_afterwards() {
    let config = PoolConfig::DEFAULT;
    let pool: Pool<Mapped, HostLock> =
        Pool::new(Mapped::reserve(1 << 30).unwrap(), MappedTables, config).unwrap();
    let layout = Layout::from_size_align(1 << 20, 64).unwrap();
    let blocks: Vec<_> = (0..32).map(|_| pool.allocate(layout).unwrap().addr).collect();
    pool.configure(config.max_bytes(10 << 20));
    assert_eq!(pool.stats().in_use_bytes, 32 << 20, "nothing live is lost");
    for addr in blocks {
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(addr, layout) }.unwrap();
    }
    assert!(pool.stats().reserved_bytes <= 10 << 20, "{}", pool.stats());
    let served = std::iter::from_fn(|| pool.allocate(layout).ok()).take(32).count();
    assert!((8..=10).contains(&served), "{served} blocks of 1 MiB within 10 MiB");
}

mod ledger {
    use super::*;
    use democratising::pool::budget::machine::MachineMemory;
    use democratising::pool::budget::path;
    use democratising::pool::budget::scope::{self, Kind, Scope};
    use democratising::{DemoError, Tensor, fs, gc};
    use std::sync::{Arc, Mutex};

    /// What a test makes is in a scope of its own, so that tests side by side do not see each other.
    fn alone(name: &str) -> Scope {
        Scope::process().child(name)
    }

    #[test]
    fn what_is_held_in_a_scope_is_held_in_all_around_it_and_comes_back() {
        let outer = alone("outer");
        let inner = outer.child("inner");
        let process_before = scope::process_budget(Kind::Connections).used();
        let held = inner.charge(Kind::Connections, 3).unwrap();
        assert_eq!((inner.used(Kind::Connections), outer.used(Kind::Connections)), (3, 3));
        assert_eq!(scope::process_budget(Kind::Connections).used(), process_before + 3);
        assert_eq!((inner.depth(), inner.parent().unwrap().name()), (2, "outer"));
        drop(held);
        assert_eq!((inner.used(Kind::Connections), outer.used(Kind::Connections)), (0, 0));
        assert_eq!((inner.peak(Kind::Connections), outer.peak(Kind::Connections)), (3, 3));
    }

    #[test]
    fn the_scope_that_is_full_is_named_and_those_within_it_hold_nothing_of_it() {
        let outer = alone("full");
        outer.set_limit(Kind::Files, 4);
        let inner = outer.child("roomy");
        let _held = inner.charge(Kind::Files, 3).unwrap();
        let refused = inner.charge(Kind::Files, 2).unwrap_err();
        assert_eq!(refused.scope().name(), "full");
        assert_eq!(refused.to_string(), "files of \"full\": over budget: 2 asked for, 1 left of 4");
        assert_eq!((inner.used(Kind::Files), outer.used(Kind::Files)), (3, 3));
        assert_eq!(inner.left(Kind::Files), 1);
    }

    #[test]
    fn a_holding_may_be_dropped_on_another_thread_and_after_its_scope() {
        let scope = alone("short");
        let held = scope.charge(Kind::HostBytes, 7).unwrap();
        let left = scope.end();
        assert_eq!((left.of(Kind::HostBytes), left.is_nothing()), (7, false));
        let still = left.scope().clone();
        assert!(still.has_ended());
        drop(left);
        thread::spawn(move || drop(held)).join().unwrap();
        assert_eq!(still.used(Kind::HostBytes), 0);
        assert_eq!(still.end().to_string(), "scope \"short\" holds nothing");
    }

    #[test]
    fn an_ended_scope_stays_in_the_ledger_as_long_as_something_is_held() {
        let find = || Scope::all().into_iter().find(|scope| scope.name() == "request 77");
        let held = alone("request 77").charge(Kind::HostBytes, 1).unwrap();
        assert_eq!(find().expect("held, so listed").used(Kind::HostBytes), 1);
        drop(held);
        assert!(find().is_none());
    }

    #[test]
    fn tensors_mappings_and_temp_files_are_charged_where_they_are_made() {
        let scope = alone("step");
        let directory = tempfile_dir();
        let path = directory.path().join("w.safetensors");
        let (tensor, clone, adopted, checkpoint, file) = scope.run(|| {
            let tensor = Tensor::zeros(&[1000]).unwrap();
            let clone = tensor.clone();
            let adopted = Tensor::new(&[100], vec![0u8; 100]).unwrap();
            let tiny = Tensor::new(&[2], vec![0u8; 2]).unwrap();
            assert_eq!(tiny.byte_len(), 2, "held in the tensor itself, and not charged");
            fs::ModelCheckpoint::create(&path).unwrap().add("w", &tensor).unwrap().commit().unwrap();
            (tensor, clone, adopted, fs::ModelCheckpoint::load(&path).unwrap(), fs::temp_file().unwrap())
        });
        let file_bytes = std::fs::metadata(&path).unwrap().len();
        assert_eq!(scope.used(Kind::HostBytes), 4100);
        assert_eq!((scope.used(Kind::MappedBytes), scope.used(Kind::Files)), (file_bytes, 1));
        drop((tensor, adopted));
        assert_eq!(scope.used(Kind::HostBytes), 4000, "a clone still holds it");
        let mapped = checkpoint.get("w").unwrap();
        drop((clone, checkpoint, file));
        assert_eq!((scope.used(Kind::HostBytes), scope.used(Kind::Files)), (0, 0));
        assert_eq!(scope.used(Kind::MappedBytes), file_bytes, "its tensor keeps the mapping");
        drop(mapped);
        assert!(scope.end().is_nothing());
    }

    fn tempfile_dir() -> democratising::tempfile::TempDir {
        democratising::tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_change_of_a_shared_tensor_is_charged_as_a_copy() {
        let scope = alone("copies");
        let (first, mut second) = scope.run(|| {
            let first = Tensor::zeros(&[1000]).unwrap();
            let second = first.clone();
            (first, second)
        });
        scope.run(|| second.as_mut_slice::<f32>().unwrap()[0] = 1.0);
        assert_eq!(scope.used(Kind::HostBytes), 8000);
        drop(first);
        assert_eq!(scope.used(Kind::HostBytes), 4000);
    }

    #[test]
    fn out_of_memory_names_the_scope_its_limit_and_the_largest_holders() {
        let step = alone("training step");
        step.set_limit(Kind::HostBytes, 100_000);
        let large = step.child("activations");
        let _kept = large.run(|| Tensor::zeros(&[20_000])).unwrap();
        let error = step.run(|| Tensor::zeros(&[10_000])).unwrap_err();
        let text = error.to_string();
        let DemoError::OutOfMemory(report) = error else { panic!("{text}") };
        assert_eq!(report.scope(), Some("training step"));
        assert_eq!(
            (report.requested_bytes, report.in_use_bytes, report.limit_bytes),
            (40_000, 80_000, 100_000)
        );
        let holder = |name| report.scopes().find(|scope| scope.name == name).map(|scope| scope.bytes);
        assert_eq!((holder("training step"), holder("activations")), (Some(80_000), Some(80_000)));
        assert!(text.contains("in scope training step") && text.contains("activations 80000"), "{text}");
    }

    #[test]
    fn a_future_is_in_its_scope_whenever_it_is_polled() {
        let scope = alone("task");
        let mut polled = 0;
        let future = core::future::poll_fn(move |context| {
            assert_eq!(Scope::current().name(), "task");
            polled += 1;
            if polled == 2 {
                return core::task::Poll::Ready(polled);
            }
            context.waker().wake_by_ref();
            core::task::Poll::Pending
        });
        let mut future = core::pin::pin!(scope.wrap(future));
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert_eq!(Scope::current().name(), "process", "outside of the future it is as before");
        assert!(future.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn eight_threads_in_a_tree_never_hold_more_than_any_limit_of_it() {
        let root = alone("root of eight");
        root.set_limit(Kind::HostBytes, 1000);
        let halves = [root.child("left"), root.child("right")];
        halves.iter().for_each(|half| {
            half.set_limit(Kind::HostBytes, 700);
        });
        let refused = AtomicU64::new(0);
        thread::scope(|threads| {
            for seed in 1..=8 {
                let (root, half, refused) = (&root, &halves[seed as usize % 2], &refused);
                threads.spawn(move || {
                    let mut draw = Draw(seed);
                    let mut kept = Vec::new();
                    for _ in 0..20_000 {
                        match half.charge(Kind::HostBytes, draw.below(300)) {
                            Ok(held) => kept.push(held),
                            Err(why) => {
                                assert!(why.over().left < why.over().asked);
                                refused.fetch_add(1, SeqCst);
                            }
                        }
                        assert!(root.used(Kind::HostBytes) <= 1000 && half.used(Kind::HostBytes) <= 700);
                        while kept.len() > draw.below(4) as usize {
                            drop(kept.swap_remove(draw.below(kept.len() as u64) as usize));
                        }
                    }
                });
            }
        });
        assert!(refused.into_inner() > 0, "the limit was never reached: this test shows nothing");
        assert!(root.peak(Kind::HostBytes) <= 1000 && root.peak(Kind::HostBytes) > 500);
        assert!(halves.iter().all(|half| half.used(Kind::HostBytes) == 0));
        assert!(root.end().is_nothing());
    }

    /// Tensors that could be made again, given up one by one.
    struct Cache(Mutex<Vec<Tensor>>);

    impl gc::Reclaim for Cache {
        fn reclaimable_bytes(&self) -> u64 {
            self.0.lock().unwrap().iter().map(|tensor| tensor.byte_len() as u64).sum()
        }

        fn reclaim(&self, target_bytes: u64, _until: gc::Deadline) -> u64 {
            let mut given = 0;
            while given < target_bytes {
                let Some(tensor) = self.0.lock().unwrap().pop() else { break };
                given += tensor.byte_len() as u64;
            }
            given
        }
    }

    #[test]
    fn eight_threads_at_a_limit_never_fail_while_a_cache_could_give_way() {
        const TENSOR: u64 = 40_000;
        // Room for what eight threads hold at once, and for a little of what is cached.
        let scope = alone("eight at a limit");
        scope.set_limit(Kind::HostBytes, 20 * TENSOR);
        let cache = Arc::new(Cache(Mutex::new(Vec::new())));
        let id = gc::register("cache of eight", 0, Arc::clone(&cache) as Arc<dyn gc::Reclaim>);
        thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..300 {
                        let made = scope.run(|| Tensor::zeros(&[TENSOR as usize / 4]));
                        let tensor = made.expect("what is cached can be given up");
                        assert!(scope.used(Kind::HostBytes) <= 20 * TENSOR);
                        cache.0.lock().unwrap().push(tensor);
                    }
                });
            }
        });
        assert!(scope.peak(Kind::HostBytes) <= 20 * TENSOR);
        assert!(gc::unregister(id));
        drop(cache);
        assert!(scope.end().is_nothing());
    }

    #[test]
    fn a_path_counts_in_the_order_it_is_given() {
        let budgets = [Budget::new(5), Budget::new(3)];
        assert_eq!(path::try_take(&budgets, 4).unwrap_err().depth, 1);
        assert_eq!(path::try_take(budgets.iter().rev(), 4).unwrap_err().depth, 0);
    }

    /// A file below a root, with the folders to it.
    fn put(root: &std::path::Path, at: &str, text: &str) {
        let path = root.join(at);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_limit_of_the_machine_is_the_least_that_the_kernel_tells() {
        let root = tempfile_dir();
        let read = || MachineMemory::read_under(root.path());
        assert_eq!((read(), read().limit_bytes()), (MachineMemory::default(), None));

        put(root.path(), "proc/meminfo", "MemFree: 1 kB\nMemTotal:       1024 kB\n");
        assert_eq!(read().limit_bytes(), Some(1 << 20));

        // Version 2: the group's own limit, or that of a group around it.
        put(root.path(), "proc/self/cgroup", "0::/a/b\n");
        put(root.path(), "sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(read().cgroup_v2_bytes, None);
        put(root.path(), "sys/fs/cgroup/a/memory.max", "500000\n");
        assert_eq!((read().cgroup_v2_bytes, read().limit_bytes()), (Some(500_000), Some(500_000)));
        put(root.path(), "sys/fs/cgroup/a/b/memory.max", "400000\n");
        assert_eq!(read().limit_bytes(), Some(400_000));

        // Version 1, and no limit as it writes that.
        put(root.path(), "proc/self/cgroup", "12:cpu,cpuacct:/x\n9:memory:/y\n");
        put(root.path(), "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!((read().cgroup_v1_bytes, read().cgroup_v2_bytes), (None, None));
        put(root.path(), "sys/fs/cgroup/memory/y/memory.limit_in_bytes", "300000");
        assert_eq!(read().limit_bytes(), Some(300_000));

        // In a container the path is one outside of it, and its root is the group.
        put(root.path(), "proc/self/cgroup", "0::/../../elsewhere\n");
        put(root.path(), "sys/fs/cgroup/memory.max", "200000");
        assert_eq!(read().cgroup_v2_bytes, Some(200_000));
        put(root.path(), "sys/fs/cgroup/memory.max", "a number");
        assert_eq!(read().limit_bytes(), Some(1 << 20), "what cannot be read is no limit");
    }

    #[test]
    fn the_snapshot_shows_every_scope_behind_the_one_around_it() {
        let outer = alone("epoch 3");
        let inner = outer.child("batch 9");
        inner.set_limit(Kind::HostBytes, 1 << 20);
        let tensor = inner.run(|| Tensor::zeros(&[1000])).unwrap();
        let _ = inner.end();
        let now = democratising::resources();
        assert_eq!((now.scopes[0].name.as_str(), now.scopes[0].depth), ("process", 0));
        let at = now.scopes.iter().position(|scope| scope.name == "epoch 3").unwrap();
        let row = &now.scopes[at + 1];
        assert_eq!((row.name.as_str(), row.depth, row.ended), ("batch 9", 2, true));
        let host = &row.held[Kind::HostBytes as usize];
        assert_eq!((host.kind, host.used, host.limit), ("host bytes", 4000, Some(1 << 20)));
        assert!(now.memory[0].in_use_bytes >= 4000 && now.memory[0].name == "pool");
        let table = now.to_string();
        let line = table.lines().find(|line| line.contains("batch 9 (ended)")).unwrap();
        let words: Vec<_> = line.split_whitespace().skip(3).collect();
        assert_eq!(words, ["host", "bytes", "4000", "4000", "1048576"], "{table}");
        #[cfg(feature = "serde")]
        {
            let json: serde_json::Value = serde_json::to_value(&now).unwrap();
            assert_eq!(json["scopes"][at + 1]["held"][0]["used"], 4000);
        }
        drop(tensor);
    }

    #[test]
    fn the_process_has_the_limit_of_its_machine() {
        let machine = MachineMemory::read().limit_bytes().expect("Linux tells");
        assert_eq!(scope::process_budget(Kind::HostBytes).limit(), machine);
    }

    #[test]
    fn scopes_nested_as_deep_as_can_be_end_without_a_deep_stack_and_are_reported_in_time() {
        let done = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
            let mut scope = alone("deep");
            for _ in 0..20_000 {
                scope = scope.child("deeper");
            }
            assert!(
                democratising::resources().scopes.iter().filter(|row| row.name == "deeper").count() >= 20_000
            );
            drop(scope);
        });
        done.unwrap().join().unwrap();
    }
}
