//! One randomized script over every space, divided by either index: no overlap, alignment, bytes intact where they can be touched, everything
//! returned, bad frees refused, and running out of memory at any moment loses nothing.

use democratising::arena::{Arena, Borrowed, ByFit, ByTree, IndexKind, Metadata, NoBlock, Unframed};
use democratising::error::BadFree;
use democratising::pool::{Pool, PoolConfig, Stats};
use democratising::space::{
    Alignment, Contents, Fixed, Geometry, HostSpace, Mapped, MappedTables, Offset, Simulated, Space,
    SpaceError, Span, WithIndex,
};
use democratising::{SpinLock, lock_api::RawMutex};
use proptest::prelude::*;
use std::alloc::Layout;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// One step of the script. Numbers that choose a live block are taken modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Allocate { bytes: usize, align: usize },
    Free(usize),
    FreeTwice(usize),
    FreeInterior(usize),
    FreeWithWrongSize(usize),
    FreeUnsized(usize),
    Resize(usize, usize),
    Trim(u64),
    Grow(u64),
    Limit(u64),
}

fn step(most_bytes: usize) -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        4 => 0..=512usize,
        3 => 0..=most_bytes / 64,
        2 => 0..=most_bytes / 4,
        1 => Just(most_bytes),
        1 => prop_oneof![Just(1usize), Just(4096), Just(65536), Just(65537), Just(2 << 20)],
    ];
    let align = prop_oneof![6 => Just(0u32), 2 => 0..=6u32, 1 => 0..=14u32, 1 => Just(21u32)];
    prop_oneof![
        10 => (bytes.clone(), align).prop_map(|(bytes, shift)| Step::Allocate { bytes, align: 1 << shift }),
        7 => any::<usize>().prop_map(Step::Free),
        1 => any::<usize>().prop_map(Step::FreeTwice),
        1 => any::<usize>().prop_map(Step::FreeInterior),
        1 => any::<usize>().prop_map(Step::FreeWithWrongSize),
        2 => any::<usize>().prop_map(Step::FreeUnsized),
        2 => (any::<usize>(), bytes).prop_map(|(which, bytes)| Step::Resize(which, bytes)),
        1 => (0..64u64 << 20).prop_map(Step::Trim),
        1 => (0..64u64 << 20).prop_map(Step::Grow),
        1 => (0..96u64 << 20).prop_map(Step::Limit),
    ]
}

fn script(most_bytes: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(most_bytes), 1..120)
}

/// What a script may do with an address: count with it, and on the host write through it.
trait Touch: Copy + std::fmt::Debug {
    fn number(self) -> u64;
    fn plus(self, bytes: u64) -> Self;
    fn fill(self, bytes: u64, pattern: u8);
    fn holds(self, bytes: u64, pattern: u8) -> bool;
}

impl Touch for u64 {
    fn number(self) -> u64 {
        self
    }
    fn plus(self, bytes: u64) -> u64 {
        self + bytes
    }
    fn fill(self, _bytes: u64, _pattern: u8) {}
    fn holds(self, _bytes: u64, _pattern: u8) -> bool {
        true
    }
}

impl Touch for NonNull<u8> {
    fn number(self) -> u64 {
        self.as_ptr() as u64
    }
    fn plus(self, bytes: u64) -> Self {
        NonNull::new(self.as_ptr().wrapping_add(bytes as usize)).unwrap()
    }
    fn fill(self, bytes: u64, pattern: u8) {
        for at in edges(bytes) {
            // SAFETY: 1. The block is live and `at` lies in it.
            unsafe { self.add(at as usize).write(pattern ^ at as u8) };
        }
    }
    fn holds(self, bytes: u64, pattern: u8) -> bool {
        // SAFETY: 1. The block is live and `at` lies in it; `fill` wrote there.
        edges(bytes).all(|at| unsafe { self.add(at as usize).read() } == pattern ^ at as u8)
    }
}

/// Every byte of a small block; of a large one both ends and a byte of each 4 KiB.
fn edges(bytes: u64) -> impl Iterator<Item = u64> {
    let inner = (4096..bytes).step_by(4096);
    (0..bytes.min(64)).chain(inner).chain(bytes.saturating_sub(64).max(64)..bytes)
}

struct Live<A> {
    addr: A,
    layout: Layout,
    bytes: u64,
    pattern: u8,
}

/// Runs a script and checks after every step what must hold; gives everything back in the end.
fn run<S: Space<Addr: Touch>, L: RawMutex, M: Metadata>(pool: &Pool<S, L, M>, script: &[Step]) {
    let mut live: Vec<Live<S::Addr>> = Vec::new();
    let mut taken: BTreeMap<u64, u64> = BTreeMap::new();
    let initial = pool.stats();
    for (n, step) in script.iter().enumerate() {
        let before = pool.stats();
        match *step {
            Step::Allocate { bytes, align } => {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                match pool.allocate(layout) {
                    Ok(block) => {
                        assert!(block.bytes >= bytes as u64, "{block:?} for {layout:?}");
                        let start = block.addr.number();
                        assert_eq!(start % align as u64, 0, "{block:?} for {layout:?}");
                        let below = taken.range(..start + block.bytes).next_back();
                        assert!(
                            below.is_none_or(|(at, len)| at + len <= start),
                            "{block:?} overlaps {below:?}"
                        );
                        if block.contents == Contents::Zeroed {
                            assert!(block.addr.holds_zeros(block.bytes), "{block:?} was said to be zero");
                        }
                        let pattern = n as u8;
                        block.addr.fill(block.bytes, pattern);
                        taken.insert(start, block.bytes);
                        live.push(Live { addr: block.addr, layout, bytes: block.bytes, pattern });
                    }
                    Err(why) => {
                        assert_eq!(
                            unchanged(pool.stats(), before.failures + 1),
                            before_failure(before),
                            "{why}"
                        );
                    }
                }
            }
            Step::Free(which) if !live.is_empty() => {
                let block = live.swap_remove(which % live.len());
                give(pool, &block, &mut taken);
            }
            Step::FreeUnsized(which) if !live.is_empty() => {
                let block = live.swap_remove(which % live.len());
                assert_eq!(pool.usable_bytes(block.addr), Ok(block.bytes));
                // SAFETY: 1. The script uses the block no more.
                unsafe { pool.free_unsized(block.addr) }.unwrap();
                taken.remove(&block.addr.number());
            }
            Step::FreeTwice(which) if !live.is_empty() => {
                let block = live.swap_remove(which % live.len());
                give(pool, &block, &mut taken);
                let before = pool.stats();
                // SAFETY: 1. Nobody uses the block.
                let (again, unsized_again) =
                    unsafe { (pool.free(block.addr, block.layout), pool.free_unsized(block.addr)) };
                assert!(matches!(again, Err(BadFree::AlreadyFree { .. })), "{again:?}");
                assert!(matches!(unsized_again, Err(BadFree::AlreadyFree { .. })), "{unsized_again:?}");
                assert_eq!(pool.stats(), before, "a refused free changes nothing");
            }
            Step::FreeInterior(which) if !live.is_empty() => {
                let block = &live[which % live.len()];
                let inside = block.addr.plus(1 + which as u64 % block.bytes.max(2).div_euclid(2));
                if inside.number() < block.addr.number() + block.bytes {
                    // SAFETY: 1. It is refused.
                    let refused = unsafe { pool.free(inside, block.layout) };
                    assert!(refused.is_err(), "{refused:?}");
                    assert_eq!(pool.stats(), before, "a refused free changes nothing");
                }
            }
            Step::FreeWithWrongSize(which) if !live.is_empty() => {
                let block = &live[which % live.len()];
                let wrong = Layout::from_size_align(block.bytes as usize + 1, block.layout.align()).unwrap();
                // SAFETY: 1. It is refused.
                let refused = unsafe { pool.free(block.addr, wrong) };
                assert!(matches!(refused, Err(BadFree::WrongSize { .. })), "{refused:?}");
                assert_eq!(pool.stats(), before, "a refused free changes nothing");
            }
            Step::Resize(which, bytes) if !live.is_empty() => {
                let which = which % live.len();
                let block = &mut live[which];
                let keep = block.bytes.min(bytes.max(1) as u64);
                block.addr.fill(keep, block.pattern);
                // SAFETY: 1. The script uses only what is left.
                if unsafe { pool.resize(block.addr, block.layout, bytes) }.unwrap() {
                    block.layout = Layout::from_size_align(bytes, block.layout.align()).unwrap();
                    block.bytes = pool.usable_bytes(block.addr).unwrap();
                    assert!(block.bytes >= bytes as u64);
                    assert!(block.addr.holds_until(keep.min(block.bytes), keep, block.pattern));
                    let start = block.addr.number();
                    taken.insert(start, block.bytes);
                    let next = taken.range(start + 1..).next();
                    assert!(next.is_none_or(|(at, _)| start + block.bytes <= *at), "grew into {next:?}");
                } else {
                    assert_eq!(pool.stats(), before, "a resize that does not happen changes nothing");
                }
                block.addr.fill(block.bytes, block.pattern);
            }
            Step::Trim(keep_bytes) => {
                let given = pool.trim(keep_bytes);
                let after = pool.stats();
                assert_eq!(after.reserved_bytes + given, before.reserved_bytes);
                assert!(after.idle_bytes <= keep_bytes);
            }
            Step::Grow(bytes) => pool.configure(pool.config().initial_bytes(bytes)),
            Step::Limit(bytes) => {
                pool.configure(pool.config().max_bytes(bytes).initial_bytes(0));
                let after = pool.stats();
                assert_eq!(after.in_use_bytes, before.in_use_bytes, "a limit takes nothing that is live");
                assert!(after.reserved_bytes <= bytes.max(before.reserved_bytes - before.idle_bytes));
            }
            _ => {}
        }
        let stats = pool.stats();
        assert_eq!(stats.blocks as usize, live.len());
        assert_eq!(stats.in_use_bytes, live.iter().map(|block| block.bytes).sum::<u64>());
        assert!(
            stats.idle_bytes <= stats.reserved_bytes && stats.in_use_bytes <= stats.reserved_bytes,
            "{stats:?}"
        );
        assert!(
            stats.peak_in_use_bytes >= stats.in_use_bytes
                && stats.peak_reserved_bytes >= stats.reserved_bytes
        );
    }
    for block in live.drain(..) {
        give(pool, &block, &mut taken);
    }
    let end = pool.stats();
    assert_eq!((end.blocks, end.in_use_bytes), (0, 0));
    assert_eq!(end.largest_free_bytes, initial.largest_free_bytes, "everything is one free run again");
    if end.creates > 0 {
        assert_eq!(end.idle_bytes, end.reserved_bytes, "no frame is held by anything");
        pool.trim(0);
        assert_eq!(pool.stats().reserved_bytes, 0);
    }
}

trait Zeros: Touch {
    fn holds_zeros(self, bytes: u64) -> bool;
    fn holds_until(self, bytes: u64, whole: u64, pattern: u8) -> bool;
}

impl<A: Touch> Zeros for A {
    fn holds_zeros(self, bytes: u64) -> bool {
        edges(bytes).all(|at| self.plus(at).holds(1, 0))
    }
    /// Whether the first `bytes` hold what `fill` wrote into `whole` bytes.
    fn holds_until(self, bytes: u64, whole: u64, pattern: u8) -> bool {
        edges(whole).filter(|at| *at < bytes).all(|at| self.plus(at).holds(1, pattern ^ at as u8))
    }
}

fn give<S: Space<Addr: Touch>, L: RawMutex, M: Metadata>(
    pool: &Pool<S, L, M>,
    block: &Live<S::Addr>,
    taken: &mut BTreeMap<u64, u64>,
) {
    assert!(block.addr.holds(block.bytes, block.pattern), "somebody else wrote into {:?}", block.addr);
    // SAFETY: 1. The script uses the block no more.
    unsafe { pool.free(block.addr, block.layout) }.unwrap();
    taken.remove(&block.addr.number());
}

/// What a request that failed leaves as it was: everything but its own count and that of moves, which did happen.
fn unchanged(after: Stats, failures: u64) -> [u64; 8] {
    assert_eq!(after.failures, failures, "a failure is counted once");
    before_failure(after)
}

fn before_failure(stats: Stats) -> [u64; 8] {
    [
        stats.in_use_bytes,
        stats.peak_in_use_bytes,
        stats.reserved_bytes,
        stats.peak_reserved_bytes,
        stats.idle_bytes,
        stats.largest_free_bytes,
        stats.blocks,
        stats.allocations,
    ]
}

/// A space whose requests fail on demand: the `fail_in`-th from now, and then every one or none.
struct Failing<S> {
    space: S,
    fail_in: Cell<u32>,
    for_good: bool,
}

impl<S: Space> Failing<S> {
    fn request(&self, frames: Span) -> Result<(), SpaceError> {
        match self.fail_in.get() {
            0 => Ok(()),
            1 => {
                self.fail_in.set(self.for_good as u32);
                Err(SpaceError::new(self.geometry().bytes(frames.granules), 12))
            }
            n => {
                self.fail_in.set(n - 1);
                Ok(())
            }
        }
    }
}

// SAFETY: 1. Everything is the inner space's; a request that fails changes nothing.
unsafe impl<S: Space> Space for Failing<S> {
    type Addr = S::Addr;
    type Index<M: Metadata> = S::Index<M>;
    type Tables = S::Tables;
    fn geometry(&self) -> Geometry {
        self.space.geometry()
    }
    fn len_bytes(&self) -> u64 {
        self.space.len_bytes()
    }
    fn alignment(&self) -> Alignment {
        self.space.alignment()
    }
    fn addr(&self, at: Offset) -> S::Addr {
        self.space.addr(at)
    }
    fn offset(&self, addr: S::Addr) -> Option<Offset> {
        self.space.offset(addr)
    }
    fn commit(&self, frames: Span) -> Result<Contents, SpaceError> {
        self.request(frames)?;
        self.space.commit(frames)
    }
    fn decommit(&self, frames: Span) {
        self.space.decommit(frames);
    }
    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        self.request(to)?;
        self.space.rehome(from, to)
    }
}

// SAFETY: 1. As the inner space.
unsafe impl<S: HostSpace> HostSpace for Failing<S> {}

const MAPPED: usize = 128 << 20;

/// Any space, divided by an index of this kind.
fn pool<S: Space, I: IndexKind>(
    space: S,
    config: PoolConfig,
) -> Pool<WithIndex<S, I>, SpinLock, MappedTables> {
    Pool::new(WithIndex::new(space), MappedTables, config).unwrap()
}

fn mapped<I: IndexKind>(config: PoolConfig) -> Pool<WithIndex<Mapped, I>, SpinLock, MappedTables> {
    pool(Mapped::reserve(MAPPED).unwrap(), config)
}

fn simulated<I: IndexKind>(config: PoolConfig) -> Pool<WithIndex<Simulated, I>, SpinLock, MappedTables> {
    pool(Simulated::device(MAPPED as u64, 2 << 20), config)
}

/// Runs a script on a fixed array, whose tables are carved from exactly the bytes that they are said to need.
fn run_carved<I: IndexKind>(bytes: &mut [MaybeUninit<u8>], script: &[Step]) {
    let space = WithIndex::<_, I>::new(Fixed::new(bytes));
    let needed = Arena::<WithIndex<Fixed, I>, Borrowed>::metadata_bytes(&space) as usize;
    let mut tables = vec![MaybeUninit::uninit(); needed + 8];
    let pool = Pool::<_, SpinLock, _>::new(space, Borrowed::new(&mut tables), PoolConfig::DEFAULT).unwrap();
    run(&pool, script);
}

fn config() -> impl Strategy<Value = PoolConfig> {
    let slack = prop_oneof![Just(0u32), Just(30), Just(1000)];
    let growth = prop_oneof![Just(1000u32), Just(1500), Just(2000)];
    let retain = prop_oneof![Just(u64::MAX), Just(0), Just(8 << 20)];
    (slack, growth, retain).prop_map(|(slack, growth, retain)| {
        PoolConfig::DEFAULT.slack_permille(slack).growth_permille(growth).retain_bytes(retain)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_script_holds_on_simulated_device_memory(script in script(64 << 20), config in config()) {
        run(&simulated::<ByTree>(config), &script);
        run(&simulated::<ByFit>(config), &script);
    }

    #[test]
    fn the_script_holds_on_mapped_host_memory(script in script(24 << 20), config in config()) {
        run(&mapped::<ByTree>(config), &script);
        run(&mapped::<ByFit>(config), &script);
    }

    #[test]
    fn the_script_holds_on_a_fixed_array_of_any_size_and_start(
        script in script(128 << 10), len in 0usize..512 << 10, skip in 0usize..5000,
    ) {
        let mut bytes = vec![MaybeUninit::uninit(); len + skip];
        run_carved::<ByTree>(&mut bytes[skip..], &script);
        run_carved::<ByFit<Unframed>>(&mut bytes[skip..], &script);
    }

    #[test]
    fn the_script_holds_on_a_fixed_array_counted_like_the_host(script in script(1 << 20), skip in 0usize..70_000) {
        let geometry = Geometry::spans(4 << 10).slabs(16 << 10, 16);
        let mut bytes = vec![MaybeUninit::uninit(); (4 << 20) + skip];
        let config = PoolConfig::DEFAULT;
        run(&pool::<_, ByTree>(Fixed::with_geometry(&mut bytes[skip..], geometry), config), &script);
        run(&pool::<_, ByFit>(Fixed::with_geometry(&mut bytes[skip..], geometry), config), &script);
        run(&pool::<_, ByFit<Unframed>>(Fixed::with_geometry(&mut bytes[skip..], geometry), config), &script);
    }

    #[test]
    fn running_out_at_any_commit_rolls_back_and_loses_nothing(
        script in script(24 << 20), fail_in in 1u32..60, for_good in any::<bool>(), config in config(),
    ) {
        let mapped = || Failing { space: Mapped::reserve(MAPPED).unwrap(), fail_in: Cell::new(fail_in), for_good };
        run(&pool::<_, ByTree>(mapped(), config), &script);
        run(&pool::<_, ByFit>(mapped(), config), &script);
        let device = || Simulated::device(MAPPED as u64, 2 << 20);
        let simulated = || Failing { space: device(), fail_in: Cell::new(fail_in), for_good };
        run(&pool::<_, ByTree>(simulated(), config), &script);
        run(&pool::<_, ByFit>(simulated(), config), &script);
    }
}

/// The same script on a device's memory: the driver really maps, moves and unmaps.
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[path = "softcuda/harness.rs"]
mod harness;

#[cfg(all(feature = "cuda", target_os = "linux"))]
#[test]
fn the_script_holds_on_cuda_device_memory() {
    use democratising::{Device, cuda::CudaSpace};
    use proptest::test_runner::TestRunner;

    let modes = [harness::EAGER, harness::POISON];
    harness::in_modes("the_script_holds_on_cuda_device_memory", &modes, || {
        let device = Device::cuda(0).unwrap();
        let before = harness::is_soft().then(harness::held);
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let scripts = (script(64 << 20), config(), 0u64..200);
        runner
            .run(&scripts, |(script, config, fail_in)| {
                let space = || CudaSpace::reserve(&device, MAPPED as u64).unwrap();
                run(&pool::<_, ByTree>(space(), config), &script);
                run(&pool::<_, ByFit>(space(), config), &script);
                if before.is_some() {
                    // Any call of the driver fails once on the way.
                    let space = space();
                    harness::fail_in(fail_in, 2);
                    run(&pool::<_, ByTree>(space, config), &script);
                    harness::fail_in(0, 0);
                    assert_eq!(
                        Some(harness::held()),
                        before,
                        "a space gives everything back when it is dropped"
                    );
                }
                Ok(())
            })
            .unwrap();
    });
}

/// Fills, frees every other block and asks for more than any hole: steals must happen, and every one of them fails once.
fn every_kth_request_of_a_fragmented_pool_may_fail<I: IndexKind>() {
    let mib = |n: usize| Layout::from_size_align(n << 20, 1).unwrap();
    let play = |fail_in: u32| {
        let space = Failing {
            space: Simulated::device(256 << 20, 2 << 20),
            fail_in: Cell::new(fail_in),
            for_good: false,
        };
        let config = PoolConfig::DEFAULT.slack_permille(0);
        let pool = pool::<_, I>(space, config);
        let mut failures = 0;
        let mut allocate = |layout| loop {
            let before = pool.stats();
            match pool.allocate(layout) {
                Ok(block) => return block.addr,
                Err(why) => {
                    assert!(matches!(why, NoBlock::NotBacked(_)), "{why}");
                    assert_eq!(before_failure(pool.stats()), before_failure(before));
                    failures += 1;
                    assert!(failures < 2, "the second try succeeds");
                }
            }
        };
        let blocks: Vec<u64> = (0..20).map(|_| allocate(mib(5))).collect();
        for addr in blocks.iter().step_by(2) {
            // SAFETY: 1. Nobody uses the block.
            unsafe { pool.free(*addr, mib(5)) }.unwrap();
        }
        let large: Vec<u64> = (0..2).map(|_| allocate(mib(21))).collect();
        for addr in large {
            // SAFETY: 1. Nobody uses the block.
            unsafe { pool.free(addr, mib(21)) }.unwrap();
        }
        for addr in blocks.iter().skip(1).step_by(2) {
            // SAFETY: 1. Nobody uses the block.
            unsafe { pool.free(*addr, mib(5)) }.unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.in_use_bytes, stats.idle_bytes), (0, stats.reserved_bytes));
        assert_eq!(stats.creates - stats.unmaps, stats.reserved_bytes >> 21);
        (failures, stats.steals, pool.with_space(|space| space.inner().fail_in.get()))
    };
    let (failures, steals, _) = play(0);
    assert_eq!(failures, 0);
    assert!(steals >= 10, "{steals} steals: the holes were too small, so frames had to move");
    let mut failed = 0;
    for fail_in in 1.. {
        let (failures, _, left) = play(fail_in);
        failed += failures;
        if left > 0 {
            break;
        }
    }
    assert!(failed >= 10, "only {failed} requests were made to fail");
}

fn what_never_fits_is_told_apart_from_what_does_not_fit_now<I: IndexKind>() {
    let pool = simulated::<I>(PoolConfig::DEFAULT.max_bytes(16 << 20));
    let ask = |bytes: usize, align: usize| pool.allocate(Layout::from_size_align(bytes, align).unwrap());
    assert!(matches!(ask(MAPPED + 1, 1), Err(NoBlock::NeverFits { .. })));
    assert!(matches!(ask(isize::MAX as usize, 1), Err(NoBlock::NeverFits { .. })));
    assert!(matches!(ask(17 << 20, 1), Err(NoBlock::OverBudget { .. })));
    let held = ask(16 << 20, 1).unwrap();
    assert!(matches!(ask(1, 1), Err(NoBlock::OverBudget { .. })));
    assert_eq!(pool.stats().reserved_bytes, 16 << 20);
    // SAFETY: 1. Nobody uses the block.
    unsafe { pool.free(held.addr, Layout::from_size_align(16 << 20, 1).unwrap()) }.unwrap();
    assert!(ask(1, 1).is_ok());
}

fn a_frame_that_is_idle_is_moved_when_the_budget_has_no_room_for_a_new_one<I: IndexKind>() {
    let pool = simulated::<I>(PoolConfig::DEFAULT.max_bytes(12 << 20).slack_permille(1000));
    let mib = |n: usize| Layout::from_size_align(n << 20, 1).unwrap();
    let blocks: Vec<_> = (0..6).map(|_| pool.allocate(mib(2)).unwrap().addr).collect();
    for addr in blocks.iter().step_by(2) {
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(*addr, mib(2)) }.unwrap();
    }
    assert!(pool.allocate(mib(6)).is_ok());
    let stats = pool.stats();
    assert_eq!((stats.reserved_bytes, stats.steals, stats.idle_bytes), (12 << 20, 3, 0));
}

fn a_block_of_somebody_else_is_refused<I: IndexKind>() {
    let (one, other) = (mapped::<I>(PoolConfig::DEFAULT), mapped::<I>(PoolConfig::DEFAULT));
    for bytes in [100, 100_000] {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        let block = one.allocate(layout).unwrap();
        // SAFETY: 1. It is refused.
        assert_eq!(unsafe { other.free(block.addr, layout) }, Err(BadFree::Foreign));
        // SAFETY: 1. It is refused.
        assert_eq!(unsafe { other.free_unsized(block.addr) }, Err(BadFree::Foreign));
        // SAFETY: 1. Nobody uses the block.
        unsafe { one.free(block.addr, layout) }.unwrap();
    }
}

fn a_growth_that_the_limit_refuses_leaves_a_fixed_array_as_it_was<I: IndexKind>() {
    let mut bytes = vec![MaybeUninit::uninit(); 1 << 20];
    let space = Fixed::with_geometry(&mut bytes, Geometry::spans(4 << 10));
    let pool = pool::<_, I>(space, PoolConfig::DEFAULT.max_bytes(64 << 10));
    let layout = Layout::from_size_align(8 << 10, 1).unwrap();
    let block = pool.allocate(layout).unwrap();
    let before = pool.stats();
    for bytes in [68 << 10, 512 << 10] {
        // SAFETY: 1. Nobody uses the block.
        assert_eq!(unsafe { pool.resize(block.addr, layout, bytes) }, Ok(false));
        assert_eq!(pool.stats(), before, "{bytes} bytes");
    }
}

fn growth_backs_ahead_by_the_factor_and_an_initial_size_does_not_stop_short_of_the_maximum<I: IndexKind>() {
    let config = PoolConfig::DEFAULT.initial_bytes(8 << 20).growth_permille(2000).max_bytes(40 << 20);
    let pool = simulated::<I>(config);
    assert_eq!(pool.stats().reserved_bytes, 8 << 20);
    let mib = |n: usize| Layout::from_size_align(n << 20, 1).unwrap();
    assert!(pool.allocate(mib(8)).is_ok());
    assert_eq!(pool.stats().reserved_bytes, 8 << 20, "what was backed before is used first");
    assert!(pool.allocate(mib(2)).is_ok());
    assert_eq!(pool.stats().reserved_bytes, 20 << 20, "10 MiB were needed, twice as much is backed");
    assert!(pool.allocate(mib(30)).is_ok(), "all of the maximum can be had in one piece");
    assert_eq!(pool.stats().reserved_bytes, 40 << 20);
}

/// Each of these once with either index.
macro_rules! with_either_index {
    ($($name:ident)*) => {
        mod the_buddy_tree {
            $(#[test] fn $name() { super::$name::<super::ByTree>(); })*
        }
        mod the_fit_table {
            $(#[test] fn $name() { super::$name::<super::ByFit>(); })*
        }
    };
}

with_either_index! {
    every_kth_request_of_a_fragmented_pool_may_fail
    what_never_fits_is_told_apart_from_what_does_not_fit_now
    a_frame_that_is_idle_is_moved_when_the_budget_has_no_room_for_a_new_one
    a_block_of_somebody_else_is_refused
    a_growth_that_the_limit_refuses_leaves_a_fixed_array_as_it_was
    growth_backs_ahead_by_the_factor_and_an_initial_size_does_not_stop_short_of_the_maximum
}
