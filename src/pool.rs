//! A pool shares an arena: a lock, growth, a budget; beside it the parts that caches are made of.

pub mod budget;
pub mod depot;
#[cfg(feature = "std")]
pub(crate) mod host;
mod idle;
pub mod magazine;

pub use crate::arena::{Flushed, Refilled, Stats};
pub use budget::{Budget, Charge, OverBudget};
#[cfg(feature = "std")]
pub use host::{MemoryPool, MemoryPoolBuilder};

use crate::arena::{Arena, Block, Grant, Metadata, Name, NoArena, NoBlock};
use crate::error::BadFree;
use crate::size::{Offset, SizeClass, is_nothing, nothing};
use crate::space::{Contents, HostSpace, Space};
use crate::sync::Lock;
use crate::sync::atomic::AtomicBool;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use idle::Idle;
use lock_api::RawMutex;

/// How a pool grows and what it keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PoolConfig {
    /// Backed before the first request.
    pub initial_bytes: u64,
    /// When more has to be backed, as much as makes this many thousandths of what is backed: 1000 backs just what is
    /// needed, 2000 doubles.
    pub growth_permille: u32,
    /// Never more than this is backed; in a space that is backed from the start, live.
    pub max_bytes: u64,
    /// Idle frames above this are given up when a block comes back.
    pub retain_bytes: u64,
    /// Where what was given up is soon needed again, more is retained, up to this.
    pub retain_most_bytes: u64,
    /// Frames that may be created beyond the most ever in use before idle ones are moved, in thousandths.
    pub slack_permille: u32,
    /// So much that is backed and holds no block, beyond what is retained, makes an ebb: see [`Pool::take_ebb`].
    pub ebb_bytes: u64,
}

impl PoolConfig {
    /// Backs just what is needed, without a limit, and keeps it.
    pub const DEFAULT: PoolConfig = PoolConfig {
        initial_bytes: 0,
        growth_permille: 1000,
        max_bytes: Budget::UNLIMITED,
        retain_bytes: u64::MAX,
        retain_most_bytes: 0,
        slack_permille: 30,
        ebb_bytes: u64::MAX,
    };

    /// The same with another [`max_bytes`](Self::max_bytes).
    pub const fn max_bytes(mut self, bytes: u64) -> PoolConfig {
        self.max_bytes = bytes;
        self
    }

    /// The same with another [`initial_bytes`](Self::initial_bytes).
    pub const fn initial_bytes(mut self, bytes: u64) -> PoolConfig {
        self.initial_bytes = bytes;
        self
    }

    /// The same with another [`growth_permille`](Self::growth_permille); less than 1000 is 1000.
    pub const fn growth_permille(mut self, permille: u32) -> PoolConfig {
        self.growth_permille = permille;
        self
    }

    /// The same with another [`retain_bytes`](Self::retain_bytes).
    pub const fn retain_bytes(mut self, bytes: u64) -> PoolConfig {
        self.retain_bytes = bytes;
        self
    }

    /// The same with another [`retain_most_bytes`](Self::retain_most_bytes).
    pub const fn retain_most_bytes(mut self, bytes: u64) -> PoolConfig {
        self.retain_most_bytes = bytes;
        self
    }

    /// The same with another [`ebb_bytes`](Self::ebb_bytes).
    pub const fn ebb_bytes(mut self, bytes: u64) -> PoolConfig {
        self.ebb_bytes = bytes;
        self
    }

    /// The same with another [`slack_permille`](Self::slack_permille).
    pub const fn slack_permille(mut self, permille: u32) -> PoolConfig {
        self.slack_permille = permille;
        self
    }
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig::DEFAULT
    }
}

/// An arena that threads share, behind a lock of the caller's kind, within a budget.
///
/// ```
/// use core::alloc::Layout;
/// use core::mem::MaybeUninit;
/// use democratising::{SpinLock, arena::{Arena, Borrowed}, pool::{Pool, PoolConfig}, space::Fixed};
///
/// let mut memory = [MaybeUninit::uninit(); 16 << 10];
/// let mut tables = [MaybeUninit::uninit(); 4 << 10];
/// let pool: Pool<Fixed, SpinLock> =
///     Pool::new(Fixed::new(&mut memory), Borrowed::new(&mut tables), PoolConfig::DEFAULT)?;
///
/// let layout = Layout::new::<[u64; 100]>();
/// let block = pool.allocate(layout)?;
/// assert_eq!(pool.stats().in_use_bytes, 800);
/// // SAFETY: nobody uses the block any more.
/// unsafe { pool.free(block.addr, layout)? };
/// // SAFETY: nobody uses it; but it is free already.
/// assert!(unsafe { pool.free(block.addr, layout) }.is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pool<S: Space, L: RawMutex, M: Metadata = <S as Space>::Tables> {
    shared: Lock<L, Shared<S, M>>,
    budget: Budget,
    ebb: AtomicBool,
}

/// What the lock guards.
struct Shared<S: Space, M: Metadata> {
    arena: Arena<S, M>,
    config: PoolConfig,
    idle: Idle,
}

/// A budget grants frames.
struct Frames<'a>(&'a Budget);

impl Grant for Frames<'_> {
    fn grant(&self, bytes: u64) -> bool {
        self.0.try_take(bytes).is_ok()
    }

    fn returned(&self, bytes: u64) {
        let released = self.0.release(bytes);
        debug_assert!(released.is_ok(), "an arena returns what it was granted");
    }
}

impl<S: Space, L: RawMutex, M: Metadata> Pool<S, L, M> {
    /// Shares an arena over `space`, whose tables come from `metadata`.
    ///
    /// # Errors
    /// [`NoArena`] when there is no memory for the tables.
    pub fn new(space: S, metadata: M, config: PoolConfig) -> Result<Self, NoArena> {
        let arena = Arena::new(space, metadata)?;
        let pool = Pool {
            shared: Lock::new(Shared { arena, config, idle: Idle::NEW }),
            budget: Budget::new(config.max_bytes),
            ebb: AtomicBool::new(false),
        };
        pool.configure(config);
        Ok(pool)
    }

    /// The bytes of tables that a pool over `space` takes from its metadata.
    pub fn metadata_bytes(space: &S) -> u64 {
        Arena::<S, M>::metadata_bytes(space)
    }

    /// Changes how it grows and what it keeps. Nothing live is lost: where more than the new maximum is backed, idle
    /// frames are given up at once, and requests that need more fail until it fits.
    pub fn configure(&self, config: PoolConfig) {
        let mut shared = self.shared.lock();
        let grant = Frames(&self.budget);
        shared.config = config;
        shared.arena.set_slack(config.slack_permille);
        self.budget.set_limit(config.max_bytes);
        self.fit(&mut shared, &grant);
        shared.arena.trim(config.retain_bytes, &grant);
        shared.arena.grow(config.initial_bytes.min(config.max_bytes), &grant);
    }

    /// The settings in force.
    pub fn config(&self) -> PoolConfig {
        self.shared.lock().config
    }

    /// A block for `layout`. Zero bytes get a block too.
    ///
    /// # Errors
    /// [`NoBlock`]; then nothing has changed but the count of failures.
    #[inline]
    pub fn allocate(&self, layout: Layout) -> Result<Block<S::Addr>, NoBlock> {
        let mut shared = self.shared.lock();
        let grant = Frames(&self.budget);
        let creates = shared.arena.creates();
        let block = shared.arena.allocate(layout, &grant)?;
        if shared.arena.creates() > creates {
            shared.created(creates);
            if shared.config.growth_permille > 1000 {
                shared.grow(&grant);
            }
        }
        Ok(block)
    }

    /// Gives a block back that was allocated with `layout`.
    ///
    /// # Safety
    /// Nobody uses the block any more. (The pool's own books are safe whatever is given back.)
    ///
    /// # Errors
    /// [`BadFree`] when it is not live or not of that size; then nothing has changed.
    #[inline]
    pub unsafe fn free(&self, addr: S::Addr, layout: Layout) -> Result<(), BadFree> {
        let mut shared = self.shared.lock();
        let grant = Frames(&self.budget);
        shared.rise();
        shared.arena.free(addr, layout, &grant)?;
        self.fall(&mut shared, &grant);
        Ok(())
    }

    /// Gives a block back whose size is not known, as C's `free` does.
    ///
    /// # Safety
    /// As [`Pool::free`].
    ///
    /// # Errors
    /// As [`Pool::free`].
    pub unsafe fn free_unsized(&self, addr: S::Addr) -> Result<(), BadFree> {
        let mut shared = self.shared.lock();
        let grant = Frames(&self.budget);
        shared.rise();
        shared.arena.free_unsized(addr, &grant)?;
        self.fall(&mut shared, &grant);
        Ok(())
    }

    /// Blocks of one size class for a cache, until `out` is full, with at most one new slab.
    ///
    /// # Errors
    /// [`NoBlock`] when there is not even one, or no such class.
    pub fn refill(&self, class: SizeClass, out: &mut [Offset]) -> Result<Refilled, NoBlock> {
        let mut shared = self.shared.lock();
        shared.arena.known(class)?;
        let refilled = self.refill_from(&mut shared, class, out, 0)?;
        drop(shared);
        out[..refilled.blocks].reverse();
        Ok(refilled)
    }

    /// As [`refill`](Self::refill), with blocks named from `base` on, so that what is taken from the end comes lowest first.
    ///
    /// # Errors
    /// As for `refill`.
    #[cfg(any(feature = "std", democratising_loom))]
    #[inline]
    pub(crate) fn refill_as<B: Name>(
        &self,
        class: SizeClass,
        out: &mut [B],
        base: u64,
    ) -> Result<Refilled, NoBlock> {
        self.refill_from(&mut self.shared.lock(), class, out, base)
    }

    /// The same, of a pool that is locked.
    #[inline(always)]
    fn refill_from<B: Name>(
        &self,
        shared: &mut Shared<S, M>,
        class: SizeClass,
        out: &mut [B],
        base: u64,
    ) -> Result<Refilled, NoBlock> {
        let creates = shared.arena.creates();
        let refilled = shared.arena.take_each(class, out, base, &Frames(&self.budget))?;
        if refilled.created {
            shared.created(creates);
        }
        Ok(refilled)
    }

    /// Takes the blocks of one size class back that a cache held, in order, up to the first that cannot be.
    ///
    /// # Safety
    /// Nobody uses the blocks any more.
    pub unsafe fn flush(&self, class: SizeClass, blocks: &[Offset]) -> Flushed {
        let mut shared = self.shared.lock();
        match shared.arena.known(class) {
            Ok(()) => self.flush_to(&mut shared, class, blocks, 0),
            Err(_) => shared.arena.refuse_all(blocks),
        }
    }

    /// As [`flush`](Self::flush), with blocks named from `base` on.
    ///
    /// # Safety
    /// As for `flush`.
    #[cfg(any(feature = "std", democratising_loom))]
    #[inline]
    pub(crate) unsafe fn flush_as<B: Name>(&self, class: SizeClass, blocks: &[B], base: u64) -> Flushed {
        self.flush_to(&mut self.shared.lock(), class, blocks, base)
    }

    /// The same, of a pool that is locked.
    #[inline(always)]
    fn flush_to<B: Name>(
        &self,
        shared: &mut Shared<S, M>,
        class: SizeClass,
        blocks: &[B],
        base: u64,
    ) -> Flushed {
        let grant = Frames(&self.budget);
        shared.rise();
        let flushed = shared.arena.give_each(class, blocks, base, &grant);
        self.fall(shared, &grant);
        flushed
    }

    /// Makes the block at `addr`, allocated with `old`, one of `new_bytes` where it stands. `false`: it stays as it is.
    ///
    /// # Safety
    /// Nobody uses what is cut off when it becomes shorter.
    ///
    /// # Errors
    /// [`BadFree`] when it is not live or not of that size.
    pub unsafe fn resize(&self, addr: S::Addr, old: Layout, new_bytes: usize) -> Result<bool, BadFree> {
        let mut shared = self.shared.lock();
        let grant = Frames(&self.budget);
        let (in_use_bytes, creates) = (shared.arena.in_use_bytes(), shared.arena.creates());
        shared.rise();
        let resized = shared.arena.resize(addr, old, new_bytes, &grant)?;
        if shared.arena.creates() > creates {
            shared.created(creates);
        }
        if shared.arena.in_use_bytes() < in_use_bytes {
            self.fall(&mut shared, &grant);
        }
        Ok(resized)
    }

    /// The bytes that the live block at `addr` can use.
    ///
    /// # Errors
    /// [`BadFree`] when no live block starts there.
    pub fn usable_bytes(&self, addr: S::Addr) -> Result<u64, BadFree> {
        self.shared.lock().arena.usable_bytes(addr)
    }

    /// Gives idle frames up, highest first, until at most `keep_bytes` are idle. Returns the bytes given up.
    pub fn trim(&self, keep_bytes: u64) -> u64 {
        self.shared.lock().arena.trim(keep_bytes, &Frames(&self.budget))
    }

    /// Bytes of backed frames that hold nothing.
    pub fn idle_bytes(&self) -> u64 {
        self.shared.lock().arena.idle_bytes()
    }

    /// The pool in numbers, all of one moment.
    pub fn stats(&self) -> Stats {
        let shared = self.shared.lock();
        Stats { limit_bytes: shared.config.max_bytes, ..shared.arena.stats() }
    }

    /// Keeps the lock until [`let_go`](Self::let_go): for a fork.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(crate) fn hold(&self) {
        self.shared.hold();
    }

    /// Lets go what [`hold`](Self::hold) keeps.
    ///
    /// # Safety
    /// This thread, or the one that it is the fork of, called `hold`.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(crate) unsafe fn let_go(&self) {
        // SAFETY: 1. As the caller promises; no guard outlives a call of this file.
        unsafe { self.shared.let_go() }
    }

    /// Whether somebody holds the lock.
    #[cfg(all(test, feature = "std", unix, not(democratising_loom)))]
    pub(crate) fn is_held(&self) -> bool {
        self.shared.is_held()
    }

    /// Calls `look` with the space. The pool is locked meanwhile.
    ///
    /// # Safety
    /// The backing stays what it is: no frames are committed, given up, moved or forgotten.
    ///
    /// ```compile_fail,E0133
    /// # use democratising::{HostLock, pool::Pool, space::{Mapped, Space, Span}};
    /// fn lose_what_is_there(pool: &Pool<Mapped, HostLock>) {
    ///     pool.with_space(|space| space.decommit(Span::new(0, 128)));
    /// }
    /// ```
    pub unsafe fn with_space<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        self.look(look)
    }

    /// The same, for this crate, which keeps to that.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(self.shared.lock().arena.space())
    }
}

impl<S: Space, M: Metadata> Shared<S, M> {
    /// Backs more than was needed just now, by the growth factor, as far as that can be done.
    #[cold]
    fn grow(&mut self, grant: &impl Grant) {
        let backed_bytes = self.arena.backed_bytes();
        let wanted = backed_bytes as u128 * self.config.growth_permille as u128 / 1000;
        self.arena.grow(wanted.min(self.config.max_bytes as u128) as u64, grant);
    }
}

impl<S: Space, L: RawMutex, M: Metadata> fmt::Debug for Pool<S, L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("config", &self.config()).field("stats", &self.stats()).finish()
    }
}

// SAFETY: 1. A block stays valid until it is freed: its frames are not decommitted or moved while a granule of them is
// live, and the space lives in the pool, which the reference keeps. 2. A copy of a reference is the same allocator.
// 3. A block is never shorter than its layout nor less aligned: the arena rounds both up.
unsafe impl<S: HostSpace, L: RawMutex, M: Metadata> Allocator for &Pool<S, L, M> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if let Some(nothing) = nothing(layout) {
            return Ok(nothing);
        }
        let block = Pool::allocate(*self, layout).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block.addr, layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if let Some(nothing) = nothing(layout) {
            return Ok(nothing);
        }
        let block = Pool::allocate(*self, layout).map_err(|_| AllocError)?;
        // SAFETY: 1. The block is new, ours alone and at least `layout.size()` bytes long.
        unsafe { self.zero(&block, layout.size()) };
        Ok(NonNull::slice_from_raw_parts(block.addr, layout.size()))
    }

    #[inline]
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if is_nothing(at, layout) {
            return;
        }
        // SAFETY: 1. The caller of `deallocate` uses the block no more.
        if let Err(why) = unsafe { self.free(at, layout) } {
            misuse(why);
        }
    }

    unsafe fn grow(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promises are those of `move_to`; growing cuts nothing off.
        unsafe { self.move_to(at, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. As for `grow`. 2. The bytes behind the old ones are part of the new block.
        unsafe {
            let block = self.move_to(at, old, new)?;
            block.cast::<u8>().add(old.size()).write_bytes(0, new.size() - old.size());
            Ok(block)
        }
    }

    unsafe fn shrink(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: 1. The caller's promises are those of `move_to`, and it gives up what is cut off.
        unsafe { self.move_to(at, old, new) }
    }
}

impl<S: HostSpace, L: RawMutex, M: Metadata> Pool<S, L, M> {
    /// Writes zeros to the first `bytes` of a new block wherever they may hold anything else: a table of many gigabytes, of which its
    /// owner will use little, does not become real because of a page that was used before.
    ///
    /// # Safety
    /// The block was handed out for as many bytes just now, and nobody else uses it.
    pub(crate) unsafe fn zero(&self, block: &Block<NonNull<u8>>, bytes: usize) {
        // So few bytes are written sooner than asked about.
        const FEW: usize = 64 << 10;
        if block.contents == Contents::Zeroed {
            return;
        }
        if bytes <= FEW {
            // SAFETY: 1. These bytes of the block are the caller's alone.
            return unsafe { block.addr.write_bytes(0, bytes) };
        }
        let mut from = 0;
        while let Some(part) = self.unclean(block.addr, from..bytes as u64) {
            from = part.end;
            // SAFETY: 1. The part is one of the block's `bytes`, which are the caller's alone.
            unsafe {
                block.addr.add(part.start as usize).write_bytes(0, (part.end - part.start) as usize);
            }
        }
    }

    fn unclean(&self, at: NonNull<u8>, bytes: Range<u64>) -> Option<Range<u64>> {
        self.shared.lock().arena.unclean(at, bytes)
    }

    /// A block of another layout with the same contents: in place where that works, else copied.
    ///
    /// # Safety
    /// The block was allocated here with `old`, and nobody uses it under its old address afterwards.
    unsafe fn move_to(&self, at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if is_nothing(at, old) {
            return Allocator::allocate(&self, new);
        }
        if let Some(nothing) = nothing(new) {
            // SAFETY: 1. The caller's promise, handed on.
            unsafe { Allocator::deallocate(&self, at, old) };
            return Ok(nothing);
        }
        let may_stay = new.align() == old.align();
        // Also where it cannot stay: a resize to the size it has tells whether it is live.
        let bytes = if may_stay { new.size() } else { old.size() };
        // SAFETY: 1. The caller uses nothing that is cut off.
        match unsafe { self.resize(at, old, bytes) } {
            Ok(true) if may_stay => return Ok(NonNull::slice_from_raw_parts(at, new.size())),
            Ok(_) => {}
            Err(why) => misuse(why),
        }
        let block = Allocator::allocate(&self, new)?;
        // SAFETY: 1. Both blocks are live and apart, each at least as long as the shorter layout. 2. The old one is
        // not used any more.
        unsafe {
            block.cast::<u8>().copy_from_nonoverlapping(at, old.size().min(new.size()));
            Allocator::deallocate(&self, at, old);
        }
        Ok(block)
    }
}

/// A block came back to the allocator interface that is not live. There is nobody to tell but the program itself.
///
/// # Panics
/// Always: the caller broke the contract of `deallocate`, and what it frees next may be somebody else's.
#[cold]
#[inline(never)]
fn misuse(why: BadFree) -> ! {
    panic!("{why}")
}
