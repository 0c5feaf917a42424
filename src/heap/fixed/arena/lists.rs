//! The slabs of a class that have a free slot, in a ring: opening, linking and closing them.

#![forbid(unsafe_code)]

use super::super::COPIES;
use super::super::plan::SLAB_GRANULE_SHIFT;
use super::super::runs::shadow::{self, LEAST, Links, SLAB_BYTE};
use super::super::slabs::{Chore, FIRST, GRANULES, TWOS, all};
use super::FixedArena;
use core::alloc::Layout;
use core::mem;

impl<const SLABS: bool> FixedArena<SLABS> {
    /// The place of the first slab of a class; 0 where it has none.
    #[inline]
    fn first(&self, class: usize) -> u32 {
        self.slabs.cuts.get(class).map_or(0, |cut| cut[FIRST])
    }

    #[inline]
    fn set_first(&mut self, class: usize, place: u32) {
        if let Some(cut) = self.slabs.cuts.get_mut(class) {
            cut[FIRST] = place;
        }
    }

    /// Makes another slab the first, where that is full: the next one. Whether there was one.
    fn turn(&mut self, class: usize) -> bool {
        let first = self.first(class);
        first != 0 && self.unlist_first(class, first) != 0
    }

    /// Takes the first slab off its list. The next one, which is the first now; 0 where there is none.
    #[cfg_attr(target_pointer_width = "64", inline)]
    fn unlist_first(&mut self, class: usize, first: u32) -> u32 {
        let next = self.unlist(first);
        self.set_first(class, next);
        next
    }

    /// Takes a slab off its list. The next one; 0 where it was alone.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn unlist(&mut self, place: u32) -> u32 {
        let Links { next, prev } = self.runs.shadow.links(place);
        if next == place {
            return 0;
        }
        self.join(prev, next);
        next
    }

    /// Makes two slabs neighbours.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn join(&mut self, prev: u32, next: u32) {
        let shadow = &mut self.runs.shadow;
        let links = shadow.links(prev);
        shadow.set_links(prev, Links { next, ..links });
        let links = shadow.links(next);
        shadow.set_links(next, Links { prev, ..links });
    }

    /// Takes the first slab off its list if it is empty, and closes it; or if it is `full`, where that is asked for. Whether it was
    /// empty.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn drop_first(&mut self, class: usize, full: bool) -> bool {
        let first = self.first(class);
        if first == 0 {
            return false;
        }
        let free = shadow::bits(self.runs.shadow.header(first));
        let is_empty = self.slabs.cuts.get(class).is_some_and(|cut| all(cut) == free);
        if is_empty || (full && free == 0) {
            self.unlist_first(class, first);
            if is_empty {
                self.close(class, first);
            }
        }
        is_empty
    }

    /// A slot of a class, if a slab has one: where it starts, in bytes, and its length.
    pub(super) fn take_slot(&mut self, class: usize) -> Option<(usize, usize)> {
        self.slabs.take_in(&mut self.runs, class).or_else(|| self.take_turn(class))
    }

    /// The same where the first slab is full, or there is none.
    pub(super) fn take_turn(&mut self, class: usize) -> Option<(usize, usize)> {
        while self.turn(class) {
            let slot = self.slabs.take_in(&mut self.runs, class);
            if slot.is_some() {
                return slot;
            }
        }
        None
    }

    /// Where memory is not plenty, a slot of a class that is larger by at most a sixteenth.
    /// So what is free of one class serves others, before a slab is cut from what is free for all.
    pub(super) fn take_larger(&mut self, class: usize, layout: Layout) -> Option<(usize, usize)> {
        if !COPIES || self.runs.has_plenty() {
            return None;
        }
        for larger in class + 1..self.slabs.cuts.len() {
            if !self.is_loose_fit(class, larger) {
                break;
            }
            if !self.slabs.bytes(larger).is_multiple_of(layout.align()) {
                continue;
            }
            let slot = self.take_slot(larger);
            if slot.is_some() {
                self.loose = true;
                return slot;
            }
        }
        None
    }

    /// Opens a slab, in a list that has none: takes a span for it. `false`: there is none.
    pub(in super::super) fn open(&mut self, class: usize) -> bool {
        let Some(cut) = self.slabs.cuts.get_mut(class) else { return false };
        let align = (1 << cut[TWOS]) >> SLAB_GRANULE_SHIFT;
        let Some(start) = self.runs.take(cut[GRANULES], u32::max(align, 1)) else { return false };
        let header = self.runs.shadow.header_mut(start);
        *header = [0; LEAST as usize];
        header[0] = SLAB_BYTE | class as u8;
        shadow::set_bits(header, all(cut));
        cut[FIRST] = start;
        self.runs.shadow.set_links(start, Links { next: start, prev: start });
        true
    }

    /// Does what a slot that was given back has left to do: its slab was full, or is empty now; and it is not the first of its list,
    /// or only one slab is kept that is empty.
    pub(in super::super) fn freed(&mut self, place: Chore) {
        let header = self.runs.shadow.header(place);
        let (class, free) = ((header[0] ^ SLAB_BYTE) as usize, shadow::bits(header));
        let was_full = free & (free - 1) == 0;
        if place == self.first(class) {
            if !was_full {
                self.keep(class);
            }
        } else if was_full {
            self.link(place, class);
        } else {
            self.emptied(place, class);
        }
    }

    /// The first slab of a class is empty, and the one that is kept: the one of another class is no longer.
    fn keep(&mut self, class: usize) {
        let before = mem::replace(&mut self.kept, class as u8) as usize;
        if before != class {
            self.drop_first(before, false);
        }
    }

    /// A slab that was full has a free slot. While memory is plenty it is the last of its list, so that it has many of them when its turn
    /// comes. Else it is the first, or the second behind one that lies lower, so that the lowest fill up and the higher run empty.
    fn link(&mut self, place: u32, class: usize) {
        self.drop_first(class, true);
        let first = self.first(class);
        if first == 0 {
            self.set_first(class, place);
            return self.runs.shadow.set_links(place, Links { next: place, prev: place });
        }
        let Links { next, prev } = self.runs.shadow.links(first);
        let has_plenty = COPIES && self.runs.has_plenty();
        let (prev, next) = if first < place && !has_plenty { (first, next) } else { (prev, first) };
        self.join(prev, place);
        self.join(place, next);
        if place < first && !has_plenty {
            self.set_first(class, place);
        }
    }

    /// The last slot of a slab came back that is not the first of its list: it is closed.
    fn emptied(&mut self, place: u32, class: usize) {
        self.unlist(place);
        self.close(class, place);
    }

    #[cfg_attr(target_pointer_width = "64", inline)]
    fn close(&mut self, class: usize, place: u32) {
        if let Some(cut) = self.slabs.cuts.get(class) {
            self.runs.free(place, cut[GRANULES]);
        }
    }

    /// Closes the empty slabs that stay. Whether there were any.
    pub(in super::super) fn reclaim(&mut self) -> bool {
        let mut any = false;
        if !SLABS {
            return any;
        }
        for class in 0..self.slabs.cuts.len() {
            any |= self.drop_first(class, false);
        }
        any
    }
}
