//! Firmware whose memory is a static array: collections, tensors, the script, running out and recovering, a double free told, and
//! an interrupt handler that allocates as well. On a Cortex-M4F with 64 KiB of RAM, and on a Cortex-M0 with 16 KiB.
//!
//! `.ci/run firmware` builds it and runs it in qemu-system-arm: exit code 0 says that everything held.

#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../bare/script.rs"]
mod script;
#[path = "../../bare/tally.rs"]
mod tally;

use alloc::{boxed::Box, collections::BTreeMap, format, string::String, vec::Vec};
use core::alloc::{GlobalAlloc, Layout};
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::{entry, exception};
use cortex_m_semihosting::{debug, hio};
use democratising::error::{BadFree, OutOfMemory};
use democratising::heap::{Misuse, OnMisuse};
use democratising::{CriticalSectionLock, FixedHeap, StaticMemory};
use tally::Tally;

/// The memory that the heap is made over, what it claims later, and the largest block of the script.
#[cfg(not(small))]
const SIZES: [usize; 3] = [24 << 10, 16 << 10, 2 << 10];
#[cfg(small)]
const SIZES: [usize; 3] = [4 << 10, 2 << 10, 256];

static MEMORY: StaticMemory<{ SIZES[0] }> = StaticMemory::new();

#[global_allocator]
static HEAP: FixedHeap<CriticalSectionLock, 2> = FixedHeap::over(&MEMORY);

/// The debugger's console.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        hio::hstdout().and_then(|mut out| out.write_all(text.as_bytes())).map_err(|()| fmt::Error)
    }
}

fn exit(passed: bool) -> ! {
    loop {
        debug::exit(if passed { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    }
}

#[panic_handler]
fn panicked(info: &PanicInfo) -> ! {
    let _ = writeln!(Console, "{info}\n0 passed, 1 failed");
    exit(false)
}

#[entry]
fn main() -> ! {
    let mut tally = Tally::new(Console);
    let _ = writeln!(tally.out, "the heap itself: {} bytes", size_of_val(&HEAP));
    HEAP.on_misuse(OnMisuse::Hook(misused));
    collections(&mut tally);
    let first = HEAP.stats().limit_bytes;
    tally.check("the static array is the heap's", first > SIZES[0] as u64 * 8 / 10);
    let more =
        cortex_m::singleton!(: [MaybeUninit<u64>; SIZES[1] / 8] = [MaybeUninit::uninit(); SIZES[1] / 8]);
    // SAFETY: 1. The array is this function's alone and static, and it gives it away.
    let claimed = more.map(|more| unsafe { HEAP.claim(more.as_mut_ptr().cast(), SIZES[1]) });
    tally.check(
        "a second range is claimed",
        matches!(claimed, Some(Ok(bytes)) if HEAP.stats().limit_bytes == first + bytes),
    );
    for seed in 1..=3 {
        script::play::<_, _, _, 24>(&HEAP, &mut tally, seed, 2000, SIZES[2]);
    }
    script::exhaust(&HEAP, &mut tally, SIZES[2] / 8);
    script::tensors(&HEAP, &mut tally);
    a_bad_free_is_told(&mut tally);
    memory_runs_low(&mut tally);
    an_interrupt_allocates(&mut tally);
    let _ = writeln!(tally.out, "{}", HEAP.stats());
    exit(tally.end())
}

fn collections(tally: &mut Tally<Console>) {
    {
        let squares: BTreeMap<u32, Box<u32>> = (0..50).map(|i| (i, Box::new(i * i))).collect();
        let text: String = squares.values().take(4).map(|square| format!("{square} ")).collect();
        tally.check("collections work", text == "0 1 4 9 " && *squares[&49] == 2401);
        let huge = Vec::<u8>::new().try_reserve_exact(1 << 20);
        tally.check("what cannot be is an error, not an end", huge.is_err());
    }
    tally.check("collections give their memory back", HEAP.stats().in_use_bytes == 0);
}

static TOLD: AtomicU32 = AtomicU32::new(0);

fn misused(misuse: Misuse) {
    let double = matches!(misuse.why, BadFree::AlreadyFree { .. });
    TOLD.store(TOLD.load(Relaxed) + double as u32, Relaxed);
}

fn a_bad_free_is_told(tally: &mut Tally<Console>) {
    let layout = Layout::new::<[u32; 8]>();
    let told = TOLD.load(Relaxed);
    // SAFETY: 1. The block is used by nobody; the second free is refused.
    unsafe {
        let block = HEAP.alloc(layout);
        HEAP.dealloc(block, layout);
        HEAP.dealloc(block, layout);
    }
    tally.check("a double free is told to the hook", TOLD.load(Relaxed) == told + 1);
    tally.check("and counted", HEAP.bad_frees() == 1);
}

static ASKED: AtomicU32 = AtomicU32::new(0);

fn memory_runs_low(tally: &mut Tally<Console>) {
    HEAP.on_low_memory(Some(|_: &OutOfMemory| {
        ASKED.store(ASKED.load(Relaxed) + 1, Relaxed);
        false
    }));
    tally.check("what never fits fails", Vec::<u8>::new().try_reserve_exact(1 << 20).is_err());
    tally.check("after the low-memory function was asked", ASKED.load(Relaxed) == 1);
    HEAP.on_low_memory(None);
}

static TICKS: AtomicU32 = AtomicU32::new(0);

/// Allocates in an interrupt, whatever the interrupted code was doing.
#[exception]
fn SysTick() {
    let tick = TICKS.load(Relaxed) + 1;
    drop(Box::new([tick; 5]));
    TICKS.store(tick, Relaxed);
}

fn an_interrupt_allocates(tally: &mut Tally<Console>) {
    let Some(mut peripherals) = cortex_m::Peripherals::take() else {
        return tally.check("the timer can be had", false);
    };
    let before = HEAP.stats();
    let timer = &mut peripherals.SYST;
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(20_000);
    timer.clear_current();
    timer.enable_interrupt();
    timer.enable_counter();
    let (mut blocks, mut whole) = (0u64, true);
    while TICKS.load(Relaxed) < 200 && blocks < 2_000_000 {
        let block: Vec<u32> = (0..blocks as u32 % 20).collect();
        whole &= block.iter().enumerate().all(|(i, &number)| number == i as u32);
        blocks += 1;
    }
    timer.disable_counter();
    timer.disable_interrupt();
    let after = HEAP.stats();
    tally.check("an interrupt handler allocates too", TICKS.load(Relaxed) >= 200 && whole);
    tally.check(
        "and nothing is lost by it",
        after.in_use_bytes == before.in_use_bytes && after.failures == before.failures,
    );
}
