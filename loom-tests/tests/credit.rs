//! Credit in a tree of accounts under every interleaving: no limit exceeded, nobody refused what fits, nothing lost or counted twice.

#![allow(
    deprecated,
    reason = "later compilers have another name for `fetch_update`, which loom and 1.88 do not know"
)]

use democratising::pool::budget::credit::Credit;
use democratising::pool::budget::tree::{AccountId, Tree};
use loom_tests::{Arc, Mutex, model, thread};

/// Two accounts within one, or, where it has a limit of its own, within a middle one within that.
trait Accounts: Send + Sync + 'static {
    fn new(limit: u64) -> Self;
    fn charge(&self, leaf: usize, amount: u64) -> bool;
    fn release(&self, leaf: usize, amount: u64);
    fn used(&self) -> u64;
    fn set_limit(&self, limit: u64) -> u64;
}

/// Account 0 around all, 1 within it, 2 and 3 the leaves.
struct Ours {
    tree: Mutex<Tree<'static>>,
    credits: &'static [Credit; 4],
}

fn id(index: usize) -> AccountId {
    AccountId::new(index).unwrap()
}

impl Accounts for Ours {
    fn new(limit: u64) -> Self {
        let credits: &'static [Credit; 4] = Box::leak(Box::new(std::array::from_fn(|_| Credit::new())));
        let mut tree = Tree::new();
        for (at, within) in [None, Some(0), Some(1), Some(1)].into_iter().enumerate() {
            tree.put(id(at), within.map(id), &credits[at], true);
        }
        tree.set_limit(id(0), limit);
        Ours { tree: Mutex::new(tree), credits }
    }
    fn charge(&self, leaf: usize, amount: u64) -> bool {
        self.credits[2 + leaf].take(amount) || self.tree.lock().unwrap().charge(id(2 + leaf), amount).is_ok()
    }
    fn release(&self, leaf: usize, amount: u64) {
        if !self.credits[2 + leaf].give(amount) {
            self.tree.lock().unwrap().release(id(2 + leaf), amount).expect("held");
        }
    }
    fn used(&self) -> u64 {
        self.tree.lock().unwrap().used(id(0))
    }
    fn set_limit(&self, limit: u64) -> u64 {
        self.tree.lock().unwrap().set_limit(id(0), limit)
    }
}

/// One has credit for what it wants, and the other wants what that credit is taken from.
fn one_of_two_is_granted<A: Accounts>() {
    model(|| {
        let accounts = Arc::new(A::new(5));
        assert!(accounts.charge(0, 4));
        accounts.release(0, 4);
        let spender = {
            let accounts = accounts.clone();
            thread::spawn(move || accounts.charge(0, 3))
        };
        let mine = accounts.charge(1, 3);
        let used = accounts.used();
        let theirs = spender.join().unwrap();
        assert!(used <= 5, "over the limit");
        assert_eq!(mine as u32 + theirs as u32, 1, "granted to one");
        assert_eq!(accounts.used(), 3, "no trace of the other");
        assert!(accounts.charge(0, 2) && !accounts.charge(1, 1), "the rest is left, and no more");
    });
}

/// Both want half of all there is, again and again, each with credit that is called back for the other.
fn nobody_is_refused_what_fits<A: Accounts>() {
    model(|| {
        let accounts = Arc::new(A::new(6));
        // The mark is at the limit from here on, and all of it is one account's credit.
        assert!(accounts.charge(0, 6));
        accounts.release(0, 6);
        let other = {
            let accounts = accounts.clone();
            thread::spawn(move || {
                let granted = accounts.charge(0, 3);
                if granted {
                    accounts.release(0, 3);
                }
                granted
            })
        };
        let mine = accounts.charge(1, 3);
        if mine {
            accounts.release(1, 3);
        }
        let theirs = other.join().unwrap();
        assert!(mine && theirs, "refused what fits");
        assert_eq!(accounts.used(), 0, "all was given back");
        assert!(accounts.charge(1, 6), "all of it is left");
    });
}

/// What one gives back as the other calls for it is there, sooner or later, once.
fn what_is_given_back_is_there_once<A: Accounts>() {
    model(|| {
        let accounts = Arc::new(A::new(4));
        assert!(accounts.charge(0, 2) && accounts.charge(0, 2));
        accounts.release(0, 2);
        let releaser = {
            let accounts = accounts.clone();
            thread::spawn(move || accounts.release(0, 2))
        };
        let granted = accounts.charge(1, 4);
        releaser.join().unwrap();
        assert_eq!(accounts.used(), if granted { 4 } else { 0 }, "counted once");
        assert!(granted || accounts.charge(1, 4), "all of it is there");
        assert!(!accounts.charge(0, 1), "over the limit");
    });
}

/// A limit falls while somebody spends credit from above it.
fn a_lowered_limit_calls_credit_back<A: Accounts>() {
    model(|| {
        let accounts = Arc::new(A::new(5));
        assert!(accounts.charge(0, 4));
        accounts.release(0, 4);
        let spender = {
            let accounts = accounts.clone();
            thread::spawn(move || accounts.charge(0, 3))
        };
        let over = accounts.set_limit(2);
        let above = accounts.charge(1, 3);
        let granted = spender.join().unwrap();
        assert!(!above, "granted above a limit that is in force");
        assert_eq!(over, if granted { 1 } else { 0 }, "held above the limit");
        if granted {
            assert!(!accounts.charge(0, 1) && !accounts.charge(1, 1), "no room before it fits");
            accounts.release(0, 3);
        }
        assert!(accounts.charge(1, 2), "the whole of the new limit");
        assert_eq!(accounts.used(), 2);
    });
}

/// One spends credit from above what was ever held while the other's charge calls it back.
#[test]
fn a_peak_is_what_was_held_at_once() {
    model(|| {
        let accounts = Arc::new(Ours::new(40));
        assert!(accounts.charge(0, 2), "and some more as credit");
        let spender = {
            let accounts = accounts.clone();
            thread::spawn(move || {
                assert!(accounts.charge(0, 3));
                let used = accounts.used();
                accounts.release(0, 3);
                used
            })
        };
        assert!(accounts.charge(1, 4));
        let seen = spender.join().unwrap();
        assert_eq!(accounts.used(), 6);
        let peak = accounts.tree.lock().unwrap().peak(id(0));
        assert!(peak >= seen && [6, 9].contains(&peak), "a peak of {peak}, and {seen} were seen");
    });
}

macro_rules! accounts_keep_to {
    ($($law:ident),* $(,)?) => {
        $(#[test] fn $law() { super::$law::<Ours>(); })*
    };
}

mod credit {
    use super::*;
    accounts_keep_to!(
        one_of_two_is_granted,
        nobody_is_refused_what_fits,
        what_is_given_back_is_there_once,
        a_lowered_limit_calls_credit_back,
    );
}

/// Ways to have credit that are wrong, and what a model says of them.
#[cfg(democratising_loom)]
mod planted {
    use super::*;
    use loom_tests::atomic::AtomicU64;
    use loom_tests::atomic::Ordering::{AcqRel, Acquire, Release};

    const CLOSED: u64 = u64::MAX;

    /// How credit is called back, and who asks for that.
    trait Wrong: Send + Sync + 'static {
        const ASKS: bool = true;
        const CALLS_BACK: bool = true;
        fn close(word: &AtomicU64) -> u64 {
            word.swap(CLOSED, AcqRel)
        }
        fn give(word: &AtomicU64, amount: u64) -> bool {
            word.fetch_update(AcqRel, Acquire, |have| (have != CLOSED).then(|| have + amount)).is_ok()
        }
    }

    /// Two words of credit from one limit; what is released stays as credit.
    struct Tiny<W> {
        /// What is charged, and the limit.
        root: Mutex<(u64, u64)>,
        words: [AtomicU64; 2],
        _how: std::marker::PhantomData<W>,
    }

    impl<W: Wrong> Tiny<W> {
        fn call_back(&self, charged: &mut u64) {
            for word in &self.words {
                let back = W::close(word);
                *charged -= if back == CLOSED { 0 } else { back };
            }
        }
    }

    impl<W: Wrong> Accounts for Tiny<W> {
        fn new(limit: u64) -> Self {
            let words = [AtomicU64::new(CLOSED), AtomicU64::new(CLOSED)];
            Tiny { root: Mutex::new((0, limit)), words, _how: std::marker::PhantomData }
        }
        fn charge(&self, leaf: usize, amount: u64) -> bool {
            let spent = |have: u64| if have == CLOSED { None } else { have.checked_sub(amount) };
            if self.words[leaf].fetch_update(AcqRel, Acquire, spent).is_ok() {
                return true;
            }
            let mut root = self.root.lock().unwrap();
            let (charged, limit) = &mut *root;
            if *charged + amount > *limit && W::ASKS {
                self.call_back(charged);
            }
            let fits = *charged + amount <= *limit;
            if fits {
                *charged += amount;
            }
            fits
        }
        fn release(&self, leaf: usize, amount: u64) {
            if !W::give(&self.words[leaf], amount) {
                let _root = self.root.lock().unwrap();
                if !W::give(&self.words[leaf], amount) {
                    self.words[leaf].store(amount, Release);
                }
            }
        }
        fn used(&self) -> u64 {
            let mut root = self.root.lock().unwrap();
            self.call_back(&mut root.0);
            root.0
        }
        fn set_limit(&self, limit: u64) -> u64 {
            let mut root = self.root.lock().unwrap();
            root.1 = limit;
            if W::CALLS_BACK {
                self.call_back(&mut root.0);
            }
            root.0.saturating_sub(limit)
        }
    }

    struct NeverAsks;
    impl Wrong for NeverAsks {
        const ASKS: bool = false;
    }

    #[test]
    #[should_panic(expected = "refused what fits")]
    fn a_refusal_without_calling_credit_back_is_caught() {
        nobody_is_refused_what_fits::<Tiny<NeverAsks>>();
    }

    struct ClosesInTwoSteps;
    impl Wrong for ClosesInTwoSteps {
        fn close(word: &AtomicU64) -> u64 {
            let left = word.load(Acquire);
            word.store(CLOSED, Release);
            left
        }
    }

    #[test]
    #[should_panic(expected = "granted to one")]
    fn credit_that_is_read_and_closed_apart_is_caught() {
        one_of_two_is_granted::<Tiny<ClosesInTwoSteps>>();
    }

    struct GivesInTwoSteps;
    impl Wrong for GivesInTwoSteps {
        fn give(word: &AtomicU64, amount: u64) -> bool {
            let have = word.load(Acquire);
            if have != CLOSED {
                word.store(have + amount, Release);
            }
            have != CLOSED
        }
    }

    #[test]
    #[should_panic(expected = "counted once")]
    fn credit_that_is_read_and_added_to_apart_is_caught() {
        what_is_given_back_is_there_once::<Tiny<GivesInTwoSteps>>();
    }

    struct LeavesCredit;
    impl Wrong for LeavesCredit {
        const CALLS_BACK: bool = false;
    }

    #[test]
    #[should_panic(expected = "limit")]
    fn credit_that_outlives_its_limit_is_caught() {
        a_lowered_limit_calls_credit_back::<Tiny<LeavesCredit>>();
    }

    #[test]
    fn the_same_without_a_fault_passes() {
        struct Nothing;
        impl Wrong for Nothing {}
        one_of_two_is_granted::<Tiny<Nothing>>();
        what_is_given_back_is_there_once::<Tiny<Nothing>>();
    }
}
