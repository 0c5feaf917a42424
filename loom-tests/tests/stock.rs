//! What threads exchange with the depots and the slabs of a heap, under every interleaving: a block is in one hand, none is lost,
//! and the counts are right when nobody is at work. One size class, magazines of two blocks, a space whose bytes do not exist.

#![cfg(democratising_loom)]

use democratising::SpinLock;
use democratising::arena::metadata::{Metadata, NoTable, Plain};
use democratising::heap::stock::Stock;
use democratising::pool::magazine::Magazine;
use democratising::pool::{Pool, PoolConfig};
use democratising::size::{Geometry, Offset, SizeClass};
use democratising::space::{Simulated, Space};
use loom_tests::{Arc, model, thread};
use std::collections::BTreeSet;

const CLASS: SizeClass = SizeClass(0);
/// The most magazines in the depot.
const DEPTH: usize = 1;

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

/// What the models use of a heap, so that one with a planted bug can stand in.
trait Exchange: Send + Sync + 'static {
    const NEW: fn(World) -> Self;
    fn world(&self) -> &World;
    /// Blocks for an empty magazine.
    fn refill(&self, out: &mut [usize; 2]) -> usize {
        match self.world().stock.fetch(CLASS, out) {
            0 => self.world().take(out),
            blocks => blocks,
        }
    }
    /// A magazine's blocks, to the depot or to the slabs.
    fn spill(&self, blocks: &[usize]) {
        if !self.world().stock.bring(CLASS, blocks, DEPTH) {
            self.world().flush(blocks);
        }
    }
    /// What a collect does with a depot.
    fn empty(&self) {
        self.world().stock.empty(CLASS, |blocks| self.world().flush(blocks));
    }
}

struct World {
    pool: Pool<Simulated, SpinLock, Heaped>,
    stock: Stock<SpinLock, 1, 2>,
    base: usize,
    /// The blocks in somebody's hands. Not a lock of the model's: what is asserted is no part of it.
    hands: std::sync::Mutex<BTreeSet<usize>>,
}

impl World {
    /// A space of two frames, each as long as a slab.
    fn new(config: PoolConfig) -> World {
        let space = Simulated::new(2 << 10, Geometry::spans(1 << 10).framed(1 << 10).slabs(1 << 10, 16));
        let base = space.addr(Offset(0)) as usize;
        let stock = Stock::new();
        stock.furnish(Box::leak(Box::new([const { Magazine::new() }; DEPTH])));
        World { pool: Pool::new(space, Heaped, config).unwrap(), stock, base, hands: Default::default() }
    }

    fn take(&self, out: &mut [usize; 2]) -> usize {
        self.stock.refill(&self.pool, CLASS, self.base, out).unwrap()
    }

    fn flush(&self, blocks: &[usize]) {
        let refused = |at, why| panic!("a block is lost: {at:#x}: {why}");
        // SAFETY: 1. A simulated block has no bytes that anybody could use.
        unsafe { self.stock.flush(&self.pool, CLASS, self.base, blocks, refused) }
    }

    fn held(&self, blocks: &[usize]) {
        let mut hands = self.hands.lock().unwrap();
        blocks.iter().for_each(|block| assert!(hands.insert(*block), "a block is in two hands: {block:#x}"));
    }

    fn let_go(&self, blocks: &[usize]) {
        let mut hands = self.hands.lock().unwrap();
        blocks.iter().for_each(|block| assert!(hands.remove(block)));
    }

    /// Nobody is at work, and nobody has a block.
    fn assert_at_rest(&self) {
        self.stock.empty(CLASS, |blocks| self.flush(blocks));
        assert_eq!(self.pool.stats().blocks, 0, "a block is lost");
        assert_eq!(self.stock.used(CLASS), (0, 0), "the counts are wrong");
    }
}

struct Shipped(World);

impl Exchange for Shipped {
    const NEW: fn(World) -> Self = Shipped;
    fn world(&self) -> &World {
        &self.0
    }
}

/// A thread's way with one magazine: filled, its blocks used, and given back.
fn one_round<E: Exchange>(heap: &E) {
    let mut magazine = [0; 2];
    let blocks = heap.refill(&mut magazine);
    assert!(blocks > 0);
    heap.world().held(&magazine[..blocks]);
    heap.world().let_go(&magazine[..blocks]);
    heap.spill(&magazine[..blocks]);
}

/// Runs `first` beside `second`, and asserts that all is in its place again.
fn beside<E: Exchange>(config: PoolConfig, first: fn(&E), second: fn(&E)) {
    model(move || {
        let heap = Arc::new(E::NEW(World::new(config)));
        let other = {
            let heap = heap.clone();
            thread::spawn(move || first(&heap))
        };
        second(&heap);
        other.join().unwrap();
        heap.world().assert_at_rest();
    });
}

/// Two refill and give back in batches, and meet in the depot, which has room for one.
fn two_refill_and_give_back<E: Exchange>() {
    beside::<E>(PoolConfig::DEFAULT, one_round, one_round);
}

/// Small blocks that another carved go past the depot, in batches, while their owner takes more.
fn small_blocks_go_back_to_the_slabs<E: Exchange>() {
    model(|| {
        let heap = Arc::new(E::NEW(World::new(PoolConfig::DEFAULT)));
        let mut carved = [0; 2];
        let blocks = heap.world().take(&mut carved);
        heap.world().held(&carved[..blocks]);
        let freer = {
            let heap = heap.clone();
            thread::spawn(move || {
                heap.world().let_go(&carved[..blocks]);
                heap.world().flush(&carved[..blocks]);
            })
        };
        one_round(&*heap);
        freer.join().unwrap();
        heap.world().assert_at_rest();
    });
}

/// A depot is emptied, and idle memory given back, while a thread takes a magazine and leaves it there. The list of caches
/// that ended threads leave is not part of this.
fn a_collect_beside_a_thread_that_ends<E: Exchange>() {
    beside::<E>(PoolConfig::DEFAULT, one_round, |heap| {
        heap.empty();
        heap.world().pool.trim(0);
    });
}

/// Idle memory is given back while a thread takes and gives.
fn decay_beside_allocation<E: Exchange>() {
    beside::<E>(PoolConfig::DEFAULT.retain_bytes(0).ebb_bytes(0), one_round, |heap| {
        let world = heap.world();
        if world.pool.take_ebb() {
            heap.empty();
            world.pool.purge();
        }
        world.pool.settle();
        world.pool.decay();
    });
}

#[test]
fn blocks_are_in_one_hand_when_two_refill_and_give_back() {
    two_refill_and_give_back::<Shipped>();
}

#[test]
fn small_blocks_that_another_carved_come_back() {
    small_blocks_go_back_to_the_slabs::<Shipped>();
}

#[test]
fn a_collect_loses_nothing_of_a_thread_that_ends() {
    a_collect_beside_a_thread_that_ends::<Shipped>();
}

#[test]
fn decay_takes_nothing_that_is_in_a_hand() {
    decay_beside_allocation::<Shipped>();
}

/// Heaps that are wrong, and what a model says of them.
mod planted {
    use super::*;
    use loom_tests::atomic::{AtomicUsize, Ordering::Relaxed};

    macro_rules! planted {
        ($name:ident, $($body:tt)*) => {
            struct $name(World);
            impl Exchange for $name {
                const NEW: fn(World) -> Self = $name;
                fn world(&self) -> &World {
                    &self.0
                }
                $($body)*
            }
        };
    }

    planted!(
        FlushesWhatTheDepotTook,
        fn spill(&self, blocks: &[usize]) {
            self.0.stock.bring(CLASS, blocks, DEPTH);
            self.0.flush(blocks);
        }
    );

    planted!(
        ForgetsWhatTheDepotRefused,
        fn spill(&self, blocks: &[usize]) {
            self.0.stock.bring(CLASS, blocks, DEPTH);
        }
    );

    planted!(
        FlushesBeforeItTakesOut,
        fn empty(&self) {
            let mut seen = [0; 2];
            let blocks = self.0.stock.fetch(CLASS, &mut seen);
            if blocks > 0 {
                // Put back, looked at, and taken out in a second step.
                self.0.stock.bring(CLASS, &seen[..blocks], DEPTH);
                self.0.flush(&seen[..blocks]);
                self.0.stock.fetch(CLASS, &mut seen);
            }
        }
    );

    /// Counts what is out by a load and a store.
    struct CountsInTwoSteps(World, AtomicUsize);

    impl Exchange for CountsInTwoSteps {
        const NEW: fn(World) -> Self = |world| CountsInTwoSteps(world, AtomicUsize::new(0));
        fn world(&self) -> &World {
            &self.0
        }
        fn refill(&self, out: &mut [usize; 2]) -> usize {
            let blocks = self.0.take(out);
            self.1.store(self.1.load(Relaxed) + blocks, Relaxed);
            blocks
        }
        fn spill(&self, blocks: &[usize]) {
            self.0.flush(blocks);
            let left = self.1.load(Relaxed).checked_sub(blocks.len());
            self.1.store(left.expect("the counts are wrong"), Relaxed);
        }
    }

    #[test]
    #[should_panic(expected = "a block is lost")]
    fn blocks_that_go_to_the_depot_and_to_the_slabs_are_caught() {
        two_refill_and_give_back::<FlushesWhatTheDepotTook>();
    }

    #[test]
    #[should_panic(expected = "a block is lost")]
    fn blocks_that_a_full_depot_refused_and_nobody_keeps_are_caught() {
        two_refill_and_give_back::<ForgetsWhatTheDepotRefused>();
    }

    #[test]
    #[should_panic(expected = "a block is")]
    fn a_collect_in_two_steps_is_caught_beside_a_thread_that_takes() {
        beside::<FlushesBeforeItTakesOut>(
            PoolConfig::DEFAULT,
            |heap| {
                one_round(heap);
                one_round(heap)
            },
            |heap| heap.empty(),
        );
    }

    #[test]
    #[should_panic(expected = "the counts are wrong")]
    fn counts_that_lose_an_update_are_caught() {
        two_refill_and_give_back::<CountsInTwoSteps>();
    }
}
