//! What the owner of a live span keeps in the slot of its first anchor: a tag, two links, 64 bits.
//!
//! Such a span holds an anchor and has at most 255 granules. So a heap that cuts spans into small blocks finds what it knows of them
//! by arithmetic, and pays no table for it.

#![forbid(unsafe_code)]

use super::lists::Slot;
use super::{FitTable, Sliced};
use crate::arena::index::Backing;
use crate::arena::metadata::Metadata;
use crate::size::Span;

/// The first word of a marked slot: `MARKED`, the tag, the upper bits of the second link, where in its block the span starts, its
/// length. The second: the first link, the lower bits of the second. The third and fourth: the bits.
const MARKED: u32 = 1 << 31;
const TAG_SHIFT: u32 = 24;
const PREV_SHIFT: u32 = 12;
const PREV_HIGH: u32 = ((1 << (TAG_SHIFT - PREV_SHIFT)) - 1) << PREV_SHIFT;
const START_SHIFT: u32 = 8;
const START_MASK: u32 = (1 << Sliced::BLOCK_SHIFT) - 1;
const LINK_BITS: u32 = 22;
const _: () = assert!(START_SHIFT + Sliced::BLOCK_SHIFT == PREV_SHIFT, "the fields lie side by side");
const _: () =
    assert!((TAG_SHIFT - PREV_SHIFT) + (32 - LINK_BITS) == LINK_BITS, "both links have the same bits");

/// The slots of a marked span's later anchors tell in their second word how many blocks before them the first is. Whatever else
/// stands there points to a slot that is not marked, or whose span does not reach so far.
const BACK_MASK: u32 = MOST_GRANULES >> Sliced::BLOCK_SHIFT;

/// The granules of the longest span that can be marked.
pub(crate) const MOST_GRANULES: u32 = (1 << START_SHIFT) - 1;
/// The most blocks of a table whose spans can be marked.
pub(crate) const MOST_BLOCKS: u32 = (1 << LINK_BITS) - 1;
/// The most tags.
pub(crate) const MOST_TAGS: usize = 1 << (MARKED.ilog2() - TAG_SHIFT);

/// The length in the first word of a slot, marked or not.
#[inline]
pub(super) fn length(word: u32) -> u32 {
    if word & MARKED == 0 { word } else { word & MOST_GRANULES }
}

/// Two blocks, each plus one; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Links {
    pub(crate) next: u32,
    pub(crate) prev: u32,
}

/// The slot of a marked span, to change.
#[derive(Debug)]
pub(crate) struct Mark<'a>(&'a mut Slot);

/// What a slot tells, marked or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen(Slot);

impl Seen {
    /// Whether it is that of a span marked with a tag.
    #[inline]
    pub(crate) fn is_tagged(self, tag: usize) -> bool {
        self.0[0] >> TAG_SHIFT == (tag | MOST_TAGS) as u32
    }

    /// The tag of a marked span.
    #[inline]
    pub(crate) fn tag(self) -> Option<usize> {
        (self.0[0] & MARKED != 0).then_some(((self.0[0] & !MARKED) >> TAG_SHIFT) as usize)
    }

    /// Where in its block the span starts.
    #[inline]
    pub(crate) fn start_in_block(self) -> u32 {
        self.0[0] >> START_SHIFT & START_MASK
    }

    /// The bits of a marked span.
    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.0[2] as u64 | (self.0[3] as u64) << 32
    }

    /// The links of a marked span.
    #[inline]
    pub(crate) fn links(self) -> Links {
        let high = (self.0[0] & PREV_HIGH) >> PREV_SHIFT;
        Links { next: self.0[1] & MOST_BLOCKS, prev: high << (32 - LINK_BITS) | self.0[1] >> LINK_BITS }
    }
}

impl Mark<'_> {
    /// What it tells.
    #[inline]
    pub(crate) fn seen(&self) -> Seen {
        Seen(*self.0)
    }

    #[inline]
    pub(crate) fn set_bits(&mut self, bits: u64) {
        self.0[2] = bits as u32;
        self.0[3] = (bits >> 32) as u32;
    }

    #[inline]
    pub(crate) fn set_links(&mut self, Links { next, prev }: Links) {
        let high = (prev >> (32 - LINK_BITS)) << PREV_SHIFT;
        self.0[0] = self.0[0] & !PREV_HIGH | high;
        self.0[1] = next | prev << LINK_BITS;
    }
}

impl<M: Metadata> FitTable<M, Sliced> {
    /// Granules of a block.
    pub(crate) const BLOCK: u32 = 1 << Sliced::BLOCK_SHIFT;

    /// Marks a live span that holds an anchor. The number of its block.
    pub(crate) fn mark(&mut self, span: Span, tag: usize, bits: u64) -> u32 {
        debug_assert!(span.granules >= Self::BLOCK && span.granules <= MOST_GRANULES && tag < MOST_TAGS);
        let block = span.start.0 >> Sliced::BLOCK_SHIFT;
        let mut mark = self.known(block);
        mark.0[0] =
            MARKED | (tag as u32) << TAG_SHIFT | (span.start.0 & START_MASK) << START_SHIFT | span.granules;
        mark.set_links(Links::default());
        mark.set_bits(bits);
        let behind = span.end() >> Sliced::BLOCK_SHIFT;
        for later in block + 1..behind {
            self.lists.slot_mut(later)[1] = later - block;
        }
        block
    }

    /// Takes the mark off a span, which is live as before.
    pub(crate) fn unmark(&mut self, block: u32) -> Span {
        let start = block << Sliced::BLOCK_SHIFT | self.seen(block).start_in_block();
        let granules = self.lists.length(block);
        self.lists.set_length(block, granules);
        Span::new(start, granules)
    }

    /// The slot of a block, if there is such a block.
    #[inline]
    pub(crate) fn mark_of(&mut self, block: u32) -> Option<Mark<'_>> {
        self.lists.find_slot_mut(block).map(Mark)
    }

    /// The slot of a block that is known to have a mark.
    #[inline]
    pub(crate) fn known(&mut self, block: u32) -> Mark<'_> {
        Mark(self.lists.slot_mut(block))
    }

    /// What the slot of a block tells.
    #[inline]
    pub(crate) fn seen(&self, block: u32) -> Seen {
        Seen(*self.lists.slot(block))
    }

    /// Whether the live span that starts at `start` is marked; anything where none does.
    #[inline]
    pub(crate) fn is_marked(&self, start: u32) -> bool {
        let block = Self::block_of(start);
        block < self.granules >> Sliced::BLOCK_SHIFT && self.seen(block).tag().is_some()
    }

    /// The marked span that a granule is part of: its block, and where it starts.
    ///
    /// It holds the anchor of the granule's own block, or else that of the block before.
    #[inline(always)]
    pub(crate) fn marked_at(&self, at: u32, is: impl Fn(Seen) -> bool) -> Option<(u32, u32)> {
        let block = Self::block_of(at);
        match self.marked_from(block, at, &is) {
            None => self.marked_from(block.checked_sub(1)?, at, &is),
            found => found,
        }
    }

    /// As `marked_at`, for the span that holds the anchor of `block`.
    #[inline(always)]
    fn marked_from(&self, block: u32, at: u32, is: &impl Fn(Seen) -> bool) -> Option<(u32, u32)> {
        let mut block = block;
        let mut seen = Seen(*self.lists.find_slot(block)?);
        if !is(seen) {
            block = block.wrapping_sub(seen.0[1] & BACK_MASK);
            seen = Seen(*self.lists.find_slot(block)?);
            if !is(seen) {
                return None;
            }
        }
        let start = block << Sliced::BLOCK_SHIFT | seen.start_in_block();
        (at.wrapping_sub(start) < seen.0[0] & MOST_GRANULES).then_some((block, start))
    }

    /// The block that has the first anchor of a span that starts at `start` and is long enough to hold one.
    #[inline]
    pub(crate) fn block_of(start: u32) -> u32 {
        start >> Sliced::BLOCK_SHIFT
    }

    /// The granules of the free span that a request of so many would be cut from.
    pub(crate) fn would_cut(&self, granules: u32) -> Option<u32> {
        self.lists.fit(super::BACKED, granules, super::find::LOOKED).map(|slot| self.lists.length(slot))
    }

    /// The granules of the free span behind a live one.
    pub(crate) fn free_behind(&self, span: Span) -> u32 {
        self.free_at(span.end()).map_or(0, |behind| behind.granules)
    }

    /// Whether no free span is longer than about a sixteenth of the space.
    pub(crate) fn is_tight(&self) -> bool {
        self.lists.is_below(super::BACKED, self.granules / 4)
    }

    /// Whether there are no blocks, so nothing can be marked.
    pub(crate) fn has_no_blocks(&self) -> bool {
        self.is_flat()
    }

    /// The granules of the longest free span that holds an anchor, in a space with blocks.
    pub(crate) fn longest_listed(&self) -> u32 {
        self.lists.longest(super::BACKED)
    }
}
