//! The proof that the crate needs nothing: no `std`, no `alloc`, no C library, no start code. It shares a static array through
//! a pool, prints "N passed, M failed", and exits with 1 where M is not 0.
//!
//! `cargo run --release` in this folder.

#![no_std]
#![no_main]

mod runtime;

use core::alloc::Layout;
use core::fmt::Write;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use democratising::arena::{Borrowed, NoBlock};
use democratising::pool::depot::Depot;
use democratising::pool::magazine::Magazine;
use democratising::pool::{Budget, Pool, PoolConfig};
use democratising::space::Fixed;
use democratising::{BadFree, SpinLock};
use runtime::{Output, exit};

const MEMORY_BYTES: usize = 256 << 10;
const TABLE_BYTES: usize = 32 << 10;

static mut MEMORY: [MaybeUninit<u8>; MEMORY_BYTES] = [MaybeUninit::uninit(); MEMORY_BYTES];
static mut TABLES: [MaybeUninit<u8>; TABLE_BYTES] = [MaybeUninit::uninit(); TABLE_BYTES];

type FixedPool = Pool<Fixed<'static>, SpinLock>;

/// Counts what holds, and names what does not.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    fn check(&mut self, sentence: &str, holds: bool) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
            let _ = writeln!(Output, "failed: {sentence}");
        }
    }
}

extern "C" fn main() -> ! {
    let mut tally = Tally::default();
    let (memory, tables) = (&raw mut MEMORY, &raw mut TABLES);
    // SAFETY: 1. `main` runs once, on the only thread, and nothing else names the two arrays.
    let (memory, tables) = unsafe { (&mut *memory, &mut *tables) };
    match FixedPool::new(Fixed::new(memory), Borrowed::new(tables), PoolConfig::DEFAULT) {
        Ok(pool) => {
            blocks_are_apart_and_come_back(&pool, &mut tally);
            bad_frees_are_refused(&pool, &mut tally);
            a_full_array_says_so_and_recovers(&pool, &mut tally);
        }
        Err(why) => {
            let _ = writeln!(Output, "{why}");
            tally.check("there is a pool over a static array", false);
        }
    }
    budgets_and_magazines_work(&mut tally);
    let _ = writeln!(Output, "{} passed, {} failed", tally.passed, tally.failed);
    exit((tally.failed > 0) as i32)
}

/// The layout of the `i`-th of many different blocks.
fn layout(i: usize) -> Layout {
    let bytes = [1, 8, 24, 100, 520, 3000, 9000][i % 7];
    Layout::from_size_align(bytes, 1 << (i % 8)).unwrap_or(Layout::new::<u64>())
}

fn fill(at: NonNull<u8>, layout: Layout, byte: u8) {
    // SAFETY: 1. The block is live, ours and at least as long as its layout.
    unsafe { at.write_bytes(byte, layout.size()) }
}

fn holds(at: NonNull<u8>, layout: Layout, byte: u8) -> bool {
    // SAFETY: 1. The block is live, and `fill` has written all of these bytes.
    unsafe { core::slice::from_raw_parts(at.as_ptr(), layout.size()) }.iter().all(|&held| held == byte)
}

fn blocks_are_apart_and_come_back(pool: &FixedPool, tally: &mut Tally) {
    let mut live = [None; 64];
    for (i, place) in live.iter_mut().enumerate() {
        let Ok(block) = pool.allocate(layout(i)) else { continue };
        fill(block.addr, layout(i), i as u8);
        *place = Some(block.addr);
    }
    tally.check("64 blocks fit a static array", live.iter().all(Option::is_some));
    let (mut aligned, mut intact, mut freed) = (true, true, true);
    for (i, at) in live.iter().enumerate().filter_map(|(i, at)| Some((i, (*at)?))) {
        aligned &= (at.as_ptr() as usize).is_multiple_of(layout(i).align());
        intact &= holds(at, layout(i), i as u8);
        // SAFETY: 1. Nobody uses the block any more.
        freed &= unsafe { pool.free(at, layout(i)) }.is_ok();
    }
    tally.check("every block is aligned as asked", aligned);
    tally.check("no block has another's bytes", intact);
    tally.check("every block can be given back", freed);
    tally.check("nothing is in use in the end", pool.stats().in_use_bytes == 0);
}

fn bad_frees_are_refused(pool: &FixedPool, tally: &mut Tally) {
    let layout = Layout::new::<[u64; 16]>();
    let Ok(block) = pool.allocate(layout) else {
        return tally.check("a block can be had", false);
    };
    let mut other = 0u64;
    // SAFETY: 1. None of these blocks is used any more; the pool refuses what is not live.
    unsafe {
        let foreign = pool.free(NonNull::from(&mut other).cast(), layout);
        tally.check("a foreign block is refused", foreign == Err(BadFree::Foreign));
        tally.check("a block is freed once", pool.free(block.addr, layout).is_ok());
        let again = pool.free(block.addr, layout);
        tally.check("a second free is refused", matches!(again, Err(BadFree::AlreadyFree { .. })));
    }
}

fn a_full_array_says_so_and_recovers(pool: &FixedPool, tally: &mut Tally) {
    let layout = Layout::new::<[u64; 512]>();
    let mut live = [None; MEMORY_BYTES / (512 * 8) + 1];
    let mut count = 0;
    let why = loop {
        match pool.allocate(layout) {
            Ok(block) if count < live.len() => live[count] = Some(block.addr),
            Ok(_) => break None,
            Err(why) => break Some(why),
        }
        count += 1;
    };
    tally.check("nearly all of the array can be had", count >= live.len() - 3);
    tally.check("a full array says so", matches!(why, Some(NoBlock::NoRoom { .. })));
    let never = pool.allocate(Layout::new::<[u64; MEMORY_BYTES]>());
    tally.check("what never fits is told apart", matches!(never, Err(NoBlock::NeverFits { .. })));
    // SAFETY: 1. Nobody uses the blocks any more.
    let freed = live.iter().flatten().all(|&at| unsafe { pool.free(at, layout) }.is_ok());
    tally.check("a full array recovers", freed && pool.stats().in_use_bytes == 0);
}

fn budgets_and_magazines_work(tally: &mut Tally) {
    static BUDGET: Budget = Budget::new(10);
    let charge = BUDGET.charge(7);
    tally.check("a budget grants and refuses", charge.is_ok() && BUDGET.charge(4).is_err());
    drop(charge);
    tally.check("a dropped charge comes back", (BUDGET.used(), BUDGET.peak()) == (0, 7));

    static DEPOT: Depot<SpinLock, u32, 4, 2> = Depot::new();
    let mut magazine = Magazine::new();
    let loaded = (0..4).all(|block| magazine.push(block).is_ok());
    tally.check("a depot takes a full magazine", loaded && DEPOT.exchange_full_for_empty(&mut magazine));
    tally.check("and hands it out once", DEPOT.exchange_empty_for_full(&mut magazine) && magazine.len() == 4);
    tally.check("and no more", !DEPOT.exchange_empty_for_full(&mut Magazine::new()));
}
