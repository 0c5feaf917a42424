//! What a program does with an allocator, written down before anybody is measured: random actions as talc's suite has them.
//!
//! Sizes are drawn below a bound that is drawn itself, so that small ones are frequent; three quarters are aligned to a
//! word, each further doubling is four times as rare. As many blocks come as go, but for a floor of 300.

use core::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

/// Numbers that are random enough, and the same in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    /// A sequence.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `range`.
    pub fn within(&mut self, range: core::ops::Range<usize>) -> usize {
        let span = (range.end - range.start) as u64;
        range.start + (((self.bits() >> 32) * span) >> 32) as usize
    }

    /// A size of less than `most`, small ones more often.
    pub fn size(&mut self, most: usize) -> usize {
        let bound = self.within(16..most);
        self.within(4..bound)
    }

    /// An alignment of at least a word.
    pub fn align(&mut self) -> usize {
        size_of::<usize>() << ((self.bits() >> 48 | 1 << 16).trailing_zeros() / 2)
    }
}

/// One action. Blocks are numbered by where they stand in a list; the last takes the place of one that goes.
#[derive(Clone, Copy)]
pub enum Action {
    /// A new block, last in the list.
    Allocate(Layout),
    /// The block at that place goes.
    Free(u32),
    /// The block at that place gets that size.
    Resize(u32, u32),
}

/// So many actions with blocks of less than `most` bytes, with and without resizes to up to three times as much.
pub fn random_actions(seed: u64, actions: usize, most: usize, resizes: bool) -> Vec<Action> {
    const FLOOR: usize = 300;
    let mut random = Random::new(seed);
    let mut live = 0;
    let mut script = Vec::with_capacity(actions);
    while script.len() < actions {
        let what = random.within(0..6 + resizes as usize);
        if what == 6 {
            if live > 0 {
                let which = random.within(0..live) as u32;
                script.push(Action::Resize(which, random.within(1..3 * most) as u32));
            }
        } else if what < 3 || live < FLOOR {
            let layout = Layout::from_size_align(random.size(most), random.align()).expect("a layout");
            script.push(Action::Allocate(layout));
            live += 1;
        } else {
            script.push(Action::Free(random.within(0..live) as u32));
            live -= 1;
        }
    }
    script
}

/// The blocks that are live.
#[derive(Default)]
pub struct Live(Vec<(*mut u8, Layout)>);

impl Live {
    /// None, with room for `most`.
    pub fn with_room(most: usize) -> Live {
        Live(Vec::with_capacity(most))
    }

    /// Does one action. Whether it could be done.
    #[inline]
    pub fn act(&mut self, heap: &dyn GlobalAlloc, action: Action) -> bool {
        match action {
            Action::Allocate(layout) => {
                // SAFETY: 1. No layout of a script is empty.
                let at = unsafe { heap.alloc(layout) };
                if at.is_null() {
                    return false;
                }
                self.0.push((at, layout));
            }
            Action::Free(which) => {
                let (at, layout) = self.0.swap_remove(which as usize);
                // SAFETY: 1. It was allocated so, and is used no more.
                unsafe { heap.dealloc(at, layout) };
            }
            Action::Resize(which, bytes) => {
                let (at, layout) = &mut self.0[which as usize];
                // SAFETY: 1. It was allocated so; the new size is neither zero nor huge.
                let to = unsafe { heap.realloc(*at, *layout, bytes as usize) };
                if to.is_null() {
                    return false;
                }
                *at = to;
                *layout = Layout::from_size_align(bytes as usize, layout.align()).expect("a layout");
            }
        }
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What was asked for, in all.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(_, layout)| layout.size()).sum()
    }

    /// Gives all of them back.
    pub fn clear(&mut self, heap: &dyn GlobalAlloc) {
        for (at, layout) in self.0.drain(..) {
            // SAFETY: 1. As for a single one.
            unsafe { heap.dealloc(at, layout) };
        }
    }
}

/// Plays a script; nothing in it may fail. Not inlined: a tool that counts instructions counts those of this function.
#[inline(never)]
pub fn replay(heap: &dyn GlobalAlloc, live: &mut Live, script: &[Action]) {
    for action in script {
        assert!(live.act(black_box(heap), *action), "the heap has no memory for the script");
    }
}
