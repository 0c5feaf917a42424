//! Collections that live in an allocator of their own, by either version of the trait.
#![cfg(all(feature = "std", feature = "allocator-api2-04"))]

use allocator_api2_04::alloc::Allocator;
use allocator_api2_04::boxed::Box;
use allocator_api2_04::vec::Vec;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use democratising::arena::Borrowed;
use democratising::space::Fixed;
use democratising::{FixedHeap, Global, HostLock, MemoryPool, Pool, PoolConfig};

/// What a collection does with an allocator: it grows, shrinks, is cleared, and gives everything back.
fn vectors_grow_shrink_and_zero(allocator: impl Allocator + Copy) {
    let mut numbers = Vec::new_in(allocator);
    for number in 0..5_000_u64 {
        numbers.push(number);
    }
    numbers.truncate(10);
    numbers.shrink_to_fit();
    assert_eq!(numbers.as_slice(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    numbers.clear();
    numbers.shrink_to_fit();
    assert_eq!(*Box::new_in([7_u8; 100], allocator), [7; 100]);

    for bytes in [0, 1, 4_000, 100_000] {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        let dirty = allocator.allocate(layout).unwrap();
        // SAFETY: the block has that many bytes, and nobody uses it behind this.
        unsafe {
            dirty.cast::<u8>().write_bytes(0xa5, bytes);
            allocator.deallocate(dirty.cast(), layout);
        }
        let block = allocator.allocate_zeroed(layout).unwrap();
        let longer = Layout::from_size_align(bytes * 2, 8).unwrap();
        // SAFETY: the block is live, of the layout given, and its bytes were zeroed; the last step gives it up.
        unsafe {
            let grown = allocator.grow_zeroed(block.cast(), layout, longer).unwrap();
            assert!(
                grown.as_ref().iter().take(longer.size()).all(|byte| *byte == 0),
                "{bytes} bytes doubled"
            );
            let shrunk = allocator.shrink(grown.cast(), longer, layout).unwrap();
            allocator.deallocate(shrunk.cast(), layout);
        }
    }
}

#[test]
fn the_newest_trait_serves_the_heap_and_the_pool_of_the_process() {
    vectors_grow_shrink_and_zero(Global);
    vectors_grow_shrink_and_zero(MemoryPool);
}

#[test]
fn the_newest_trait_serves_pools_and_fixed_heaps_and_they_get_everything_back() {
    let mut memory = std::vec![MaybeUninit::uninit(); 1 << 20];
    let mut tables = std::vec![MaybeUninit::uninit(); 64 << 10];
    let pool: Pool<Fixed, HostLock> =
        Pool::new(Fixed::new(&mut memory), Borrowed::new(&mut tables), PoolConfig::DEFAULT).unwrap();
    vectors_grow_shrink_and_zero(&pool);
    assert_eq!(pool.stats().in_use_bytes, 0);
    assert!(pool.stats().allocations > 4);

    static HEAP: FixedHeap = FixedHeap::empty();
    let claimed = std::vec![0_u64; 1 << 17].leak();
    // SAFETY: the memory was leaked, so it is the heap's for good.
    unsafe { HEAP.claim(claimed.as_mut_ptr().cast(), size_of_val(claimed)) }.unwrap();
    vectors_grow_shrink_and_zero(&HEAP);
    assert_eq!(HEAP.stats().in_use_bytes, 0);
}

#[test]
fn memory_that_is_used_up_is_an_error_of_the_newest_trait_too() {
    let mut memory = std::vec![MaybeUninit::uninit(); 16 << 10];
    let mut tables = std::vec![MaybeUninit::uninit(); 8 << 10];
    let pool: Pool<Fixed, HostLock> =
        Pool::new(Fixed::new(&mut memory), Borrowed::new(&mut tables), PoolConfig::DEFAULT).unwrap();
    let mut bytes = Vec::new_in(&pool);
    assert!(bytes.try_reserve(64 << 10).is_err());
    bytes.push(1_u8);
}
