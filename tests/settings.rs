//! What the settings of the process's pool of tensors do, each by itself, and what becomes of those that cannot be.
#![cfg(feature = "std")]

#[path = "common/alone.rs"]
mod alone;
#[cfg(target_os = "linux")]
#[path = "fs/child.rs"]
mod child;

use allocator_api2::alloc::Allocator;
use democratising::pool::MemoryPoolBuilder;
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DemoError, MemoryPool, Tensor};
use std::alloc::Layout;
use std::ptr::NonNull;

const MIB: u64 = 1 << 20;

/// A block of the pool, given back with this.
struct Live(NonNull<u8>, Layout);

impl Live {
    fn new(mib: u64) -> Option<Live> {
        let layout = Layout::from_size_align((mib * MIB) as usize, 64).unwrap();
        Some(Live(MemoryPool.allocate(layout).ok()?.cast(), layout))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // SAFETY: 1. The block came from the pool with this layout, and nobody uses it.
        unsafe { MemoryPool.deallocate(self.0, self.1) }
    }
}

/// Runs this with these settings, in a pool that has nothing before and nothing behind it.
fn with<T>(settings: MemoryPoolBuilder, run: impl FnOnce() -> T) -> T {
    drop(Live::new(2));
    MemoryPool::disable().unwrap();
    assert_eq!(reserved_mib(), 0, "what lies idle goes back");
    settings.enable().unwrap();
    let result = run();
    MemoryPool::disable().unwrap();
    assert_eq!((MemoryPool::stats().limit_bytes, reserved_mib()), (u64::MAX, 0));
    result
}

fn reserved_mib() -> u64 {
    MemoryPool::stats().reserved_bytes / MIB
}

#[test]
fn an_initial_size_is_backed_before_anything_is_asked_for() {
    let _alone = alone::alone();
    for mib in [0, 2, 64] {
        let backed = with(MemoryPool::configure().initial_size(mib * MIB), reserved_mib);
        assert_eq!(backed, mib);
    }
}

#[test]
fn a_growth_factor_says_how_much_is_backed_when_more_is_needed() {
    let _alone = alone::alone();
    for (factor, mib) in [(1.0, 20), (1.5, 30), (3.0, 60)] {
        let backed = with(MemoryPool::configure().growth_factor(factor), || {
            let _held = Live::new(20).unwrap();
            reserved_mib()
        });
        assert_eq!(backed, mib, "by {factor}");
    }
}

#[test]
fn what_the_pool_refuses_leaves_no_mark_on_a_scope_that_never_held_it() {
    let _alone = alone::alone();
    with(MemoryPool::configure().max_size(16 * MIB), || {
        let scope = Scope::new("refused");
        let held = scope.run(|| Tensor::zeros(&[MIB as usize])).unwrap();
        for mib in [13, 1024] {
            let error = scope.run(|| Tensor::zeros(&[(mib * MIB / 4) as usize])).unwrap_err();
            let DemoError::OutOfMemory(report) = error else { panic!("{error}") };
            assert_eq!((report.limit_bytes, report.in_use_bytes), (16 * MIB, 4 * MIB), "by the pool");
        }
        assert_eq!(scope.peak(Kind::HostBytes), 4 * MIB);
        scope.set_limit(Kind::HostBytes, 5 * MIB);
        let error = scope.run(|| Tensor::zeros(&[13 * MIB as usize / 4])).unwrap_err();
        let DemoError::OutOfMemory(report) = error else { panic!("{error}") };
        assert_eq!(
            (report.limit_bytes, report.scope()),
            (5 * MIB, Some("refused")),
            "the least room is told"
        );
        drop(held);
        assert!(scope.end().is_nothing());
    });
}

#[test]
fn no_more_than_the_maximum_is_had_and_what_is_refused_says_it() {
    let _alone = alone::alone();
    for max in [8, 40] {
        with(MemoryPool::configure().max_size(max * MIB).growth_factor(100.0), || {
            let held = Live::new(max - 2);
            assert!(held.is_some() && Live::new(3).is_none() && Live::new(2).is_some());
            assert_eq!((MemoryPool::stats().limit_bytes, reserved_mib()), (max * MIB, max));
            let error = democratising::Tensor::zeros(&[(max * MIB) as usize]).unwrap_err();
            let DemoError::OutOfMemory(report) = error else { panic!("{error}") };
            assert_eq!((report.limit_bytes, report.requested_bytes), (max * MIB, 4 * max * MIB));
        });
    }
    with(MemoryPool::configure(), || assert_eq!(MemoryPool::stats().limit_bytes, u64::MAX));
}

#[test]
fn slack_says_how_much_is_created_before_idle_memory_is_moved() {
    let _alone = alone::alone();
    // Of 150 frames, which are the most that were ever in use, also by the other tests.
    for (slack, moved) in [(0.0, 3), (0.01, 2), (0.0135, 1), (1.0, 0)] {
        with(MemoryPool::configure().slack(slack), || {
            let mut blocks: Vec<_> = (0..150).map(|_| Live::new(2)).collect();
            blocks.iter_mut().step_by(2).take(3).for_each(|block| *block = None);
            let before = MemoryPool::stats();
            let _held = Live::new(6).unwrap();
            let after = MemoryPool::stats();
            let (steals, creates) = (after.steals - before.steals, after.creates - before.creates);
            assert_eq!((steals, creates), (moved, 3 - moved), "{slack}");
        });
    }
}

#[test]
fn an_enabled_pool_keeps_what_it_had_and_one_that_is_not_a_little() {
    let _alone = alone::alone();
    with(MemoryPool::configure(), || {
        drop(Live::new(200).unwrap());
        assert_eq!(reserved_mib(), 200);
    });
    drop(Live::new(200).unwrap());
    assert_eq!(reserved_mib(), 64);
    MemoryPool::disable().unwrap();
}

#[test]
fn what_cannot_be_is_named_and_changes_nothing() {
    let _alone = alone::alone();
    let some = MemoryPool::configure;
    let invalid = [
        ("initial_size", some().initial_size(2 * MIB + 1).max_size(2 * MIB)),
        ("growth_factor", some().growth_factor(0.999)),
        ("growth_factor", some().growth_factor(1000.001)),
        ("growth_factor", some().growth_factor(f64::NAN)),
        ("growth_factor", some().growth_factor(f64::INFINITY)),
        ("slack", some().slack(-0.001)),
        ("slack", some().slack(1000.001)),
        ("slack", some().slack(f64::NAN)),
    ];
    with(some().max_size(6 * MIB).initial_size(4 * MIB), || {
        let before = MemoryPool::stats();
        for (at, (setting, settings)) in invalid.into_iter().enumerate() {
            match settings.enable() {
                Err(DemoError::InvalidConfig { name, .. }) => assert_eq!(name, setting, "{at}"),
                other => panic!("{at}: {setting}: {other:?}"),
            }
            assert_eq!(MemoryPool::stats(), before, "{at}: {setting}");
        }
    });
    // And what can just be.
    for settings in [some().growth_factor(1000.0).max_size(2 * MIB), some().slack(1000.0), some().slack(0.0)]
    {
        with(settings.initial_size(2 * MIB), || assert_eq!(reserved_mib(), 2));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_initial_size_that_cannot_be_had_leaves_the_settings_before_and_what_they_keep() {
    const NAME: &str = "an_initial_size_that_cannot_be_had_leaves_the_settings_before_and_what_they_keep";
    if child::child().is_none() {
        let output = child::command(&[], NAME, ".".as_ref()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    drop(Live::new(2));
    // So that it cannot be had soon.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: 1. A place for the answer. 2. What may be had from now on is less, which no memory is lost by; and then as much as before.
    let limited = |limit: &libc::rlimit| assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, limit) }, 0);
    // SAFETY: 1. As above.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) }, 0);
    let refused = |most_bytes: u64, initial_bytes| {
        limited(&libc::rlimit { rlim_cur: most_bytes as libc::rlim_t, ..limit });
        let refused = MemoryPool::configure().initial_size(initial_bytes).growth_factor(7.0).enable();
        limited(&limit);
        let Err(DemoError::OutOfMemory(report)) = refused else { panic!("{refused:?}") };
        assert_eq!(report.requested_bytes, initial_bytes);
    };
    with(MemoryPool::configure().max_size(40 * MIB).initial_size(6 * MIB), || {
        refused(1 << 30, 1 << 62);
        assert_eq!(MemoryPool::stats().limit_bytes, 40 * MIB);
        assert!((6..=40).contains(&reserved_mib()), "{} MiB", reserved_mib());
    });
    // A part of it can be had: what is not backed below a block that is live.
    let (below, held) = (Live::new(100), Live::new(2));
    drop(below);
    MemoryPool::disable().unwrap();
    assert_eq!(reserved_mib(), 2);
    // All but a frame.
    refused(103 * MIB, 104 * MIB);
    refused(1 << 30, 1 << 62);
    assert_eq!(
        (MemoryPool::stats().limit_bytes, reserved_mib()),
        (u64::MAX, 66),
        "as one that is not enabled"
    );
    let _more = Live::new(100).unwrap();
    assert_eq!(reserved_mib(), 102, "and by need alone");
    drop(held);
}
