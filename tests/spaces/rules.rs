//! What holds over every space beside.

use crate::failing::Failing;
use crate::pools::{MAPPED, mapped, pool, simulated};
use crate::script::before_failure;
use allocator_api2::alloc::{AllocError, Allocator};
use democratising::arena::{ByFit, ByTree, IndexKind, NoBlock};
use democratising::error::BadFree;
use democratising::pool::{Pool, PoolConfig};
use democratising::size::SizeClass;
use democratising::space::{Contents, Fixed, Geometry, Offset, Simulated, Space};
use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// Fills, frees every other block and asks for more than any hole: steals must happen, and every one of them fails once.
fn every_kth_request_of_a_fragmented_pool_may_fail<I: IndexKind>() {
    let mib = |n: usize| Layout::from_size_align(n << 20, 1).unwrap();
    let play = |fail_in: u32| {
        let space = Failing::new(Simulated::device(256 << 20, 2 << 20), fail_in, false);
        let config = PoolConfig::DEFAULT.slack_permille(0);
        let pool = pool::<_, I>(space, config);
        let mut failures = 0;
        let mut allocate = |layout| loop {
            let before = pool.stats();
            match pool.allocate(layout) {
                Ok(block) => return block.addr,
                Err(why) => {
                    assert!(matches!(why, NoBlock::NotBacked(_)), "{why}");
                    assert_eq!(before_failure(pool.stats()), before_failure(before));
                    failures += 1;
                    assert!(failures < 2, "the second try succeeds");
                }
            }
        };
        let blocks: Vec<u64> = (0..20).map(|_| allocate(mib(5))).collect();
        for addr in blocks.iter().step_by(2) {
            // SAFETY: 1. Nobody uses the block.
            unsafe { pool.free(*addr, mib(5)) }.unwrap();
        }
        let large: Vec<u64> = (0..2).map(|_| allocate(mib(21))).collect();
        for addr in large {
            // SAFETY: 1. Nobody uses the block.
            unsafe { pool.free(addr, mib(21)) }.unwrap();
        }
        for addr in blocks.iter().skip(1).step_by(2) {
            // SAFETY: 1. Nobody uses the block.
            unsafe { pool.free(*addr, mib(5)) }.unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.in_use_bytes, stats.idle_bytes), (0, stats.reserved_bytes));
        assert_eq!(stats.creates - stats.unmaps, stats.reserved_bytes >> 21);
        // SAFETY: 1. A number is read.
        (failures, stats.steals, unsafe { pool.with_space(|space| space.inner().fail_in.get()) })
    };
    let (failures, steals, _) = play(0);
    assert_eq!(failures, 0);
    assert!(steals >= 10, "{steals} steals: the holes were too small, so frames had to move");
    let mut failed = 0;
    for fail_in in 1.. {
        let (failures, _, left) = play(fail_in);
        failed += failures;
        if left > 0 {
            break;
        }
    }
    assert!(failed >= 10, "only {failed} requests were made to fail");
}

fn what_never_fits_is_told_apart_from_what_does_not_fit_now<I: IndexKind>() {
    let pool = simulated::<I>(PoolConfig::DEFAULT.max_bytes(16 << 20));
    let ask = |bytes: usize, align: usize| pool.allocate(Layout::from_size_align(bytes, align).unwrap());
    assert!(matches!(ask(MAPPED + 1, 1), Err(NoBlock::NeverFits { .. })));
    assert!(matches!(ask(isize::MAX as usize, 1), Err(NoBlock::NeverFits { .. })));
    assert!(matches!(ask(17 << 20, 1), Err(NoBlock::OverBudget { .. })));
    let held = ask(16 << 20, 1).unwrap();
    assert!(matches!(ask(1, 1), Err(NoBlock::OverBudget { .. })));
    assert_eq!(pool.stats().reserved_bytes, 16 << 20);
    // SAFETY: 1. Nobody uses the block.
    unsafe { pool.free(held.addr, Layout::from_size_align(16 << 20, 1).unwrap()) }.unwrap();
    assert!(ask(1, 1).is_ok());
}

fn a_frame_that_is_idle_is_moved_when_the_budget_has_no_room_for_a_new_one<I: IndexKind>() {
    let pool = simulated::<I>(PoolConfig::DEFAULT.max_bytes(12 << 20).slack_permille(1000));
    let mib = |n: usize| Layout::from_size_align(n << 20, 1).unwrap();
    let blocks: Vec<_> = (0..6).map(|_| pool.allocate(mib(2)).unwrap().addr).collect();
    for addr in blocks.iter().step_by(2) {
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(*addr, mib(2)) }.unwrap();
    }
    assert!(pool.allocate(mib(6)).is_ok());
    let stats = pool.stats();
    assert_eq!((stats.reserved_bytes, stats.steals, stats.idle_bytes), (12 << 20, 3, 0));
}

fn a_block_of_somebody_else_is_refused<I: IndexKind>() {
    let (one, other) = (mapped::<I>(PoolConfig::DEFAULT), mapped::<I>(PoolConfig::DEFAULT));
    for bytes in [100, 100_000] {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        let block = one.allocate(layout).unwrap();
        // SAFETY: 1. It is refused.
        assert_eq!(unsafe { other.free(block.addr, layout) }, Err(BadFree::Foreign));
        // SAFETY: 1. It is refused.
        assert_eq!(unsafe { other.free_unsized(block.addr) }, Err(BadFree::Foreign));
        // SAFETY: 1. Nobody uses the block.
        unsafe { one.free(block.addr, layout) }.unwrap();
    }
}

fn a_block_that_is_not_live_is_not_resized<I: IndexKind>() {
    let pool = mapped::<I>(PoolConfig::DEFAULT);
    for bytes in [100, 100_000] {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        // The first keeps the memory around the second in use.
        let (held, block) = (pool.allocate(layout).unwrap().addr, pool.allocate(layout).unwrap().addr);
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(block, layout) }.unwrap();
        for at in [block, held.map_addr(|at| at.saturating_add(4))] {
            for new_bytes in [bytes, bytes - 1, bytes * 2] {
                // SAFETY: 1. It is refused.
                let resized = unsafe { pool.resize(at, layout, new_bytes) };
                let why = resized.expect_err("no live block starts there");
                let told = match why {
                    BadFree::AlreadyFree { .. } => at == block,
                    BadFree::Interior { .. } => at != block,
                    _ => false,
                };
                assert!(told, "{bytes} bytes: {why}");
            }
        }
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(held, layout) }.unwrap();
    }
}

fn a_collection_that_gives_a_block_up_twice_is_stopped_before_anything_is_copied<I: IndexKind>() {
    let pool = &mapped::<I>(PoolConfig::DEFAULT);
    for (bytes, align) in [(100, 8), (100, 64), (100_000, 8), (100_000, 4096)] {
        let (layout, new) =
            (Layout::from_size_align(bytes, 8).unwrap(), Layout::from_size_align(bytes, align).unwrap());
        let block = Allocator::allocate(&pool, layout).unwrap().cast();
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.deallocate(block, layout) };
        // SAFETY: 1. It is not sound, but refused.
        let grown = catch_unwind(AssertUnwindSafe(|| unsafe { Allocator::grow(&pool, block, layout, new) }));
        assert!(grown.is_err(), "{bytes} bytes to an alignment of {align}");
        assert_eq!(pool.stats().blocks, 0, "nothing was taken for it");
    }
}

/// The holes around it begin where the block does not want to, and the one behind is long enough for it to grow in place.
fn a_block_of_another_alignment_is_where_that_wants_it_and_holds_what_it_held<I: IndexKind>() {
    type Change<P> = unsafe fn(&P, NonNull<u8>, Layout, Layout) -> Result<NonNull<[u8]>, AllocError>;
    fn changes<P: Allocator>() -> [Change<P>; 3] {
        [P::grow, P::grow_zeroed, P::shrink]
    }
    let pool = &mapped::<I>(PoolConfig::DEFAULT);
    let of = |bytes, align| Layout::from_size_align(bytes, align).unwrap();
    for (bytes, align) in [(100, 64), (100, 1 << 14), (3000, 1 << 12), (100_000, 1 << 18), (300_000, 1 << 21)]
    {
        if cfg!(miri) && bytes > 3000 {
            continue;
        }
        for (at, change) in changes().into_iter().enumerate() {
            for (old, new) in [(8, align), (align, 8), (align / 2, align)] {
                let (old, strict) = (of(bytes, old), old.max(new));
                let new = of(if at == 2 { bytes - bytes / 4 } else { bytes + bytes / 4 }, new);
                let mut others = vec![Pool::allocate(pool, old).unwrap().addr];
                let block = loop {
                    let next = Pool::allocate(pool, old).unwrap().addr;
                    // Where all of them begin well, that is how they are.
                    if others.len() == 40 || !next.addr().get().is_multiple_of(strict) {
                        break next;
                    }
                    others.push(next);
                };
                let behind = Pool::allocate(pool, old).unwrap().addr;
                for other in others.into_iter().chain([behind]) {
                    // SAFETY: 1. Nobody uses the block.
                    unsafe { pool.free(other, old) }.unwrap();
                }
                let byte = |at: usize| (at % 251) as u8 + 1;
                // SAFETY: 1. The block has so many bytes. 2. It is given up for the new one, which is given back with its own layout.
                unsafe {
                    (0..bytes).for_each(|at| block.add(at).write(byte(at)));
                    let moved = change(&pool, block, old, new).unwrap();
                    let start = moved.cast::<u8>();
                    assert!(start.addr().get().is_multiple_of(new.align()), "{old:?} to {new:?}: {moved:?}");
                    assert!((0..bytes.min(new.size())).all(|at| start.add(at).read() == byte(at)));
                    assert!(at != 1 || (bytes..new.size()).all(|at| start.add(at).read() == 0));
                    assert_eq!(pool.stats().blocks, 1, "{old:?} to {new:?}");
                    pool.deallocate(start, new);
                }
                assert_eq!((pool.stats().blocks, pool.stats().in_use_bytes), (0, 0));
            }
        }
    }
}

fn a_growth_that_the_limit_refuses_leaves_a_fixed_array_as_it_was<I: IndexKind>() {
    let mut bytes = Box::<[u8]>::new_uninit_slice(1 << 20);
    let space = Fixed::with_geometry(&mut bytes, Geometry::spans(4 << 10));
    let pool = pool::<_, I>(space, PoolConfig::DEFAULT.max_bytes(64 << 10));
    let layout = Layout::from_size_align(8 << 10, 1).unwrap();
    let block = pool.allocate(layout).unwrap();
    let before = pool.stats();
    for bytes in [68 << 10, 512 << 10] {
        // SAFETY: 1. Nobody uses the block.
        assert_eq!(unsafe { pool.resize(block.addr, layout, bytes) }, Ok(false));
        assert_eq!(pool.stats(), before, "{bytes} bytes");
    }
}

fn growth_backs_ahead_by_the_factor_and_an_initial_size_does_not_stop_short_of_the_maximum<I: IndexKind>() {
    let config = PoolConfig::DEFAULT.initial_bytes(8 << 20).growth_permille(2000).max_bytes(40 << 20);
    let pool = simulated::<I>(config);
    assert_eq!(pool.stats().reserved_bytes, 8 << 20);
    let mib = |n: usize| Layout::from_size_align(n << 20, 1).unwrap();
    assert!(pool.allocate(mib(8)).is_ok());
    assert_eq!(pool.stats().reserved_bytes, 8 << 20, "what was backed before is used first");
    assert!(pool.allocate(mib(2)).is_ok());
    assert_eq!(pool.stats().reserved_bytes, 20 << 20, "10 MiB were needed, twice as much is backed");
    assert!(pool.allocate(mib(30)).is_ok(), "all of the maximum can be had in one piece");
    assert_eq!(pool.stats().reserved_bytes, 40 << 20);
    let pool = simulated::<I>(config.initial_bytes(80 << 20));
    assert_eq!(pool.stats().reserved_bytes, 40 << 20, "as much of an initial size as the maximum allows");
}

/// Of a frame that was zeros once, given up, and backed again by what is not known, nothing is zeros.
fn a_block_is_said_to_be_zeros_only_where_all_of_it_was_backed_so_and_never_handed_out<I: IndexKind>() {
    let (zeroed, unknown) = (Some(Contents::Zeroed), Some(Contents::Unknown));
    let pool = pool::<_, I>(
        Failing::new(Simulated::device(64 << 20, 2 << 20), 0, false),
        PoolConfig::DEFAULT.growth_permille(1000).slack_permille(1000).retain_bytes(u64::MAX),
    );
    // SAFETY: 1. What is backed next is nobody's.
    let says = |contents| unsafe { pool.with_space(|space| space.inner().says.set(contents)) };
    let granules = |n: usize| Layout::from_size_align(n << 16, 1).unwrap();
    let take = |n| pool.allocate(granules(n)).unwrap();
    let give = |addr, n| {
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free(addr, granules(n)) }.unwrap();
    };
    says(unknown);
    let dirty = take(32);
    assert_eq!(dirty.contents, Contents::Unknown, "a frame of which nothing is known");
    says(zeroed);
    let first = take(1);
    assert_eq!(first.contents, Contents::Zeroed);
    assert_eq!(take(2).contents, Contents::Zeroed, "in the same frame, and never handed out");
    give(first.addr, 1);
    assert_eq!(take(1).contents, Contents::Unknown, "it was handed out before");
    let rest = take(29);
    assert_eq!(rest.contents, Contents::Zeroed);
    give(rest.addr, 29);
    says(unknown);
    let both = take(29 + 32);
    assert_eq!(both.contents, Contents::Unknown);
    says(zeroed);
    let one = take(1);
    assert_eq!(one.contents, Contents::Zeroed);
    give(one.addr, 1);
    assert_eq!(pool.trim(0), 2 << 20);
    says(unknown);
    let [one, next] = [take(1), take(1)];
    assert_eq!((one.contents, next.contents), (Contents::Unknown, Contents::Unknown));
}

/// Each of these once with either index.
macro_rules! with_either_index {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        mod the_buddy_tree {
            $(#[test] $(#[$attribute])* fn $name() { super::$name::<super::ByTree>(); })*
        }
        mod the_fit_table {
            $(#[test] $(#[$attribute])* fn $name() { super::$name::<super::ByFit>(); })*
        }
    };
}

with_either_index! {
    #[cfg_attr(miri, ignore = "memory that nobody touches, too many requests to interpret")]
    every_kth_request_of_a_fragmented_pool_may_fail
    what_never_fits_is_told_apart_from_what_does_not_fit_now
    a_frame_that_is_idle_is_moved_when_the_budget_has_no_room_for_a_new_one
    a_block_of_somebody_else_is_refused
    a_block_that_is_not_live_is_not_resized
    a_collection_that_gives_a_block_up_twice_is_stopped_before_anything_is_copied
    a_block_of_another_alignment_is_where_that_wants_it_and_holds_what_it_held
    a_growth_that_the_limit_refuses_leaves_a_fixed_array_as_it_was
    growth_backs_ahead_by_the_factor_and_an_initial_size_does_not_stop_short_of_the_maximum
    a_block_is_said_to_be_zeros_only_where_all_of_it_was_backed_so_and_never_handed_out
}

/// A cache that names a class of another space, and one over a space without slabs, which small arrays have none of.
#[test]
fn a_size_class_that_a_space_has_not_is_refused_and_its_blocks_with_it() {
    for (len, has_slabs) in [(4 << 10, false), (256 << 10, true)] {
        let mut memory = vec![MaybeUninit::uninit(); len];
        let pool = pool::<_, ByFit>(Fixed::new(&mut memory), PoolConfig::DEFAULT);
        let block = pool.allocate(Layout::from_size_align(100, 8).unwrap()).unwrap();
        let before = pool.stats();
        let offset = (0..len as u64).map(Offset).find(|&at| {
            // SAFETY: 1. A number is asked for its address.
            unsafe { pool.with_space(|space| at.0 < space.len_bytes() && space.addr(at) == block.addr) }
        });
        let Err(NoBlock::NoClass { classes, .. }) = pool.refill(SizeClass(255), &mut [Offset(0)]) else {
            panic!("no space has so many");
        };
        assert_eq!(classes > 0, has_slabs);
        for class in (0..=255).map(SizeClass) {
            let mut out = [Offset(0); 3];
            if usize::from(class.0) < classes {
                assert!(pool.refill(class, &mut out[..0]).is_ok());
                continue;
            }
            assert_eq!(pool.refill(class, &mut out), Err(NoBlock::NoClass { class, classes }));
            for at in [offset.unwrap(), Offset(len as u64 - 1), Offset(u64::MAX)] {
                // SAFETY: 1. It is refused.
                let flushed = unsafe { pool.flush(class, &[at]) };
                assert!(flushed.blocks == 0 && flushed.refused.is_some(), "{class}, {at}: {flushed:?}");
            }
            // SAFETY: 1. There are no blocks.
            assert_eq!(unsafe { pool.flush(class, &[]) }.refused, None);
        }
        assert_eq!(pool.stats(), before);
        // SAFETY: 1. Nobody uses the block.
        unsafe { pool.free_unsized(block.addr) }.unwrap();
    }
}
