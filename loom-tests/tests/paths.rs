//! Budgets one above the other, under every interleaving: none over its limit, no trace of a refused charge.

use democratising::pool::budget::{Budget, path};
use loom_tests::{Arc, model, thread};

/// Two requests in one process.
struct Tree {
    left: Budget,
    right: Budget,
    process: Budget,
}

/// How a path is charged and given back.
trait Charging: 'static {
    fn take(inner: &Budget, outer: &Budget, amount: u64) -> bool;
    fn release(inner: &Budget, outer: &Budget, amount: u64);
}

struct Ours;

impl Charging for Ours {
    fn take(inner: &Budget, outer: &Budget, amount: u64) -> bool {
        path::try_take([inner, outer], amount).is_ok()
    }
    fn release(inner: &Budget, outer: &Budget, amount: u64) {
        path::release([inner, outer], amount).expect("held");
    }
}

fn tree(left: u64, right: u64, process: u64) -> Arc<Tree> {
    Arc::new(Tree { left: Budget::new(left), right: Budget::new(right), process: Budget::new(process) })
}

fn one_of_two_requests_is_granted_and_the_other_leaves_no_trace<C: Charging>() {
    model(|| {
        let tree = tree(5, 5, 5);
        let other = {
            let tree = tree.clone();
            thread::spawn(move || C::take(&tree.right, &tree.process, 3))
        };
        let mine = C::take(&tree.left, &tree.process, 3);
        let theirs = other.join().unwrap();
        assert_eq!(mine as u32 + theirs as u32, 1, "granted to one");
        assert_eq!(tree.process.used(), 3, "no trace above");
        assert_eq!(
            (tree.left.used(), tree.right.used()),
            (3 * mine as u64, 3 * theirs as u64),
            "no trace below"
        );
        assert_eq!(tree.process.peak(), 3, "over the limit at some time");
    });
}

fn what_comes_back_can_be_had_by_the_other<C: Charging>() {
    model(|| {
        let tree = tree(5, 5, 5);
        assert!(C::take(&tree.left, &tree.process, 4));
        let releaser = {
            let tree = tree.clone();
            thread::spawn(move || C::release(&tree.left, &tree.process, 4))
        };
        let granted = C::take(&tree.right, &tree.process, 2);
        assert!(tree.process.used() <= 5, "over the limit");
        releaser.join().unwrap();
        assert_eq!(tree.left.used(), 0);
        assert_eq!((tree.right.used(), tree.process.used()), if granted { (2, 2) } else { (0, 0) });
        assert!(granted || C::take(&tree.right, &tree.process, 5), "the whole of it is left");
    });
}

fn the_limit_of_one_request_holds_whatever_the_process_has_left<C: Charging>() {
    model(|| {
        let tree = tree(4, 9, 9);
        let others: Vec<_> = (0..2)
            .map(|_| {
                let tree = tree.clone();
                thread::spawn(move || C::take(&tree.left, &tree.process, 3))
            })
            .collect();
        assert!(tree.left.used() <= 4, "over the limit");
        let granted: u64 = others.into_iter().map(|other| other.join().unwrap() as u64).sum();
        assert_eq!(granted, 1, "granted to one");
        assert_eq!((tree.left.used(), tree.process.used()), (3, 3), "no trace");
    });
}

#[test]
fn paths_one_of_two_requests_is_granted() {
    one_of_two_requests_is_granted_and_the_other_leaves_no_trace::<Ours>();
}

#[test]
fn paths_what_comes_back_can_be_had() {
    what_comes_back_can_be_had_by_the_other::<Ours>();
}

#[test]
fn paths_the_limit_of_one_request_holds() {
    the_limit_of_one_request_holds_whatever_the_process_has_left::<Ours>();
}

/// Ways to charge a path that are wrong, and what a model says of them.
#[cfg(democratising_loom)]
mod planted {
    use super::*;

    /// Leaves what it took below where the process refuses.
    struct Forgets;

    impl Charging for Forgets {
        fn take(inner: &Budget, outer: &Budget, amount: u64) -> bool {
            inner.try_take(amount).is_ok() && outer.try_take(amount).is_ok()
        }
        fn release(inner: &Budget, outer: &Budget, amount: u64) {
            Ours::release(inner, outer, amount);
        }
    }

    /// Looks above, and takes afterwards without looking at the answer.
    struct LooksAbove;

    impl Charging for LooksAbove {
        fn take(inner: &Budget, outer: &Budget, amount: u64) -> bool {
            let fits = outer.left() >= amount && inner.try_take(amount).is_ok();
            if fits {
                let _ = outer.try_take(amount);
            }
            fits
        }
        fn release(inner: &Budget, outer: &Budget, amount: u64) {
            Ours::release(inner, outer, amount);
        }
    }

    #[test]
    #[should_panic(expected = "no trace below")]
    fn a_share_forgotten_below_is_caught() {
        one_of_two_requests_is_granted_and_the_other_leaves_no_trace::<Forgets>();
    }

    #[test]
    #[should_panic(expected = "granted to one")]
    fn a_look_above_in_place_of_a_charge_is_caught() {
        one_of_two_requests_is_granted_and_the_other_leaves_no_trace::<LooksAbove>();
    }
}
