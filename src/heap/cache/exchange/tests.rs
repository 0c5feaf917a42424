//! Magazines that become smaller, and what one cache has in place of another. The caches here are nobody's, and their blocks are numbers.

use super::*;
use crate::arena::metadata::Metadata;
use std::vec;
use std::vec::Vec;

/// A cache that was never used.
fn cache() -> Own {
    let words = size_of::<Cache>().div_ceil(size_of::<u64>());
    let memory = MappedTables.table::<u64>(words).unwrap().leak();
    // SAFETY: 1. The memory is as long as a cache, at a page's start, all zeros, nobody else's, and for good.
    unsafe { Own::make(NonNull::from(memory).cast(), Tags::none()) }
}

/// Takes all that a bin has, uppermost first: what is loaded, and what is behind.
fn drained(bin: &mut Bin) -> [Vec<usize>; 2] {
    let mut loaded = vec![];
    while let block @ 1.. = bin.pop() {
        loaded.push(block);
    }
    [loaded, core::iter::from_fn(|| bin.pop_behind()).collect()]
}

#[test]
fn a_magazine_that_may_hold_less_holds_nothing_of_what_it_held() {
    for place in Place::all() {
        let class = place.class;
        let mut bin = cache().bin(place);
        let full = capacity(class);
        for most in [LEAN.min(full), 1, 0, full / 2, full] {
            bin.unload(full);
            (1..=full).for_each(|block| bin.push(block));
            assert!(bin.is_full() && bin.loaded().len() == full);
            bin.unload(most);
            assert_eq!((bin.pop(), bin.loaded().len(), bin.room().len()), (0, 0, most), "{class}: {most}");
            (1..=most).for_each(|block| bin.push(1000 + block));
            assert!(bin.is_full(), "{class}: {most}");
            assert_eq!(drained(&mut bin)[0], Vec::from_iter((1001..=1000 + most).rev()), "{class}: {most}");
        }
    }
}

#[test]
fn what_is_carried_is_in_one_cache_alone_and_the_owner_keeps_its_uppermost_block() {
    for is_parted in [false, true] {
        let (from, to) = (cache(), cache());
        for place in Place::all().step_by(2) {
            let mut bin = from.bin(place);
            (1..=5).for_each(|block| bin.push(block));
            bin.load_behind(&[6, 7, 8]);
        }
        // SAFETY: 1. No thread sits in either.
        unsafe { carry(from.leave(), to, is_parted) };
        for place in Place::all() {
            let (Some(mut left), Some(mut carried)) = (from.used(place), to.used(place)) else {
                assert!(place.at % 2 == 1 && from.used(place).is_none() && to.used(place).is_none());
                continue;
            };
            let class = place.class;
            let (loaded, taken) =
                if is_parted { (vec![5], vec![4, 3, 2, 1]) } else { (vec![5, 4, 3, 2, 1], vec![]) };
            assert_eq!(left.back().capacity, capacity(class) - taken.len(), "{class}");
            assert_eq!(drained(&mut left), [loaded, vec![]], "{class}");
            assert_eq!(drained(&mut carried), [taken, vec![8, 7, 6]], "{class}");
        }
    }
}

#[test]
fn every_class_has_a_bin_and_one_with_owners_has_another() {
    let classes = |class| Place::all().filter(move |place| place.class == class);
    for class in (0..HOST_CLASSES as u8).map(SizeClass) {
        assert_eq!(classes(class).count(), if owner::tagged(class) { 2 } else { 1 }, "{class}");
    }
    assert!(Place::all().map(|place| place.at).eq(0..BINS));
}

#[test]
fn a_cache_whose_memory_was_given_back_is_as_one_that_was_never_used() {
    let own = cache();
    for place in Place::all() {
        let mut bin = own.bin(place);
        (1..=capacity(place.class)).for_each(|block| bin.push(block));
        bin.unload(1);
    }
    own.give_back();
    for place in Place::all() {
        let class = place.class;
        // SAFETY: 1. The place is one of a cache's, and the cache is nobody else's.
        let loaded = unsafe { Loaded::of(own.leave().as_ptr(), place) };
        assert!(!hit::push(&loaded, 1) && hit::pop(&loaded) == 0, "{class}: a hit would lose what it pushes");
        assert!(own.used(place).is_none());
        let mut bin = own.bin(place);
        assert_eq!(drained(&mut bin).map(|blocks| blocks.len()), [0, 0]);
        assert_eq!((bin.room().len(), bin.back().batch), (capacity(class), 0));
    }
}

/// How many magazines lie before the loaded one of a bin, and before the one behind it.
fn places(own: Own, bin: usize) -> [usize; 2] {
    let bin = own.bin(Place::all().nth(bin).unwrap());
    // SAFETY: 1. The cache is made.
    let start = unsafe { &raw const (*own.0.as_ptr()).magazines }.addr();
    [bin.top(), bin.back().behind].map(|top| (end(top).addr() - start) / MAGAZINE_BYTES - 1)
}

#[test]
fn bins_have_magazines_one_behind_the_other_in_the_order_of_their_first_uses() {
    let own = cache();
    let last = BINS - 1;
    assert_eq!([last, 3, 17].map(|bin| places(own, bin)), [[0, 1], [2, 3], [4, 5]]);
    assert_eq!([17, last, 3].map(|bin| places(own, bin)), [[4, 5], [0, 1], [2, 3]], "they keep them");
    own.empty();
    own.give_back();
    assert_eq!([3, last].map(|bin| places(own, bin)), [[0, 1], [2, 3]], "given back, it begins anew");
    let all: std::collections::BTreeSet<_> = Place::all().flat_map(|place| places(own, place.at)).collect();
    assert_eq!(all.len(), 2 * BINS, "no two bins share one, and there are enough");
}
