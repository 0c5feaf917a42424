//! `FixedHeap`: a heap over memory that is simply there. For firmware and kernels, without `std` and `alloc`.
//!
//! 1. The heap is a constant: a lock around the arenas, nothing else. It claims ranges of memory later, one arena each:
//!    internal RAM, external RAM, what a boot loader's memory map calls free.
//! 2. Each range carries its own tables, at its end. The blocks before them hold no bookkeeping.
//! 3. A request goes to the arenas in the order in which they were claimed: claim the fastest memory first.
//! 4. Nothing of the program runs under the lock: no hook, no callback, no panic.

#![deny(unsafe_code)]

mod alloc;
mod arena;
mod call;
mod claim;
mod memory;
mod origin;
mod plan;
mod runs;
mod single;
mod slabs;
mod spans;
mod state;

pub use call::LowMemory;
pub use claim::NotClaimed;
pub use memory::StaticMemory;
pub use single::SingleCore;
pub use spans::LiveSpans;

use crate::arena::{Block, Stats};
use crate::error::{BadFree, OutOfMemory};
use crate::heap::misuse::{Misuse, OnMisuse};
use crate::space::Contents;
use crate::sync::{Held, Lock, SpinLock, const_unless_loom};
use arena::FixedArena;
use claim::Unclaimed;
use core::alloc::Layout;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use lock_api::RawMutex;
use memory::Memory;
use origin::Given;
use slabs::Chore;
use state::State;

/// Whether what is usual has a path of its own beside the general one: where code is not dear.
const COPIES: bool = cfg!(target_pointer_width = "64");

/// A heap over up to `ARENAS` ranges of memory, behind a lock of the caller's kind.
///
/// It is a `GlobalAlloc` (for `#[global_allocator]`) and an allocator of `allocator_api2`. With a static array no
/// `unsafe` is needed:
///
/// ```
/// use democratising::{FixedHeap, StaticMemory};
///
/// static MEMORY: StaticMemory<{ 1 << 20 }> = StaticMemory::new();
/// #[global_allocator]
/// static HEAP: FixedHeap = FixedHeap::over(&MEMORY);
///
/// let squares: Vec<u64> = (0..100).map(|i| i * i).collect();
/// assert_eq!(squares[9], 81);
/// assert!(HEAP.stats().in_use_bytes >= 800);
/// ```
///
/// Ranges that are known at run time only are claimed:
///
/// ```
/// use democratising::{FixedHeap, TensorBuf};
///
/// static HEAP: FixedHeap = FixedHeap::empty();
///
/// # let (start, bytes) = (Box::leak(vec![0u8; 64 << 10].into_boxed_slice()).as_mut_ptr(), 64 << 10);
/// // SAFETY: nobody else uses this memory, now or later.
/// unsafe { HEAP.claim(start, bytes)? };
/// let weights = TensorBuf::<f32, _>::zeros_in(&[10, 10], &HEAP)?;
/// assert_eq!(weights.shape(), [10, 10]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With `SLABS` it divides ranges of 320 KiB and more into slabs for small blocks; shorter ones have none in any case. A heap
/// that has only such ranges takes less than half the code without: it is a [`SmallHeap`].
pub struct FixedHeap<L: RawMutex = SpinLock, const ARENAS: usize = 4, const SLABS: bool = true> {
    state: Lock<L, State<L, ARENAS, SLABS>>,
}

/// A [`FixedHeap`] in less than half the code, for ranges below 320 KiB, where it does the same. Longer ones it divides too, into larger
/// granules, and looks through them at every request.
///
/// ```
/// use democratising::{SmallHeap, StaticMemory};
///
/// static MEMORY: StaticMemory<{ 64 << 10 }> = StaticMemory::new();
/// #[global_allocator]
/// static HEAP: SmallHeap = SmallHeap::over(&MEMORY);
///
/// let squares: Vec<u64> = (0..100).map(|i| i * i).collect();
/// assert_eq!(squares[9], 81);
/// ```
pub type SmallHeap<L = SpinLock, const ARENAS: usize = 4> = FixedHeap<L, ARENAS, false>;

impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> FixedHeap<L, ARENAS, SLABS> {
    const_unless_loom! {
        /// A heap without memory: it claims some later.
        pub const fn empty() -> Self {
            FixedHeap { state: Lock::new(State::new()) }
        }
    }

    const_unless_loom! {
        /// A heap over a static array. It is the heap's first range, divided when it is first asked or claims another; when another
        /// heap has it already, this one has no memory.
        pub const fn over<const BYTES: usize>(memory: &'static StaticMemory<BYTES>) -> Self {
            let memory: &'static Memory = memory.memory();
            FixedHeap { state: Lock::new(State::over(memory)) }
        }
    }

    /// Claims `len` bytes from `start` for good. Returns how many of them blocks can have; the tables take the rest. Where pointers have 32
    /// bits the heap is locked while these are cleared.
    ///
    /// # Safety
    /// The range may be read and written for as long as the program runs, and nobody else uses it from now on. (A range
    /// that this heap holds already is refused.)
    ///
    /// # Errors
    /// [`NotClaimed`]; the heap is as it was.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub unsafe fn claim(&self, start: *mut u8, len: usize) -> Result<u64, NotClaimed> {
        // SAFETY: 1. The caller's promise, handed on.
        let given = unsafe { Given::new(start, len) };
        self.claim_given(given).map_err(|why| why.told(start as usize, len, ARENAS, SLABS))
    }

    /// Claims a static slice; as [`claim`](Self::claim), without its duties.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_slice(&self, bytes: &'static mut [MaybeUninit<u8>]) -> Result<u64, NotClaimed> {
        let (start, len) = (bytes.as_ptr() as usize, bytes.len());
        self.claim_given(Given::of(bytes)).map_err(|why| why.told(start, len, ARENAS, SLABS))
    }

    /// Claims memory. It is not divided under the lock, since a large range takes a while; but where code is dear.
    fn claim_given(&self, given: Given) -> Result<u64, Unclaimed> {
        let mut state = self.held();
        state.divide_memory();
        if !COPIES {
            return state.claim(given).map(|bytes| bytes as u64);
        }
        let number = state.note(given.range()?)?;
        drop(state);
        let mut arena = FixedArena::none();
        let divided = given.bytes().and_then(|bytes| claim::divide(bytes, &mut arena));
        self.held().settle(number, divided.map(|()| arena)).map(|bytes| bytes as u64)
    }

    /// The state, locked. Out of line: the paths of small blocks alone take the lock themselves.
    #[inline(never)]
    fn held(&self) -> Held<'_, L, State<L, ARENAS, SLABS>> {
        self.state.lock()
    }

    /// A block for `layout`. Zero bytes get a block too.
    ///
    /// # Errors
    /// [`OutOfMemory`], after the function for low memory had its chance; for an alignment of more than 2 MiB always.
    pub fn allocate(&self, layout: Layout) -> Result<Block<NonNull<u8>>, OutOfMemory> {
        match self.take(layout) {
            Some((addr, bytes)) => Ok(Block { addr, bytes: bytes as u64, contents: Contents::Unknown }),
            None => Err(self.held().report(layout)),
        }
    }

    #[inline]
    fn take(&self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        self.take_at_hand(layout).or_else(|| self.take_anyhow(self.held(), layout))
    }

    /// A block without asking anybody else. What is rare is called last, with the lock in hand.
    #[inline]
    fn take_at_hand(&self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        if !COPIES {
            return Self::take_else(self.held(), layout);
        }
        let mut state = self.state.lock();
        match state.take_at_hand(layout) {
            Some((at, bytes)) => NonNull::new(at).map(|at| (at, bytes)),
            None => Self::take_else(state, layout),
        }
    }

    #[inline(never)]
    fn take_else(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        layout: Layout,
    ) -> Option<(NonNull<u8>, usize)> {
        state.take_span(layout).or_else(|| state.allocate(layout))
    }

    /// What can be done when no arena has a block.
    #[cold]
    #[inline(never)]
    fn take_anyhow<'a>(
        &'a self,
        mut state: Held<'a, L, State<L, ARENAS, SLABS>>,
        layout: Layout,
    ) -> Option<(NonNull<u8>, usize)> {
        if let Some((call, ask)) = state.low_memory {
            drop(state);
            let has_more = ask(self, call, layout);
            state = self.held();
            if has_more && let Some(block) = state.allocate(layout) {
                return Some(block);
            }
        }
        state.failed();
        None
    }

    /// Calls the function for low memory, unless it runs already. Whether it says that there is more now.
    fn ask(&self, call: LowMemory, layout: Layout) -> bool {
        /// Lets the function be called again, also when it panics.
        struct Asked<'a, L: RawMutex, const ARENAS: usize, const SLABS: bool>(
            &'a FixedHeap<L, ARENAS, SLABS>,
        );
        impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> Drop for Asked<'_, L, ARENAS, SLABS> {
            fn drop(&mut self) {
                self.0.held().low_memory_done();
            }
        }
        let mut state = self.held();
        if !state.begin_low_memory() {
            return false;
        }
        let report = state.report(layout);
        drop(state);
        let _asked = Asked(self);
        call(&report)
    }

    /// Gives a block back that was allocated with `layout`.
    ///
    /// # Safety
    /// Nobody uses the block any more. (The heap's own books are safe whatever is given back.)
    ///
    /// # Errors
    /// [`BadFree`] when it is not live or not of that size; then nothing has changed, and nobody else is told.
    #[allow(unsafe_code)]
    #[inline]
    pub unsafe fn free(&self, at: NonNull<u8>, layout: Layout) -> Result<(), BadFree> {
        if COPIES {
            let mut state = self.state.lock();
            let (class, distance) = (state.class_of(layout), state.distance(at.as_ptr()));
            return match class.and_then(|class| state.give_near_slot(distance, class)) {
                Some(0) => Ok(()),
                Some(chore) => {
                    Self::give_last(state, chore);
                    Ok(())
                }
                None => Self::give_else(state, at.as_ptr(), layout),
            };
        }
        Self::give_else(self.held(), at.as_ptr(), layout)
    }

    #[inline(never)]
    fn give_else(
        mut state: Held<'_, L, State<L, ARENAS, SLABS>>,
        at: *mut u8,
        layout: Layout,
    ) -> Result<(), BadFree> {
        state.give_else(at, layout).ok_or_else(|| state.why(at, layout.size()))
    }

    #[inline(never)]
    fn give_last(mut state: Held<'_, L, State<L, ARENAS, SLABS>>, chore: Chore) {
        state.emptied(chore);
    }

    /// Gives a block back whose size is not known, as C's `free` does.
    ///
    /// # Safety
    /// As [`free`](Self::free).
    ///
    /// # Errors
    /// As [`free`](Self::free).
    #[allow(unsafe_code)]
    pub unsafe fn free_unsized(&self, at: NonNull<u8>) -> Result<(), BadFree> {
        let mut state = self.held();
        state.free_unsized(at.as_ptr()).ok_or_else(|| state.why(at.as_ptr(), 0))
    }

    /// Makes the block at `at`, allocated with `old`, one of `new_bytes` where it stands. `false`: it stays as it is.
    ///
    /// # Safety
    /// Nobody uses what is cut off when it becomes shorter.
    ///
    /// # Errors
    /// As [`free`](Self::free).
    #[allow(unsafe_code)]
    pub unsafe fn resize(&self, at: NonNull<u8>, old: Layout, new_bytes: usize) -> Result<bool, BadFree> {
        let mut state = self.held();
        state.resize(at.as_ptr(), old, new_bytes, false).ok_or_else(|| state.why(at.as_ptr(), old.size()))
    }

    /// The bytes that the live block at `at` can use.
    ///
    /// # Errors
    /// [`BadFree`] when no live block starts there.
    pub fn usable_bytes(&self, at: NonNull<u8>) -> Result<u64, BadFree> {
        let mut state = self.held();
        state.usable_bytes(at.as_ptr()).ok_or_else(|| state.why(at.as_ptr(), 0))
    }

    /// Sets what happens on a bad free through `GlobalAlloc` or `Allocator`.
    pub fn on_misuse(&self, then: OnMisuse) {
        self.held().misuse = then;
    }

    /// Sets what is called before a request fails; `None`: nothing.
    pub fn on_low_memory(&self, call: Option<LowMemory>) {
        self.held().low_memory = call.map(|call| (call, Self::ask as fn(&Self, LowMemory, Layout) -> bool));
    }

    /// Tells the program of a bad free, as it has chosen.
    #[cold]
    fn misused(&self, at: *mut u8, bytes: usize, why: BadFree) {
        let then = self.held().misused();
        Self::tell(then, Misuse { addr: at as usize, bytes, why });
    }

    fn tell(then: OnMisuse, misuse: Misuse) {
        match then {
            OnMisuse::Stop => panic!("{misuse}"),
            OnMisuse::Hook(hook) => hook(misuse),
            OnMisuse::Ignore => {}
        }
    }

    /// The heap in numbers, summed over its arenas. The limit is what they have in all, tables not counted; failures are
    /// requests that no arena could serve.
    pub fn stats(&self) -> Stats {
        self.held().stats()
    }

    /// Bytes that no block holds. They need not lie side by side: see [`Stats::largest_free_bytes`].
    pub fn free_bytes(&self) -> u64 {
        self.held().free_bytes()
    }

    /// Bad frees through `GlobalAlloc` and `Allocator` so far.
    pub fn bad_frees(&self) -> u64 {
        self.held().bad_frees
    }

    /// Whether somebody is in the heap right now. A fault handler asks this first: everything else here waits.
    pub fn is_locked(&self) -> bool {
        self.state.try_lock().is_none()
    }

    /// What lives in the heap, span by span, for post-mortems. The heap is locked for each step only, so the program may
    /// allocate meanwhile; what comes and goes then may be seen or not.
    pub fn live_spans(&self) -> LiveSpans<'_, L, ARENAS, SLABS> {
        LiveSpans::of(self)
    }
}

impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> Default for FixedHeap<L, ARENAS, SLABS> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<L: RawMutex, const ARENAS: usize, const SLABS: bool> fmt::Debug for FixedHeap<L, ARENAS, SLABS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not locked while it is written: what it is written into may be a block of this heap that grows.
        match self.state.try_lock().map(|mut state| state.stats()) {
            Some(stats) => f.debug_struct("FixedHeap").field("stats", &stats).finish_non_exhaustive(),
            None => f.write_str("FixedHeap(<locked>)"),
        }
    }
}
