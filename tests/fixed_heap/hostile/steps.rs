//! What a program may do to a heap, each with what it must get.

use super::model::{Block, Heap, Model, places};
use super::watched::{HELP, TOLD, With};
use allocator_api2::alloc::{AllocError, Allocator};
use democratising::TensorBuf;
use democratising::error::BadFree;
use democratising::heap::fixed::NotClaimed;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::NonNull;

impl<const SLABS: bool> Model<'_, SLABS> {
    pub(super) fn claim(&mut self, number: usize, len: usize) {
        // SAFETY: 1. Each is refused before anything is written.
        let refused = |start: usize, len: usize| unsafe {
            self.heap.claim(std::ptr::without_provenance_mut(start), len)
        };
        assert!(matches!(
            refused(0, len),
            Err(NotClaimed::NoRange { start: 0, .. } | NotClaimed::TooLarge { .. })
        ));
        for start in [usize::MAX, usize::MAX - len / 2, usize::MAX - len.saturating_sub(1)] {
            if start.checked_add(len).is_none() {
                assert!(matches!(refused(start, len), Err(NotClaimed::NoRange { .. })), "{start:#x} {len}");
            }
        }
        // The lowest address that memory can have.
        assert!(matches!(refused(1, 0), Err(NotClaimed::TooSmall { .. } | NotClaimed::TooMany { .. })));
        let most = if usize::BITS == 64 { (4u64 << 30) as usize } else { isize::MAX as usize };
        for len in [most + 1, usize::MAX - 8] {
            let too_large = NotClaimed::TooLarge { given_bytes: len as u64, most_bytes: most as u64 };
            assert_eq!(refused(8, len), Err(too_large));
        }
        let base = self.ram.at(0) as usize;
        let one = self.claims.get(number / 7 % 5).copied();
        let at = match (number % 7, one) {
            (0, Some(one)) => one.start - base + one.len,
            (1, Some(one)) => (one.start - base).saturating_sub(len),
            (2, Some(one)) => one.start - base + one.len - 1,
            (3, Some(one)) => (one.start - base + 1).saturating_sub(len),
            (4, Some(one)) => one.start - base + one.len / 2,
            _ => number / 7 % self.ram_bytes,
        };
        let len = len.min(self.ram_bytes - at);
        let got = self.ram.give(self.heap, at, len);
        self.claimed(at, len, got);
    }

    pub(super) fn allocate(&mut self, layout: Layout, how: usize) {
        if how % 4 == 3 && layout.size() == 0 {
            return self.nothing(layout, Allocator::allocate_zeroed(self.heap, layout));
        }
        let before = HELP.with_borrow(|help| help.asked.len());
        let at = match how % 4 {
            // SAFETY: 1. A layout without bytes gets a block as any other.
            0 => NonNull::new(unsafe { self.heap.alloc(layout) }),
            // SAFETY: 1. As above.
            1 => NonNull::new(unsafe { self.heap.alloc_zeroed(layout) }),
            2 => match self.heap.allocate(layout) {
                Ok(block) => {
                    assert_eq!(self.heap.usable_bytes(block.addr), Ok(block.bytes));
                    Some(block.addr)
                }
                Err(why) => {
                    let gaps = self.gaps();
                    let largest = gaps
                        .iter()
                        .filter(|gap| !gap.0.slabs || gap.2 - gap.1 >= 1024)
                        .map(|gap| gap.2 - gap.1)
                        .max();
                    assert_eq!(why.largest_free_bytes, largest.unwrap_or(0) as u64);
                    assert_eq!(
                        (why.requested_bytes, why.in_use_bytes),
                        (layout.size() as u64, self.in_use as u64)
                    );
                    None
                }
            },
            _ => Allocator::allocate_zeroed(self.heap, layout).ok().map(|block| block.cast()),
        };
        match at {
            Some(at) => {
                if how % 2 == 1 {
                    // SAFETY: 1. The block is new and as long as its layout.
                    let zeros = places(layout.size()).all(|place| unsafe { at.add(place).read() } == 0);
                    assert!(zeros, "zeroed memory that is not");
                }
                self.took(at, layout);
            }
            None => {
                assert_eq!(HELP.with_borrow(|help| help.asked.len()), before + 1, "the program was asked");
                self.failed(layout, "a request");
            }
        }
    }

    /// What the allocator interfaces give for a layout without bytes: no memory, and none comes back.
    fn nothing(&mut self, layout: Layout, got: Result<NonNull<[u8]>, AllocError>) {
        let got = got.expect("nothing is always to be had");
        assert_eq!((got.cast::<u8>().addr().get(), got.len()), (layout.align(), 0));
        assert_eq!(self.heap.usable_bytes(got.cast()), Err(BadFree::Foreign));
        // SAFETY: 1. It was handed out for that layout.
        unsafe { Allocator::deallocate(self.heap, got.cast(), layout) };
    }

    pub(super) fn moved(&mut self, at: NonNull<u8>, block: Block, new: Layout, to: Option<NonNull<u8>>) {
        let Some(to) = to else {
            let start = at.as_ptr() as usize;
            self.in_use += block.bytes;
            self.live.insert(start, block);
            assert!(block.holds(at, block.bytes), "a refused move wrote");
            self.failed(new, "a move");
            assert!(
                !self.could_stay(start, block, new),
                "{block:?} at {start:#x} could have become {new:?} where it is"
            );
            return;
        };
        let kept = new.size().min(block.layout.size());
        // Between two blocks both are in use.
        let both = block.bytes + self.heap.usable_bytes(to).expect("it is live") as usize;
        assert!(block.holds(to, kept), "a move lost bytes");
        self.peak.1 = self.peak.1.max(self.in_use + both);
        self.took(to, new);
    }

    pub(super) fn realloc(&mut self, which: usize, bytes: usize) {
        let Some((at, block)) = self.left(which) else { return };
        // SAFETY: 1. The block is used under its new address only.
        let to = NonNull::new(unsafe { self.heap.realloc(at.as_ptr(), block.layout, bytes) });
        match Layout::from_size_align(bytes, block.layout.align()) {
            Ok(new) => self.moved(at, block, new, to),
            Err(_) => {
                assert_eq!(to, None);
                self.live.insert(at.as_ptr() as usize, block);
                self.in_use += block.bytes;
            }
        }
    }

    pub(super) fn change(&mut self, which: usize, new: Layout) {
        let Some((at, block)) = self.left(which) else { return };
        // Now and then just what it may use: it can stay where it is.
        let bytes = if which.is_multiple_of(4) { block.bytes } else { new.size() };
        let Ok(new) = Layout::from_size_align(bytes, new.align()) else { unreachable!("it is no longer") };
        let zeroed = which.is_multiple_of(3);
        // SAFETY: 1. The block is used under its new address only.
        let to = unsafe {
            match new.size() >= block.layout.size() {
                true if zeroed => self.heap.grow_zeroed(at, block.layout, new),
                true => self.heap.grow(at, block.layout, new),
                false => self.heap.shrink(at, block.layout, new),
            }
        };
        if let (Ok(to), true) = (&to, zeroed && new.size() > block.layout.size()) {
            for place in (block.layout.size()..new.size()).step_by(61) {
                // SAFETY: 1. The place lies in the new block, and was cleared.
                assert_eq!(unsafe { to.cast::<u8>().add(place).read() }, 0);
            }
        }
        if new.size() == 0 {
            // SAFETY: 1. The block went back: it is refused.
            let again = unsafe { self.heap.free_unsized(at) };
            assert!(
                matches!(again, Err(BadFree::AlreadyFree { .. } | BadFree::Interior { .. })),
                "{again:?}"
            );
            return self.nothing(new, to);
        }
        self.moved(at, block, new, to.ok().map(|to| to.cast()));
    }

    pub(super) fn resize(&mut self, which: usize, bytes: usize) {
        let Some((at, block)) = self.left(which) else { return };
        // SAFETY: 1. What is cut off is used no more.
        let done = unsafe { self.heap.resize(at, block.layout, bytes) }.expect("it is live");
        let new = Layout::from_size_align(bytes, block.layout.align());
        match new {
            Ok(new) if done => self.took(at, new),
            _ => {
                assert!(!done);
                self.live.insert(at.as_ptr() as usize, block);
                self.in_use += block.bytes;
            }
        }
    }

    pub(super) fn free(&mut self, which: usize, how: usize) {
        let Some((at, block)) = self.left(which) else { return };
        // SAFETY: 1. The block is used no more.
        unsafe {
            match how % 4 {
                0 => self.heap.dealloc(at.as_ptr(), block.layout),
                1 => assert_eq!(self.heap.free(at, block.layout), Ok(())),
                2 => assert_eq!(self.heap.free_unsized(at), Ok(())),
                _ => Allocator::deallocate(self.heap, at, block.layout),
            }
        }
        // SAFETY: 1. It is free: each is refused.
        let again = unsafe { [self.heap.free(at, block.layout), self.heap.free_unsized(at)] };
        for again in again {
            assert!(
                matches!(again, Err(BadFree::AlreadyFree { .. } | BadFree::Interior { .. })),
                "{again:?}"
            );
        }
        if how.is_multiple_of(3) {
            // SAFETY: 1. It is refused, and told.
            unsafe { self.heap.dealloc(at.as_ptr(), block.layout) };
            self.bad_frees += 1;
            let last = TOLD.with_borrow(|told| *told.last().expect("the program is told"));
            assert_eq!((last.addr, last.bytes), (at.as_ptr() as usize, block.layout.size()));
        }
    }

    /// Leaves little free, but what slots of one size or another have.
    fn fill(&mut self, number: usize) {
        for _ in 0..40 {
            let bytes = self.heap.stats().largest_free_bytes as usize;
            if bytes < 16 {
                break;
            }
            self.allocate(Layout::from_size_align(bytes, 1).unwrap(), 0);
        }
        for bytes in [1500, 900, 48, 24, 8] {
            let layout = Layout::from_size_align(bytes + number % 3 * 8, 8).unwrap();
            let failures = self.failures;
            while self.failures == failures {
                self.allocate(layout, 2);
            }
        }
    }

    /// A request for too much, with a program that helps.
    pub(super) fn helped(&mut self, kind: usize, number: usize, bytes: usize) {
        let heap: &'static Heap<SLABS> = {
            // SAFETY: 1. The function that gets it runs within this call, as long as the heap lives.
            unsafe { &*(self.heap as *const Heap<SLABS>) }
        };
        let largest = self.heap.stats().largest_free_bytes as usize;
        let layout = Layout::from_size_align(largest + 1 + bytes, 1).unwrap();
        if layout.size() <= 2048 {
            return;
        }
        let mut freed = None;
        let mut claimed = None;
        let with = match kind % 5 {
            0 => With::Lies,
            1 | 4 => {
                let Some((at, block)) = self.left(number) else { return };
                freed = Some(block);
                let pointer = at.as_ptr();
                // SAFETY: 1. The block is used no more.
                let give = Box::new(move || unsafe { heap.dealloc(pointer, block.layout) });
                if kind % 5 == 1 { With::Free(give) } else { With::Hides(give) }
            }
            2 => {
                let at = number % self.ram_bytes;
                let len = (self.ram_bytes - at).min(bytes);
                let start = self.ram.at(at);
                let result = std::rc::Rc::new(Cell::new(None));
                claimed = Some((at, len, result.clone()));
                // SAFETY: 1. The memory is the test's, and outlives the heap.
                With::Claim(Box::new(move || result.set(Some(unsafe { heap.claim(start, len) }))))
            }
            _ => With::Ask(Box::new(move || assert!(heap.allocate(layout).is_err()))),
        };
        let (asks, hides) = (matches!(with, With::Ask(_)), matches!(with, With::Hides(_)));
        HELP.with_borrow_mut(|help| help.with = with);
        // SAFETY: 1. A layout with bytes.
        let at = NonNull::new(unsafe { self.heap.alloc(layout) });
        let asked = HELP.with_borrow(|help| help.asked.last().expect("the program was asked").clone());
        assert_eq!((asked.requested_bytes, asked.largest_free_bytes), (layout.size() as u64, largest as u64));
        assert_eq!(asked.in_use_bytes as usize, self.in_use + freed.map_or(0, |block| block.bytes));
        self.failures += asks as u64;
        if let Some((at, len, result)) = claimed {
            self.claimed(at, len, result.take().expect("it claimed"));
        }
        match at {
            Some(at) if !hides => self.took(at, layout),
            // What it gave back was for somebody else.
            at if hides => {
                assert_eq!(at, None, "it said that there was nothing");
                self.failures += 1;
            }
            _ => self.failed(layout, "a request of a program that helped"),
        }
    }

    pub(super) fn step(&mut self, what: u8, number: usize, other: usize) {
        let sizes = |number: usize| match number % 9 {
            0..3 => number / 9 % 130,
            3..5 => number / 9 % 2200,
            5 => number / 9 % 40_000,
            6 => (number / 9 % 600) * 64 + number / 9 % 3,
            7 => number / 9 % (self.ram_bytes / 2),
            _ => [0, 1, isize::MAX as usize, isize::MAX as usize / 2, 1 << 20, 4096, 961, 1024, 2048, 2049]
                [number / 9 % 10],
        };
        let aligns = |number: usize| match number % 4 {
            0 => 1 << (number / 4 % 5),
            1 => 8,
            2 => 1 << (number / 4 % 14),
            _ => 1usize << (number / 4 % (usize::BITS as usize)),
        };
        let layout = |bytes, align| Layout::from_size_align(bytes, align).ok();
        let bytes = sizes(number);
        match what % 32 {
            0 => self.claim(number, other % (self.ram_bytes / 2)),
            1..12 => {
                if let Some(layout) = layout(bytes, aligns(other)) {
                    self.allocate(layout, what as usize);
                }
            }
            12..20 => self.free(other, number),
            20..23 => self.realloc(other, bytes),
            23..25 => {
                if let Some(new) = layout(bytes, aligns(other / 3)) {
                    self.change(other, new);
                }
            }
            25 => self.resize(other, bytes),
            26 => self.look(other % self.ram_bytes, 90),
            27 => {
                let Some(&at) = self.live.keys().nth(other % self.live.len().max(1)) else { return };
                self.look((at - self.ram.at(0) as usize).saturating_sub(number % 50), 70);
            }
            28 => self.helped(number, other, number / 9 % (self.ram_bytes / 3)),
            29 => {
                // Many of one size, and every second of them back.
                let bytes = number % 4000;
                for _ in 0..30 {
                    self.allocate(Layout::from_size_align(bytes, 8).unwrap(), other);
                }
                for at in 0..15 {
                    self.free(other.wrapping_add(at), number);
                }
            }
            30 => {
                let shape = [number % 70, other % 300];
                let failures = self.heap.stats().failures;
                match TensorBuf::<f32, _>::zeros_in(&shape, self.heap) {
                    Ok(tensor) => {
                        assert!(tensor.as_slice().iter().all(|one| *one == 0.0));
                        self.peak.1 = self.peak.1.max(self.heap.stats().peak_in_use_bytes as usize);
                    }
                    Err(_) => self.failures += self.heap.stats().failures - failures,
                }
            }
            _ if number.is_multiple_of(2) && !cfg!(miri) => self.fill(other),
            _ => self.check(),
        }
    }
}
