//! Limits hold: a budget and a pool under many threads.
#![cfg_attr(not(unix), allow(unused_imports))]

#[cfg(target_os = "linux")]
#[path = "fs/child.rs"]
mod child;
#[path = "common/draw.rs"]
mod draw;

use democratising::pool::budget::Budget;
use democratising::space::{Mapped, MappedTables, Simulated, Space};
use democratising::{DemoError, HostLock, MemoryPool, Pool, PoolConfig, Tensor};
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
    let lower = libc::rlimit { rlim_cur: most_bytes as libc::rlim_t, ..limit };
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
            for _ in 0..3 {
                let too_much = democratising::Global.allocate(Layout::new::<[u8; 300 << 20]>());
                assert!(too_much.is_err(), "and nothing is left counted of it");
            }
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

/// What is reserved and not used is no data of the process's: else nothing more could be mapped, by nobody in it.
#[cfg(target_os = "linux")]
#[test]
fn a_process_whose_data_is_limited_while_it_runs_can_still_make_threads() {
    use allocator_api2::alloc::Allocator;
    const NAME: &str = "a_process_whose_data_is_limited_while_it_runs_can_still_make_threads";
    if child::child().is_none() {
        let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    drop(allocator_api2::boxed::Box::new_in(0, democratising::Global));
    let tensor = Tensor::zeros(&[8 << 20]).unwrap();
    within(libc::RLIMIT_DATA, 320 << 20, || {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let thread = thread::Builder::new().stack_size(16 << 20);
                thread
                    .spawn(|| democratising::Global.allocate(Layout::new::<[u8; 4 << 20]>()).is_ok())
                    .unwrap()
            })
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
    drop(tensor);
}

/// What was given back is others' to have: threads' stacks, files that are mapped.
#[cfg(target_os = "linux")]
#[test]
fn what_is_given_back_does_not_count_where_data_is_limited() {
    use allocator_api2::alloc::Allocator;
    const NAME: &str = "what_is_given_back_does_not_count_where_data_is_limited";
    if child::child().is_none() {
        let limited = ["sh", "-c", "ulimit -d 1000000 && exec \"$0\" \"$@\""];
        let output = child::command(&limited, NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    drop(allocator_api2::boxed::Box::new_in(0, democratising::Global));
    let layout = Layout::new::<[u8; 300 << 20]>();
    let before_kib = kib("/proc/self/status", "VmData:");
    let block = democratising::Global.allocate(layout).unwrap();
    assert!(kib("/proc/self/status", "VmData:") >= before_kib + (300 << 10));
    // SAFETY: 1. It came from there with this layout, and nobody uses it.
    unsafe { democratising::Global.deallocate(block.cast(), layout) };
    democratising::gc::collect().unwrap();
    let after_kib = kib("/proc/self/status", "VmData:");
    assert!(after_kib < before_kib + (8 << 10), "{after_kib} KiB, {before_kib} before");
}

/// What others in the process hold counts too: then the kernel refuses what the limit alone would allow, as often as it is asked.
#[cfg(target_os = "linux")]
#[test]
fn what_the_kernel_refuses_can_be_had_once_there_is_room_for_it() {
    use allocator_api2::alloc::Allocator;
    const NAME: &str = "what_the_kernel_refuses_can_be_had_once_there_is_room_for_it";
    if child::child().is_none() {
        let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    drop(allocator_api2::boxed::Box::new_in(0, democratising::Global));
    let layout = Layout::new::<[u8; 100 << 20]>();
    within(libc::RLIMIT_DATA, 400 << 20, || {
        let others = vec![0u8; 280 << 20];
        for _ in 0..100 {
            assert!(democratising::Global.allocate(layout).is_err());
        }
        drop(others);
        let block = democratising::Global.allocate(layout).unwrap();
        // SAFETY: 1. It came from there with this layout, and nobody uses it.
        unsafe { democratising::Global.deallocate(block.cast(), layout) };
    });
}

/// A number of KiB in a file of the system's.
#[cfg(target_os = "linux")]
fn kib(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Uses both heaps, and looks at what the kernel counts as theirs: tables for no more than all memory, which are a fortieth of it by far
/// at most.
#[cfg(target_os = "linux")]
fn tables_are_few() {
    use allocator_api2::alloc::Allocator;
    let all_kib = kib("/proc/meminfo", "MemTotal:") + kib("/proc/meminfo", "SwapTotal:");
    let before_kib = kib("/proc/self/status", "VmData:");
    let block = democratising::Global.allocate(Layout::new::<[u8; 100]>()).unwrap();
    let tensor = Tensor::zeros(&[100]).unwrap();
    let tables_kib = kib("/proc/self/status", "VmData:") - before_kib;
    assert!(tables_kib < all_kib / 40 + (64 << 10), "{tables_kib} KiB of tables, {all_kib} KiB of memory");
    drop(tensor);
    // SAFETY: 1. It came from there with this layout, and nobody uses it.
    unsafe { democratising::Global.deallocate(block.cast(), Layout::new::<[u8; 100]>()) };
}

#[cfg(target_os = "linux")]
#[test]
fn tables_are_for_no_more_than_all_memory_where_what_may_be_written_is_limited() {
    const NAME: &str = "tables_are_for_no_more_than_all_memory_where_what_may_be_written_is_limited";
    if child::child().is_some() {
        return within(libc::RLIMIT_DATA, 250 << 30, tables_are_few);
    }
    let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What the kernel does with `vm.overcommit_memory=2` would be done to every program of the machine, so only what the file says is
/// another here: in a mount namespace, which needs root. Where there is none it says so; with `CI` set it fails then.
#[cfg(target_os = "linux")]
#[test]
fn nothing_but_tables_is_counted_where_the_system_accounts_for_what_can_be_written() {
    const NAME: &str = "nothing_but_tables_is_counted_where_the_system_accounts_for_what_can_be_written";
    const MODE: &str = "/proc/sys/vm/overcommit_memory";
    if child::child().is_some() {
        assert_eq!(std::fs::read_to_string(MODE).unwrap(), "2\n");
        return tables_are_few();
    }
    let folder = democratising::fs::temp_dir().unwrap();
    let mode = folder.path().join("mode");
    std::fs::write(&mode, "2\n").unwrap();
    let mode = mode.to_str().unwrap();
    let tried = std::process::Command::new("unshare").args(["-m", "mount", "--bind", mode, MODE]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI is root and has unshare and mount: {tried:?}");
        return println!("not tested: it needs root, unshare and mount: {tried:?}");
    }
    let script = format!("mount --bind '{mode}' {MODE} && exec \"$0\" \"$@\"");
    let output =
        child::command(&["unshare", "-m", "sh", "-c", &script], NAME, ".".as_ref()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn idle_memory_is_moved_where_the_process_may_have_no_more() {
    const NAME: &str = "idle_memory_is_moved_where_the_process_may_have_no_more";
    if child::child().is_none() {
        let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    let space = Mapped::reserve(1 << 30).unwrap();
    let pool: Pool<Mapped, HostLock> = Pool::new(space, MappedTables, PoolConfig::DEFAULT).unwrap();
    let frames = |count: usize| Layout::from_size_align(count << 21, 64).unwrap();
    let [low, _between, high] = [3, 1, 3].map(|count| pool.allocate(frames(count)).unwrap().addr);
    for addr in [low, high] {
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(addr, frames(3)) }.unwrap();
    }
    let moved = within(libc::RLIMIT_AS, 14 << 20, || pool.allocate(frames(5)));
    assert!(moved.is_ok(), "{moved:?}: 12 MiB lie idle");
    assert_eq!((pool.stats().steals, pool.stats().reserved_bytes), (2, 14 << 20));
}

#[cfg(target_os = "linux")]
#[test]
fn a_maximum_stays_that_is_set_while_an_initial_size_is_refused() {
    const NAME: &str = "a_maximum_stays_that_is_set_while_an_initial_size_is_refused";
    if child::child().is_none() {
        let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    // So that the pool is small, and an initial size is refused soon.
    within(libc::RLIMIT_AS, 4 << 30, || {
        MemoryPool::configure().max_size(1 << 21).enable().unwrap();
        thread::scope(|scope| {
            let refused = scope.spawn(|| {
                for _ in 0..3000 {
                    assert!(MemoryPool::configure().initial_size(1 << 62).enable().is_err());
                }
            });
            for limit in (2..).map(|n| n << 21) {
                MemoryPool::configure().max_size(limit).enable().unwrap();
                thread::yield_now();
                // The other thread's are in force while they are tried.
                while MemoryPool::stats().limit_bytes == u64::MAX && !refused.is_finished() {
                    thread::yield_now();
                }
                let is_over = refused.is_finished();
                let found = MemoryPool::stats().limit_bytes;
                assert!(found == limit || found == u64::MAX && !is_over, "{found} in place of {limit}");
                if is_over {
                    break;
                }
            }
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_maximum_that_is_no_whole_frame_is_not_told_to_have_room_in_the_part_of_one() {
    const NAME: &str = "a_maximum_that_is_no_whole_frame_is_not_told_to_have_room_in_the_part_of_one";
    if child::child().is_none() {
        let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    for (limit, had_bytes) in [(1 << 20, 0), (3 << 20, 2 << 20)] {
        MemoryPool::configure().max_size(limit).enable().unwrap();
        let had = (had_bytes > 0).then(|| Tensor::zeros(&[had_bytes / 4]).unwrap());
        let error = Tensor::zeros(&[1 << 18]).unwrap_err();
        let DemoError::OutOfMemory(report) = error else { panic!("{error}") };
        assert_eq!((report.limit_bytes, report.in_use_bytes), (limit, had_bytes as u64));
        assert_eq!(report.largest_free_bytes, 0, "{report}");
        drop(had);
    }
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
