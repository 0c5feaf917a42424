//! A cache whose thread goes on, under every interleaving with somebody who takes blocks out of it: a block is in one hand, and none
//! is lost. One class, a magazine of up to four blocks, two or three in it.
//!
//! The barrier that every thread passes is a question that the thread answers between any two of its steps, or never: then the
//! barrier has not returned yet, and the visitor is seen no further. What the hits and the visitor do is the crate's own.

#![cfg(democratising_loom)]

use democratising::SpinLock;
use democratising::heap::stock::hit::{self, Loaded};
use democratising::heap::stock::seat::{self, Parting, Seat};
use loom_tests::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use loom_tests::{Arc, Mutex, bounded, model, thread};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool as Told, AtomicUsize as Known, Ordering::SeqCst};

/// What a word says: the thread's cache, or the empty one.
const OWN: usize = 1;
const EMPTY: usize = 0;
/// Behind the last word of the magazine. The first is the 0 below its blocks.
const END: usize = 5;

/// A thread's word, which is not there any more when the thread has ended.
struct Word {
    at: Arc<AtomicUsize>,
    gone: Arc<Told>,
}

impl seat::Word for Word {
    fn part(&self) -> bool {
        assert!(!self.gone.load(SeqCst), "the word of a thread that has ended is written");
        self.at.store(EMPTY, Relaxed);
        true
    }
    fn join(&self) {
        self.at.store(OWN, Relaxed);
    }
}

/// How a visitor works, so that one with a planted bug can stand in.
trait Visits: 'static {
    /// Waits for the barrier.
    fn barrier(world: &World, pass: usize) -> bool {
        world.asked.store(pass, Release);
        world.passed.load(Acquire) >= pass
    }
    fn visit(world: &World, pass: usize) {
        world.seat.visit(pass, || Self::take(world));
    }
    fn take(world: &World) {
        world.skim();
    }
    /// The thread gives its cache up.
    fn rise(world: &World) {
        let inside = world.seat.enter().expect("the thread is not inside");
        world.word.store(EMPTY, Relaxed);
        inside.rise();
    }
}

struct World {
    word: Arc<AtomicUsize>,
    gone: Arc<Told>,
    seat: Seat<SpinLock, Word>,
    top: AtomicUsize,
    words: [AtomicUsize; END],
    /// Where the loaded magazine ends. Whoever holds the seat reads and writes it.
    bottom: AtomicUsize,
    /// The pass whose barrier every thread is to pass, and the last that the thread passed.
    asked: AtomicUsize,
    passed: AtomicUsize,
    /// What the thread itself knows of `passed`. No part of the model: a load of `passed` before its store would hide from loom that the
    /// visitor's load may come after it.
    told: Known,
    slabs: Mutex<Vec<usize>>,
    blocks: usize,
    /// The blocks in the program's hands. Not a lock of the model's: what is asserted is no part of it.
    hands: std::sync::Mutex<BTreeSet<usize>>,
}

/// The magazine as the thread sees it, which may pass a barrier before each step.
struct Owned<'a>(&'a World);
/// As a visitor sees it.
struct Visited<'a>(&'a World);

macro_rules! loaded {
    ($name:ident, $step:expr) => {
        impl Loaded for $name<'_> {
            type At = usize;
            fn top(&self) -> usize {
                $step(self.0);
                self.0.top.load(Relaxed)
            }
            fn set_top(&self, to: usize) {
                $step(self.0);
                self.0.top.store(to, Relaxed)
            }
            fn below(&self, at: usize, words: usize) -> usize {
                at - words
            }
            fn above(&self, at: usize) -> usize {
                at + 1
            }
            fn word(&self, at: usize) -> usize {
                $step(self.0);
                self.0.words[at].load(Relaxed)
            }
            fn set_word(&self, at: usize, word: usize) {
                $step(self.0);
                self.0.words[at].store(word, Relaxed)
            }
            fn is_end(&self, at: usize) -> bool {
                at == END
            }
        }
    };
}

loaded!(Owned, World::pass);
loaded!(Visited, |_| ());

impl World {
    /// A thread sits in a cache with so many blocks, which are numbered from 1.
    fn new(blocks: usize) -> World {
        let word = Arc::new(AtomicUsize::new(OWN));
        let gone = Arc::new(Told::new(false));
        let seat = Seat::new();
        seat.sit(Word { at: word.clone(), gone: gone.clone() }, 0);
        World {
            word,
            gone,
            seat,
            top: AtomicUsize::new(1 + blocks),
            words: std::array::from_fn(|at| AtomicUsize::new(if at > blocks { 99 } else { at })),
            bottom: AtomicUsize::new(1),
            asked: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
            told: Known::new(0),
            slabs: Mutex::new(Vec::new()),
            blocks,
            hands: Default::default(),
        }
    }

    /// The thread passes the barrier, if it is there by now.
    fn pass(&self) {
        let asked = self.asked.load(Acquire);
        if self.told.fetch_max(asked, SeqCst) < asked {
            self.passed.store(asked, Release);
        }
    }

    fn hits(&self) -> bool {
        self.pass();
        self.word.load(Relaxed) == OWN
    }

    fn allocate(&self) -> usize {
        let block = if self.hits() { hit::pop(&Owned(self)) } else { 0 };
        let block = if block != 0 { block } else { self.refill() };
        if block != 0 {
            assert!(self.hands.lock().unwrap().insert(block), "a block is in two hands: {block}");
        }
        block
    }

    fn free(&self, block: usize) {
        if block != 0 {
            assert!(self.hands.lock().unwrap().remove(&block));
            if !(self.hits() && hit::push(&Owned(self), block)) {
                self.spill(block);
            }
        }
    }

    fn refill(&self) -> usize {
        let _inside = self.seat.enter().expect("the thread is not inside");
        if self.held().is_empty() {
            self.unload();
            if let Some(block) = self.slabs.lock().unwrap().pop() {
                hit::push(&Visited(self), block);
            }
        }
        hit::pop(&Visited(self))
    }

    fn spill(&self, block: usize) {
        let _inside = self.seat.enter().expect("the thread is not inside");
        if self.top.load(Relaxed) == END {
            self.empty();
        }
        hit::push(&Visited(self), block);
    }

    fn unload(&self) {
        self.words[0].store(0, Relaxed);
        self.bottom.store(1, Relaxed);
        self.top.store(1, Relaxed);
    }

    fn held(&self) -> Vec<usize> {
        let held = self.bottom.load(Relaxed)..self.top.load(Relaxed);
        held.map(|at| self.words[at].load(Relaxed)).collect()
    }

    fn empty(&self) {
        self.slabs.lock().unwrap().extend(self.held());
        self.unload();
    }

    /// What a visitor does inside.
    fn skim(&self) {
        let mut out = [0; END];
        let blocks = |top: usize| top - self.bottom.load(Relaxed);
        if let Some((bottom, taken)) = hit::skim(&Visited(self), blocks, &mut out) {
            self.bottom.store(bottom, Relaxed);
            self.slabs.lock().unwrap().extend(&out[..taken]);
        }
    }

    /// Nobody is at work.
    fn assert_nothing_is_lost(&self) {
        let mut blocks = self.held();
        blocks.extend(self.slabs.lock().unwrap().iter());
        blocks.extend(self.hands.lock().unwrap().iter());
        blocks.sort();
        assert_eq!(blocks, Vec::from_iter(1..=self.blocks), "a block is lost, or in two hands");
    }
}

fn visit<V: Visits>(world: &World, pass: usize) {
    if world.seat.part(pass, 0) == Parting::Parted && V::barrier(world, pass) {
        V::visit(world, pass);
    }
}

/// Runs the thread's part beside the visitor's, with a cache of so many blocks.
fn beside<V: Visits>(blocks: usize, owner: fn(&World), visitor: fn(&World)) {
    model(script::<V>(blocks, owner, visitor));
}

fn script<V: Visits>(blocks: usize, owner: fn(&World), visitor: fn(&World)) -> impl Fn() + Send + Sync {
    move || {
        let world = Arc::new(World::new(blocks));
        let visiting = {
            let world = world.clone();
            thread::spawn(move || visitor(&world))
        };
        owner(&world);
        world.pass();
        visiting.join().unwrap();
        world.assert_nothing_is_lost();
    }
}

fn takes_two(world: &World) {
    world.allocate();
    world.allocate();
}

fn frees_and_takes(world: &World) {
    let block = world.allocate();
    let other = world.allocate();
    world.free(block);
    world.free(other);
}

/// A thread allocates and frees while its cache is visited.
fn a_visit_beside_hits<V: Visits>() {
    beside::<V>(3, takes_two, |world| visit::<V>(world, 1));
}

/// The same with more blocks in hand than the first time leaves.
fn a_visit_beside_frees<V: Visits>() {
    beside::<V>(2, frees_and_takes, |world| visit::<V>(world, 1));
}

/// A thread comes back to its cache and uses it up. At most three preemptions.
fn a_visit_to_one_that_comes_back<V: Visits>() {
    let takes_three = |world: &World| {
        takes_two(world);
        world.allocate();
    };
    bounded(3, script::<V>(3, takes_three, |world| visit::<V>(world, 1)));
}

/// A cache that was visited is visited again, whatever its thread did in between. At most three preemptions.
fn a_second_visit<V: Visits>() {
    let twice = |world: &World| {
        visit::<V>(world, 1);
        visit::<V>(world, 2);
    };
    bounded(3, script::<V>(3, takes_two, twice));
}

/// A thread ends while its cache is visited.
fn a_visit_beside_an_end<V: Visits>() {
    beside::<V>(
        2,
        |world| {
            let block = world.allocate();
            world.free(block);
            V::rise(world);
            world.gone.store(true, SeqCst);
            world.empty();
        },
        |world| visit::<V>(world, 1),
    );
}

struct Shipped;
impl Visits for Shipped {}

#[test]
fn a_visit_takes_nothing_that_a_hit_under_way_can_reach() {
    a_visit_beside_hits::<Shipped>();
}

#[test]
fn a_visit_loses_nothing_that_is_freed_meanwhile() {
    a_visit_beside_frees::<Shipped>();
}

#[test]
fn a_second_visit_takes_nothing_that_a_hit_under_way_can_reach() {
    a_second_visit::<Shipped>();
}

#[test]
fn a_thread_that_has_its_cache_again_is_not_visited() {
    a_visit_to_one_that_comes_back::<Shipped>();
}

#[test]
fn a_thread_that_ends_is_not_visited_any_more() {
    a_visit_beside_an_end::<Shipped>();
}

/// Two visit at once: the later one's number stands, and one of them takes the blocks. At most two preemptions.
#[test]
fn two_visits_at_once_take_a_block_once() {
    bounded(2, || {
        let world = Arc::new(World::new(3));
        let visiting = [1, 2].map(|pass| {
            let world = world.clone();
            thread::spawn(move || visit::<Shipped>(&world, pass))
        });
        let block = world.allocate();
        world.free(block);
        world.pass();
        visiting.into_iter().for_each(|visiting| visiting.join().unwrap());
        world.assert_nothing_is_lost();
    });
}

/// A visit does take something: else everything above would hold of one that does nothing.
#[test]
fn a_visit_leaves_one_block_of_a_thread_that_sleeps() {
    model(|| {
        let world = Arc::new(World::new(3));
        let visiting = {
            let world = world.clone();
            thread::spawn(move || {
                assert_eq!(world.seat.part(1, 0), Parting::Parted);
                world.passed.store(1, Release);
                Shipped::visit(&world, 1);
            })
        };
        visiting.join().unwrap();
        assert_eq!((world.held(), world.slabs.lock().unwrap().clone()), (vec![3], vec![1, 2]));
        assert_eq!([world.allocate(), world.allocate()], [3, 2]);
        world.assert_nothing_is_lost();
    });
}

/// Visitors that are wrong, and what a model says of them.
mod planted {
    use super::*;

    struct WaitsForNoBarrier;
    impl Visits for WaitsForNoBarrier {
        fn barrier(_: &World, _: usize) -> bool {
            true
        }
    }

    struct TakesTheTop;
    impl Visits for TakesTheTop {
        fn take(world: &World) {
            world.empty();
        }
    }

    struct LooksAtNoNumber;
    impl Visits for LooksAtNoNumber {
        fn visit(world: &World, _: usize) {
            world.seat.visit_rest(0, || Self::take(world));
        }
    }

    struct AsksNobody;
    impl Visits for AsksNobody {
        fn visit(world: &World, _: usize) {
            Self::take(world);
        }
    }

    struct EndsWithoutASeat;
    impl Visits for EndsWithoutASeat {
        fn rise(world: &World) {
            world.word.store(EMPTY, Relaxed);
        }
    }

    #[test]
    #[should_panic(expected = "a block is")]
    fn a_visitor_who_waits_for_no_barrier_is_caught() {
        a_second_visit::<WaitsForNoBarrier>();
    }

    #[test]
    #[should_panic(expected = "a block is")]
    fn a_visitor_who_takes_the_uppermost_block_is_caught() {
        a_visit_beside_hits::<TakesTheTop>();
    }

    #[test]
    #[should_panic(expected = "a block is")]
    fn a_visitor_to_a_thread_that_has_its_cache_again_is_caught() {
        a_visit_to_one_that_comes_back::<LooksAtNoNumber>();
    }

    #[test]
    #[should_panic(expected = "a block is")]
    fn a_visitor_who_does_not_hold_the_seat_is_caught() {
        a_visit_beside_hits::<AsksNobody>();
    }

    #[test]
    #[should_panic(expected = "the word of a thread that has ended is written")]
    fn a_thread_that_ends_without_a_word_is_caught() {
        a_visit_beside_an_end::<EndsWithoutASeat>();
    }
}
