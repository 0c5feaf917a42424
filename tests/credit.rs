//! Credit changes nothing but the time a charge takes: against an exact model, among threads at a limit, and around forks.
#![cfg_attr(not(unix), allow(unused_imports))]

#[path = "common/draw.rs"]
mod draw;
#[cfg(unix)]
#[path = "common/fork.rs"]
mod fork;
#[path = "common/over.rs"]
mod over;

use democratising::pool::budget::credit::Credit;
use democratising::pool::budget::path::RefusedAt;
use democratising::pool::budget::scope::{self, Holding, Kind, Scope};
use democratising::pool::budget::tree::{AccountId, Tree};
use democratising::pool::budget::{Budget, OverBudget};
use draw::Draw;
use over::are_over;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, Mutex};
use std::thread;

/// What a tree of accounts is, without any credit: every charge walks all the way out.
#[derive(Default)]
struct Exact(Vec<Node>);

#[derive(Clone)]
struct Node {
    within: Option<usize>,
    used: u64,
    peak: u64,
    limit: u64,
    is_there: bool,
    /// Nobody opens credit here any more.
    is_left: bool,
}

impl Exact {
    fn outwards(&self, from: usize) -> Vec<usize> {
        std::iter::successors(Some(from), |&at| self.0[at].within).collect()
    }

    fn charge(&mut self, at: usize, amount: u64) -> Result<(), RefusedAt> {
        let path = self.outwards(at);
        for (depth, &at) in path.iter().enumerate() {
            let Node { used, limit, .. } = self.0[at];
            let left = limit.min(i64::MAX as u64).saturating_sub(used);
            if amount > left {
                return Err(RefusedAt { depth, over: over(amount, left, limit) });
            }
        }
        for at in path {
            self.0[at].used += amount;
            self.0[at].peak = self.0[at].peak.max(self.0[at].used);
        }
        Ok(())
    }

    fn release(&mut self, at: usize, amount: u64) {
        self.outwards(at).into_iter().for_each(|at| self.0[at].used -= amount);
    }
}

/// What a budget of its own says: the type has no other maker.
fn over(asked: u64, left: u64, limit: u64) -> OverBudget {
    let budget = Budget::new(limit);
    budget.try_take(limit.min(i64::MAX as u64) - left).unwrap();
    budget.try_take(asked).unwrap_err()
}

fn id(index: usize) -> AccountId {
    AccountId::new(index).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// In which account, how much, and how finely.
    Charge(usize, u64, u32),
    Release(usize),
    Part(usize, u64),
    Limit(usize, u64),
    Grow(usize),
    TakeOut(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0..64_usize;
    // Now and then more than a word of credit counts, and more than anything does.
    let fine = prop_oneof![30 => 0..16_u32, 2 => 16..40_u32, 1 => Just(54)];
    let step = prop_oneof![
        8 => (at.clone(), 0..1000_u64, fine).prop_map(|(at, amount, fine)| Step::Charge(at, amount, fine)),
        6 => at.clone().prop_map(Step::Release),
        2 => (at.clone(), 0..1000_u64).prop_map(|(at, part)| Step::Part(at, part)),
        1 => (at.clone(), 0..1000_u64).prop_map(|(at, limit)| Step::Limit(at, limit)),
        1 => at.clone().prop_map(Step::Grow),
        1 => at.prop_map(Step::TakeOut),
    ];
    proptest::collection::vec(step, 1..400)
}

/// A tree with credit and one without, side by side.
struct Both<'a> {
    exact: Exact,
    tree: Tree<'a>,
    credits: &'a [Credit],
    held: Vec<(usize, u64)>,
}

impl Both<'_> {
    fn grow(&mut self, within: Option<usize>) {
        let node = Node { within, used: 0, peak: 0, limit: u64::MAX, is_there: true, is_left: false };
        let at = self.exact.0.iter().position(|node| !node.is_there).unwrap_or(self.exact.0.len());
        if at == self.credits.len() {
            return;
        }
        match self.exact.0.get_mut(at) {
            Some(place) => *place = node,
            None => self.exact.0.push(node),
        }
        // One in five has no credit at any time.
        self.tree.put(id(at), within.map(id), &self.credits[at], at % 5 != 4);
    }

    fn there(&self, draw: usize) -> usize {
        let there: Vec<usize> = (0..self.exact.0.len()).filter(|&at| self.exact.0[at].is_there).collect();
        there[draw % there.len()]
    }

    fn give(&mut self, at: usize, amount: u64) {
        self.exact.release(at, amount);
        if amount > 0 && !self.credits[at].give(amount) {
            self.tree.release(id(at), amount).unwrap();
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Charge(draw, amount, fine) => {
                let (at, amount) = (self.there(draw), amount << fine);
                let expected = self.exact.charge(at, amount);
                let got =
                    if self.credits[at].take(amount) { Ok(()) } else { self.tree.charge(id(at), amount) };
                assert_eq!(got, expected, "{amount} of account {at}");
                if got.is_ok() {
                    self.held.push((at, amount));
                }
            }
            Step::Release(draw) if !self.held.is_empty() => {
                let (at, amount) = self.held.swap_remove(draw % self.held.len());
                self.give(at, amount);
            }
            Step::Part(draw, part) if !self.held.is_empty() => {
                let index = draw % self.held.len();
                let (at, amount) = self.held[index];
                let part = part.min(amount);
                self.held[index].1 -= part;
                self.give(at, part);
            }
            Step::Limit(draw, limit) => {
                let (at, limit) = (self.there(draw), if limit < 100 { u64::MAX } else { limit << 10 });
                self.exact.0[at].limit = limit;
                let over = self.exact.0[at].used.saturating_sub(limit);
                assert_eq!(self.tree.set_limit(id(at), limit), over, "over the limit");
            }
            Step::Grow(draw) => self.grow(Some(self.there(draw))),
            Step::TakeOut(draw) => {
                let at = self.there(draw);
                let is_leaf = !self.exact.0.iter().any(|node| node.is_there && node.within == Some(at));
                if at > 0 && is_leaf {
                    self.tree.close_for_good(id(at));
                    self.exact.0[at].is_left = true;
                    assert_eq!(self.tree.is_empty(id(at)), self.exact.0[at].used == 0);
                    if self.exact.0[at].used == 0 {
                        self.held.retain(|&(place, _)| place != at);
                        self.tree.take_out(id(at));
                        self.exact.0[at].is_there = false;
                    }
                }
            }
            Step::Release(_) | Step::Part(..) => {}
        }
        for at in (0..self.exact.0.len()).filter(|&at| self.exact.0[at].is_there) {
            let Node { used, peak, limit, is_left, .. } = self.exact.0[at];
            let tree = &self.tree;
            let is_alone =
                is_left && !self.exact.0.iter().any(|node| node.is_there && node.within == Some(at));
            assert!(!is_alone || tree.is_empty(id(at)) == (used == 0), "what is over is seen: account {at}");
            assert_eq!(
                (tree.used(id(at)), tree.peak(id(at)), tree.limit(id(at))),
                (used, peak, limit),
                "account {at}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_with_credit_grants_refuses_and_counts_as_one_without(steps in steps()) {
        let credits: Vec<Credit> = (0..24).map(|_| Credit::new()).collect();
        let mut both = Both { exact: Exact::default(), tree: Tree::new(), credits: &credits, held: Vec::new() };
        both.grow(None);
        for within in [0, 0, 1, 1, 2] {
            both.grow(Some(within));
        }
        for step in &steps {
            both.step(step);
        }
        while let Some((at, amount)) = both.held.pop() {
            both.give(at, amount);
        }
        prop_assert_eq!(both.tree.used(id(0)), 0);
    }
}

#[test]
fn the_mark_of_an_account_holds_while_others_within_have_credit() {
    let credits: Vec<Credit> = (0..24).map(|_| Credit::new()).collect();
    let mut both = Both { exact: Exact::default(), tree: Tree::new(), credits: &credits, held: Vec::new() };
    for within in [None, Some(0), Some(0)] {
        both.grow(within);
    }
    // A mark of 10 MiB, then 1 MiB of credit in each of two, and up to 50 bytes below the mark with that of the other.
    let near = (9 << 20) - 2 - 50;
    for step in [
        Step::Charge(0, 10, 20),
        Step::Release(0),
        Step::Charge(2, 1, 0),
        Step::Charge(1, 1, 0),
        Step::Charge(1, near, 0),
        Step::Charge(1, 1, 20),
    ] {
        both.step(&step);
    }
}

#[test]
fn what_no_word_of_credit_counts_is_charged_and_given_back_all_the_same() {
    const GIB: u64 = 1 << 30;
    let scope = Scope::process().child("much");
    let used = || scope.used(Kind::DeviceBytes);
    for parts in [[GIB; 3], [3 * GIB, GIB, 1], [(1 << 31) - 1, 1, 1]] {
        let mut held = parts.map(|part| scope.charge(Kind::DeviceBytes, part).unwrap()).into_iter();
        for given in 1..=3 {
            drop(held.next());
            assert_eq!(used(), parts[given..].iter().sum::<u64>(), "{given} of {parts:?}");
        }
    }
    assert_eq!(scope.peak(Kind::DeviceBytes), 4 * GIB + 1);
}

#[test]
fn what_cannot_be_counted_is_refused_and_is_no_limit() {
    let scope = Scope::process().child("uncountable");
    let _held = scope.charge(Kind::DeviceBytes, 10).unwrap();
    for amount in [u64::MAX, 1 << 63, (1 << 63) + 5] {
        let refused = scope.charge(Kind::DeviceBytes, amount).unwrap_err();
        assert_eq!((refused.scope(), refused.over().left), (&scope, i64::MAX as u64 - 10), "{amount}");
    }
    assert_eq!(scope.set_limit(Kind::DeviceBytes, 1 << 63), 0);
    assert_eq!((scope.used(Kind::DeviceBytes), scope.limit(Kind::DeviceBytes)), (10, u64::MAX));
}

#[test]
fn more_than_is_charged_cannot_be_given_back_to_an_account() {
    let credit = Credit::new();
    let mut tree = Tree::new();
    tree.put(id(0), None, &credit, false);
    tree.charge(id(0), 5).unwrap();
    let refused = tree.release(id(0), 6).unwrap_err();
    assert_eq!((refused.given, refused.used, tree.used(id(0))), (6, 5, 5));
}

#[test]
fn a_scope_that_nobody_has_ends_with_what_it_holds_however_that_grew() {
    let scope = Scope::process().child("left alone");
    let mut held = scope.charge(Kind::DeviceBytes, 10).unwrap();
    drop(scope);
    for amount in [1000, 1000, 100] {
        held.resize(amount).unwrap();
    }
    drop(held);
    assert!(are_over(|scope| scope.name() == "left alone"));
}

#[test]
fn a_scope_that_somebody_has_keeps_its_place_whatever_it_gave_back() {
    let scope = Scope::process().child("empty again");
    for kind in [Kind::Files, Kind::Connections, Kind::Listeners] {
        drop(scope.charge(kind, 1).unwrap());
    }
    assert!(Scope::all().contains(&scope));
    let other = Scope::process().child("new");
    let _held = scope.charge(Kind::Connections, 1).unwrap();
    assert_eq!((scope.used(Kind::Connections), other.used(Kind::Connections)), (1, 0));
}

#[test]
fn a_holding_of_nothing_keeps_a_scope_that_has_credit() {
    let scope = Scope::process().child("nothing of much");
    let some = scope.charge(Kind::DeviceBytes, 10).unwrap();
    let nothing = scope.charge(Kind::DeviceBytes, 0).unwrap();
    drop(scope);
    drop(some);
    assert_eq!(nothing.scope().name(), "nothing of much");
    drop(nothing);
    assert!(are_over(|scope| scope.name() == "nothing of much"));
}

const SHARE: u64 = 40 << 10;

/// Eight threads with a share each of one limit, which they hold in whatever leaf: there is always room, if all of it is found.
fn shares_of_one_limit(root: &Scope, leaves: &[Scope], rounds: usize) {
    root.set_limit(Kind::HostBytes, 8 * SHARE);
    let (held_now, all_hold) = (AtomicU64::new(0), Barrier::new(8));
    thread::scope(|threads| {
        for seed in 1..=8 {
            let (held_now, all_hold) = (&held_now, &all_hold);
            threads.spawn(move || {
                let whole = leaves[seed as usize % leaves.len()].charge(Kind::HostBytes, SHARE);
                all_hold.wait();
                drop(whole.unwrap());
                let mut draw = Draw(seed);
                let mut held: Vec<Holding> = Vec::new();
                for _ in 0..rounds {
                    let mine: u64 = held.iter().map(Holding::amount).sum();
                    // Large ones and small ones, and now and then all there is.
                    let amount = match draw.below(8) {
                        0 => SHARE - mine,
                        _ => draw.below(SHARE / 4).min(SHARE - mine),
                    };
                    let leaf = &leaves[draw.below(leaves.len() as u64) as usize];
                    match leaf.charge(Kind::HostBytes, amount) {
                        Ok(one) => held.push(one),
                        Err(refused) => panic!("refused while there is room: {refused}"),
                    }
                    let now = held_now.fetch_add(amount, SeqCst) + amount;
                    assert!(now <= 8 * SHARE, "{now} held of {}", 8 * SHARE);
                    assert!(root.used(Kind::HostBytes) <= 8 * SHARE);
                    while held.len() > draw.below(6) as usize {
                        let one = held.swap_remove(draw.below(held.len() as u64) as usize);
                        held_now.fetch_sub(one.amount(), SeqCst);
                    }
                }
                held_now.fetch_sub(held.iter().map(Holding::amount).sum(), SeqCst);
            });
        }
    });
    assert_eq!(root.used(Kind::HostBytes), 0);
    assert_eq!(root.peak(Kind::HostBytes), 8 * SHARE);
}

#[test]
fn eight_threads_are_never_refused_their_share_of_a_limit_two_scopes_deep() {
    let root = Scope::process().child("eight shares");
    let leaves: Vec<Scope> = (0..4).map(|_| root.child("leaf")).collect();
    shares_of_one_limit(&root, &leaves, 20_000);
    drop(leaves);
    assert!(root.end().is_nothing());
}

#[test]
fn eight_threads_are_never_refused_their_share_of_a_limit_three_scopes_deep() {
    let root = Scope::process().child("eight shares, deeper");
    let middle: Vec<Scope> = (0..2).map(|_| root.child("middle")).collect();
    // In the middle too, where a charge competes with what the leaves took beforehand.
    let mut leaves: Vec<Scope> = (0..4).map(|at| middle[at % 2].child("leaf")).collect();
    leaves.extend(middle.iter().cloned());
    leaves.push(root.clone());
    shares_of_one_limit(&root, &leaves, 20_000);
    drop((middle, leaves));
    assert!(root.end().is_nothing());
}

#[test]
fn scopes_that_come_and_go_under_eight_threads_leave_nothing_and_break_no_limit() {
    let root = Scope::process().child("requests");
    root.set_limit(Kind::HostBytes, 100_000);
    root.set_limit(Kind::Connections, 10);
    // Held longer than the scopes they were charged to, and given back by whatever thread.
    let left: Mutex<Vec<Holding>> = Mutex::new(Vec::new());
    thread::scope(|threads| {
        for seed in 1..=8 {
            let (root, left) = (&root, &left);
            threads.spawn(move || {
                let mut draw = Draw(seed);
                for _ in 0..3_000 {
                    let request = root.child("request");
                    let step = request.child("step");
                    for kind in [Kind::HostBytes, Kind::Connections] {
                        let amount = if kind == Kind::HostBytes { draw.below(30_000) } else { draw.below(3) };
                        let scope = if draw.below(2) == 0 { &request } else { &step };
                        let Ok(held) = scope.charge(kind, amount) else { continue };
                        assert_eq!(held.scope().name(), scope.name());
                        if draw.below(3) > 0 {
                            left.lock().unwrap().push(held);
                        }
                    }
                    let mut left = left.lock().unwrap();
                    while left.len() > 12 {
                        let at = draw.below(left.len() as u64) as usize;
                        let held = left.swap_remove(at);
                        assert!(["request", "step"].contains(&held.scope().name()));
                        drop(held);
                    }
                    drop(left);
                    assert!(root.used(Kind::HostBytes) <= 100_000 && root.used(Kind::Connections) <= 10);
                    if draw.below(50) == 0 {
                        assert!(Scope::all().iter().any(|scope| scope == root));
                    }
                }
            });
        }
    });
    left.into_inner().unwrap().clear();
    assert!(are_over(|scope| scope.parent().as_ref() == Some(&root)), "all of them are over");
    assert!(root.peak(Kind::HostBytes) > 50_000 && root.peak(Kind::HostBytes) <= 100_000);
    assert!(root.end().is_nothing());
}

#[test]
fn a_holding_of_nothing_keeps_its_scope_and_can_grow() {
    let scope = Scope::process().child("of nothing");
    let mut held = scope.charge(Kind::HostBytes, 0).unwrap();
    drop(scope);
    // Another one, which would have its place if that were free.
    let other = Scope::process().child("another");
    held.resize(10).unwrap();
    assert_eq!((held.scope().name(), other.used(Kind::HostBytes)), ("of nothing", 0));
    held.resize(0).unwrap();
    assert_eq!((held.scope().name(), held.scope().used(Kind::HostBytes)), ("of nothing", 0));
    drop(held);
    assert!(are_over(|scope| scope.name() == "of nothing"));
}

#[test]
fn a_scope_whose_place_is_used_again_starts_with_nothing() {
    let before = Scope::process().child("before");
    before.set_limit(Kind::HostBytes, 5);
    drop(before.charge(Kind::HostBytes, 5).unwrap());
    drop(before);
    for _ in 0..3 {
        let after = Scope::process().child("after");
        assert_eq!(
            (after.used(Kind::HostBytes), after.peak(Kind::HostBytes), after.limit(Kind::HostBytes)),
            (0, 0, u64::MAX)
        );
        drop(after.charge(Kind::HostBytes, 100).unwrap());
        assert_eq!((after.used(Kind::HostBytes), after.peak(Kind::HostBytes)), (0, 100));
    }
}

#[test]
fn the_peak_of_a_scope_is_what_those_within_held_together_at_once() {
    let outer = Scope::process().child("outer");
    let (one, other) = (outer.child("one"), outer.child("other"));
    for _ in 0..10 {
        drop(one.charge(Kind::HostBytes, 1000).unwrap());
        drop(other.charge(Kind::HostBytes, 900).unwrap());
    }
    assert_eq!(outer.peak(Kind::HostBytes), 1000, "never both");
    let _held = (one.charge(Kind::HostBytes, 600).unwrap(), other.charge(Kind::HostBytes, 700).unwrap());
    assert_eq!((outer.peak(Kind::HostBytes), outer.used(Kind::HostBytes)), (1300, 1300));
}

#[test]
fn what_a_thread_charges_as_it_ends_is_the_processes() {
    struct ChargesAtTheEnd(std::sync::mpsc::Sender<(u64, u64)>);
    impl Drop for ChargesAtTheEnd {
        fn drop(&mut self) {
            // It has the place of the thread's scope, where that is gone.
            let next = Scope::process().child("next");
            let held = scope::charge(Kind::HostBytes, 1).unwrap();
            let _ = self.0.send((held.amount(), next.used(Kind::HostBytes)));
        }
    }
    thread_local! {
        static LAST: std::cell::RefCell<Option<ChargesAtTheEnd>> = const { std::cell::RefCell::new(None) };
    }
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        // Before the thread's scope is: it is dropped after that then.
        LAST.with(|last| *last.borrow_mut() = Some(ChargesAtTheEnd(tell)));
        std::mem::forget(Scope::process().child("never left").enter());
    })
    .join()
    .unwrap();
    assert_eq!(told.recv().unwrap(), (1, 0));
}

#[cfg(unix)]
#[test]
fn the_child_of_a_fork_charges_as_if_it_were_alone() {
    let scope = Scope::process().child("forked");
    scope.set_limit(Kind::HostBytes, 1000);
    let stop = AtomicBool::new(false);
    thread::scope(|threads| {
        for leaf in [scope.child("left"), scope.child("right")] {
            let stop = &stop;
            threads.spawn(move || {
                while !stop.load(SeqCst) {
                    drop(leaf.charge(Kind::HostBytes, 600));
                }
            });
        }
        for _ in 0..50 {
            let ended = fork::in_child(|| {
                Scope::process().charge(Kind::HostBytes, 1).is_ok()
                    && scope.charge(Kind::HostBytes, 400).is_ok()
                    && scope.used(Kind::HostBytes) <= 600
            });
            assert_eq!(ended, fork::RIGHT);
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(scope.used(Kind::HostBytes), 0);
}
