//! Free spans of 64 granules and more: each list of about one length is a tree, so that the best of it is found in as many steps as
//! lengths in it have bits that differ.
//!
//! 1. At each node the next bit of a length leads to one child or the other (a trie, as in Lea's allocator). A node has a length of its
//!    own, which its bits up to there are those of; all that has the same length stands in a ring with it.
//! 2. Everything stands in the shadow, behind the header of a free span: who is above, and the two children. Of a ring, one is the
//!    node, and nobody is above the others.
//! 3. A node that goes is replaced by another of its ring, else by a leaf below it.

#![forbid(unsafe_code)]

use super::Runs;
use super::shadow::{FREE, Shadow, word};
use crate::arena::index::fit::List;

/// Who is above a node, or this.
const ROOT: u32 = 1;
/// Who is above what is in a ring, and no node.
const NOBODY: u32 = 0;
/// Where that stands, and the children.
const ABOVE: u32 = 12;
const CHILD: u32 = 16;

/// The bits in which lengths of a list differ from others of it, the highest first.
#[inline]
fn key(granules: u32) -> u32 {
    granules << (granules.leading_zeros() + List::BITS + 1)
}

/// The granules of the listed span with those first bytes.
#[inline]
fn granules_of<const N: usize>(bytes: &[u8; N]) -> u32 {
    word(bytes, 0).swap_bytes() & !FREE
}

/// What stands in the shadow of a free span of a tree, from its first byte on.
type Node = [u8; 24];

impl Shadow {
    #[inline]
    fn node(&self, place: u32) -> &Node {
        self.bytes(place as usize)
    }

    #[inline]
    fn above(&self, place: u32) -> u32 {
        self.word((place + ABOVE) as usize)
    }

    #[inline]
    fn child(&self, place: u32, side: u32) -> u32 {
        self.word((place + CHILD + 4 * side) as usize)
    }

    #[inline]
    fn set_above(&mut self, place: u32, above: u32) {
        self.set_word((place + ABOVE) as usize, above);
    }

    #[inline]
    fn set_child(&mut self, place: u32, side: u32, child: u32) {
        self.set_word((place + CHILD + 4 * side) as usize, child);
    }

    /// A free span is a leaf below a node, alone in its ring.
    #[inline]
    fn set_leaf(&mut self, place: u32, granules: u32, above: u32) {
        self.set_free(place, granules, place);
        let node: &mut Node = self.bytes_mut(place as usize);
        node[8..12].copy_from_slice(&place.to_le_bytes());
        node[12..16].copy_from_slice(&above.to_le_bytes());
        node[16..].fill(0);
    }
}

impl<const SLABS: bool> Runs<SLABS> {
    /// A free span becomes the only one of a tree.
    #[inline]
    pub(super) fn plant(&mut self, place: u32, granules: u32) {
        self.shadow.set_leaf(place, granules, ROOT);
    }

    /// A free span comes into a tree.
    #[inline(never)]
    pub(super) fn graft(&mut self, root: u32, place: u32, granules: u32) {
        let shadow = &mut self.shadow;
        let (mut at, mut key) = (root, key(granules));
        while shadow.listed(at) != granules {
            let side = key >> 31;
            let child = shadow.child(at, side);
            if child == 0 {
                shadow.set_child(at, side, place);
                return shadow.set_leaf(place, granules, at);
            }
            (at, key) = (child, key << 1);
        }
        let next = shadow.next(at);
        shadow.set_free(place, granules, next);
        shadow.set_prev(place, at);
        shadow.set_prev(next, place);
        shadow.set_next(at, place);
        shadow.set_above(place, NOBODY);
    }

    /// A free span leaves its tree.
    #[inline(never)]
    pub(super) fn uproot(&mut self, place: u32, granules: u32) {
        let shadow = &mut self.shadow;
        let node = shadow.node(place);
        let (next, prev, above) = (word(node, 4), word(node, 8), word(node, 12));
        if next != place {
            shadow.set_next(prev, next);
            shadow.set_prev(next, prev);
            if above == NOBODY {
                return;
            }
        }
        let heir = if next != place { next } else { shadow.take_leaf(place) };
        if heir != 0 {
            for side in 0..2 {
                // A child may be the heir.
                let child = shadow.child(place, side);
                shadow.set_child(heir, side, child);
                if child != 0 {
                    shadow.set_above(child, heir);
                }
            }
            shadow.set_above(heir, above);
        }
        if above != ROOT {
            let side = (shadow.child(above, 0) != place) as u32;
            return shadow.set_child(above, side, heir);
        }
        self.set_list(List::of(granules), heir);
    }

    /// The best fit of a tree: the shortest span that is long enough, one of its ring where it has one. 0 where there is none.
    #[inline(never)]
    pub(super) fn fit_of(&self, root: u32, granules: u32) -> u32 {
        let shadow = &self.shadow;
        // By how much it is too long; by far more than any is where it is too short.
        let (mut best, mut least) = (0, 1 << 31);
        let (mut at, mut key, mut longer) = (root, key(granules), 0);
        while at != 0 {
            let node = shadow.node(at);
            let over = granules_of(node).wrapping_sub(granules);
            if over < least {
                (best, least) = (at, over);
                if over == 0 {
                    return word(node, 4);
                }
            }
            let [left, right] = [word(node, 16), word(node, 20)];
            if key >> 31 == 0 {
                // What is longer than all that is still to be seen, and shorter than all else that is longer.
                if right != 0 {
                    longer = right;
                }
                at = left;
            } else {
                at = right;
            }
            key <<= 1;
        }
        while longer != 0 {
            let node = shadow.node(longer);
            let over = granules_of(node).wrapping_sub(granules);
            if over < least {
                (best, least) = (longer, over);
            }
            longer = word(node, 16);
            if longer == 0 {
                longer = word(node, 20);
            }
        }
        // Behind nothing there is nothing.
        shadow.next(best)
    }

    /// The granules of the longest span of a tree.
    pub(super) fn longest_of(&self, root: u32) -> u32 {
        let (mut at, mut longest) = (root, 0);
        while at != 0 {
            longest = self.shadow.listed(at).max(longest);
            at = match self.shadow.child(at, 1) {
                0 => self.shadow.child(at, 0),
                longer => longer,
            };
        }
        longest
    }

    /// What comes behind a span where all of a tree is looked through from its root on. 0 where nothing does.
    pub(super) fn next_of(&self, place: u32) -> u32 {
        let shadow = &self.shadow;
        let mut at = shadow.next(place);
        if shadow.above(at) == NOBODY {
            return at;
        }
        // The ring was seen: what is below its node, else what stands on the right of a node above.
        for side in 0..2 {
            let child = shadow.child(at, side);
            if child != 0 {
                return child;
            }
        }
        loop {
            let above = shadow.above(at);
            if above == ROOT {
                return 0;
            }
            let right = shadow.child(above, 1);
            if right != 0 && right != at {
                return right;
            }
            at = above;
        }
    }
}

impl Shadow {
    /// Takes a leaf below a node off its tree; 0 where the node is one.
    fn take_leaf(&mut self, place: u32) -> u32 {
        let (mut leaf, mut above, mut side) = (place, 0, 0);
        loop {
            let right = self.child(leaf, 1);
            let child = if right != 0 { right } else { self.child(leaf, 0) };
            if child == 0 {
                break;
            }
            (above, side, leaf) = (leaf, (right != 0) as u32, child);
        }
        if above == 0 {
            return 0;
        }
        self.set_child(above, side, 0);
        leaf
    }
}
