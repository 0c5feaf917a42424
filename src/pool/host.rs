//! The process's own pool of mapped memory: what tensors draw from.

use super::budget::scope::Scope;
use super::{Budget, Pool, PoolConfig, Stats};
use crate::error::{DemoError, DeviceId, OutOfMemory, Result};
use crate::size::is_nothing;
use crate::space::{Mapped, MappedTables, SpaceError};
use crate::sync::atomic::AtomicBool;
use crate::sync::forks::{Forked, around_forks};
use crate::sync::{HostLock, Lock, OnceLock};
use crate::timeline::{self, Place};
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::NonNull;
use std::format;
use std::string::{String, ToString};

/// A pool of the process's memory.
pub(crate) type HostPool = Pool<Mapped, HostLock>;

static POOL: OnceLock<HostPool> = OnceLock::new();
/// Held while the pool is made, so that a reservation that failed can be tried again.
static MAKING: Lock<HostLock, ()> = Lock::new(());
/// Held while the settings are changed: those of one who is refused must not be in force behind those of another. Before the pool's own lock.
static SETTING: Lock<HostLock, ()> = Lock::new(());
/// Whether forks know of all three.
static IS_KNOWN: AtomicBool = AtomicBool::new(false);

/// Before [`enable`](MemoryPoolBuilder::enable) and after [`disable`](MemoryPool::disable): a little is kept for reuse.
const NOT_ENABLED: PoolConfig = PoolConfig::DEFAULT.retain_bytes(64 << 20);

/// The process's pool, made at its first use.
pub(crate) fn pool() -> Result<&'static HostPool, SpaceError> {
    match POOL.get() {
        Some(pool) => Ok(pool),
        None => make(),
    }
}

#[cold]
fn make() -> Result<&'static HostPool, SpaceError> {
    around_forks(&IS_KNOWN, &ThisPool);
    let _making = MAKING.lock();
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let space = Mapped::reserve_default()?;
    let bytes = HostPool::metadata_bytes(&space);
    let pool = Pool::new(space, MappedTables, NOT_ENABLED).map_err(|_| SpaceError::new(bytes, 0))?;
    Ok(POOL.get_or_init(|| pool))
}

/// The pool, if it was ever used.
pub(crate) fn made() -> Option<&'static HostPool> {
    POOL.get()
}

/// What the pool's memory is backed by.
const FRAME_BYTES: u64 = 2 << 20;

/// The pool's numbers for a request that failed.
pub(crate) fn report(requested_bytes: u64) -> OutOfMemory {
    let stats = MemoryPool::stats();
    let limit_bytes = stats.limit_bytes.min(Mapped::commit_limit_bytes());
    // A part of a frame is never backed.
    let whole_bytes = limit_bytes - limit_bytes % FRAME_BYTES;
    OutOfMemory {
        device: DeviceId::Host,
        requested_bytes,
        in_use_bytes: stats.in_use_bytes,
        limit_bytes,
        largest_free_bytes: stats.largest_free_bytes.min(whole_bytes.saturating_sub(stats.in_use_bytes)),
        ..OutOfMemory::default()
    }
}

/// Whether the pool's own limit leaves no room for so many bytes beside what is in use.
pub(crate) fn is_short_of(bytes: u64) -> bool {
    made().is_some_and(|pool| {
        pool.budget.limit() != Budget::UNLIMITED && {
            let Stats { in_use_bytes, limit_bytes, .. } = pool.stats();
            in_use_bytes.saturating_add(bytes) > limit_bytes
        }
    })
}

/// Gives up to `target_bytes` (rounded up to a frame) of idle memory back to the system; returns the bytes given.
pub(crate) fn trim(target_bytes: u64) -> u64 {
    made().map_or(0, |pool| {
        let given = pool.trim(pool.idle_bytes().saturating_sub(target_bytes));
        tell_backing(pool);
        given
    })
}

/// The pool's locks, at a fork.
struct ThisPool;

impl Forked for ThisPool {
    #[cfg(unix)]
    fn hold(&self) {
        SETTING.hold();
        MAKING.hold();
        if let Some(pool) = made() {
            pool.hold();
        }
    }

    #[cfg(unix)]
    unsafe fn let_go(&self) {
        // SAFETY: 1. `hold` ran in this thread, or in the one that it is the fork of, just before the fork. 2. Nobody can have made the pool since: `MAKING` was held.
        unsafe {
            if let Some(pool) = made() {
                pool.let_go();
            }
            MAKING.let_go();
            SETTING.let_go();
        }
    }
}

/// What [`trim`] could give back now.
pub(crate) fn idle_bytes() -> u64 {
    made().map_or(0, |pool| pool.idle_bytes())
}

/// The pool that host tensors draw from, and an allocator (`allocator_api2`) for collections that are to count with them.
///
/// It is there from the first tensor on; enabling it says how it grows, what it keeps and where it ends.
///
/// ```
/// use democratising::{MemoryPool, Tensor};
///
/// MemoryPool::configure().initial_size(1 << 20).growth_factor(2.0).max_size(1 << 30).enable()?;
/// for _ in 0..1000 {
///     let tensor = Tensor::zeros(&[100, 100])?;
///     assert_eq!(tensor.shape(), [100, 100]);
/// } // memory returned to the pool
/// assert!(MemoryPool::stats().reserved_bytes <= 1 << 30);
/// # MemoryPool::disable()?;
/// # Ok::<(), democratising::DemoError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MemoryPool;

impl MemoryPool {
    /// Settings to choose: without any, nothing is backed in advance, growth is by need and there is no limit.
    pub fn configure() -> MemoryPoolBuilder {
        MemoryPoolBuilder { initial_bytes: 0, growth_factor: 1.0, max_bytes: None, slack: 0.03 }
    }

    /// The pool in numbers, all of one moment. Zeros as long as nothing was drawn from it.
    pub fn stats() -> Stats {
        made().map_or(Stats { limit_bytes: Budget::UNLIMITED, ..Stats::default() }, |pool| pool.stats())
    }

    /// Ends what [`enable`](MemoryPoolBuilder::enable) began: no limit any more, idle memory goes back to the system,
    /// and from here on little is kept. What is live stays as it is.
    ///
    /// # Errors
    /// None today; in the signature for memories where that can fail.
    pub fn disable() -> Result<()> {
        if let Some(pool) = made() {
            let setting = SETTING.lock();
            pool.configure(NOT_ENABLED);
            pool.trim(0);
            drop(setting);
            tell_backing(pool);
        }
        Ok(())
    }
}

/// Tells the timeline of a block that was handed out, or is about to come back; and before that of the frames that were created for it.
#[cold]
#[inline(never)]
fn tell(pool: &HostPool, told: Told, at: NonNull<u8>, layout: Layout) {
    tell_backing(pool);
    if timeline::is_recording() && !is_nothing(at, layout) {
        let scope = Scope::current();
        let (address, bytes) = (at.as_ptr() as u64, layout.size() as u64);
        let block_bytes = pool.usable_bytes(at).unwrap_or(bytes);
        let tell = match told {
            Told::Taken => timeline::allocated,
            Told::Given => timeline::freed,
        };
        tell(Place::Pool, address, bytes, block_bytes, 0, scope.name());
    }
}

#[derive(Clone, Copy)]
enum Told {
    Taken,
    Given,
}

/// Tells what the pool has reserved, if anybody wants to know.
fn tell_backing(pool: &HostPool) {
    if timeline::wants_backing() {
        let stats = pool.stats();
        timeline::backed(Place::Pool, stats.reserved_bytes, [stats.creates, stats.steals, stats.unmaps]);
    }
}

// SAFETY: 1. The process's pool is a static: its blocks stay valid until they are freed, and every `MemoryPool` is the
// same allocator. 2. The rest is the contract of the pool's own allocator interface, to which everything is handed on.
unsafe impl Allocator for MemoryPool {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let pool = pool().map_err(|_| AllocError)?;
        let block = Allocator::allocate(&pool, layout)?;
        if timeline::wants_backing() {
            tell(pool, Told::Taken, block.cast(), layout);
        }
        Ok(block)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let pool = pool().map_err(|_| AllocError)?;
        let block = pool.allocate_zeroed(layout)?;
        if timeline::wants_backing() {
            tell(pool, Told::Taken, block.cast(), layout);
        }
        Ok(block)
    }

    #[inline]
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if let Some(pool) = made() {
            let tells = timeline::wants_backing();
            if tells {
                tell(pool, Told::Given, at, layout);
            }
            // SAFETY: 1. The caller's promise, handed on.
            unsafe { pool.deallocate(at, layout) }
            if tells {
                tell_backing(pool);
            }
        }
    }

    unsafe fn grow(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promise, handed on.
        moved(at, old, new, |pool| unsafe { pool.grow(at, old, new) })
    }

    unsafe fn grow_zeroed(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promise, handed on.
        moved(at, old, new, |pool| unsafe { pool.grow_zeroed(at, old, new) })
    }

    unsafe fn shrink(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promise, handed on.
        moved(at, old, new, |pool| unsafe { pool.shrink(at, old, new) })
    }
}

/// Changes a block's size by `change`. It is told before as given back, since somebody else may have the old place at once, and as
/// taken again where it stays because that failed.
#[inline]
fn moved(
    at: NonNull<u8>,
    old: Layout,
    new: Layout,
    change: impl FnOnce(&&'static HostPool) -> Result<NonNull<[u8]>, AllocError>,
) -> Result<NonNull<[u8]>, AllocError> {
    let pool = made().ok_or(AllocError)?;
    if !timeline::wants_backing() {
        return change(&pool);
    }
    tell(pool, Told::Given, at, old);
    let changed = change(&pool);
    match changed {
        Ok(block) => tell(pool, Told::Taken, block.cast(), new),
        Err(_) => tell(pool, Told::Taken, at, old),
    }
    changed
}

/// Settings for the [`MemoryPool`].
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing happens before `enable`"]
pub struct MemoryPoolBuilder {
    initial_bytes: u64,
    growth_factor: f64,
    max_bytes: Option<u64>,
    slack: f64,
}

impl MemoryPoolBuilder {
    /// Bytes that are backed at once, before the first tensor. They count towards the maximum, which is reached all
    /// the same.
    pub fn initial_size(mut self, bytes: u64) -> Self {
        self.initial_bytes = bytes;
        self
    }

    /// How much is backed when more is needed: 1.0 just what is needed, 2.0 doubles what there is.
    pub fn growth_factor(mut self, factor: f64) -> Self {
        self.growth_factor = factor;
        self
    }

    /// Never more than this is backed, whatever happens. Memory is backed in frames of 2 MiB, so a limit counts to the
    /// last whole frame.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How much more than was ever in use may be backed before idle memory is moved to where it is needed; 0.03 is
    /// three percent, 0 is tightest.
    pub fn slack(mut self, share: f64) -> Self {
        self.slack = share;
        self
    }

    /// Puts the settings into force. A second time, they are replaced; nothing live is lost.
    ///
    /// # Errors
    /// [`DemoError::InvalidConfig`] when a setting cannot be, [`DemoError::OutOfMemory`] when the initial size cannot
    /// be had. Then the settings before are in force.
    pub fn enable(self) -> Result<()> {
        let config = settings(self.initial_bytes, self.growth_factor, self.max_bytes, self.slack)?;
        let pool = pool().map_err(|why| DemoError::OutOfMemory(report(why.asked_bytes)))?;
        let set = set(pool, config);
        // Behind the lock: whoever listens may change the settings in turn.
        tell_backing(pool);
        set.map_err(DemoError::OutOfMemory)
    }
}

/// Puts settings into force, or those before where their initial size cannot be had.
fn set(pool: &HostPool, config: PoolConfig) -> Result<(), OutOfMemory> {
    let _setting = SETTING.lock();
    let before = pool.config();
    pool.configure(config);
    // The last whole frame is what a size that is no multiple of one can get.
    if pool.stats().reserved_bytes + FRAME_BYTES > config.initial_bytes {
        return Ok(());
    }
    let report = report(config.initial_bytes);
    pool.configure(before);
    Err(report)
}

/// The settings of a pool of tensors, of whatever memory, checked.
///
/// # Errors
/// [`DemoError::InvalidConfig`], saying which cannot be.
pub(crate) fn settings(
    initial_bytes: u64,
    growth_factor: f64,
    max_bytes: Option<u64>,
    slack: f64,
) -> Result<PoolConfig> {
    let invalid = |name, value: String, problem| Err(DemoError::InvalidConfig { name, value, problem });
    let max_bytes = max_bytes.unwrap_or(Budget::UNLIMITED);
    if initial_bytes > max_bytes {
        return invalid("initial_size", initial_bytes.to_string(), "it is more than max_size");
    }
    if !(1.0..=1000.0).contains(&growth_factor) {
        return invalid("growth_factor", format!("{growth_factor}"), "it is a number from 1 to 1000");
    }
    if !(0.0..=1000.0).contains(&slack) {
        return invalid("slack", format!("{slack}"), "it is a share from 0 to 1000, such as 0.03");
    }
    Ok(PoolConfig::DEFAULT
        .initial_bytes(initial_bytes)
        .growth_permille((growth_factor * 1000.0) as u32)
        .max_bytes(max_bytes)
        .slack_permille((slack * 1000.0).round() as u32))
}

#[cfg(all(test, unix, not(democratising_loom)))]
mod tests;
