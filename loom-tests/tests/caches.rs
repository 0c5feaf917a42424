//! Caches that change hands, the owners of small blocks, and the clocks of a heap, under every interleaving.

#![cfg(democratising_loom)]

use democratising::SpinLock;
use democratising::arena::metadata::{Metadata, NoTable, Plain};
use democratising::heap::stock::clocks::{Clocks, DECAY_MS, Due};
use democratising::heap::stock::owner::{Owners, Tags};
use democratising::heap::stock::spare::{Caches, Linked, Links};
use democratising::pool::{Pool, PoolConfig};
use democratising::size::{Geometry, SizeClass};
use democratising::space::Simulated;
use loom_tests::atomic::AtomicU8;
use loom_tests::{Arc, Mutex, bounded, model, thread};
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool as Told, AtomicUsize as Count, Ordering::SeqCst};

/// A cache that holds so many blocks, and knows whether it is in somebody's hands.
struct Cache {
    links: UnsafeCell<Links<Cache>>,
    in_hand: Told,
    /// Whether it was in two hands.
    crossed: Told,
    blocks: Count,
}

// SAFETY: 1. Only the lists of caches use the links.
unsafe impl Linked for Cache {
    unsafe fn links(at: NonNull<Cache>) -> *mut Links<Cache> {
        // SAFETY: 1. As the caller promises.
        unsafe { at.as_ref() }.links.get()
    }
}

impl Cache {
    fn new() -> NonNull<Cache> {
        NonNull::from(Box::leak(Box::new(Cache {
            links: UnsafeCell::new(Links::NONE),
            in_hand: Told::new(false),
            crossed: Told::new(false),
            blocks: Count::new(0),
        })))
    }
}

fn cache(at: NonNull<Cache>) -> &'static Cache {
    // SAFETY: 1. Every cache here is leaked.
    unsafe { at.as_ref() }
}

/// Told at the end: a model that panics in the midst of things cannot always be unwound.
fn take_in_hand(at: NonNull<Cache>) {
    if cache(at).in_hand.swap(true, SeqCst) {
        cache(at).crossed.store(true, SeqCst);
    }
}

fn let_go(at: NonNull<Cache>) {
    cache(at).in_hand.store(false, SeqCst);
}

/// How a thread gives its cache up and a collect empties spare ones, so that one with a planted bug can stand in.
trait Handing: Send + Sync + 'static {
    const NEW: fn() -> Self;
    fn caches(&self) -> &Caches<SpinLock, Cache>;
    fn slabs(&self) -> &Count;
    fn empty(&self, at: NonNull<Cache>) {
        take_in_hand(at);
        // Others run while a cache is emptied.
        thread::yield_now();
        self.slabs().fetch_add(cache(at).blocks.swap(0, SeqCst), SeqCst);
        let_go(at);
    }
    fn collect(&self) {
        self.caches().empty_spare(|at| self.empty(at));
    }
    fn abandon(&self, at: NonNull<Cache>) {
        let_go(at);
        // SAFETY: 1. It was entered, and nobody else has it.
        unsafe { self.caches().abandon(at, 1, |at| self.empty(at)) }
    }
}

struct Heap(Caches<SpinLock, Cache>, Count);

impl Handing for Heap {
    const NEW: fn() -> Self = || Heap(Caches::new(), Count::new(0));
    fn caches(&self) -> &Caches<SpinLock, Cache> {
        &self.0
    }
    fn slabs(&self) -> &Count {
        &self.1
    }
}

/// A thread's life: it takes a cache, leaves three blocks in it, and ends.
fn live<H: Handing>(heap: &H) {
    let at = heap.caches().adopt().unwrap_or_else(|| {
        let at = Cache::new();
        // SAFETY: 1. It is new, and leaked.
        unsafe { heap.caches().enter(at) };
        at
    });
    take_in_hand(at);
    cache(at).blocks.fetch_add(3, SeqCst);
    heap.abandon(at);
}

/// Two threads live and end, one after or beside the other, while a third collects.
fn threads_end_beside_a_collect<H: Handing>() {
    model(|| {
        let heap = Arc::new(H::NEW());
        live(&*heap);
        let others = [live::<H>, |heap: &H| heap.collect()].map(|work| {
            let heap = heap.clone();
            thread::spawn(move || work(&heap))
        });
        live(&*heap);
        others.into_iter().for_each(|other| other.join().unwrap());
        // Every cache is spare now, and every block in one or in the slabs.
        let mut spare = 0;
        while let Some(at) = heap.caches().adopt() {
            take_in_hand(at);
            assert!(!cache(at).crossed.load(SeqCst), "a cache is in two hands");
            spare += 1;
            heap.slabs().fetch_add(cache(at).blocks.swap(0, SeqCst), SeqCst);
        }
        assert_eq!(heap.caches().all().count(), spare, "a cache is lost");
        assert_eq!(heap.slabs().load(SeqCst), 9, "a block is lost");
    });
}

#[test]
fn a_collect_and_threads_that_end_have_no_cache_at_once() {
    threads_end_beside_a_collect::<Heap>();
}

/// A classes' slot with owners.
const SMALL: SizeClass = SizeClass(0);

/// How a cache begins to look at owners, and takes back what others carved.
trait Owning: 'static {
    fn begin(owners: &Owners, tags: &'static Tags, _looked: &Mutex<bool>) {
        owners.begin(tags);
    }
    /// Whether the thread keeps a block that it freed; else it is sent away.
    fn keep(tags: &Tags, block: usize) -> bool {
        // SAFETY: 1. It is one of the host's classes.
        unsafe { tags.keep(block as *mut u8, SMALL) }
    }
    fn take(away: &mut Vec<usize>) -> Vec<usize> {
        std::mem::take(away)
    }
}

struct Owned;
impl Owning for Owned {}

/// Two caches begin at once; then each frees blocks that the other carved, and carves again what came back. At most three
/// preemptions.
fn blocks_go_back_to_who_carved_them<O: Owning>() {
    bounded(3, || {
        let table: &'static [AtomicU8] = Vec::leak((0..256).map(|_| AtomicU8::new(0)).collect());
        let owners = Arc::new(Owners::new());
        owners.furnish(table);
        let (slabs, looked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(false)));
        // Four blocks of a KiB each, two of either thread. They are in the other's hands when both have begun.
        let work = |mine: [usize; 2], theirs: [usize; 2]| {
            let (owners, slabs, looked) = (owners.clone(), slabs.clone(), looked.clone());
            move || {
                let tags: &'static Tags = Box::leak(Box::new(owners.tags().unwrap()));
                O::begin(&owners, tags, &looked);
                tags.claim(&mine);
                let (mut kept, mut away) = (Vec::new(), Vec::new());
                for block in theirs {
                    if O::keep(tags, block) {
                        kept.push(block);
                        continue;
                    }
                    away.push(block);
                    if away.len() == 2 {
                        slabs.lock().unwrap().extend(O::take(&mut away));
                    }
                }
                slabs.lock().unwrap().extend(O::take(&mut away));
                let again: Vec<_> = slabs.lock().unwrap().drain(..).collect();
                tags.claim(&again);
                kept.extend(again);
                (tags, kept)
            }
        };
        let other = thread::spawn(work([1 << 10, 2 << 10], [3 << 10, 4 << 10]));
        let (tags, mut blocks) = work([3 << 10, 4 << 10], [1 << 10, 2 << 10])();
        let (others, kept) = other.join().unwrap();
        assert!(tags.watches() && others.watches(), "a cache beside another looks at no owners");
        blocks.extend(kept);
        blocks.extend(slabs.lock().unwrap().iter());
        blocks.sort();
        assert_eq!(blocks, [1 << 10, 2 << 10, 3 << 10, 4 << 10], "a block is lost, or in two hands");
    });
}

#[test]
fn small_blocks_of_two_caches_come_back_and_none_is_lost() {
    blocks_go_back_to_who_carved_them::<Owned>();
}

/// Tables that go with their model.
struct Heaped;

// SAFETY: 1. A table is zeros in a `Vec` of its own.
unsafe impl Metadata for Heaped {
    type Table<T: Plain> = Vec<T>;
    fn table<T: Plain>(&mut self, len: usize) -> Result<Vec<T>, NoTable> {
        // SAFETY: 1. All zeros are a value of a plain type.
        Ok(vec![unsafe { std::mem::zeroed() }; len])
    }
}

/// The clocks of a heap, so that some with a planted bug can stand in.
trait Timing: Send + Sync + 'static {
    const NEW: fn() -> Self;
    fn due(&self, now_ms: usize) -> Due;
}

impl Timing for Clocks {
    const NEW: fn() -> Self = Clocks::new;
    fn due(&self, now_ms: usize) -> Due {
        self.due(now_ms)
    }
}

fn two_ask_what_is_due<T: Timing>() {
    model(|| {
        let clocks = Arc::new(T::NEW());
        let other = {
            let clocks = clocks.clone();
            thread::spawn(move || clocks.due(DECAY_MS))
        };
        let mut due = [clocks.due(DECAY_MS), other.join().unwrap()];
        due.sort();
        assert_eq!(due, [Due::Nothing, Due::Decay], "one is told, once");
        assert_eq!(clocks.due(DECAY_MS + 1), Due::Nothing);
    });
}

#[test]
fn of_two_that_ask_at_once_what_is_due_one_is_told() {
    two_ask_what_is_due::<Clocks>();
}

/// Two tick at once, beside one that takes and gives.
#[test]
fn a_tick_takes_nothing_that_is_in_a_hand_and_tells_of_an_ebb_once() {
    model(|| {
        let space = Simulated::new(4 << 10, Geometry::spans(1 << 10).framed(1 << 10));
        let pool = Arc::new(
            Pool::<_, SpinLock, _>::new(space, Heaped, PoolConfig::DEFAULT.retain_bytes(0).ebb_bytes(0))
                .unwrap(),
        );
        let layout = std::alloc::Layout::from_size_align(1 << 10, 1).unwrap();
        let kept = pool.allocate(layout).unwrap().addr;
        let half = std::alloc::Layout::from_size_align(2 << 10, 1).unwrap();
        let fallen = pool.allocate(half).unwrap().addr;
        let ebbs = Arc::new(Count::new(0));
        let clocks = Arc::new(Clocks::new());
        let tick = {
            let (pool, ebbs, clocks) = (pool.clone(), ebbs.clone(), clocks.clone());
            move || clocks.tick(&pool, || DECAY_MS, || _ = ebbs.fetch_add(1, SeqCst))
        };
        let other = thread::spawn(tick.clone());
        // SAFETY: 1. A simulated block has no bytes that anybody could use.
        unsafe { pool.free(fallen, half).unwrap() };
        let taken = pool.allocate(layout).unwrap().addr;
        assert_ne!(taken, kept, "a block is in two hands");
        // SAFETY: 1. As above.
        unsafe { pool.free(taken, layout).unwrap() };
        tick();
        other.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.blocks, stats.in_use_bytes), (1, 1 << 10), "a block is lost");
        assert!(ebbs.load(SeqCst) <= 1, "an ebb is told twice");
    });
}

/// Heaps that are wrong, and what a model says of them.
mod planted {
    use super::*;
    use loom_tests::atomic::{AtomicUsize, Ordering::Relaxed};

    struct EmptiesInTheList(Heap);
    impl Handing for EmptiesInTheList {
        const NEW: fn() -> Self = || EmptiesInTheList(Heap::NEW());
        fn caches(&self) -> &Caches<SpinLock, Cache> {
            self.0.caches()
        }
        fn slabs(&self) -> &Count {
            self.0.slabs()
        }
        fn collect(&self) {
            // Every cache there is, without taking it out.
            self.caches().all().for_each(|at| self.empty(at));
        }
    }

    struct GivesUpFirst(Heap);
    impl Handing for GivesUpFirst {
        const NEW: fn() -> Self = || GivesUpFirst(Heap::NEW());
        fn caches(&self) -> &Caches<SpinLock, Cache> {
            self.0.caches()
        }
        fn slabs(&self) -> &Count {
            self.0.slabs()
        }
        fn abandon(&self, at: NonNull<Cache>) {
            let_go(at);
            // SAFETY: none. It is emptied after somebody else may have it.
            unsafe { self.caches().abandon(at, 9, |_| ()) };
            self.empty(at);
        }
    }

    struct BeginsInTwoSteps;
    impl Owning for BeginsInTwoSteps {
        fn begin(owners: &Owners, tags: &'static Tags, looked: &Mutex<bool>) {
            let first = !*looked.lock().unwrap();
            *looked.lock().unwrap() = true;
            if !first {
                owners.begin(tags);
            }
        }
    }

    struct SendsTwice;
    impl Owning for SendsTwice {
        fn take(away: &mut Vec<usize>) -> Vec<usize> {
            let blocks = std::mem::take(away);
            away.extend(blocks.first());
            blocks
        }
    }

    struct AsksInTwoSteps(AtomicUsize);
    impl Timing for AsksInTwoSteps {
        const NEW: fn() -> Self = || AsksInTwoSteps(AtomicUsize::new(0));
        fn due(&self, now_ms: usize) -> Due {
            if now_ms - self.0.load(Relaxed) < DECAY_MS {
                return Due::Nothing;
            }
            self.0.store(now_ms, Relaxed);
            Due::Decay
        }
    }

    #[test]
    #[should_panic(expected = "one is told, once")]
    fn clocks_that_are_asked_in_two_steps_are_caught() {
        two_ask_what_is_due::<AsksInTwoSteps>();
    }

    #[test]
    #[should_panic(expected = "a cache is in two hands")]
    fn a_collect_that_leaves_caches_in_the_list_is_caught() {
        threads_end_beside_a_collect::<EmptiesInTheList>();
    }

    #[test]
    #[should_panic(expected = "a cache is in two hands")]
    fn a_thread_that_gives_its_cache_up_before_it_empties_it_is_caught() {
        threads_end_beside_a_collect::<GivesUpFirst>();
    }

    #[test]
    #[should_panic(expected = "a cache beside another looks at no owners")]
    fn caches_that_begin_in_two_steps_are_caught() {
        blocks_go_back_to_who_carved_them::<BeginsInTwoSteps>();
    }

    #[test]
    #[should_panic(expected = "a block is lost, or in two hands")]
    fn blocks_that_are_sent_away_twice_are_caught() {
        blocks_go_back_to_who_carved_them::<SendsTwice>();
    }
}
