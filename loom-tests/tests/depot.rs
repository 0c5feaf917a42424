//! A depot under every interleaving: each block is in one place, and every block is somewhere.

use democratising::SpinLock;
use democratising::pool::depot::Depot;
use democratising::pool::magazine;
use loom_tests::{Arc, model, thread};

type Magazine = magazine::Magazine<u32, 2>;

/// What the models use of a depot of at most two magazines.
trait Exchange: Send + Sync + 'static {
    fn new() -> Self;
    fn bring(&self, full: &mut Magazine) -> bool;
    fn fetch(&self, empty: &mut Magazine) -> bool;
    /// The oldest, for the reclaimer.
    fn trim(&self) -> Option<Magazine>;
}

impl Exchange for Depot<SpinLock, u32, 2, 2> {
    fn new() -> Self {
        Depot::new()
    }
    fn bring(&self, full: &mut Magazine) -> bool {
        self.exchange_full_for_empty(full)
    }
    fn fetch(&self, empty: &mut Magazine) -> bool {
        self.exchange_empty_for_full(empty)
    }
    fn trim(&self) -> Option<Magazine> {
        self.trim(1).next()
    }
}

fn full(first: u32) -> Magazine {
    let mut magazine = Magazine::new();
    magazine.push(first).unwrap();
    magazine.push(first + 1).unwrap();
    magazine
}

/// Empties the depot and asserts that `blocks` blocks, numbered from 0, are each in one place.
fn assert_each_block_once<D: Exchange>(depot: &D, blocks: usize, held: impl IntoIterator<Item = Magazine>) {
    let mut seen: Vec<u32> = held.into_iter().flat_map(|magazine| magazine.as_slice().to_vec()).collect();
    let mut magazine = Magazine::new();
    while depot.fetch(&mut magazine) {
        seen.extend(magazine.drain());
        assert!(seen.len() <= blocks, "a block is in two places: {seen:?}");
    }
    seen.sort_unstable();
    let doubled = seen.windows(2).any(|pair| pair[0] == pair[1]);
    assert!(!doubled, "a block is in two places: {seen:?}");
    assert_eq!(seen.len(), blocks, "a block is nowhere: {seen:?}");
}

/// One brings and fetches, one fetches and brings back, and one trims.
fn two_exchange_while_one_trims<D: Exchange>() {
    model(|| {
        let depot = Arc::new(D::new());
        assert!(depot.bring(&mut full(0)));
        let bringer = {
            let depot = depot.clone();
            thread::spawn(move || {
                let mut mine = full(2);
                if depot.bring(&mut mine) {
                    assert!(mine.is_empty());
                    depot.fetch(&mut mine);
                }
                mine
            })
        };
        let fetcher = {
            let depot = depot.clone();
            thread::spawn(move || {
                let mut mine = Magazine::new();
                if depot.fetch(&mut mine) {
                    assert!(mine.is_full());
                    depot.bring(&mut mine);
                }
                mine
            })
        };
        let trimmed = depot.trim();
        let held = [bringer.join().unwrap(), fetcher.join().unwrap()];
        assert_each_block_once(&*depot, 4, held.into_iter().chain(trimmed));
    });
}

/// Two bring where there is room for one: the other keeps its blocks.
fn a_full_depot_refuses_one_of_two<D: Exchange>() {
    model(|| {
        let depot = Arc::new(D::new());
        assert!(depot.bring(&mut full(0)));
        let other = {
            let depot = depot.clone();
            thread::spawn(move || {
                let mut theirs = full(2);
                depot.bring(&mut theirs);
                theirs
            })
        };
        let mut mine = full(4);
        let brought = depot.bring(&mut mine);
        assert_eq!(brought, mine.is_empty());
        let theirs = other.join().unwrap();
        assert_eq!(mine.len() + theirs.len(), 2, "a block is nowhere, or the depot has grown");
        assert_each_block_once(&*depot, 6, [mine, theirs]);
    });
}

/// Two fetch the same last magazine.
fn the_last_magazine_goes_to_one_of_two<D: Exchange>() {
    model(|| {
        let depot = Arc::new(D::new());
        assert!(depot.bring(&mut full(0)));
        let other = {
            let depot = depot.clone();
            thread::spawn(move || depot.trim())
        };
        let mut mine = Magazine::new();
        let fetched = depot.fetch(&mut mine);
        let theirs = other.join().unwrap();
        assert!(fetched != theirs.is_some(), "a block is in two places, or nowhere");
        assert_each_block_once(&*depot, 2, [mine].into_iter().chain(theirs));
    });
}

macro_rules! the_depot_keeps_to {
    ($($law:ident),* $(,)?) => {
        $(#[test] fn $law() { super::$law::<Depot<SpinLock, u32, 2, 2>>(); })*
    };
}

mod depot {
    use super::*;
    the_depot_keeps_to!(
        two_exchange_while_one_trims,
        a_full_depot_refuses_one_of_two,
        the_last_magazine_goes_to_one_of_two,
    );
}

/// Depots that are wrong, and what a model says of them.
#[cfg(democratising_loom)]
mod planted {
    use super::*;
    use loom_tests::Mutex;
    use loom_tests::atomic::AtomicUsize;
    use loom_tests::atomic::Ordering::{Acquire, Release};

    /// Reads how many it holds before it takes the lock.
    struct CountsOutside {
        count: AtomicUsize,
        sets: Mutex<[[u32; 2]; 2]>,
    }

    fn hand_out(blocks: [u32; 2], into: &mut Magazine) {
        for block in blocks {
            into.push(block).unwrap();
        }
    }

    impl Exchange for CountsOutside {
        fn new() -> Self {
            CountsOutside { count: AtomicUsize::new(0), sets: Mutex::new([[0; 2]; 2]) }
        }
        fn bring(&self, full: &mut Magazine) -> bool {
            let count = self.count.load(Acquire);
            if count == 2 {
                return false;
            }
            let mut sets = self.sets.lock().unwrap();
            sets[count].copy_from_slice(full.as_slice());
            full.drain().for_each(drop);
            self.count.store(count + 1, Release);
            true
        }
        fn fetch(&self, empty: &mut Magazine) -> bool {
            let count = self.count.load(Acquire);
            if count == 0 {
                return false;
            }
            let sets = self.sets.lock().unwrap();
            hand_out(sets[count - 1], empty);
            self.count.store(count - 1, Release);
            true
        }
        fn trim(&self) -> Option<Magazine> {
            let mut out = Magazine::new();
            self.fetch(&mut out).then_some(out)
        }
    }

    /// The reclaimer copies the blocks under the lock, and takes them out under it once more.
    struct TrimsInTwoSteps(Mutex<Vec<[u32; 2]>>);

    impl Exchange for TrimsInTwoSteps {
        fn new() -> Self {
            TrimsInTwoSteps(Mutex::new(Vec::new()))
        }
        fn bring(&self, full: &mut Magazine) -> bool {
            let mut sets = self.0.lock().unwrap();
            if sets.len() == 2 {
                return false;
            }
            sets.push([full.as_slice()[0], full.as_slice()[1]]);
            full.drain().for_each(drop);
            true
        }
        fn fetch(&self, empty: &mut Magazine) -> bool {
            let last = self.0.lock().unwrap().pop();
            last.is_some_and(|blocks| {
                hand_out(blocks, empty);
                true
            })
        }
        fn trim(&self) -> Option<Magazine> {
            let oldest = self.0.lock().unwrap().first().copied()?;
            let mut out = Magazine::new();
            hand_out(oldest, &mut out);
            let mut sets = self.0.lock().unwrap();
            if !sets.is_empty() {
                sets.remove(0);
            }
            Some(out)
        }
    }

    #[test]
    #[should_panic(expected = "a block is")]
    fn a_count_read_outside_the_lock_is_caught_by_exchanges() {
        two_exchange_while_one_trims::<CountsOutside>();
    }

    #[test]
    #[should_panic(expected = "a block is nowhere")]
    fn a_count_read_outside_the_lock_is_caught_by_a_full_depot() {
        a_full_depot_refuses_one_of_two::<CountsOutside>();
    }

    #[test]
    #[should_panic(expected = "a block is in two places")]
    fn a_trim_in_two_steps_is_caught() {
        the_last_magazine_goes_to_one_of_two::<TrimsInTwoSteps>();
    }
}
