//! Spans that were given back and are set aside, as long as they are, for the next request of just that length.
//!
//! 1. A stack for each of the shorter lengths, linked through the shadow, and so many spans in all: taking and giving is a few loads
//!    and stores, and neither cuts nor merges.
//! 2. One that is set aside keeps its bit and its bytes, but for a mark in the first: it is not given back again, nor merged by
//!    neighbours.
//! 3. Nothing is set aside unless about half of the range lies free in one run; where that ends, one length after the other is
//!    merged with what is free around it, and before a request fails all of them.
//! 4. A length is counted from that of the shortest span.

#![forbid(unsafe_code)]

use super::super::COPIES;
use super::Runs;
use super::shadow::{self, LEAST};

/// Spans that are set aside at most: what merges all of them takes some microseconds.
pub(super) const MOST: u32 = 448;

impl<const SLABS: bool> Runs<SLABS> {
    /// Takes the last span of a length that was set aside: where it starts.
    #[inline(always)]
    pub(in super::super) fn take_aside(&mut self, length: usize) -> Option<u32> {
        let last = self.aside.get_mut(length)?;
        let place = *last;
        if place == 0 {
            return None;
        }
        let header = self.shadow.find_mut(place as usize)?;
        *last = shadow::take_aside(header);
        self.room += 1;
        Some(place)
    }

    /// Sets the live span of a length aside that starts at `start`. `false`: there is no such span, or there are enough.
    #[inline(always)]
    pub(in super::super) fn set_aside(&mut self, start: usize, length: usize) -> bool {
        let Some(last) = self.aside.get_mut(length) else { return false };
        let Some(header) = self.shadow.find_mut(start) else { return false };
        if self.room == 0
            || self.lists.filled() < self.plenty
            || !shadow::is_live(header, LEAST + length as u32)
            || !self.starts.is_set(start)
        {
            return false;
        }
        shadow::set_aside(header, *last);
        *last = start as u32;
        self.room -= 1;
        true
    }

    /// Whether about half of the range lies free in one run.
    #[inline(always)]
    pub(in super::super) fn has_plenty(&self) -> bool {
        self.lists.filled() >= self.plenty
    }

    /// One step towards nothing set aside.
    #[inline]
    pub(super) fn drain(&mut self) {
        if self.has_plenty() || self.aside.is_empty() {
            return;
        }
        for _ in 0..4 {
            if self.give_aside(self.turn) {
                break;
            }
            self.turn = if self.turn == 0 { self.aside.len() } else { self.turn } - 1;
        }
    }

    /// Merges one span of a length that was set aside. `false`: there is none.
    fn give_aside(&mut self, length: usize) -> bool {
        let place = self.aside[length];
        if place == 0 {
            return false;
        }
        self.aside[length] = self.shadow.next(place);
        self.room += 1;
        self.free(place, LEAST + length as u32);
        true
    }

    /// Merges everything that was set aside with what is free around it. Whether there was anything.
    pub(in super::super) fn give_asides(&mut self) -> bool {
        let mut any = false;
        if !COPIES {
            return any;
        }
        for at in 0..self.aside.len() {
            while self.give_aside(at) {
                any = true;
            }
        }
        any
    }
}
