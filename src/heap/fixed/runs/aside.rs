//! Spans that were given back and are set aside, as long as they are, for the next request of just that length.
//!
//! 1. A stack for each of the shorter lengths, a few spans deep, linked through the shadow: taking and giving is a few loads and
//!    stores, and neither cuts nor merges.
//! 2. No start of a live span is set for one that is set aside, so that it is not given back again; to its neighbours it looks live.
//! 3. Before a request fails, all of them are merged with what is free around them.

#![forbid(unsafe_code)]

use super::Runs;
use super::shadow::{LEAST, MOST_GRANULES};

/// The lengths that are set aside, from the shortest there is on.
pub(super) const LENGTHS: usize = 112;
/// Spans of a length that are set aside at most.
const DEEP: u32 = 4;

/// One span in a stack: that many more of them stand in the upper bits of a place.
const ONE: u32 = 2 * MOST_GRANULES;
const _: () = assert!(DEEP < u32::MAX / ONE, "a stack's depth fits beside a place");

impl Runs {
    /// Takes a span of just that length that was set aside: where it starts.
    #[inline(always)]
    pub(super) fn take_aside(&mut self, granules: u32) -> Option<u32> {
        let last = self.aside.get_mut((granules - LEAST) as usize)?;
        let place = *last % ONE;
        if place == 0 {
            return None;
        }
        *last = self.shadow.next(place);
        self.shadow.set_live_again(place, granules);
        self.starts.set(place - 1);
        Some(place - 1)
    }

    /// Sets a span aside that was live. `false`: there are enough of that length, or none is set aside.
    #[inline(always)]
    pub(super) fn set_aside(&mut self, start: u32, granules: u32) -> bool {
        let Some(last) = self.aside.get_mut((granules - LEAST) as usize) else { return false };
        if *last >= DEEP * ONE || self.filled < self.plenty {
            return false;
        }
        let place = start + 1;
        self.shadow.set_aside(place, *last);
        *last = *last - *last % ONE + ONE + place;
        true
    }

    /// One step towards nothing set aside.
    #[inline]
    pub(super) fn drain(&mut self) {
        if self.filled >= self.plenty {
            return;
        }
        self.turn = (self.turn + 1) % LENGTHS as u32;
        self.give_aside(self.turn as usize);
    }

    /// Merges one span of a length that was set aside. `false`: there is none.
    fn give_aside(&mut self, length: usize) -> bool {
        let place = self.aside[length] % ONE;
        if place == 0 {
            return false;
        }
        self.aside[length] = self.shadow.next(place);
        self.merge(place - 1, LEAST + length as u32);
        true
    }

    /// Merges everything that was set aside with what is free around it. Whether there was anything.
    pub(in super::super) fn give_asides(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.aside.len() {
            while self.give_aside(at) {
                any = true;
            }
        }
        any
    }
}
