//! Slots taken lowest first in each slab, where the feature `hardened` is off.

#![forbid(unsafe_code)]

use super::super::batch::Name;
use super::super::metadata::Metadata;
use super::{ROW, Slab, Slabs, Slot, Unit};
use crate::size::{Offset, SizeClass};

impl<M: Metadata> Slabs<M> {
    /// Takes a slot from a slab that has one.
    #[inline]
    pub(in crate::arena) fn take(&mut self, class: SizeClass) -> Option<Slot> {
        let cut = self.cut(class);
        let unit = cut.partial.checked_sub(1)?;
        let at = unit as usize * (ROW + self.words);
        let (row, free) = self.units[at..at + ROW + self.words].split_at_mut(ROW);
        let Unit::Head(mut slab) = Unit::read([row[0], row[1]]) else { return None };
        let word = slab.hint as usize + free[slab.hint as usize..].iter().position(|&word| word != 0)?;
        let bit = free[word].trailing_zeros();
        free[word] &= free[word] - 1;
        slab.hint = word as u16;
        slab.used += 1;
        row.copy_from_slice(&slab.row());
        if slab.used == cut.slots {
            self.unlink(unit, slab);
        }
        let slot = word as u64 * 64 + bit as u64;
        let bytes = cut.slot_bytes as u64;
        Some(Slot { at: Offset(self.start_of(unit).0 + slot * bytes), bytes })
    }

    /// Takes slots of a class, lowest first in each slab, until `out` is full or no slab has one. They stand at the end of `out`, named
    /// from `base` on, the first behind the others. How many.
    pub(in crate::arena) fn take_many<B: Name>(
        &mut self,
        class: SizeClass,
        out: &mut [B],
        base: u64,
    ) -> usize {
        let cut = self.cut(class);
        let slot_bytes = cut.slot_bytes as u64;
        let mut left = out.len();
        while left > 0 {
            let Some(unit) = self.cut(class).partial.checked_sub(1) else { break };
            let start = self.start_of(unit);
            let at = unit as usize * (ROW + self.words);
            let (row, free) = self.units[at..at + ROW + self.words].split_at_mut(ROW);
            let Unit::Head(slab) = Unit::read([row[0], row[1]]) else { break };
            let before = left;
            let keep = left.saturating_sub((cut.slots - slab.used) as usize);
            let mut word = slab.hint as usize;
            while left > keep && word < free.len() {
                let mut bits = free[word];
                if bits == 0 {
                    word += 1;
                    continue;
                }
                let first = bits.trailing_zeros();
                let at = base + start.0 + word as u64 * 64 * slot_bytes;
                if bits == !0 << first {
                    // What was never taken, or all came back: slot by slot, without a look at the bits.
                    let run = (64 - first as usize).min(left - keep);
                    let mut at = at + first as u64 * slot_bytes;
                    for place in out[left - run..left].iter_mut().rev() {
                        *place = B::from_bytes(at);
                        at += slot_bytes;
                    }
                    left -= run;
                    bits = !1 << (first as usize + run - 1);
                } else {
                    while bits != 0 && left > keep {
                        left -= 1;
                        out[left] = B::from_bytes(at + bits.trailing_zeros() as u64 * slot_bytes);
                        bits &= bits - 1;
                    }
                }
                free[word] = bits;
            }
            if left == before {
                break;
            }
            let used = slab.used + (before - left) as u32;
            let slab = Slab { hint: word as u16, used, ..slab };
            if used == cut.slots {
                self.unlink(unit, slab);
            } else {
                row[0] = slab.row()[0];
            }
        }
        out.len() - left
    }
}
