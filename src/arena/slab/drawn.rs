//! Slots drawn at random from a slab, where the feature `hardened` is on.
//!
//! Each free slot of the slab is as likely as any other. A magazine of slots that share cache lines is drawn as whole words of 64
//! slots, in an order of their own: lines still come whole, so that two threads do not work on one.

#![forbid(unsafe_code)]

use super::super::batch::Name;
use super::super::metadata::Metadata;
use super::{ROW, Slabs, Slot, Unit};
use crate::arena::draw::Draw;
use crate::size::{Offset, SizeClass};

/// Slots below this share cache lines.
const LINE_BYTES: u32 = 64;

impl<M: Metadata> Slabs<M> {
    /// Takes a slot from a slab that has one.
    pub(in crate::arena) fn take(&mut self, class: SizeClass) -> Option<Slot> {
        let mut out = [Offset(0)];
        let taken = self.take_many(class, &mut out, 0);
        (taken == 1).then(|| Slot { at: out[0], bytes: self.slot_bytes(class) })
    }

    /// Takes slots of a class, drawn from one slab after the other, until `out` is full or no slab has one. They stand at the end of
    /// `out`, named from `base` on. How many.
    pub(in crate::arena) fn take_many<B: Name>(
        &mut self,
        class: SizeClass,
        out: &mut [B],
        base: u64,
    ) -> usize {
        let cut = self.cut(class);
        let by_words = cut.slot_bytes < LINE_BYTES && out.len() > 1;
        let mut taken = 0;
        while taken < out.len() {
            let Some(unit) = self.cut(class).partial.checked_sub(1) else { break };
            let start = self.start_of(unit);
            let at = unit as usize * (ROW + self.words);
            let (row, free) = self.units[at..at + ROW + self.words].split_at_mut(ROW);
            let Unit::Head(mut slab) = Unit::read([row[0], row[1]]) else { break };
            let wanted = (out.len() - taken).min((cut.slots - slab.used) as usize);
            if wanted == 0 {
                break;
            }
            let end = out.len() - taken;
            let places = &mut out[end - wanted..end];
            let (mut left, mut word) = ((cut.slots - slab.used) as usize, None);
            for place in places.iter_mut() {
                let slot = if by_words {
                    let of = word
                        .filter(|&word: &usize| free[word] != 0)
                        .unwrap_or_else(|| full_word(free, &mut self.draw));
                    word = Some(of);
                    of as u32 * 64 + free[of].trailing_zeros()
                } else {
                    nth(free, self.draw.below(left))
                };
                free[slot as usize / 64] &= !(1 << (slot % 64));
                *place = B::from_bytes(base + start.0 + slot as u64 * cut.slot_bytes as u64);
                left -= 1;
            }
            if by_words {
                shuffle(places, &mut self.draw);
            }
            taken += wanted;
            // The hint stays: no word is known to be empty from below.
            slab.used += wanted as u32;
            row.copy_from_slice(&slab.row());
            if slab.used == cut.slots {
                self.unlink(unit, slab);
            }
        }
        taken
    }
}

/// The set bit with `nth` set ones below it. There is one.
fn nth(words: &[u64], mut nth: usize) -> u32 {
    for (at, &word) in words.iter().enumerate() {
        let ones = word.count_ones() as usize;
        if nth < ones {
            let mut word = word;
            (0..nth).for_each(|_| word &= word - 1);
            return at as u32 * 64 + word.trailing_zeros();
        }
        nth -= ones;
    }
    debug_assert!(false, "the slab's count says that so many bits are set");
    0
}

/// A word whose bits are all set, drawn; without one, one with a bit that is set.
fn full_word(words: &[u64], draw: &mut Draw) -> usize {
    let from = draw.below(words.len());
    let turn = || (0..words.len()).map(|step| (from + step) % words.len());
    turn().find(|&at| words[at] == u64::MAX).or_else(|| turn().find(|&at| words[at] != 0)).unwrap_or(0)
}

fn shuffle<T>(items: &mut [T], draw: &mut Draw) {
    for end in (2..=items.len()).rev() {
        items.swap(end - 1, draw.below(end));
    }
}
