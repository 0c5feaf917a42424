//! A program that allocates, frees and reallocates what it reads from memory, so that nothing of the allocator can be left out.

#![no_std]
#![no_main]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{addr_of_mut, read_volatile, write_volatile};

#[cfg(feature = "small")]
static HEAP: democratising::FixedHeap<democratising::SpinLock, 1, { cfg!(feature = "slabs") }> =
    democratising::FixedHeap::empty();

#[cfg(feature = "talc")]
#[global_allocator]
static HEAP: talc::TalcLock<spin::mutex::SpinMutex<(), spin::relax::Spin>, talc::source::Manual> =
    talc::TalcLock::new(talc::source::Manual);

/// Neither allocates nor frees.
#[cfg(not(any(feature = "small", feature = "talc")))]
static HEAP: Nothing = Nothing;
#[cfg(not(any(feature = "small", feature = "talc")))]
struct Nothing;

#[cfg(not(any(feature = "small", feature = "talc")))]
// SAFETY: 1. It hands nothing out.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    unsafe fn realloc(&self, _: *mut u8, _: Layout, _: usize) -> *mut u8 {
        core::ptr::null_mut()
    }
}

static mut MEMORY: [u8; 512 << 10] = [0; 512 << 10];
static mut CELL: usize = 0;

/// Where it starts.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let cell = addr_of_mut!(CELL);
    // SAFETY: 1. The memory is the heap's alone. 2. This is never run: it is linked and measured.
    unsafe {
        #[cfg(feature = "small")]
        write_volatile(cell, HEAP.claim(addr_of_mut!(MEMORY).cast(), read_volatile(cell)).is_ok() as usize);
        #[cfg(feature = "talc")]
        write_volatile(
            cell,
            HEAP.lock().claim(addr_of_mut!(MEMORY).cast(), read_volatile(cell)).is_some() as usize,
        );
        write_volatile(cell, addr_of_mut!(MEMORY) as usize);
        loop {
            let layout = Layout::from_size_align_unchecked(read_volatile(cell), read_volatile(cell));
            let at = HEAP.alloc(layout);
            let at = HEAP.realloc(at, layout, read_volatile(cell));
            write_volatile(cell, at as usize);
            HEAP.dealloc(read_volatile(cell) as *mut u8, layout);
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
