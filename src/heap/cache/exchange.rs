//! Where the loaded magazine does not help: the one behind it, the depot, the slabs.

use super::hit::{self, Loaded as _};
use super::{
    BINS, Back, Cache, Loaded, MAGAZINE_BYTES, MOST, Magazine, Place, Seat, Tags, capacity, no_top, owner,
};
use crate::heap::{errno, numbers, shared, thread};
use crate::size::{HOST_CLASSES, SizeClass};
use crate::space::MappedTables;
use crate::sync::HostLock;
use core::mem::offset_of;
use core::ptr::NonNull;

/// The blocks of a class that a thread keeps where most of the class's slabs is free: each may keep a whole slab.
const LEAN: usize = 16;

/// A cache in whose seat this thread is inside, or that is nobody's: nobody else reads or writes what the hits do not.
#[derive(Clone, Copy)]
pub(in crate::heap) struct Own(NonNull<Cache>);

/// The loaded magazine is empty, or this thread has no cache yet, or no more.
#[cold]
#[inline(never)]
pub(super) fn refill(class: SizeClass) -> *mut u8 {
    let Some(own) = thread::obtain() else { return shared::take_one(class) };
    let mut bin = own.bin(Place::own(class));
    loop {
        if bin.loaded().is_empty() {
            bin.unload(capacity(class));
            if bin.behind().is_empty() {
                let (room, batch) = (bin.room(), bin.batch());
                let blocks = own.draw_on(class, room, batch);
                bin.load(blocks);
            } else {
                bin.swap();
            }
        }
        let block = bin.pop();
        if block != 0 || bin.loaded().is_empty() {
            return block as *mut u8;
        }
        // Somebody gave null back. It looks like the 0 below the blocks, and would be in the way of those for good.
        bin.drop_null();
        shared::refuse_null(class);
    }
}

/// Loads blocks from behind, from the depot or the slabs, until there are `least`, or half of what the magazine holds.
#[cold]
#[inline(never)]
pub(super) fn widen(class: SizeClass, least: usize) {
    // Whoever asks has a block already, or is told by the next call: that there are no more to choose from is no failure.
    let _kept = errno::Kept::now();
    let Some(own) = thread::obtain() else { return };
    let mut bin = own.bin(Place::own(class));
    let least = least.min(bin.back().capacity / 2);
    let Some(missing) = least.checked_sub(bin.loaded().len()).filter(|&missing| missing > 0) else { return };
    if bin.behind().len() < missing {
        let mut room = [0; MOST];
        let room = &mut room[..capacity(class) - bin.behind().len()];
        let blocks = own.draw_on(class, room, room.len());
        bin.load_behind(&room[..blocks]);
    }
    for _ in 0..missing {
        let Some(block) = bin.pop_behind() else { return };
        bin.push(block);
    }
}

/// The loaded magazine is full, or this thread has no cache yet, or no more.
#[cold]
#[inline(never)]
pub(super) fn spill(at: *mut u8, class: SizeClass) {
    let Some(own) = thread::obtain() else { return shared::flush(class, &[at as usize]) };
    // SAFETY: 1. The class is one of the host's.
    if !unsafe { own.tags().keep(at, class) } {
        drop(own);
        return send_back(at, class);
    }
    let mut bin = own.bin(Place::own(class));
    let full = bin.is_full();
    if full {
        let lean = shared::is_lean(class);
        if lean || bin.back().capacity < capacity(class) {
            own.empty_bin(Place::own(class));
            bin.unload(if lean { LEAN.min(capacity(class)) } else { capacity(class) });
            if lean {
                shared::empty_depot(class);
            }
        } else {
            let behind = bin.behind();
            if !behind.is_empty() && !shared::bring(class, behind) {
                shared::flush(class, behind);
            }
            bin.unload_behind();
            bin.swap();
        }
    }
    bin.push(at as usize);
    drop(own);
    if full {
        shared::tick();
    }
}

/// Takes a small block that another cache carved: a hit like the others, but that nobody takes from there again.
#[cold]
#[inline(never)]
pub(super) fn send_back(at: *mut u8, class: SizeClass) {
    // SAFETY: 1. The cache is this thread's own, or the shared empty one. 2. Only blocks of classes with owners are others'.
    if !hit::push(&unsafe { Loaded::of(thread::cache(), Place::away(class)) }, at as usize) {
        send_back_all(at, class);
    }
}

/// The magazine of such blocks is full, or not there yet.
#[cold]
#[inline(never)]
fn send_back_all(at: *mut u8, class: SizeClass) {
    let Some(own) = thread::obtain() else { return shared::flush(class, &[at as usize]) };
    let mut bin = own.bin(Place::away(class));
    let full = bin.is_full();
    if full {
        own.empty_bin(Place::away(class));
        bin.unload(capacity(class));
    }
    bin.push(at as usize);
    drop(own);
    if full {
        shared::tick();
    }
}

impl Own {
    /// # Safety
    /// The cache is this thread's own, or nobody's, and lives for good.
    pub(in crate::heap) unsafe fn of(cache: NonNull<Cache>) -> Own {
        Own(cache)
    }

    /// Makes a cache of memory that is all zeros.
    ///
    /// # Safety
    /// The memory is as large and as aligned as a cache, nobody else's, and lives for good.
    pub(in crate::heap) unsafe fn make(memory: NonNull<Cache>, tags: Tags) -> Own {
        // SAFETY: 1. As the caller promises.
        unsafe {
            (&raw mut (*memory.as_ptr()).front.tops).write([no_top(); BINS]);
            (&raw mut (*memory.as_ptr()).front.tags).write(tags);
            (&raw mut (*memory.as_ptr()).seat).write(Seat::new());
        }
        Own(memory)
    }

    /// The cache itself, which whoever calls this has no longer.
    pub(in crate::heap) fn leave(self) -> NonNull<Cache> {
        self.0
    }

    pub(in crate::heap) fn tags(self) -> &'static Tags {
        // SAFETY: 1. The cache is made, and for good; its tags are only read, or atomic.
        unsafe { &(*self.0.as_ptr()).front.tags }
    }

    /// What the cache has at a place, made ready at its first use.
    #[inline(always)]
    fn bin(self, place: Place) -> Bin {
        self.used(place).unwrap_or_else(|| self.make_ready(place))
    }

    /// The bin at a place, if it was ever used.
    #[inline(always)]
    fn used(self, place: Place) -> Option<Bin> {
        let bin = self.raw_bin(place);
        (!bin.back().behind.is_null()).then_some(bin)
    }

    /// The bin at a place, which may have no magazines yet.
    #[inline(always)]
    fn raw_bin(self, place: Place) -> Bin {
        let cache = self.0.as_ptr();
        // SAFETY: 1. The cache is ours. 2. The place is one of its bins: the arrays have as many.
        unsafe {
            let top = (&raw mut (*cache).front.tops).cast::<*mut usize>().add(place.at);
            let back = (&raw mut (*cache).backs).cast::<Back>().add(place.at);
            Bin { top, back, class: place.class }
        }
    }

    /// Gives a bin its magazines.
    #[cold]
    #[inline(never)]
    fn make_ready(self, place: Place) -> Bin {
        let ready = Place::all().filter(|&place| self.used(place).is_some()).count();
        let capacity = capacity(place.class);
        let mut bin = self.raw_bin(place);
        // SAFETY: 1. The cache is ours. 2. There are magazines for every bin, and those before these are the others'.
        unsafe {
            let cache = self.0.as_ptr();
            let magazines = (&raw mut (*cache).magazines).cast::<[Magazine; 2]>().add(ready).cast::<usize>();
            let words = MAGAZINE_BYTES / size_of::<usize>();
            bin.set_top(magazines.add(words));
            bin.set_back(Back { behind: magazines.add(2 * words), capacity, ..bin.back() });
        }
        bin.unload(capacity);
        bin.unload_behind();
        bin
    }

    /// Blocks of the depot, or else of the slabs, of those at most `batch`, for this cache: how many.
    fn draw_on(self, class: SizeClass, room: &mut [usize], batch: usize) -> usize {
        let mut blocks = shared::fetch(class, room);
        if blocks == 0 {
            let batch = batch.min(room.len());
            blocks = shared::refill(class, &mut room[..batch]);
        }
        if owner::tagged(class) {
            self.tags().claim(&room[..blocks]);
        }
        blocks
    }

    /// Gives every block to the slabs.
    pub(in crate::heap) fn empty(self) {
        Place::all().for_each(|place| self.empty_bin(place));
    }

    /// Makes an empty cache as new, and gives the memory of its magazines back: all zeros is one that was never used.
    pub(in crate::heap) fn give_back(self) {
        let cache = self.0.as_ptr();
        if Place::all().all(|place| self.used(place).is_none()) {
            return;
        }
        // SAFETY: 1. The cache is ours, and empty. 2. From `magazines` on a cache has only what `bin` makes ready where there is no
        // magazine behind. 3. Its memory is a table that was leaked, and ends with it.
        unsafe {
            (&raw mut (*cache).front.tops).write([no_top(); BINS]);
            (&raw mut (*cache).backs).write_bytes(0, 1);
            let start = (&raw mut (*cache).magazines).cast::<u8>();
            let bytes = size_of::<Cache>() - offset_of!(Cache, magazines);
            MappedTables::forget(NonNull::new_unchecked(start), bytes);
        }
    }

    /// Gives the blocks of classes to the slabs of which most is free.
    pub(in crate::heap) fn empty_lean(self) {
        let classes = (0..HOST_CLASSES).map(|class| SizeClass(class as u8));
        classes.filter(|&class| shared::is_lean(class)).for_each(|class| self.empty_bin(Place::own(class)));
    }

    fn empty_bin(self, place: Place) {
        let Some(mut bin) = self.used(place) else { return };
        shared::flush(bin.class, bin.loaded());
        shared::flush(bin.class, bin.behind());
        bin.unload(bin.back().capacity);
        bin.unload_behind();
    }
}

/// The seat of a cache.
///
/// # Safety
/// The cache is made, and lives for good.
pub(in crate::heap) unsafe fn seat(cache: NonNull<Cache>) -> &'static Seat<HostLock, thread::Word> {
    // SAFETY: 1. As the caller promises. 2. It is only shared.
    unsafe { &(*cache.as_ptr()).seat }
}

/// Takes out of a cache what no hit looks at, and with `loaded` what none can reach, for another one, which is empty.
///
/// # Safety
/// The caller has the seat of `from`, whose thread is parted from it if `loaded`.
pub(in crate::heap) unsafe fn carry(from: NonNull<Cache>, to: Own, loaded: bool) {
    let from = Own(from);
    for place in Place::all() {
        let Some(mut bin) = from.used(place) else { continue };
        let mut out = to.bin(place);
        out.unload(capacity(place.class));
        if loaded {
            bin.skim(&mut out);
        }
        out.load_behind(bin.behind());
        bin.unload_behind();
    }
}

/// One bin of a cache: the loaded magazine and the one behind it.
struct Bin {
    top: *mut *mut usize,
    back: *mut Back,
    class: SizeClass,
}

/// The end of the magazine that a top is in.
fn end(top: *mut usize) -> *mut usize {
    top.map_addr(|top| ((top - 1) | (MAGAZINE_BYTES - 1)) + 1)
}

/// The blocks below a top.
///
/// # Safety
/// The top is of a magazine of `capacity`, and nobody writes there while the slice is used.
unsafe fn below<'a>(top: *mut usize, capacity: usize) -> &'a [usize] {
    // SAFETY: 1. A magazine's blocks lie between the start of its capacity and its top.
    unsafe {
        let bottom = end(top).sub(capacity);
        core::slice::from_raw_parts(bottom, top.offset_from(bottom) as usize)
    }
}

// Every `unsafe` below rests on this: 1. The bin is of a cache of our own, and ready: both tops are in their magazines,
// no further below the end than the capacity. (`back`, `set_back` and `set_top` do not look there, and make it so.)
impl Bin {
    fn top(&self) -> *mut usize {
        Loaded(self.top).top()
    }

    fn set_top(&mut self, top: *mut usize) {
        Loaded(self.top).set_top(top)
    }

    fn back(&self) -> Back {
        // SAFETY: 1. See above.
        unsafe { *self.back }
    }

    fn set_back(&mut self, back: Back) {
        // SAFETY: 1. See above.
        unsafe { *self.back = back }
    }

    /// The blocks of the loaded magazine, until it is written to.
    fn loaded<'a>(&self) -> &'a [usize] {
        // SAFETY: 1. See above.
        unsafe { below(self.top(), self.back().capacity) }
    }

    /// The blocks of the magazine behind, until it is written to.
    fn behind<'a>(&self) -> &'a [usize] {
        // SAFETY: 1. See above.
        unsafe { below(self.back().behind, capacity(self.class)) }
    }

    fn is_full(&self) -> bool {
        self.top().addr().is_multiple_of(MAGAZINE_BYTES)
    }

    /// Exchanges the two, where both have their full capacity.
    fn swap(&mut self) {
        let (top, back) = (self.top(), self.back());
        debug_assert_eq!(back.capacity, capacity(self.class));
        self.set_back(Back { behind: top, ..back });
        self.set_top(back.behind);
    }

    /// Forgets the loaded blocks, which are somewhere else now; there is room for `most`.
    fn unload(&mut self, most: usize) {
        // SAFETY: 1. See above. 2. `most` is less than the words of a magazine: the word below is one of it.
        unsafe {
            let bottom = end(self.top()).sub(most);
            bottom.sub(1).write(0);
            self.set_top(bottom);
        }
        self.set_back(Back { capacity: most, ..self.back() });
    }

    /// Forgets the blocks behind.
    fn unload_behind(&mut self) {
        let back = self.back();
        // SAFETY: 1. See above. The word below the full capacity is never written.
        let bottom = unsafe { end(back.behind).sub(capacity(self.class)) };
        self.set_back(Back { behind: bottom, ..back });
    }

    /// The places of an empty loaded magazine, until it is written to in another way.
    fn room<'a>(&mut self) -> &'a mut [usize] {
        let capacity = self.back().capacity;
        // SAFETY: 1. See above.
        unsafe { core::slice::from_raw_parts_mut(end(self.top()).sub(capacity), capacity) }
    }

    /// How many blocks the slabs are asked for now: where the heap is compact few of a class that is hardly used.
    fn batch(&mut self) -> usize {
        let back = self.back();
        let numbers = numbers::of(self.class);
        let batch = (2 * back.batch).clamp(numbers.first as usize, numbers.capacity as usize);
        self.set_back(Back { batch, ..back });
        batch
    }

    /// The first `blocks` places of the room hold blocks now.
    fn load(&mut self, blocks: usize) {
        debug_assert!(blocks <= self.back().capacity && self.loaded().is_empty());
        // SAFETY: 1. See above.
        self.set_top(unsafe { self.top().add(blocks) });
    }

    /// The uppermost block of the magazine behind.
    fn pop_behind(&mut self) -> Option<usize> {
        let block = *self.behind().last()?;
        let back = self.back();
        // SAFETY: 1. See above. There is a block below.
        self.set_back(Back { behind: unsafe { back.behind.sub(1) }, ..back });
        Some(block)
    }

    /// The blocks go on top of the magazine behind, which has room for them.
    fn load_behind(&mut self, blocks: &[usize]) {
        debug_assert!(self.behind().len() + blocks.len() <= capacity(self.class));
        let back = self.back();
        // SAFETY: 1. See above. 2. Above the bottom there is room for the class's capacity.
        let behind = unsafe {
            core::ptr::copy_nonoverlapping(blocks.as_ptr(), back.behind, blocks.len());
            back.behind.add(blocks.len())
        };
        self.set_back(Back { behind, ..back });
    }

    /// Loads the empty `out` with what no hit under way can reach. The magazine is bounded by what is left in it then.
    fn skim(&mut self, out: &mut Bin) {
        let capacity = self.back().capacity;
        // SAFETY: 1. See above: the blocks below a top start where the capacity does.
        let blocks = |top: *mut usize| unsafe { top.offset_from_unsigned(end(top).sub(capacity)) };
        if let Some((bottom, taken)) = hit::skim(&Loaded(self.top), blocks, out.room()) {
            // SAFETY: 1. The bottom is a place of the magazine.
            let capacity = unsafe { end(bottom).offset_from_unsigned(bottom) };
            self.set_back(Back { capacity, ..self.back() });
            out.load(taken);
        }
    }

    /// The uppermost block, or 0.
    fn pop(&mut self) -> usize {
        hit::pop(&Loaded(self.top))
    }

    /// Forgets the uppermost word of a magazine that is not empty, which is no block.
    fn drop_null(&mut self) {
        // SAFETY: 1. See above. There is a word of the magazine below.
        self.set_top(unsafe { self.top().sub(1) });
    }

    /// Puts a block on top of a magazine that is not full.
    fn push(&mut self, block: usize) {
        let pushed = hit::push(&Loaded(self.top), block);
        debug_assert!(pushed);
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests;
