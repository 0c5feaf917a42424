//! Free spans by length where code is dear: one tree for all of them, in place of lists with trees in them (`runs/lists.rs`).
//!
//! 1. At each node the next bit of a length leads to one child or the other (a trie, as in Lea's allocator). A node has a length of its
//!    own, which its bits up to there are those of. So whatever is done takes at most as many steps as a length has bits.
//! 2. All that has the length of a node, its twins, stand in a list behind it.
//! 3. Everything stands in the first bytes of a free span: its length, the twin behind it, then the children of a node; of a twin what is
//!    before it, and a mark. Who is above a node is found from the root on.

#![forbid(unsafe_code)]

use super::Runs;
use super::shadow::{FREE, FREE_BYTE, LEAST, LENGTH, SHORT_MASK, Shadow};
use crate::arena::Borrowed;

/// The tree has nothing beside the shadow.
pub(super) struct Lists;

impl Lists {
    pub(super) const fn none() -> Lists {
        Lists
    }

    pub(super) const fn table_bytes(_granules: u32) -> usize {
        0
    }

    pub(super) fn new(_meta: &mut Borrowed<'static>, _granules: u32) -> Option<Lists> {
        Some(Lists)
    }

    /// No span is known to be long.
    pub(super) const fn filled(&self) -> u32 {
        0
    }
}

/// Where a link to the root stands: in the header of no span, where nothing else is read.
const ROOT: u32 = 12;
/// Where a link to the next twin stands, behind the first byte of a span; then those to the children.
const NEXT: u32 = 3;
const CHILD: u32 = 7;
const _: () = assert!(CHILD + 8 < LEAST, "the last byte of the shortest span holds its length");
/// In place of the second child: this is a twin, and its first child is what is before it.
const TWIN: u32 = 1;

impl<const SLABS: bool> Runs<SLABS> {
    /// The bits of a length, the highest that any has first.
    fn key(&self, granules: u32) -> u32 {
        granules << self.end.leading_zeros()
    }

    fn link(&self, slot: u32) -> u32 {
        self.shadow.word(slot as usize)
    }

    fn set_link(&mut self, slot: u32, place: u32) {
        self.shadow.set_word(slot as usize, place);
    }

    /// Where the link to the node of a length stands, or would.
    fn slot_of(&self, granules: u32) -> u32 {
        let (mut slot, mut key) = (ROOT, self.key(granules));
        loop {
            let at = self.link(slot);
            if at == 0 || self.shadow.free(at) == granules {
                return slot;
            }
            slot = at + CHILD + 4 * (key >> 31);
            key <<= 1;
        }
    }

    /// A span becomes free that has no free neighbour.
    pub(super) fn insert(&mut self, place: u32, granules: u32) {
        self.shadow.set_ends(place, granules);
        if granules < LEAST {
            return;
        }
        let slot = self.slot_of(granules);
        let node = self.link(slot);
        let (mut next, mut mark) = (0, 0);
        if node == 0 {
            self.set_link(slot, place);
        } else {
            next = self.link(node + NEXT);
            mark = TWIN;
            self.join(node, place);
            self.join(place, next);
        }
        self.set_link(place + NEXT, next);
        self.set_link(place + CHILD, node);
        self.set_link(place + CHILD + 4, mark);
    }

    /// Makes a twin the one behind another, or behind their node.
    fn join(&mut self, before: u32, behind: u32) {
        self.set_link(before + NEXT, behind);
        if behind != 0 {
            self.set_link(behind + CHILD, before);
        }
    }

    /// A free span is about to be something else.
    pub(super) fn remove(&mut self, place: u32, granules: u32) {
        if granules >= LEAST {
            self.unlist(place, granules);
        }
    }

    /// The same, of a span in the tree.
    #[inline(never)]
    pub(super) fn unlist(&mut self, place: u32, granules: u32) {
        let next = self.link(place + NEXT);
        if self.link(place + CHILD + 4) == TWIN {
            let before = self.link(place + CHILD);
            return self.join(before, next);
        }
        let slot = self.slot_of(granules);
        let mut heir = next;
        if heir == 0 {
            // A leaf below, or the node itself where it is one.
            let mut below = slot;
            loop {
                heir = self.link(below);
                let right = heir + CHILD + 4;
                let child = if self.link(right) != 0 { right } else { right - 4 };
                if self.link(child) == 0 {
                    break;
                }
                below = child;
            }
            self.set_link(below, 0);
        }
        if heir != place {
            self.set_link(slot, heir);
            for side in [CHILD, CHILD + 4] {
                let child = self.link(place + side);
                self.set_link(heir + side, child);
            }
        }
    }

    /// The shortest free span that is long enough: its node. 0 where there is none.
    fn node_for(&self, granules: u32) -> u32 {
        // By how much it is too long; by far more than any is where it is too short.
        let (mut best, mut least) = (0, 1 << 31);
        let (mut at, mut key, mut longer) = (self.link(ROOT), self.key(granules), 0);
        let mut is_longer = false;
        loop {
            while at != 0 {
                let over = self.shadow.free(at).wrapping_sub(granules);
                if over < least {
                    (best, least) = (at, over);
                }
                let right = self.link(at + CHILD + 4);
                at = self.link(at + CHILD);
                if is_longer {
                    if at == 0 {
                        at = right;
                    }
                } else if key >> 31 != 0 {
                    at = right;
                } else if right != 0 {
                    longer = right;
                }
                key <<= 1;
            }
            if is_longer {
                return best;
            }
            // Of what is longer than all that was still to be seen, and shorter than all else that is longer, the shortest.
            (at, is_longer) = (longer, true);
        }
    }

    /// The best fit: the shortest span that is long enough, not a node if one of its twins is. 0 where there is none.
    #[inline(never)]
    pub(super) fn fit(&self, granules: u32) -> u32 {
        let node = self.node_for(granules);
        let twin = self.link(node + NEXT);
        if twin == 0 { node } else { twin }
    }

    /// Looks at so many spans, the shortest first.
    pub(super) fn scan(&self, granules: u32, align: u32, most: u32) -> u32 {
        let (mut wants, mut place) = (granules, 0);
        for _ in 0..most {
            if place == 0 {
                place = self.node_for(wants);
                if place == 0 {
                    break;
                }
            }
            let has = self.shadow.free(place);
            if self.aligned(place, align) + granules <= place + has {
                return place;
            }
            wants = has + 1;
            place = self.link(place + NEXT);
        }
        0
    }

    /// Whether no free span is as long as the greatest power of two up to half of the range.
    pub(in super::super) fn is_tight(&self) -> bool {
        self.node_for(1 << (self.granules() / 2).ilog2()) == 0
    }

    /// The granules of the longest free span.
    pub(super) fn longest_listed(&self) -> u32 {
        let (mut at, mut longest) = (self.link(ROOT), 0);
        while at != 0 {
            longest = self.shadow.free(at).max(longest);
            at = match self.link(at + CHILD + 4) {
                0 => self.link(at + CHILD),
                longer => longer,
            };
        }
        longest
    }
}

impl Shadow {
    /// A free span stands at a place.
    fn set_ends(&mut self, place: u32, granules: u32) {
        if granules <= SHORT_MASK as u32 {
            return self.set_short(place, granules);
        }
        self.set_byte(place, FREE_BYTE);
        self.set_word((place + LENGTH) as usize, granules);
        self.set_word((place + granules) as usize - 4, granules | FREE);
    }
}
