//! The arena's own books held against each other, which no program outside can see.

#![forbid(unsafe_code)]

use super::*;
use crate::space::{MappedTables, Simulated};
use crate::sync::Cell;
use proptest::prelude::*;
use std::vec::Vec;

type Subject = Arena<Simulated, MappedTables>;

fn subject(slack_permille: u32) -> Subject {
    let mut arena = Arena::new(Simulated::device(64 << 20, 2 << 20), MappedTables).unwrap();
    arena.set_slack(slack_permille);
    arena
}

/// Grants up to `most` bytes, and counts what it granted.
struct Counted {
    held: Cell<u64>,
    most: u64,
}

impl Counted {
    fn upto(most: u64) -> Counted {
        Counted { held: Cell::new(0), most }
    }
}

impl Grant for Counted {
    fn grant(&self, bytes: u64) -> bool {
        let held = self.held.get() + bytes;
        let grants = held <= self.most;
        if grants {
            self.held.set(held);
        }
        grants
    }
    fn returned(&self, bytes: u64) {
        self.held.set(self.held.get() - bytes);
    }
}

fn mib(n: usize) -> Layout {
    Layout::from_size_align(n << 20, 1).unwrap()
}

/// Free and backed by the index's word is free by the index's word and backed by the frames'; the frames' counts are
/// the granules that are live; what is warm or cold is free, and not both.
fn audit(arena: &Subject) {
    let commit = arena.commit.as_ref().unwrap();
    let per_frame = 1 << commit.shift();
    let mut live = std::vec![false; arena.granules as usize];
    let mut from = Granule(0);
    while let Some(span) = arena.index.next_live(from) {
        live[span.start.0 as usize..span.end() as usize].fill(true);
        from = Granule(span.end());
    }
    let (mut idle, mut spare) = (0, 0);
    for frame in 0..arena.granules / per_frame {
        let granules = frame * per_frame..(frame + 1) * per_frame;
        let held = granules.clone().filter(|at| live[*at as usize]).count() as u32;
        let (backed, is_idle, counted) = commit.frame(frame);
        assert_eq!(counted, held, "live granules of frame {frame}");
        assert_eq!(is_idle, backed && held == 0, "frame {frame} is idle");
        assert!(backed || held == 0, "frame {frame} holds granules and is not backed");
        idle += is_idle as u64;
        spare += if held > 0 { per_frame - held } else { 0 };
        for at in granules {
            let (warm, cold) = commit.age(at);
            assert!(!(warm && cold || live[at as usize] && (warm || cold)), "granule {at}: {warm} {cold}");
            assert_eq!(arena.index.is_ready(at), backed && !live[at as usize], "granule {at}");
        }
    }
    let stats = arena.stats();
    assert_eq!(stats.idle_bytes, idle << 21);
    assert_eq!(arena.spare_bytes(), (spare as u64) << 16);
    assert_eq!(stats.reserved_bytes, (stats.creates - stats.unmaps) << 21);
    let counts = arena.space().counts();
    assert_eq!(counts.moved, stats.steals);
    assert_eq!(
        (counts.created - counts.unmapped) << 21,
        stats.reserved_bytes,
        "what the space was asked for is held"
    );
}

proptest! {
    #[test]
    fn the_books_agree_whatever_fails(
        steps in prop::collection::vec((0..13u32, any::<u32>(), 0..20u32), 1..60), slack in 0..2000u32, most_mib in prop_oneof![Just(64u64), 4..60u64],
    ) {
        let (mut arena, grant) = (subject(slack), Counted::upto(most_mib << 20));
        let mut live: Vec<(u64, Layout)> = Vec::new();
        for (what, n, fail_in) in steps {
            arena.space().fail_at(fail_in as usize, n % 3 == 0);
            let layout = Layout::from_size_align((n % (12 << 20)) as usize, 1 << (n % 18)).unwrap();
            match what {
                0..5 => live.extend(arena.allocate(layout, &grant).ok().map(|block| (block.addr, layout))),
                5..8 if !live.is_empty() => {
                    let (addr, layout) = live.swap_remove(n as usize % live.len());
                    arena.free(addr, layout, &grant).unwrap();
                }
                8 if !live.is_empty() => {
                    let which = n as usize % live.len();
                    let (addr, old) = live[which];
                    if arena.resize(addr, old, layout.size(), &grant).unwrap() {
                        live[which].1 = Layout::from_size_align(layout.size(), old.align()).unwrap();
                    }
                }
                9 if n % 2 == 0 => { arena.trim((n % (16 << 20)) as u64, &grant); }
                10 => arena.space().keep_every(n as usize % 4),
                11 => arena.cool(),
                12 => { arena.purge_cold(Granule(n % arena.granules)); }
                _ => arena.grow((n % (64 << 20)) as u64, &grant),
            }
            audit(&arena);
            prop_assert_eq!(grant.held.get(), arena.stats().reserved_bytes);
        }
    }
}

#[test]
fn a_frame_that_is_kept_is_idle_until_it_is_used_or_given_up() {
    let (mut arena, grant) = (subject(0), Counted::upto(u64::MAX));
    let blocks: Vec<u64> = (0..6).map(|_| arena.allocate(mib(2), &grant).unwrap().addr).collect();
    blocks.iter().for_each(|&addr| arena.free(addr, mib(2), &grant).unwrap());
    arena.space().keep_every(2);
    assert_eq!(arena.trim(4 << 20, &grant), 6 << 20, "in the place of those kept others go");
    let stats = arena.stats();
    assert_eq!((stats.idle_bytes, stats.reserved_bytes, stats.unmaps), (6 << 20, 6 << 20, 3));
    assert_eq!(grant.held.get(), 6 << 20, "they count towards the limit");
    assert_eq!(arena.trim(0, &grant), 0);
    let creates = arena.stats().creates;
    let addr = arena.allocate(mib(2), &grant).unwrap().addr;
    assert_eq!(arena.stats().creates, creates, "one of them serves as it is");
    arena.free(addr, mib(2), &grant).unwrap();
    arena.space().keep_every(0);
    assert_eq!(arena.trim(0, &grant), 6 << 20);
    audit(&arena);
    assert_eq!((arena.stats().reserved_bytes, grant.held.get()), (0, 0));
}

/// Four frames, of which two that do not lie side by side are idle.
fn with_two_idle(slack_permille: u32, grant: &Counted) -> Subject {
    let mut arena = subject(slack_permille);
    let blocks: Vec<u64> = (0..4).map(|_| arena.allocate(mib(2), grant).unwrap().addr).collect();
    for addr in blocks.iter().step_by(2) {
        arena.free(*addr, mib(2), grant).unwrap();
    }
    arena
}

#[test]
fn as_many_frames_as_the_slack_allows_are_created_before_one_is_moved() {
    for (slack, moved) in [(0, 2), (30, 2), (250, 1), (499, 1), (500, 0), (2000, 0)] {
        let grant = Counted::upto(u64::MAX);
        let mut arena = with_two_idle(slack, &grant);
        let _live = arena.allocate(mib(4), &grant).unwrap();
        let stats = arena.stats();
        assert_eq!((stats.steals, stats.reserved_bytes), (moved, (6 - moved) << 21), "slack {slack}");
    }
}

#[test]
fn the_last_frames_of_a_budget_are_created_and_what_it_lacks_is_moved() {
    let grant = Counted::upto(14 << 20);
    let mut arena = with_two_idle(1000, &grant);
    // Three frames more than the four are granted, in whatever order.
    let _live = arena.allocate(mib(10), &grant).unwrap();
    assert_eq!((arena.stats().steals, grant.held.get()), (2, 14 << 20));
    assert!(matches!(arena.allocate(mib(2), &grant), Err(NoBlock::OverBudget { .. })));
    audit(&arena);
}

#[test]
fn so_much_is_trimmed_and_no_more() {
    let grant = Counted::upto(u64::MAX);
    let mut arena = subject(0);
    let block = arena.allocate(mib(12), &grant).unwrap();
    arena.free(block.addr, mib(12), &grant).unwrap();
    for (keep_bytes, given) in [(20 << 20, 0), (12 << 20, 0), (7 << 20, 6 << 20), (6 << 20, 0), (1, 6 << 20)]
    {
        assert_eq!(arena.trim(keep_bytes, &grant), given, "{keep_bytes}");
        assert_eq!(grant.held.get(), arena.idle_bytes());
        audit(&arena);
    }
}

#[test]
fn the_least_that_was_idle_is_known_from_the_mark_on() {
    let mut arena = subject(0);
    arena.grow((6 << 20) + 1, &Unlimited);
    assert_eq!(arena.idle_low_bytes(), 0, "at first nothing was");
    arena.mark_idle();
    assert_eq!(arena.idle_low_bytes(), 8 << 20);
    let block = arena.allocate(mib(5), &Unlimited).unwrap();
    arena.free(block.addr, mib(5), &Unlimited).unwrap();
    assert_eq!((arena.idle_low_bytes(), arena.idle_bytes()), (2 << 20, 8 << 20));
    arena.trim(0, &Unlimited);
    assert_eq!(arena.idle_low_bytes(), 0);
}

#[test]
fn what_is_free_in_frames_that_are_not_is_forgotten_and_nothing_else() {
    // Frames have 32 granules.
    let mut arena = subject(0);
    let granules = |n: usize| Layout::from_size_align(n << 16, 1).unwrap();
    let blocks =
        [4, 4, 8, 40, 16, 24].map(|n| (arena.allocate(granules(n), &Unlimited).unwrap().addr, granules(n)));
    let purge = |arena: &Subject| {
        let before = arena.space().counts().forgotten;
        let bytes = arena.purge();
        assert_eq!(bytes, (arena.space().counts().forgotten - before) << 16);
        bytes >> 16
    };
    assert_eq!(purge(&arena), 0, "three frames are full");
    // In the middle of a frame; across two frames; a whole frame, which is idle, and a part of the one before it.
    for (which, free) in [(1, 4), (3, 4 + 40), (5, 4 + 40 + 24), (4, 4 + 16)] {
        let (addr, layout) = blocks[which];
        arena.free(addr, layout, &Unlimited).unwrap();
        assert_eq!(purge(&arena), free, "{which}");
    }
    let [whole, part] = [32, 1].map(|n| arena.allocate(granules(n), &Unlimited).unwrap().addr);
    arena.free(whole, granules(32), &Unlimited).unwrap();
    arena.free(part, granules(1), &Unlimited).unwrap();
    assert_eq!(purge(&arena), 4 + 16);
}

#[test]
fn a_request_that_failed_does_not_widen_the_slack() {
    let mut arena = subject(30);
    let blocks: Vec<u64> = (0..4).map(|_| arena.allocate(mib(2), &Unlimited).unwrap().addr).collect();
    arena.space().fail_at(1, true);
    assert!(arena.allocate(mib(40), &Unlimited).is_err());
    arena.space().fail_at(0, false);
    for addr in blocks.iter().step_by(2) {
        arena.free(*addr, mib(2), &Unlimited).unwrap();
    }
    // Four frames were in use at most; were it the 24 of the failed request, two more would be created.
    let _two = arena.allocate(mib(4), &Unlimited).unwrap();
    let stats = arena.stats();
    assert_eq!((stats.steals, stats.reserved_bytes), (2, 8 << 20));
}

#[test]
fn blocks_that_find_no_slab_are_spans_and_come_back_as_such() {
    let geometry = Geometry::spans(4 << 10).slabs(64 << 10, 16);
    let mut bytes = [core::mem::MaybeUninit::uninit(); 48 << 10];
    let space = crate::space::Fixed::with_geometry(&mut bytes, geometry);
    let mut arena = Arena::new(space, MappedTables).unwrap();
    let layout = Layout::new::<u64>();
    let blocks: Vec<_> = core::iter::from_fn(|| arena.allocate(layout, &Unlimited).ok()).collect();
    assert!(blocks.len() >= 11, "{} blocks", blocks.len());
    for block in blocks {
        arena.free(block.addr, layout, &Unlimited).unwrap();
        assert!(matches!(arena.free(block.addr, layout, &Unlimited), Err(BadFree::AlreadyFree { .. })));
    }
    assert_eq!(arena.stats().in_use_bytes, 0);
}

#[test]
fn a_slab_that_its_table_cannot_reach_is_not_made_and_its_blocks_are_spans_till_it_can() {
    use super::metadata::{HEAP_GROWS, Heap};
    let slot = Layout::new::<[u8; 512]>();
    let grant = Counted::upto(2 << 20);
    let mut arena = Arena::new(Simulated::device(64 << 20, 2 << 20), Heap).unwrap();
    let granule = arena.geometry.bytes(1);
    let mut blocks: Vec<u64> = (0..128).map(|_| arena.allocate(slot, &grant).unwrap().addr).collect();
    let slab = live_bytes(&arena);
    HEAP_GROWS.set(0);
    for spans in 1..4 {
        blocks.push(arena.allocate(slot, &grant).unwrap().addr);
        assert_eq!(live_bytes(&arena), slab + spans * granule);
    }
    HEAP_GROWS.set(usize::MAX);
    blocks.push(arena.allocate(slot, &grant).unwrap().addr);
    assert_eq!(live_bytes(&arena), 2 * slab + 3 * granule);
    for addr in blocks {
        arena.free(addr, slot, &grant).unwrap();
    }
    assert_eq!((arena.stats().in_use_bytes, live_bytes(&arena)), (0, 0));
}

fn live_bytes<S: Space, M: Metadata>(arena: &Arena<S, M>) -> u64 {
    let (mut from, mut bytes) = (Granule(0), 0);
    while let Some(span) = arena.index.next_live(from) {
        bytes += arena.geometry.bytes(span.granules);
        from = Granule(span.end());
    }
    bytes
}

proptest! {
    #[test]
    fn where_there_are_no_frames_what_is_live_is_what_is_granted(
        steps in prop::collection::vec((0..8u32, 0..40_000usize, any::<usize>()), 1..40), most in 40_000..300_000u64,
    ) {
        let mut bytes = [core::mem::MaybeUninit::uninit(); 160 << 10];
        let space = crate::space::Fixed::with_geometry(&mut bytes, Geometry::spans(4 << 10));
        let (mut arena, grant) = (Arena::new(space, MappedTables).unwrap(), Counted::upto(most));
        let mut live = Vec::new();
        for (what, bytes, which) in steps {
            let layout = Layout::from_size_align(if what == 0 { 0 } else { bytes }, 8).unwrap();
            match what {
                0..4 => live.extend(arena.allocate(layout, &grant).ok().map(|block| (block.addr, layout))),
                4..6 if !live.is_empty() => {
                    let (addr, layout) = live.swap_remove(which % live.len());
                    arena.free(addr, layout, &grant).unwrap();
                }
                6..8 if !live.is_empty() => {
                    let which = which % live.len();
                    let (addr, old) = live[which];
                    let bytes = if bytes % 9 == 0 { 0 } else { bytes };
                    if arena.resize(addr, old, bytes, &grant).unwrap() {
                        live[which].1 = Layout::from_size_align(bytes, 8).unwrap();
                    }
                }
                _ => {}
            }
            let stats = arena.stats();
            prop_assert_eq!((grant.held.get(), stats.in_use_bytes), (live_bytes(&arena), live_bytes(&arena)));
            prop_assert!(stats.in_use_bytes <= stats.peak_in_use_bytes && stats.peak_in_use_bytes <= most);
        }
    }
}

#[test]
fn a_block_that_becomes_nothing_keeps_a_granule() {
    let mut arena = subject(0);
    let block = arena.allocate(mib(3), &Unlimited).unwrap();
    assert_eq!(arena.resize(block.addr, mib(3), 0, &Unlimited), Ok(true));
    assert_eq!((live_bytes(&arena), arena.stats().in_use_bytes), (64 << 10, 64 << 10));
    audit(&arena);
    arena.free(block.addr, mib(0), &Unlimited).unwrap();
    audit(&arena);
}

#[test]
fn a_request_that_fails_for_its_alignment_alone_says_so() {
    let mut arena = subject(0);
    let halves: Vec<u64> = (0..2).map(|_| arena.allocate(mib(32), &Unlimited).unwrap().addr).collect();
    arena.free(halves[1].max(halves[0]), mib(32), &Unlimited).unwrap();
    let aligned = Layout::from_size_align(1 << 20, 64 << 20).unwrap();
    let told =
        |arena: &mut Subject, layout| std::format!("{}", arena.allocate(layout, &Unlimited).unwrap_err());
    let run = "the largest free run has 33554432";
    assert_eq!(
        told(&mut arena, aligned),
        std::format!("no room for 1048576 bytes at a multiple of their alignment now: {run}")
    );
    assert_eq!(told(&mut arena, mib(33)), std::format!("no room for 34603008 bytes now: {run}"));
}

#[test]
fn a_block_resized_with_another_size_than_its_own_is_refused() {
    let mut arena = subject(0);
    for (held, given) in
        [(mib(2), mib(3)), (mib(2), mib(1)), (Layout::new::<[u8; 512]>(), Layout::new::<[u8; 600]>())]
    {
        let block = arena.allocate(held, &Unlimited).unwrap();
        let before = arena.stats();
        for new_bytes in [600, 1 << 20, 3 << 20] {
            let refused = arena.resize(block.addr, given, new_bytes, &Unlimited);
            assert!(matches!(refused, Err(BadFree::WrongSize { .. })), "{held:?} as {given:?}: {refused:?}");
        }
        assert_eq!(arena.stats(), before);
    }
    audit(&arena);
}

/// On 32 bits no layout has an alignment beyond that of these spaces.
#[cfg(target_pointer_width = "64")]
#[test]
fn an_alignment_beyond_that_of_the_space_never_fits() {
    let mut arena = subject(0);
    let most = arena.space().alignment().max_bytes as usize;
    let aligned = |align| Layout::from_size_align(1, align).unwrap();
    assert!(arena.allocate(aligned(most), &Unlimited).is_ok());
    assert!(matches!(arena.allocate(aligned(2 * most), &Unlimited), Err(NoBlock::NeverFits { .. })));
}

/// Slabs of 128 slots, whose bits fill two words.
#[test]
fn slots_that_come_back_one_by_one_are_the_next_and_the_lowest_slab_fills_up_first() {
    if cfg!(feature = "hardened") {
        return;
    }
    let slot = Layout::new::<[u8; 512]>();
    let mut arena = subject(0);
    let take = |arena: &mut Subject| arena.allocate(slot, &Unlimited).unwrap().addr;
    let slabs = |arena: &Subject| live_bytes(arena) >> 16;
    let blocks: Vec<u64> = (0..128).map(|_| take(&mut arena)).collect();
    assert_eq!(slabs(&arena), 1);
    for back in [&[100, 3][..], &[3, 70], &[127, 64, 63, 0], &[5]] {
        for &at in back {
            arena.free(blocks[at], slot, &Unlimited).unwrap();
        }
        let mut again: Vec<u64> = back.iter().map(|_| take(&mut arena)).collect();
        again.reverse();
        let mut lowest_last: Vec<u64> = back.iter().map(|&at| blocks[at]).collect();
        lowest_last.sort_unstable_by_key(|addr| core::cmp::Reverse(*addr));
        assert_eq!((again, slabs(&arena)), (lowest_last, 1));
    }
    let others: Vec<u64> = (0..128).map(|_| take(&mut arena)).collect();
    assert_eq!(slabs(&arena), 2);
    for [first, second] in [[blocks[7], others[7]], [others[7], blocks[7]]] {
        arena.free(first, slot, &Unlimited).unwrap();
        arena.free(second, slot, &Unlimited).unwrap();
        let lower_first = [blocks[7].min(others[7]), blocks[7].max(others[7])];
        assert_eq!([take(&mut arena), take(&mut arena)], lower_first);
    }
    for addr in blocks.into_iter().chain(others) {
        arena.free(addr, slot, &Unlimited).unwrap();
    }
    assert_eq!(slabs(&arena), 0);
}

#[test]
fn of_what_is_not_known_all_bytes_that_are_asked_for_may_be_anything() {
    let mut arena = subject(0);
    let span = arena.allocate(Layout::new::<[u8; 150_000]>(), &Unlimited).unwrap();
    for asked in [0..150_000, 5..100_000, 70_000..70_001] {
        assert_eq!(arena.unclean(span.addr, asked.clone()), Some(asked));
    }
    assert_eq!(arena.unclean(span.addr, 0..1 << 30), Some(0..3 << 16), "as far as the block goes");
    assert_eq!(arena.unclean(span.addr, 9..9), None);
}

#[test]
#[cfg(target_os = "linux")]
fn what_was_handed_out_is_found_behind_what_never_was() {
    const GRANULE: usize = 16 << 10;
    let space = crate::space::Mapped::reserve(64 << 20).unwrap();
    let mut arena = Arena::new(space, MappedTables).unwrap();
    let layout = |granules: usize, align: usize| Layout::from_size_align(granules * GRANULE, align).unwrap();
    let _lowest = arena.allocate(layout(3, 1), &Unlimited).unwrap();
    let used = arena.allocate(layout(1, 1 << 20), &Unlimited).unwrap();
    arena.free(used.addr, layout(1, 1 << 20), &Unlimited).unwrap();
    let block = arena.allocate(layout(100, 1), &Unlimited).unwrap();
    let bytes = |granules: u64| granules * GRANULE as u64;
    let before = (used.addr.addr().get() - block.addr.addr().get()) as u64;
    assert!(before > 0 && before < bytes(100));
    assert_eq!(arena.unclean(block.addr, 0..bytes(100)), Some(before..before + bytes(1)));
    assert_eq!(arena.unclean(block.addr, before + bytes(1)..bytes(100)), None);
}

/// Mapped memory is zeros until it is handed out.
#[test]
#[cfg(target_os = "linux")]
fn what_may_be_anything_is_what_was_handed_out_before_and_all_of_a_slot() {
    let space = crate::space::Mapped::reserve(64 << 20).unwrap();
    let mut arena = Arena::new(space, MappedTables).unwrap();
    let mut take = |bytes| {
        let layout = Layout::from_size_align(bytes, 1).unwrap();
        (arena.allocate(layout, &Unlimited).unwrap().addr, layout)
    };
    const GRANULE: u64 = 16 << 10;
    let [(slot, _), (first, layout), (second, _)] = [100, 48 << 10, 48 << 10].map(&mut take);
    assert_eq!(arena.unclean(slot, 0..100), Some(0..100));
    assert_eq!(arena.unclean(first, 0..48 << 10), None);
    arena.free(first, layout, &Unlimited).unwrap();
    // As long as the hole and the block behind it, if that goes too: a part of it was used, and a part of that is asked for.
    arena.free(second, layout, &Unlimited).unwrap();
    let mut large = Layout::from_size_align(200 << 10, 1).unwrap();
    let block = arena.allocate(large, &Unlimited).unwrap();
    assert_eq!(block.addr, first);
    assert_eq!(arena.unclean(first, 100..large.size() as u64), Some(100..6 * GRANULE));
    assert_eq!(arena.unclean(first, 6 * GRANULE..large.size() as u64), None);
    assert_eq!(arena.unclean(first, 0..5 * GRANULE + 7), Some(0..5 * GRANULE + 7));
    large = Layout::from_size_align(20 << 10, 1).unwrap();
    assert_eq!(
        arena.resize(first, Layout::from_size_align(200 << 10, 1).unwrap(), large.size(), &Unlimited),
        Ok(true)
    );
    assert_eq!(arena.unclean(first, 0..1 << 20), Some(0..2 * GRANULE));
}
