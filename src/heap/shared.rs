//! What the threads share: the depots, and a pool of mapped memory below them.

use super::cache::{self, Cache, MOST, Own};
use super::stock::Stock;
use super::stock::owner::{self, Owners, Tags};
use super::stock::seat::Parting;
use super::stock::spare::Caches;
use super::{by_address, decay, errno, hardened, marks, misuse, numbers, thread};
use crate::arena::metadata::Metadata;
use crate::arena::{Arena, Block, NoBlock};
use crate::error::BadFree;
use crate::pool::magazine::Magazine;
use crate::pool::{Pool, Stats};
use crate::size::{HOST_CLASSES, Offset, SizeClass};
use crate::space::{Mapped, MappedTables, Measure, Shelf, Space};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::sync::forks::{Forked, around_forks};
use crate::sync::{HostLock, Lock, OnceLock};
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};

pub(super) type HeapPool = Pool<Mapped, HostLock, Shelf>;

static POOL: OnceLock<HeapPool> = OnceLock::new();
/// Held while the pool is made.
static MAKING: Lock<HostLock, ()> = Lock::new(());
static STOCK: Stock<HostLock, HOST_CLASSES, MOST> = Stock::new();
/// The most magazines of a depot.
pub(super) const DEPTH: usize = 64;
static CACHES: Caches<HostLock, Cache> = Caches::new();
static OWNERS: Owners = Owners::new();
/// How many visits to other threads' caches there were. Held while a seat of another thread is, so that a fork finds none held.
static VISITS: Lock<HostLock, usize> = Lock::new(0);
/// How many forks lie behind this process. Relaxed: only the child of a fork writes it, when it has one thread.
static AGE: AtomicUsize = AtomicUsize::new(0);

/// Threads that ended leave so many caches with everything in them to those that come; more are emptied first.
const WARM_CACHES: usize = 8;
/// Whether forks know of all this.
static IS_KNOWN: AtomicBool = AtomicBool::new(false);

/// The pool, made at its first use: nothing here allocates from the heap itself.
#[inline]
fn pool() -> Option<&'static HeapPool> {
    match POOL.get() {
        Some(pool) => Some(pool),
        None => make(),
    }
}

#[cold]
fn make() -> Option<&'static HeapPool> {
    let _kept = errno::Kept::now();
    // Where it comes to that, the C library may allocate for this, perhaps from here: while no lock is held.
    around_forks(&IS_KNOWN, &ThisHeap);
    let _making = MAKING.lock();
    if POOL.get().is_none() {
        let (pool, companions, sets) = largest()?;
        // SAFETY: 1. The pool is kept for good below, and with it its range and what goes along.
        unsafe { companions.announce() };
        furnish(sets);
        POOL.get_or_init(|| pool);
    }
    POOL.get()
}

/// A pool of as much as can be had with its tables, which may be more than the system grants: then a quarter.
fn largest() -> Option<(HeapPool, Companions, Table<u64>)> {
    let mut space = Mapped::reserve_default().ok()?;
    loop {
        let bytes = space.len_bytes();
        if let Some(mut shelf) = shelf(&space)
            && let Ok(sets) = shelf.table(SETS_LEN)
            && let Some(companions) = Companions::of(&mut space, &mut shelf)
            && let Ok(pool) = Pool::new(space, shelf, decay::CONFIG)
        {
            return Some((pool, companions, sets));
        }
        let less = bytes as usize / 4;
        if less < Mapped::LEAST_BYTES {
            return None;
        }
        space = Mapped::reserve(less).ok()?;
    }
}

type Table<T> = <Shelf as Metadata>::Table<T>;
type Set = Magazine<usize, MOST>;
const SETS: usize = DEPTH * HOST_CLASSES;
/// The words of all sets.
const SETS_LEN: usize = (SETS * size_of::<Set>()).div_ceil(size_of::<u64>());

/// Room for all tables of a heap in a space.
fn shelf(space: &Mapped) -> Option<Shelf> {
    let mut measure = Measure::NEW;
    measure.table::<u64>(SETS_LEN).ok()?;
    for len in Companions::lens(space.len_bytes()) {
        measure.growing::<u8>(len).ok()?;
    }
    Arena::<Mapped, Shelf>::count_tables(space, &mut measure).ok()?;
    Shelf::new(&measure)
}

/// Gives the depots their room, of which a page becomes real when it is first used.
fn furnish(words: Table<u64>) {
    const _: () = assert!(align_of::<Set>() <= align_of::<u64>());
    // SAFETY: 1. The table is as long and as aligned as so many sets, lives for good, and is nobody else's. 2. A set is words,
    // and all zeros is an empty one.
    let sets = unsafe { core::slice::from_raw_parts_mut(words.leak().as_mut_ptr().cast::<Set>(), SETS) };
    // When the pool was made before, and something behind this failed, they have their room.
    STOCK.furnish(sets);
}

/// The tables that go along with the range of the heap.
struct Companions {
    start: NonNull<u8>,
    bytes: u64,
    /// What each unit is.
    classes: NonNull<u8>,
    owners: NonNull<u8>,
    /// Only of a hardened heap.
    marks: Option<NonNull<u8>>,
}

impl Companions {
    /// The lengths of the tables of a range.
    fn lens(bytes: u64) -> [usize; 3] {
        let marks = if hardened::ON { hardened::table_len(bytes) } else { 0 };
        [by_address::table_len(bytes), Owners::table_len(bytes), marks]
    }

    /// The tables of a range; `None`: there is no memory for them.
    fn of(space: &mut Mapped, shelf: &mut Shelf) -> Option<Companions> {
        let (start, bytes) = (space.addr(Offset(0)), space.len_bytes());
        let [classes, owners, marks] = Companions::lens(bytes);
        let first = start.as_ptr().addr() >> owner::SHIFT;
        let classes = space.accompany(shelf, by_address::UNIT_SHIFT, classes, 0)?;
        let owners = space.accompany(shelf, owner::SHIFT, owners, first)?;
        let marks = if hardened::ON { Some(space.accompany(shelf, marks::SHIFT, marks, 0)?) } else { None };
        Some(Companions { start, bytes, classes, owners, marks })
    }

    /// Tells whoever needs them, before there is a block.
    ///
    /// # Safety
    /// The range is never given back, and what lies behind its start as this says is its alone.
    unsafe fn announce(self) {
        // SAFETY: 1. As the caller promises, for each: a table has that length, lives for good, and is seen as atomic bytes alone, which are
        // laid out as bytes.
        unsafe {
            by_address::cover(self.start, self.bytes, self.classes);
            let owners = self.owners.as_ptr().cast::<AtomicU8>();
            OWNERS.furnish(core::slice::from_raw_parts(owners, Owners::table_len(self.bytes)));
            if let Some(marks) = self.marks {
                hardened::cover(self.start, self.bytes, marks);
            }
        }
    }
}

/// Slabs of a class that are worth emptying caches for.
const LEAN_BYTES: u64 = 512 << 10;

/// Whether most of a class's slabs is free, and would be given up but for the blocks in caches and in the depot, which lie
/// anywhere.
pub(super) fn is_lean(class: SizeClass) -> bool {
    let (blocks, slabs) = STOCK.used(class);
    let numbers = numbers::of(class);
    let slabs_bytes = slabs as u64 * numbers.slab_bytes as u64;
    slabs_bytes >= LEAN_BYTES && blocks as u64 * (numbers.slot_bytes as u64) < slabs_bytes / 4
}

/// Brings a magazine's blocks to the depot of their class, if it has room.
pub(super) fn bring(class: SizeClass, blocks: &[usize]) -> bool {
    STOCK.bring(class, blocks, numbers::of(class).depth as usize)
}

/// Fetches a magazine's blocks from the depot of a class. How many.
pub(super) fn fetch(class: SizeClass, out: &mut [usize]) -> usize {
    STOCK.fetch(class, out)
}

/// Gives the blocks in the depot of a class to the slabs.
pub(super) fn empty_depot(class: SizeClass) {
    STOCK.empty(class, |blocks| flush(class, blocks));
}

/// Fills a magazine from the slabs so that its pops come out lowest first. How many.
pub(super) fn refill(class: SizeClass, out: &mut [usize]) -> usize {
    let Some(pool) = pool() else {
        errno::no_memory();
        return 0;
    };
    let refilled = errno::keeping(|| STOCK.refill(pool, class, base(pool), out));
    let Ok(taken) = refilled else {
        errno::no_memory();
        return 0;
    };
    by_address::slots_taken(class, &out[..taken]);
    if hardened::ON {
        hardened::fresh(class, &out[..taken]);
    }
    taken
}

/// One block, for a thread without a cache.
pub(super) fn take_one(class: SizeClass) -> *mut u8 {
    let mut block = [0];
    if refill(class, &mut block) == 1 { block[0] as *mut u8 } else { null_mut() }
}

/// Gives blocks to the slabs.
pub(super) fn flush(class: SizeClass, blocks: &[usize]) {
    if hardened::ON {
        return blocks.split(|&at| !hardened::intact(class, at)).for_each(|blocks| give(class, blocks));
    }
    give(class, blocks);
}

fn give(class: SizeClass, blocks: &[usize]) {
    if blocks.is_empty() {
        return;
    }
    let Some(pool) = pool() else { return };
    let _kept = errno::Kept::now();
    let refused = |at: usize, why| misuse::misused(at, numbers::of(class).slot_bytes as usize, why);
    // SAFETY: 1. The blocks were freed, so nobody uses them; those that are somebody's are refused.
    unsafe { STOCK.flush(pool, class, base(pool), blocks, refused) }
}

/// Tells of a null that was given back as a block of a class.
#[cold]
pub(super) fn refuse_null(class: SizeClass) {
    let _kept = errno::Kept::now();
    misuse::misused(0, numbers::of(class).slot_bytes as usize, BadFree::Foreign);
}

/// To be called after a flush, when the cache is in order again: it may be emptied here.
pub(super) fn tick() {
    let _kept = errno::Kept::now();
    if let Some(pool) = POOL.get() {
        decay::tick(pool);
    }
}

/// A block above the size classes.
pub(super) fn allocate(layout: Layout) -> Result<Block<NonNull<u8>>, NoBlock> {
    let nothing = NoBlock::NeverFits { asked_bytes: layout.size() as u64, space_bytes: 0 };
    let told = |why| {
        errno::no_memory();
        why
    };
    let pool = pool().ok_or(nothing).map_err(told)?;
    let block = errno::keeping(|| pool.allocate(layout)).map_err(told)?;
    by_address::span_taken(block.addr);
    errno::keeping(|| decay::tick(pool));
    Ok(block)
}

/// Makes the first `bytes` of a new block above the size classes zeros.
///
/// # Safety
/// The block was handed out for as many bytes just now, and nobody else uses it.
pub(super) unsafe fn zero(block: &Block<NonNull<u8>>, bytes: usize) {
    if let Some(pool) = POOL.get() {
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { pool.zero(block, bytes) }
    }
}

/// Takes a block above the size classes back.
pub(super) fn free(at: NonNull<u8>, layout: Layout) {
    let Some(pool) = pool() else { return misuse::found(at, layout.size(), BadFree::Foreign) };
    let _kept = errno::Kept::now();
    // SAFETY: 1. The block was freed, so nobody uses it; one that is somebody's is refused.
    if let Err(why) = unsafe { pool.free(at, layout) } {
        misuse::found(at, layout.size(), why);
    }
    decay::tick(pool);
}

/// Takes a block above the size classes back, of whatever size it is.
pub(super) fn free_unsized(at: NonNull<u8>) {
    let Some(pool) = POOL.get() else { return misuse::found(at, 0, BadFree::Foreign) };
    let _kept = errno::Kept::now();
    // SAFETY: 1. The block was freed, so nobody uses it; one that is none is refused.
    if let Err(why) = unsafe { pool.free_unsized(at) } {
        misuse::found(at, 0, why);
    }
    decay::tick(pool);
}

/// The bytes of the live block at an address.
pub(super) fn usable_bytes(at: NonNull<u8>) -> Result<usize, BadFree> {
    // No block is longer than the addresses of a process.
    POOL.get().ok_or(BadFree::Foreign)?.usable_bytes(at).map(|bytes| bytes as usize)
}

/// Makes a block above the size classes longer or shorter where it stands. Whether that could be; `None`: it is no live block of that
/// size, which was told.
pub(super) fn resize(at: NonNull<u8>, old: Layout, new_bytes: usize) -> Option<bool> {
    let pool = pool()?;
    // SAFETY: 1. The caller uses nothing of what is cut off.
    let resized = errno::keeping(|| unsafe { pool.resize(at, old, new_bytes) });
    let resized = resized.map_err(|why| misuse::found(at, old.size(), why)).ok()?;
    errno::keeping(|| decay::tick(pool));
    Some(resized)
}

/// A cache for a thread that has none: one that a thread left behind, or a new one.
pub(super) fn adopt() -> Option<Own> {
    around_forks(&IS_KNOWN, &ThisHeap);
    if let Some(cache) = CACHES.adopt() {
        // SAFETY: 1. Whoever takes a spare cache has it alone.
        return Some(unsafe { Own::of(cache) });
    }
    pool()?;
    // A table starts at a page, and a cache is no more strictly aligned.
    const _: () = assert!(align_of::<Cache>() <= 4096);
    let words = size_of::<Cache>().div_ceil(size_of::<u64>());
    let _kept = errno::Kept::now();
    let memory = MappedTables.table::<u64>(words).ok()?;
    let tags = OWNERS.tags().unwrap_or(Tags::none());
    // SAFETY: 1. The memory is a cache's, all zeros, nobody else's, and for good.
    let own = unsafe { Own::make(NonNull::from(memory.leak()).cast(), tags) };
    OWNERS.begin(own.tags());
    // SAFETY: 1. It was just made, for good.
    unsafe { CACHES.enter(own.leave()) };
    Some(own)
}

/// Takes a cache in which no thread sits any more.
pub(super) fn abandon(cache: Own) {
    cache.empty_lean();
    // SAFETY: 1. It was entered when it was made, and the caller gives it up.
    unsafe { CACHES.abandon(cache.leave(), WARM_CACHES, |cache| Own::of(cache).empty()) }
}

/// How many forks lie behind this process.
pub(super) fn age() -> usize {
    AGE.load(Ordering::Relaxed)
}

/// Gives what is in this thread's cache, in those that no thread has and in the depots to the slabs, and the memory of all but a few
/// of the spare ones back.
fn empty_caches() {
    thread::empty_own();
    let mut warm = 0;
    CACHES.empty_spare(|cache| {
        // SAFETY: 1. Whoever is told of a spare cache has it alone.
        let cache = unsafe { Own::of(cache) };
        cache.empty();
        if warm < WARM_CACHES {
            warm += 1;
        } else {
            cache.give_back();
        }
    });
    (0..HOST_CLASSES).for_each(|class| empty_depot(SizeClass(class as u8)));
}

/// Gives what is in the caches of other threads to the slabs, as far as it can be reached: all but one block of a class at most,
/// where there is a barrier (`stock/seat.rs`). A thread that is at work in its cache empties it itself, soon.
fn empty_others() {
    let mine = thread::seated();
    let pass = {
        let mut visits = VISITS.lock();
        *visits += 1;
        *visits
    };
    let mut found = false;
    for cache in CACHES.all().filter(|&cache| Some(cache) != mine) {
        let visits = VISITS.lock();
        // SAFETY: 1. A cache that was entered is for good.
        let parting = unsafe { cache::seat(cache) }.part(pass, age());
        drop(visits);
        found |= matches!(parting, Parting::Parted | Parting::Rest);
        if parting == Parting::Left {
            // SAFETY: 1. Nobody sits there any more, and nobody else is told so.
            let left = unsafe { Own::of(cache) };
            left.empty();
            abandon(left);
        }
    }
    if !found {
        return;
    }
    // What is taken out goes through a cache of nobody's: the slabs are given it when no seat is held.
    let Some(vessel) = adopt() else { return };
    vessel.empty();
    let parted = thread::everyone();
    for cache in CACHES.all().filter(|&cache| Some(cache) != mine) {
        // SAFETY: 1. A cache that was entered is for good.
        let seat = unsafe { cache::seat(cache) };
        let visits = VISITS.lock();
        let mut visited = false;
        // SAFETY: 1. The seat is held, and where the loaded magazines are visited too, the thread is parted. 2. The vessel is empty.
        let take = |loaded| unsafe { cache::carry(cache, vessel, loaded) };
        if parted {
            seat.visit(pass, || {
                visited = true;
                take(true);
            });
        }
        if !visited {
            seat.visit_rest(age(), || take(false));
        }
        drop(visits);
        vessel.empty();
    }
    // SAFETY: 1. It is ours since it was adopted.
    unsafe { CACHES.abandon(vessel.leave(), usize::MAX, |_| ()) }
}

/// Empties the caches and the depots, and gives up to `target_bytes` of idle memory back to the system. The bytes given.
pub(crate) fn trim(target_bytes: u64) -> u64 {
    let Some(pool) = POOL.get() else { return 0 };
    empty_caches();
    empty_others();
    let given_bytes = pool.trim(pool.idle_bytes().saturating_sub(target_bytes));
    if given_bytes < target_bytes {
        // What blocks in caches keep of frames is little. It is not counted, since some of it may have been given before.
        pool.purge();
    }
    given_bytes
}

/// Empties what caches can be reached and the depots, after much was freed, and gives back what lies between blocks.
#[cold]
pub(super) fn ebb(pool: &HeapPool) {
    empty_caches();
    pool.purge();
}

/// What [`trim`] could give back without emptying anything.
pub(crate) fn idle_bytes() -> u64 {
    POOL.get().map_or(0, |pool| pool.idle_bytes())
}

/// The heap in numbers.
pub(super) fn stats() -> Stats {
    POOL.get().map_or(Stats { limit_bytes: u64::MAX, ..Stats::default() }, |pool| pool.stats())
}

/// Where the pool's memory starts. It never moves.
fn base(pool: &HeapPool) -> usize {
    // Relaxed: everybody stores the same number.
    static BASE: AtomicUsize = AtomicUsize::new(0);
    match BASE.load(Ordering::Relaxed) {
        0 => {
            let base = pool.look(|space| space.addr(Offset(0)).as_ptr() as usize);
            BASE.store(base, Ordering::Relaxed);
            base
        }
        base => base,
    }
}

/// A fork copies the locks as they are: every one is held by the thread that forks, and let go on both sides.
struct ThisHeap;

impl Forked for ThisHeap {
    #[cfg(unix)]
    fn hold(&self) {
        MAKING.hold();
        VISITS.hold();
        CACHES.hold();
        STOCK.depots().iter().for_each(|depot| depot.hold());
        if let Some(pool) = POOL.get() {
            pool.hold();
        }
    }

    #[cfg(unix)]
    unsafe fn let_go(&self) {
        // SAFETY: 1. `hold` ran in this thread, or in the one that it is the fork of, just before the fork.
        unsafe {
            if let Some(pool) = POOL.get() {
                pool.let_go();
            }
            STOCK.depots().iter().for_each(|depot| depot.let_go());
            CACHES.let_go();
            VISITS.let_go();
            MAKING.let_go();
        }
    }

    /// The child: the seats of threads that are not in it are nobody's.
    #[cfg(unix)]
    unsafe fn begin(&self) {
        let age = AGE.load(Ordering::Relaxed) + 1;
        AGE.store(age, Ordering::Relaxed);
        thread::grow_old(age);
        // SAFETY: 1. As the caller promises.
        unsafe { self.let_go() }
    }
}

#[cfg(all(test, unix, not(democratising_loom)))]
mod tests;
