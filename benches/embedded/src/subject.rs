//! The allocators, each over memory that it is given: as a program's global allocator, behind the same lock.

use core::alloc::{GlobalAlloc, Layout};
use core::mem::{MaybeUninit, size_of_val};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};
use democratising::FixedHeap;
use linked_list_allocator::Heap as LinkedList;
use lock_api::Mutex;

/// One lock for everybody: what `FixedHeap` has by default. `embedded-alloc` brings its own, a critical section, which is
/// free of charge here (see below).
type Raw = spin::mutex::SpinMutex<(), spin::relax::Spin>;

/// An allocator over memory that it was given.
pub type Subject = Box<dyn GlobalAlloc>;

/// A kind of allocator.
#[derive(Clone, Copy)]
pub struct Kind {
    /// What it is called in the tables.
    pub name: &'static str,
    /// One over that memory, which nobody else uses, and the bytes of its own struct.
    make: fn(Memory) -> (Subject, usize),
    /// Whether it is too slow for long scripts: a list that is searched from its start.
    pub slow: bool,
}

impl Kind {
    /// A new one over `memory`.
    pub fn over(self, memory: Memory) -> Subject {
        (self.make)(memory).0
    }

    /// The bytes of its own struct, which are outside of the memory.
    pub fn own_bytes(self, memory: Memory) -> usize {
        (self.make)(memory).1
    }
}

/// Memory for allocators, one after the other.
#[derive(Clone, Copy)]
pub struct Memory {
    start: *mut u8,
    /// Its length.
    pub bytes: usize,
}

impl Memory {
    /// `bytes` bytes at a multiple of 4 KiB, touched, for as long as the program runs.
    pub fn new(bytes: usize) -> Memory {
        let layout = Layout::from_size_align(bytes, 4096).expect("a length that can be");
        // SAFETY: 1. The layout is not empty: all callers ask for KiB.
        let start = unsafe { std::alloc::alloc(layout) };
        assert!(!start.is_null(), "no {bytes} bytes for the benchmark");
        // SAFETY: 1. The block has that many bytes.
        unsafe { start.write_bytes(0xab, bytes) };
        Memory { start, bytes }
    }

    /// The first `bytes` of it.
    pub fn first(self, bytes: usize) -> Memory {
        assert!(bytes <= self.bytes);
        Memory { bytes, ..self }
    }

    fn slice(self) -> &'static mut [MaybeUninit<u8>] {
        // SAFETY: 1. It was allocated for good. 2. One allocator uses it at a time: the callers drop one before the next.
        unsafe { core::slice::from_raw_parts_mut(self.start.cast(), self.bytes) }
    }
}

/// This crate's, over the bytes of its memory.
const OURS: Kind = Kind {
    name: "democratising",
    make: |memory| {
        let heap = <FixedHeap>::empty();
        heap.claim_slice(memory.slice()).expect("memory that can be divided");
        let bytes = size_of_val(&heap);
        (Box::new(heap), bytes)
    },
    slow: false,
};

/// Everybody.
pub const KINDS: [Kind; 7] = [
    OURS,
    Kind {
        name: "talc",
        make: |memory| {
            let talc: talc::TalcLock<Raw, talc::source::Manual> = talc::TalcLock::new(talc::source::Manual);
            // SAFETY: 1. Nobody else uses the memory as long as the allocator lives.
            unsafe { talc.lock().claim(memory.start, memory.bytes) }.expect("memory that talc takes");
            let bytes = size_of_val(&talc);
            (Box::new(talc), bytes)
        },
        slow: false,
    },
    Kind {
        name: "rlsf",
        make: |memory| {
            let mut tlsf = rlsf::Tlsf::new();
            tlsf.insert_free_block(memory.slice());
            let bytes = size_of_val(&tlsf);
            (Box::new(Rlsf(Mutex::new(tlsf))), bytes)
        },
        slow: false,
    },
    Kind {
        name: "embedded-alloc",
        make: |memory| {
            let heap = embedded_alloc::TlsfHeap::empty();
            // SAFETY: 1. It is initialised once, with memory that nobody else uses.
            unsafe { heap.init(memory.start as usize, memory.bytes) };
            let bytes = size_of_val(&heap);
            (Box::new(heap), bytes)
        },
        slow: false,
    },
    Kind {
        name: "buddy_system",
        make: |memory| {
            let mut heap = buddy_system_allocator::Heap::new();
            // SAFETY: 1. The memory is the heap's from now on.
            unsafe { heap.init(memory.start as usize, memory.bytes) };
            let bytes = size_of_val(&heap);
            (Box::new(Buddy(Mutex::new(heap))), bytes)
        },
        slow: false,
    },
    Kind {
        name: "dlmalloc",
        make: |memory| {
            let source = Once { start: memory.start as usize, bytes: AtomicUsize::new(memory.bytes) };
            let heap = dlmalloc::Dlmalloc::new_with_allocator(source);
            let bytes = size_of_val(&heap);
            (Box::new(Dl(Mutex::new(heap))), bytes)
        },
        slow: false,
    },
    Kind {
        name: "linked_list",
        make: |memory| {
            let heap = LinkedList::from_slice(memory.slice());
            let bytes = size_of_val(&heap);
            (Box::new(Linked(Mutex::new(heap))), bytes)
        },
        slow: true,
    },
];

/// Hands the same address out again and again: what the harness itself takes.
pub struct Nobody;

// SAFETY: 1. Nobody writes to what it hands out: it is the harness's alone.
unsafe impl GlobalAlloc for Nobody {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        ptr::without_provenance_mut(64)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    unsafe fn realloc(&self, at: *mut u8, _: Layout, _: usize) -> *mut u8 {
        at
    }
}

/// rlsf with as many lists as 128 MiB take.
struct Rlsf(
    Mutex<Raw, rlsf::Tlsf<'static, usize, usize, { usize::BITS as usize - 12 }, { usize::BITS as usize }>>,
);

// SAFETY: 1. Everything is rlsf's own.
unsafe impl GlobalAlloc for Rlsf {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: 1. The caller's block, which is not null.
        unsafe { self.0.lock().deallocate(NonNull::new_unchecked(at), layout.align()) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: 1. The caller's block, which is not null; the caller answers for the size.
        unsafe {
            let new = Layout::from_size_align_unchecked(bytes, layout.align());
            self.0.lock().reallocate(NonNull::new_unchecked(at), new).map_or(ptr::null_mut(), NonNull::as_ptr)
        }
    }
}

struct Buddy(Mutex<Raw, buddy_system_allocator::Heap<32>>);

// SAFETY: 1. Everything is the buddy system's own.
unsafe impl GlobalAlloc for Buddy {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: 1. The caller's block, which is not null.
        self.0.lock().dealloc(unsafe { NonNull::new_unchecked(at) }, layout)
    }
}

struct Linked(Mutex<Raw, LinkedList>);

// SAFETY: 1. Everything is the list's own.
unsafe impl GlobalAlloc for Linked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: 1. The caller's block, which is not null.
        unsafe { self.0.lock().deallocate(NonNull::new_unchecked(at), layout) }
    }
}

/// Memory for dlmalloc, which asks for more until it is refused: all of it, once.
struct Once {
    start: usize,
    bytes: AtomicUsize,
}

// SAFETY: 1. The one range that it hands out is handed out once.
unsafe impl dlmalloc::Allocator for Once {
    fn alloc(&self, _: usize) -> (*mut u8, usize, u32) {
        match self.bytes.swap(0, Ordering::Relaxed) {
            0 => (ptr::null_mut(), 0, 0),
            bytes => (ptr::with_exposed_provenance_mut(self.start), bytes, 1),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        false
    }

    fn page_size(&self) -> usize {
        4096
    }
}

struct Dl(Mutex<Raw, dlmalloc::Dlmalloc<Once>>);

// SAFETY: 1. Everything is dlmalloc's own.
unsafe impl GlobalAlloc for Dl {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: 1. The caller's layout.
        unsafe { self.0.lock().malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: 1. The caller's block.
        unsafe { self.0.lock().free(at, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: 1. The caller's block.
        unsafe { self.0.lock().realloc(at, layout.size(), layout.align(), bytes) }
    }
}

/// Critical sections of a machine with one thread and no interrupts.
struct Alone;
critical_section::set_impl!(Alone);

// SAFETY: 1. The benchmark has one thread.
unsafe impl critical_section::Impl for Alone {
    unsafe fn acquire() -> critical_section::RawRestoreState {}

    unsafe fn release(_: critical_section::RawRestoreState) {}
}
