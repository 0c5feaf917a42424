//! A driver that refuses again and again: what it does not take back stays in the books, and is given back later.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;
#[path = "softcuda/round.rs"]
mod round;

use democratising::{DType, DemoError, Device, Tensor, cuda, gc};
use harness::{EAGER, LAZY, Mode, POISON, RANGES, in_soft_modes};
use left::nothing_is_left;
use round::a_round;

const MIB: usize = 1 << 20;
/// More than any call is tried.
const ALWAYS: u64 = 1 << 40;

fn reserved() -> (u64, u64) {
    let pool = cuda::MemoryPool::stats(0).unwrap().pool;
    assert_eq!(pool.reserved_bytes, harness::used_bytes(0), "the books are the driver's: {pool:?}");
    (pool.reserved_bytes, pool.idle_bytes)
}

#[test]
fn memory_that_the_driver_does_not_take_back_is_counted_used_and_given_back_later() {
    const MODES: &[Mode] = &[EAGER, LAZY, POISON, RANGES];
    in_soft_modes(
        "memory_that_the_driver_does_not_take_back_is_counted_used_and_given_back_later",
        MODES,
        || {
            let device = Device::cuda(0).unwrap();
            let mib = |n: usize| Tensor::new(&[n * MIB], vec![5u8; n * MIB]).unwrap().to_device(&device);
            for call in ["cuMemUnmap", "cuMemFree_v2", "cuMemRelease", "cuEventSynchronize"] {
                let blocks = [mib(32).unwrap(), mib(32).unwrap()];
                let (all, _) = reserved();
                drop(blocks);
                harness::refuse(call, ALWAYS, 999);
                gc::collect().unwrap();
                let (held, idle) = reserved();
                assert_eq!(held, idle, "{call}: all of it is idle");
                // What is there counts towards a limit, and serves whoever comes.
                cuda::set_memory_limit(0, all).unwrap();
                let again = Tensor::zeros_with(&[32 * MIB], DType::U8, &device)
                    .unwrap_or_else(|error| panic!("{call}: {error}"));
                assert!(again.to_vec::<u8>().unwrap() == vec![0; 32 * MIB], "{call}");
                assert!(reserved().0 <= all, "{call}");
                drop(again);
                harness::refuse("", 0, 0);
                cuda::set_memory_limit(0, u64::MAX).unwrap();
                nothing_is_left();
            }
        },
    );
}

#[test]
fn a_collection_says_what_it_gave_back_where_the_driver_refuses() {
    in_soft_modes("a_collection_says_what_it_gave_back_where_the_driver_refuses", &[EAGER, RANGES], || {
        let device = Device::cuda(0).unwrap();
        let is_mapped = cuda::get_device_info(&device).unwrap().virtual_memory;
        let block = Tensor::zeros_with(&[32 * MIB], DType::U8, &device).unwrap();
        drop(block);
        let (held, _) = reserved();
        harness::refuse(if is_mapped { "cuMemUnmap" } else { "cuMemFree_v2" }, ALWAYS, 999);
        assert_eq!(gc::collect().unwrap().device_bytes, 0);
        let stats = cuda::MemoryPool::stats(0).unwrap().pool;
        assert_eq!((stats.reserved_bytes, stats.unmaps), (held, 0), "nothing went");
        harness::refuse("", 0, 0);
        assert_eq!(gc::collect().unwrap().device_bytes, held);
        assert!(cuda::MemoryPool::stats(0).unwrap().pool.unmaps > 0);
        nothing_is_left();
    });
}

#[test]
fn pinned_memory_that_the_driver_does_not_unpin_is_unpinned_later() {
    in_soft_modes("pinned_memory_that_the_driver_does_not_unpin_is_unpinned_later", &[EAGER, LAZY], || {
        let device = Device::cuda(0).unwrap();
        let copy = || Tensor::new(&[9 * MIB], vec![5u8; 9 * MIB]).unwrap().to_device(&device).unwrap();
        drop(copy());
        harness::refuse("cuMemHostUnregister", ALWAYS, 999);
        gc::collect().unwrap();
        assert_eq!(harness::held().pinned, 5);
        harness::refuse("", 0, 0);
        gc::collect().unwrap();
        assert_eq!(harness::held().pinned, 0);
        // Where it is used meanwhile, too.
        drop(copy());
        harness::refuse("cuMemHostUnregister", ALWAYS, 999);
        gc::collect().unwrap();
        assert!(copy().to_vec::<u8>().unwrap() == vec![5; 9 * MIB]);
        harness::refuse("", 0, 0);
        gc::collect().unwrap();
        assert_eq!(harness::held().pinned, 0);
        nothing_is_left();
    });
}

#[test]
fn several_calls_in_a_row_may_fail_and_nothing_is_lost() {
    const MODES: &[Mode] = &[LAZY, RANGES];
    in_soft_modes("several_calls_in_a_row_may_fail_and_nothing_is_lost", MODES, || {
        a_round().unwrap();
        nothing_is_left();
        let settled = harness::held();
        let mut failures = 0;
        for (count, step) in [(3, 2), (6, 5), (12, 7), (40, 11)] {
            for n in (1..).step_by(step) {
                harness::fail_from(n, count, if n % 3 == 0 { 2 } else { 999 });
                let result = a_round();
                let failed = harness::failed();
                harness::fail_in(0, 0);
                let Some(name) = failed else { break };
                if let Err(error) = result {
                    failures += 1;
                    assert!(error.to_string().contains("cuda:"), "{name}: {error}");
                }
                cuda::set_memory_limit(0, u64::MAX).unwrap();
                for ordinal in 0..2 {
                    let pool = cuda::MemoryPool::stats(ordinal).unwrap().pool;
                    let used = harness::used_bytes(ordinal as usize);
                    assert_eq!(pool.reserved_bytes, used, "{count} from {n} to {name}: {pool:?}");
                }
                gc::collect().unwrap();
                for ordinal in 0..2 {
                    let pool = cuda::MemoryPool::stats(ordinal).unwrap().pool;
                    assert_eq!(pool.in_use_bytes, 0, "{count} from {n} to {name}: {pool:?}");
                }
                let held = harness::held();
                let kept = (held.handles, held.mappings, held.allocations, held.reservations, held.pinned);
                let settled = (0, 0, 0, settled.reservations, 0);
                assert_eq!(kept, settled, "{count} from {n} to {name}, leave something behind: {held:?}");
                assert_eq!(harness::violations(), 0, "{count} from {n} to {name}");
            }
        }
        println!("# {failures} rounds failed");
        assert!(failures > 20, "{failures}");
        a_round().unwrap();
        nothing_is_left();
    });
}

#[test]
fn what_is_dropped_after_the_driver_has_ended_is_quiet() {
    use cudarc::driver::{CudaContext, DevicePtr};
    use democratising::cuda::DeviceBuf;
    in_soft_modes("what_is_dropped_after_the_driver_has_ended_is_quiet", &[EAGER, LAZY, RANGES], || {
        let device = Device::cuda(0).unwrap();
        let (a, b) = (cuda::Stream::new(&device).unwrap(), cuda::Stream::new(&device).unwrap());
        let large = Tensor::new(&[5 * MIB], vec![1u8; 5 * MIB]).unwrap().to_device_on(&device, &a).unwrap();
        large.used_on(&b).unwrap();
        let small = Tensor::zeros_on(&[10], &device).unwrap();
        let far = large.to_device(&Device::cuda(1).unwrap()).unwrap();
        let context = CudaContext::new(0).unwrap();
        let [c, d] = [(); 2].map(|()| context.new_stream().unwrap());
        let buf = DeviceBuf::from_slice(&c, &[1u8; 5000]).unwrap();
        drop(buf.device_ptr(&d));
        harness::fail_from(1, ALWAYS, 4);
        drop((large, a, small, far, buf, b));
        gc::collect().unwrap();
        cuda::set_memory_limit(0, 1 << 20).unwrap();
        assert!(cuda::MemoryPool::stats(0).is_ok());
        let error = Tensor::zeros_on(&[100 * MIB], &device).unwrap_err();
        println!("# {error}");
        assert!(error.to_string().contains("cuda:0"), "{error}");
        let error = cuda::get_memory_info(0).unwrap_err();
        assert!(error.to_string().contains("the process is ending"), "{error}");
        drop((c, d));
        harness::fail_in(0, 0);
    });
}

#[test]
fn memory_that_the_driver_itself_is_short_of_is_made_and_is_out_of_memory_where_it_cannot_be() {
    in_soft_modes(
        "memory_that_the_driver_itself_is_short_of_is_made_and_is_out_of_memory_where_it_cannot_be",
        &[EAGER, LAZY],
        || {
            let device = Device::cuda(0).unwrap();
            let take = |stream: &cuda::Stream| {
                Tensor::new(&[3 * MIB], vec![1u8; 3 * MIB]).unwrap().to_device_on(&device, stream)
            };
            // There is nothing else to be had than what the one stream freed and the other has to wait for.
            cuda::set_memory_limit(0, 4 << 20).unwrap();
            let streams = [(); 4].map(|()| cuda::Stream::new(&device).unwrap());
            for [of, by] in [[0, 1], [2, 3]] {
                drop(take(&streams[of]).unwrap());
                harness::refuse("cuEventCreate", if of == 0 { 1 } else { ALWAYS }, 2);
                let taken = take(&streams[by]).map(drop);
                harness::refuse("", 0, 0);
                match taken {
                    Ok(()) => assert_eq!(of, 0),
                    Err(DemoError::OutOfMemory(_)) => assert_eq!(of, 2),
                    Err(error) => panic!("{of}: {error}"),
                }
            }
            cuda::set_memory_limit(0, u64::MAX).unwrap();
            drop(streams);
            nothing_is_left();
        },
    );
}
