//! Marks of blocks under every interleaving: of those who free one block at once, one gets it.

#![cfg(democratising_loom)]

use democratising::heap::marks;
use loom_tests::atomic::{AtomicU8, Ordering::Relaxed};
use loom_tests::{Arc, model, thread};

/// What the models use of marks of three blocks, at 0, 16 and 32.
trait Marks: Send + Sync + 'static {
    fn new() -> Self;
    fn set(&self, at: usize) -> bool;
    fn clear(&self, at: usize) -> bool;
    fn is_set(&self, at: usize) -> bool;
}

impl Marks for marks::Marks {
    fn new() -> Self {
        marks::Marks::new(0, Box::leak(Box::new([AtomicU8::new(0)])))
    }
    fn set(&self, at: usize) -> bool {
        marks::Marks::set(self, at)
    }
    fn clear(&self, at: usize) -> bool {
        marks::Marks::clear(self, at)
    }
    fn is_set(&self, at: usize) -> bool {
        marks::Marks::is_set(self, at)
    }
}

/// Two free one block, and a third hands its neighbour out.
fn one_of_two_frees_gets_the_block<M: Marks>() {
    model(|| {
        let marks = Arc::new(M::new());
        assert!(marks.set(0));
        let free = |marks: Arc<M>| thread::spawn(move || marks.clear(0));
        let others = [free(marks.clone()), free(marks.clone())];
        assert!(marks.set(16));
        let freed: usize = others.into_iter().map(|other| other.join().unwrap() as usize).sum();
        assert_eq!(freed, 1, "one has it, the other is told");
        assert!(!marks.is_set(0) && marks.is_set(16), "a neighbour's mark stays");
    });
}

/// One frees its block and takes another while a second does the same: each block is in one hand.
fn blocks_that_change_hands_are_marked_as_often_as_they_are_held<M: Marks>() {
    model(|| {
        let marks = Arc::new(M::new());
        assert!(marks.set(0) && marks.set(16));
        let other = {
            let marks = marks.clone();
            thread::spawn(move || assert!(marks.clear(16) && marks.set(16) && marks.clear(16)))
        };
        assert!(marks.clear(0) && marks.set(32) && marks.set(0));
        other.join().unwrap();
        assert!(marks.is_set(0) && marks.is_set(32) && !marks.is_set(16));
    });
}

#[test]
fn of_two_that_free_a_block_one_gets_it() {
    one_of_two_frees_gets_the_block::<marks::Marks>();
}

#[test]
fn marks_of_neighbours_do_not_disturb_each_other() {
    blocks_that_change_hands_are_marked_as_often_as_they_are_held::<marks::Marks>();
}

/// Looks first, and stores then.
struct LooksThenStores(AtomicU8);

impl Marks for LooksThenStores {
    fn new() -> Self {
        LooksThenStores(AtomicU8::new(0))
    }
    fn set(&self, at: usize) -> bool {
        let (bits, bit) = (self.0.load(Relaxed), 1 << (at / 16));
        self.0.store(bits | bit, Relaxed);
        bits & bit == 0
    }
    fn clear(&self, at: usize) -> bool {
        let (bits, bit) = (self.0.load(Relaxed), 1 << (at / 16));
        self.0.store(bits & !bit, Relaxed);
        bits & bit != 0
    }
    fn is_set(&self, at: usize) -> bool {
        self.0.load(Relaxed) & 1 << (at / 16) != 0
    }
}

#[test]
#[should_panic(expected = "one has it")]
fn a_look_before_the_store_is_noticed_where_two_free_one_block() {
    one_of_two_frees_gets_the_block::<LooksThenStores>();
}

#[test]
#[should_panic]
fn a_look_before_the_store_is_noticed_between_neighbours() {
    blocks_that_change_hands_are_marked_as_often_as_they_are_held::<LooksThenStores>();
}
