//! A tree of accounts: what is charged to one is charged to all around it, exactly, and mostly without walking there.
//!
//! 1. An **account** has a limit and a mark, the most that was held at once. `charged` is what is held here and within, and the open
//!    [`credit`](super::credit) here and within besides. It is never more than the limit, but where that fell.
//! 2. So what is spent of credit needs no look at any limit around. Nor at any mark: as a rule `charged` is not above the mark. It may be
//!    where one credit alone is open in the whole of an account and nothing was charged there since: then the least that was left of that
//!    credit tells the mark, and it is told when the credit is closed, before anything else is charged there or opened.
//! 3. A charge that would take an account over its limit or mark closes all credit in that account first. Then `charged` is what is
//!    held, so a refusal is right, and so is a new mark. An account names those directly within it that may have open credit, here or
//!    further within, so that closing costs as much as opening did.
//! 4. What is released stays with the account as credit, unless some limit around is exceeded, which happens when one falls.
//! 5. All of it happens under the lock of whoever has the tree. Outside of it there are charges and releases by credit alone.
//!
//! Credit taken beforehand is what Linux's memory control groups do (`mm/memcontrol.c`, "stocks"), there by processor, and by so much
//! that limits and numbers are not exact.

#![forbid(unsafe_code)]

use super::credit::{Credit, Left};
use super::path::RefusedAt;
use super::{Budget, OverBudget, OverRelease};
use crate::sync::Wide;
use core::num::NonZeroU32;
use std::vec::Vec;

/// The most that an account takes beforehand; what comes back to it may be more.
const MOST_AHEAD: u64 = 1 << 20;

/// The part of the room, below limits and marks, that an account takes beforehand.
const PART_AHEAD: u64 = 4;

/// What the counters can hold.
const COUNTED: u64 = Wide::MAX as u64;

/// Which account of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccountId(NonZeroU32);

impl AccountId {
    /// The account with this index; `None` where there are no more.
    pub const fn new(index: usize) -> Option<AccountId> {
        if index >= u32::MAX as usize {
            return None;
        }
        match NonZeroU32::new(index as u32 + 1) {
            Some(id) => Some(AccountId(id)),
            None => None,
        }
    }

    /// Counted from 0.
    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Accounts of one resource. See the [module](self).
#[derive(Debug)]
pub struct Tree<'a> {
    accounts: Vec<Account<'a>>,
}

/// One cache line: walking outwards reads one for each account.
#[derive(Debug)]
#[repr(align(64))]
struct Account<'a> {
    credit: &'a Credit,
    charged: u64,
    limit: u64,
    mark: u64,
    within: Option<AccountId>,
    /// The first of those directly within this that may have open credit.
    open_first: Option<AccountId>,
    /// Its neighbours among those of the account around it, while it is one of them.
    open_before: Option<AccountId>,
    open_next: Option<AccountId>,
    /// Whether it is one of them. Then those around it are too.
    is_open: bool,
    /// Whether it may have credit.
    has_credit: bool,
}

const _: () = assert!(size_of::<Account<'_>>() == 64);

impl Account<'_> {
    fn left(&self) -> u64 {
        self.limit.min(COUNTED).saturating_sub(self.charged)
    }
}

impl<'a> Tree<'a> {
    /// Without any account.
    pub const fn new() -> Tree<'a> {
        Tree { accounts: Vec::new() }
    }

    /// Puts an account without a limit within another, or around all. `id` is the next index, or one that was taken out.
    /// Without credit, `credit` stays closed.
    pub fn put(&mut self, id: AccountId, within: Option<AccountId>, credit: &'a Credit, has_credit: bool) {
        let account = Account {
            credit,
            charged: 0,
            limit: Budget::UNLIMITED,
            mark: 0,
            within,
            open_first: None,
            open_before: None,
            open_next: None,
            is_open: false,
            has_credit,
        };
        match self.accounts.get_mut(id.index()) {
            Some(place) => *place = account,
            None => self.accounts.push(account),
        }
    }

    /// Takes an account out that has nothing charged and none within it. Its credit is closed then.
    pub fn take_out(&mut self, id: AccountId) {
        self.close(id);
        debug_assert_eq!(self.at(id).charged, 0, "an account is taken out with something in it");
        self.unlist(id);
    }

    /// Takes `amount` from the account and from all around it, and some more as credit where there is much room.
    ///
    /// # Errors
    /// [`RefusedAt`] with the innermost account that has less left, and how much. All hold then what they held.
    pub fn charge(&mut self, id: AccountId, amount: u64) -> Result<(), RefusedAt> {
        self.close(id);
        let (mut next, mut depth) = (Some(id), 0);
        while let Some(at) = next {
            if self.at(at).left() < amount {
                self.close_within(at);
                let account = self.at(at);
                if account.left() < amount {
                    let over = OverBudget { asked: amount, left: account.left(), limit: account.limit };
                    return Err(RefusedAt { depth, over });
                }
            }
            let account = self.at(at);
            if account.charged + amount > account.mark
                && (account.open_first.is_some() || account.credit.is_open())
            {
                self.close_within(at);
            }
            (next, depth) = (self.at(at).within, depth + 1);
        }
        let room = self.add(id, amount);
        let more = (room / PART_AHEAD).min(MOST_AHEAD).min(Credit::MOST);
        if more > 0 && self.at(id).has_credit {
            self.each_around(id, |account| account.charged += more);
            self.open(id, more);
        }
        Ok(())
    }

    /// Adds what fits to an account that is closed and to all around it. Returns how much more might be added as its credit.
    fn add(&mut self, id: AccountId, amount: u64) -> u64 {
        let mut room = u64::MAX;
        // Whether no other credit is open in `at`: then one above the mark would be alone.
        let (mut at, mut is_alone) = (id, self.at(id).open_first.is_none());
        loop {
            let account = self.at_mut(at);
            account.charged += amount;
            account.mark = account.mark.max(account.charged);
            room = room.min(account.left());
            if !is_alone {
                room = room.min(account.mark - account.charged);
            }
            let (next, Some(around)) = (account.open_next, account.within) else { return room };
            let outer = self.at(around);
            is_alone &= !outer.credit.is_open()
                && (outer.open_first.is_none() || (outer.open_first == Some(at) && next.is_none()));
            at = around;
        }
    }

    /// Gives back `amount` that [`charge`](Self::charge) took. It stays with the account as credit where that may be.
    ///
    /// # Errors
    /// [`OverRelease`] when less is held: some share was given back twice. Nothing was changed then.
    pub fn release(&mut self, id: AccountId, amount: u64) -> Result<(), OverRelease> {
        let account = self.at(id);
        if account.charged < amount {
            return Err(OverRelease { given: amount, used: account.charged });
        }
        self.close(id);
        let (mut next, mut fits) = (Some(id), true);
        while let Some(at) = next {
            if self.at(at).charged > self.at(at).mark {
                self.close_within(at);
            }
            let account = self.at(at);
            fits &= account.charged <= account.limit;
            next = account.within;
        }
        if fits && self.at(id).has_credit && amount <= Credit::MOST {
            self.open(id, amount);
        } else {
            self.each_around(id, |account| account.charged -= amount);
        }
        Ok(())
    }

    /// Closes the account's own credit, which then is left to all around.
    fn close(&mut self, id: AccountId) {
        if let Some(left) = self.at(id).credit.close() {
            self.each_around(id, |account| {
                // Where other credit is open too, this is no more than the mark.
                account.mark = account.mark.max(account.charged.saturating_sub(left.least));
                account.charged -= left.now;
            });
        }
    }

    /// The account has no credit any more: the tree sees all that it releases.
    pub fn close_for_good(&mut self, id: AccountId) {
        self.at_mut(id).has_credit = false;
        self.close(id);
    }

    /// Sets the limit from now on, and returns how much more than that is held.
    pub fn set_limit(&mut self, id: AccountId, limit: u64) -> u64 {
        self.at_mut(id).limit = if limit < COUNTED { limit } else { Budget::UNLIMITED };
        if self.at(id).charged > limit {
            self.close_within(id);
        }
        self.at(id).charged.saturating_sub(limit)
    }

    /// What is held here and within; of one moment where nobody charges meanwhile, and never more than the limit allowed.
    pub fn used(&self, id: AccountId) -> u64 {
        let mut used = self.at(id).charged;
        self.each_open(id, |left| used = used.saturating_sub(left.now));
        used
    }

    /// Looks at all open credit here and within.
    fn each_open(&self, id: AccountId, mut look: impl FnMut(Left)) {
        let mut at = id;
        loop {
            if let Some(left) = self.at(at).credit.left() {
                look(left);
            }
            // Down, else aside, else up until there is one aside.
            at = match self.at(at).open_first {
                Some(first) => first,
                None => loop {
                    if at == id {
                        return;
                    }
                    let account = self.at(at);
                    match (account.open_next, account.within) {
                        (Some(next), _) => break next,
                        (None, Some(around)) => at = around,
                        (None, None) => return,
                    }
                },
            };
        }
    }

    /// Whether nothing is charged, neither held nor taken beforehand.
    pub fn is_empty(&self, id: AccountId) -> bool {
        self.at(id).charged == 0
    }

    /// The most that was held at once.
    pub fn peak(&self, id: AccountId) -> u64 {
        let account = self.at(id);
        let mut peak = account.mark;
        if account.charged > peak {
            self.each_open(id, |left| peak = peak.max(account.charged.saturating_sub(left.least)));
        }
        peak
    }

    /// The account's own limit, or [`UNLIMITED`](Budget::UNLIMITED).
    pub fn limit(&self, id: AccountId) -> u64 {
        self.at(id).limit
    }

    /// What its own limit leaves.
    pub fn left(&self, id: AccountId) -> u64 {
        self.limit(id).min(COUNTED).saturating_sub(self.used(id))
    }

    /// What can still be had: the least that is left here and around.
    pub fn left_around(&self, id: AccountId) -> u64 {
        let (mut least, mut next) = (u64::MAX, Some(id));
        while let Some(at) = next {
            least = least.min(self.left(at));
            next = self.at(at).within;
        }
        least
    }

    fn at(&self, id: AccountId) -> &Account<'a> {
        &self.accounts[id.index()]
    }

    fn at_mut(&mut self, id: AccountId) -> &mut Account<'a> {
        &mut self.accounts[id.index()]
    }

    /// The account, and all around it.
    fn each_around(&mut self, id: AccountId, mut change: impl FnMut(&mut Account<'a>)) {
        let mut next = Some(id);
        while let Some(at) = next {
            let account = self.at_mut(at);
            change(account);
            next = account.within;
        }
    }

    /// Opens the account's credit, which is closed, with `amount` that is charged already, and lists it all the way out.
    fn open(&mut self, id: AccountId, amount: u64) {
        self.at(id).credit.open(amount);
        let mut at = id;
        while let (false, Some(around)) = (self.at(at).is_open, self.at(at).within) {
            let first = self.at_mut(around).open_first.replace(at);
            if let Some(first) = first {
                self.at_mut(first).open_before = Some(at);
            }
            let account = self.at_mut(at);
            (account.is_open, account.open_before, account.open_next) = (true, None, first);
            at = around;
        }
    }

    fn unlist(&mut self, id: AccountId) {
        let account = self.at_mut(id);
        if !account.is_open {
            return;
        }
        account.is_open = false;
        let (before, next, within) = (account.open_before.take(), account.open_next.take(), account.within);
        if let Some(next) = next {
            self.at_mut(next).open_before = before;
        }
        match (before, within) {
            (Some(before), _) => self.at_mut(before).open_next = next,
            (None, Some(around)) => self.at_mut(around).open_first = next,
            (None, None) => {}
        }
    }

    /// Closes all credit here and within.
    #[cold]
    #[inline(never)]
    fn close_within(&mut self, id: AccountId) {
        let mut at = id;
        loop {
            if let Some(first) = self.at(at).open_first {
                self.unlist(first);
                at = first;
                continue;
            }
            self.close(at);
            match self.at(at).within {
                Some(around) if at != id => at = around,
                _ => return,
            }
        }
    }
}

impl Default for Tree<'_> {
    fn default() -> Self {
        Tree::new()
    }
}
