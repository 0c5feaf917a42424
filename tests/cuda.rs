//! Devices on the software driver, in every mode, and on a real one where there is one.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/bytes.rs"]
mod bytes;
#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;

use bytes::{all_are, pattern};
use democratising::{DType, DemoError, Device, DeviceId, Tensor, cuda, gc};
use harness::{ALL, EAGER, MAPPED, RANGES, in_modes};
use left::nothing_is_left;

const MIB: usize = 1 << 20;

#[test]
fn a_source_may_be_dropped_and_changed_while_its_copy_is_under_way() {
    in_modes("a_source_may_be_dropped_and_changed_while_its_copy_is_under_way", ALL, || {
        let device = Device::cuda(0).unwrap();
        let stream = cuda::Stream::new(&device).unwrap();
        let mut copies = Vec::new();
        // More than is staged at once.
        for round in 0..30 {
            let elements = pattern(5 * MIB + 17, round);
            let mut here = Tensor::new(&[elements.len()], &elements[..]).unwrap();
            copies.push((here.to_device_on(&device, &stream).unwrap(), elements));
            here.as_mut_slice::<u8>().unwrap().fill(0xEE);
        }
        for (copy, elements) in copies {
            assert!(copy.to_vec::<u8>().unwrap() == elements);
        }
        drop(stream);
        nothing_is_left();
    });
}

#[test]
fn a_pinned_source_may_be_changed_while_its_copy_is_under_way() {
    use cudarc::driver::CudaContext;
    use democratising::cuda::DeviceBuf;

    in_modes("a_pinned_source_may_be_changed_while_its_copy_is_under_way", ALL, || {
        Device::cuda(0).unwrap();
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        for bytes in [1, 5000, 64 << 10, (64 << 10) + 1, 3 * MIB] {
            // SAFETY: 1. All of it is written before it is read.
            let mut pinned = unsafe { context.alloc_pinned::<u8>(bytes) }.unwrap();
            pinned.as_mut_slice().unwrap().fill(1);
            let there = DeviceBuf::from_slice(&stream, pinned.as_slice().unwrap()).unwrap();
            pinned.as_mut_slice().unwrap().fill(2);
            assert!(there.to_vec().unwrap() == vec![1; bytes], "{bytes} bytes");
        }
        drop(stream);
        nothing_is_left();
    });
}

#[test]
fn what_streams_keep_in_caches_is_no_live_block() {
    in_modes("what_streams_keep_in_caches_is_no_live_block", &[EAGER, RANGES], || {
        let device = Device::cuda(0).unwrap();
        let held = || cuda::MemoryPool::stats(0).unwrap().pool;
        let kept: Vec<Tensor> = (0..3).map(|_| Tensor::zeros_on(&[100], &device).unwrap()).collect();
        assert_eq!((held().blocks, held().in_use_bytes), (3, 3 * 512));
        drop(kept);
        assert_eq!((held().blocks, held().in_use_bytes), (0, 0));
        nothing_is_left();
    });
}

#[test]
fn a_block_freed_on_one_stream_is_waited_for_on_another() {
    in_modes("a_block_freed_on_one_stream_is_waited_for_on_another", ALL, || {
        let device = Device::cuda(0).unwrap();
        let (a, b) = (cuda::Stream::new(&device).unwrap(), cuda::Stream::new(&device).unwrap());
        // Large ones are spans, small ones slots out of caches, and one frame is shared by many.
        for bytes in [3 * MIB, 200_000, 4096] {
            let ones = Tensor::new(&[bytes], vec![1u8; bytes]).unwrap();
            let out = Tensor::zeros_with(&[bytes], DType::U8, &device).unwrap();
            out.used_on(&a).unwrap();
            let mut used = 0;
            for _ in 0..40 {
                // Work on a reads a block that is freed at once; b takes one, and writes to it.
                let block = ones.to_device_on(&device, &a).unwrap();
                let at = block.device_address().unwrap();
                a.synchronize().unwrap();
                harness::copy(out.device_address().unwrap(), at, bytes, a.as_raw());
                drop(block);
                let on_b = ones.to_device_on(&device, &b).unwrap();
                harness::fill(on_b.device_address().unwrap(), 9, bytes, b.as_raw());
                used += (on_b.device_address().unwrap() == at) as u32;
                // The worst legal schedule: b runs to its end before a begins.
                b.synchronize().unwrap();
                a.synchronize().unwrap();
                assert!(out.to_vec::<u8>().unwrap() == vec![1; bytes], "{bytes}: a read what b wrote");
            }
            println!("# {bytes} bytes: {used} of 40 blocks went from one stream to the other");
            assert!(used > 0 || bytes == 4096, "{bytes}: no block changed hands");
        }
    });
}

#[test]
fn a_block_that_another_stream_uses_is_not_used_again_before_that_is_done() {
    in_modes("a_block_that_another_stream_uses_is_not_used_again_before_that_is_done", ALL, || {
        let device = Device::cuda(0).unwrap();
        let (a, b) = (cuda::Stream::new(&device).unwrap(), cuda::Stream::new(&device).unwrap());
        for bytes in [2 * MIB, 5000] {
            let out = Tensor::zeros_with(&[bytes], DType::U8, &device).unwrap();
            out.used_on(&b).unwrap();
            let block = Tensor::new(&[bytes], vec![3u8; bytes]).unwrap().to_device_on(&device, &a).unwrap();
            let at = block.device_address().unwrap();
            block.used_on(&b).unwrap();
            harness::copy(out.device_address().unwrap(), at, bytes, b.as_raw());
            drop(block);
            // The same block again, on its own stream, which runs to its end first.
            let eights = Tensor::new(&[bytes], vec![8u8; bytes]).unwrap();
            let mut again = Vec::new();
            while again.last().is_none_or(|tensor: &Tensor| tensor.device_address() != Some(at)) {
                again.push(eights.to_device_on(&device, &a).unwrap());
                assert!(again.len() < 1000, "the block is used again");
            }
            a.synchronize().unwrap();
            b.synchronize().unwrap();
            assert!(out.to_vec::<u8>().unwrap() == vec![3; bytes], "b read what a wrote later");
        }
    });
}

#[test]
fn the_callers_context_is_current_again_after_each_call() {
    in_modes("the_callers_context_is_current_again_after_each_call", ALL, || {
        let devices = Device::cuda_all().unwrap();
        Tensor::zeros_on(&[10], &devices[0]).unwrap();
        let before = harness::context();
        assert_eq!(before, 0, "this thread never chose one");
        let (one, two) = (0x1000, 0x2000);
        for (mine, device) in [(one, &devices[1]), (two, &devices[0]), (0, &devices[1])] {
            harness::set_context(mine);
            let large = Tensor::zeros_on(&[MIB], device).unwrap();
            assert_eq!(harness::context(), mine);
            let back = large.to_device(&devices[0]).unwrap().to_device(&Device::host()).unwrap();
            assert_eq!((harness::context(), back.len()), (mine, MIB));
            drop(large);
            gc::collect().unwrap();
            assert_eq!(harness::context(), mine);
        }
        harness::set_context(0);
        nothing_is_left();
    });
}

#[test]
fn a_limit_holds_also_below_what_is_in_use() {
    in_modes("a_limit_holds_also_below_what_is_in_use", ALL, || {
        let device = Device::cuda(0).unwrap();
        let mib = |n: usize| Tensor::zeros_with(&[n * MIB], DType::U8, &device);
        let (held, idle) = (mib(60).unwrap(), mib(100).unwrap());
        drop(idle);
        cuda::set_memory_limit(0, 80 << 20).unwrap();
        let info = cuda::get_memory_info(0).unwrap();
        assert_eq!((info.limit, info.in_use), (80 << 20, 60 << 20));
        assert!(info.reserved <= 160 << 20, "{info:?}");
        let error = mib(30).unwrap_err();
        let DemoError::OutOfMemory(report) = &error else { panic!("{error}") };
        assert_eq!(
            (report.device, report.requested_bytes, report.limit_bytes),
            (DeviceId::Cuda(0), 30 << 20, 80 << 20)
        );
        assert_eq!((report.in_use_bytes, report.free_bytes.is_some()), (60 << 20, true));
        assert_eq!(report.streams.iter().map(|row| row.in_use_bytes).sum::<u64>(), 60 << 20, "{report:?}");
        for part in
            ["cuda:0", "31457280 bytes requested", "limit 83886080", "free on the device", "by stream"]
        {
            assert!(error.to_string().contains(part), "{error}");
        }
        cuda::set_memory_limit(0, 10 << 20).unwrap();
        assert!(mib(1).is_err(), "no more before it fits");
        assert_eq!(held.to_vec::<u8>().unwrap(), vec![0; 60 * MIB], "what is held stays");
        drop(held);
        assert!(mib(8).is_ok());
        assert!(mib(11).is_err());
        cuda::set_memory_limit(0, u64::MAX).unwrap();
        assert!(mib(300).is_ok());
        nothing_is_left();
    });
}

#[test]
fn a_limit_stays_that_is_set_while_an_initial_size_is_refused() {
    in_modes("a_limit_stays_that_is_set_while_an_initial_size_is_refused", &[EAGER, RANGES], || {
        let total = cuda::get_memory_info(0).unwrap().total;
        std::thread::scope(|scope| {
            let refused = scope.spawn(|| {
                for _ in 0..10 {
                    assert!(cuda::MemoryPool::configure().initial_size(2 * total).enable().is_err());
                }
            });
            for limit in (1..).map(|n| n << 20 & (total - 1)).filter(|limit| *limit > 0) {
                cuda::set_memory_limit(0, limit).unwrap();
                std::thread::yield_now();
                assert_eq!(cuda::get_memory_info(0).unwrap().limit, limit);
                if refused.is_finished() {
                    break;
                }
            }
        });
        cuda::set_memory_limit(0, u64::MAX).unwrap();
        nothing_is_left();
    });
}

#[test]
fn an_initial_size_does_not_stop_the_pool_short_of_its_maximum() {
    in_modes("an_initial_size_does_not_stop_the_pool_short_of_its_maximum", ALL, || {
        let device = Device::cuda(0).unwrap();
        cuda::MemoryPool::configure().initial_size(96 << 20).max_size(128 << 20).enable().unwrap();
        assert_eq!(cuda::MemoryPool::stats(0).unwrap().pool.reserved_bytes, 96 << 20);
        let all = Tensor::zeros_with(&[128 * MIB], DType::U8, &device).unwrap();
        assert_eq!(cuda::MemoryPool::stats(0).unwrap().pool.reserved_bytes, 128 << 20);
        assert!(Tensor::zeros_with(&[1], DType::U8, &device).is_err());
        drop(all);
        let error = cuda::MemoryPool::configure().initial_size(1 << 40).enable().unwrap_err();
        assert!(matches!(error, DemoError::OutOfMemory(_)), "{error}");
        assert_eq!(
            cuda::MemoryPool::stats(0).unwrap().pool.limit_bytes,
            128 << 20,
            "the settings before are in force"
        );
        let error = cuda::MemoryPool::configure().initial_size(2).max_size(1).enable().unwrap_err();
        assert!(matches!(error, DemoError::InvalidConfig { .. }), "{error}");
        cuda::MemoryPool::disable(0).unwrap();
        nothing_is_left();
    });
}

#[test]
fn all_of_a_device_can_be_had_in_one_piece_after_any_fragmentation() {
    in_modes("all_of_a_device_can_be_had_in_one_piece_after_any_fragmentation", MAPPED, || {
        let device = Device::cuda(0).unwrap();
        let total = cuda::get_memory_info(0).unwrap().total as usize;
        if total > 8 << 30 {
            return;
        }
        let streams = [cuda::Stream::new(&device).unwrap(), cuda::Stream::new(&device).unwrap()];
        let small = Tensor::new(&[4 * MIB], vec![5u8; 4 * MIB]).unwrap();
        let mut blocks: Vec<_> =
            (0..total / (4 * MIB)).map(|i| small.to_device_on(&device, &streams[i % 2]).unwrap()).collect();
        assert!(small.to_device(&device).is_err(), "it is full");
        // Every other one, with their work still queued: half of the device is free, and no two frames side by side.
        let mut keep = false;
        blocks.retain(|_| {
            keep = !keep;
            keep
        });
        let half = Tensor::zeros_with(&[total / 2], DType::U8, &device).unwrap();
        assert!(half.device_address().is_some());
        for block in &blocks {
            assert!(all_are(&block.to_vec::<u8>().unwrap(), 5), "moved under a live block");
        }
        drop((half, blocks));
        let whole = Tensor::zeros_with(&[total], DType::U8, &device).unwrap();
        drop((whole, streams));
        nothing_is_left();
    });
}

#[test]
fn a_reclaimer_is_asked_before_memory_is_refused() {
    in_modes("a_reclaimer_is_asked_before_memory_is_refused", ALL, || {
        use std::sync::{Arc, Mutex};
        struct Kept(Arc<Mutex<Vec<Tensor>>>);
        impl gc::Reclaim for Kept {
            fn reclaimable_bytes(&self) -> u64 {
                self.0.lock().unwrap().iter().map(|tensor| tensor.byte_len() as u64).sum()
            }
            fn reclaim(&self, _target_bytes: u64, _until: gc::Deadline) -> u64 {
                let kept = std::mem::take(&mut *self.0.lock().unwrap());
                kept.iter().map(|tensor| tensor.byte_len() as u64).sum()
            }
            fn resource(&self) -> gc::Resource {
                gc::Resource::DeviceBytes
            }
        }
        let device = Device::cuda(0).unwrap();
        cuda::set_memory_limit(0, 64 << 20).unwrap();
        let kept = Arc::new(Mutex::new(vec![Tensor::zeros_with(&[40 * MIB], DType::U8, &device).unwrap()]));
        gc::register("kept", 0, Kept(kept.clone()));
        let tensor = Tensor::zeros_with(&[50 * MIB], DType::U8, &device).unwrap();
        assert!(kept.lock().unwrap().is_empty());
        drop(tensor);
        let collected = gc::collect().unwrap();
        assert!(collected.device_bytes >= 50 << 20, "{collected:?}");
        nothing_is_left();
    });
}

#[test]
fn threads_on_streams_of_their_own_share_a_device() {
    in_modes("threads_on_streams_of_their_own_share_a_device", ALL, || {
        let device = Device::cuda(0).unwrap();
        cuda::set_memory_limit(0, 96 << 20).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let device = &device;
                scope.spawn(move || {
                    let stream = cuda::Stream::new(device).unwrap();
                    let mut live: Vec<(Tensor, u8)> = Vec::new();
                    let mut random = thread as u64 + 1;
                    for round in 0..150u64 {
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let bytes = [700, 30_000, 90_000, 700_000, 3_000_000][(random >> 33) as usize % 5];
                        let byte = (round + 50 * thread as u64) as u8;
                        let there =
                            Tensor::new(&[bytes], vec![byte; bytes]).unwrap().to_device_on(device, &stream);
                        live.push((there.unwrap(), byte));
                        if live.len() > 5 {
                            let (tensor, byte) = live.swap_remove((random >> 40) as usize % live.len());
                            assert!(all_are(&tensor.to_vec::<u8>().unwrap(), byte));
                        }
                    }
                });
            }
        });
        cuda::set_memory_limit(0, u64::MAX).unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_buffer_goes_where_cudarc_wants_a_slice() {
    use cudarc::driver::{CudaContext, DevicePtr};
    use democratising::cuda::DeviceBuf;

    in_modes("a_buffer_goes_where_cudarc_wants_a_slice", ALL, || {
        // First: cudarc panics without a driver.
        let device = Device::cuda(0).unwrap();
        let context = CudaContext::new(0).unwrap();
        let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let numbers: Vec<f32> = (0..300_000).map(|i| i as f32).collect();
        let source = DeviceBuf::from_slice(&a, &numbers).unwrap();
        let mut target = DeviceBuf::<f32>::zeros(&a, numbers.len()).unwrap();
        assert_eq!(target.to_vec().unwrap(), vec![0.0; numbers.len()]);
        // On another stream than both were filled on, which has not run yet in the lazy modes.
        b.memcpy_dtod(&source, &mut target).unwrap();
        let at = source.device_ptr(&a).0;
        drop(source);
        // What takes its place has to wait for the other stream's copy.
        let overwriting = DeviceBuf::from_slice(&a, &vec![-1.0f32; numbers.len()]).unwrap();
        assert_eq!(overwriting.device_ptr(&a).0, at, "the memory is used again at once");
        a.synchronize().unwrap();
        assert!(target.to_vec().unwrap() == numbers);
        // cudarc's own slices beside it, both ways.
        let mut slice = b.alloc_zeros::<f32>(numbers.len()).unwrap();
        b.memcpy_dtod(&target, &mut slice).unwrap();
        assert!(b.clone_dtoh(&slice).unwrap() == numbers);
        a.memcpy_htod(&numbers[..10], &mut target).unwrap();
        assert_eq!(target.to_vec().unwrap()[..10], numbers[..10]);
        assert_eq!((target.len(), target.is_empty()), (300_000, false));
        assert!(DeviceBuf::<f64>::zeros(&a, usize::MAX / 4).is_err());
        drop((slice, target, overwriting));
        // cudarc's own slice is free when its stream has come to that.
        b.synchronize().unwrap();
        drop((a, b, context));
        assert!(cuda::Stream::new(&device).is_ok());
        nothing_is_left();
    });
}

#[test]
fn work_on_the_wrong_device_is_refused_by_name() {
    in_modes("work_on_the_wrong_device_is_refused_by_name", ALL, || {
        let devices = Device::cuda_all().unwrap();
        let here = Tensor::zeros(&[10]).unwrap();
        let error = cuda::Stream::new(&Device::host()).unwrap_err();
        let wanted = "cuda::Stream::new needs a device such as cuda:0, not host; Device::cuda gives one";
        assert_eq!(error.to_string(), wanted);
        assert!(matches!(
            here.used_on(&cuda::Stream::new(&devices[0]).unwrap()),
            Err(DemoError::WrongDevice { .. })
        ));
        if let [first, second, ..] = &devices[..] {
            let stream = cuda::Stream::new(second).unwrap();
            let error = here.to_device_on(first, &stream).unwrap_err();
            let wanted = "to_device_on needs a stream of cuda:0, not cuda:1; make one with cuda::Stream::new";
            assert_eq!(error.to_string(), wanted);
            let error = here.to_device(first).unwrap().used_on(&stream).unwrap_err();
            assert!(error.to_string().contains("a stream of cuda:0, not cuda:1"), "{error}");
        }
        let error = Device::cuda(99).unwrap_err();
        assert!(error.to_string().contains("cuda:99"), "{error}");
        let error = cuda::set_memory_limit(77, 1).unwrap_err();
        assert!(error.to_string().contains("cuda:77"), "{error}");
    });
}

#[test]
fn device_memory_is_charged_to_the_scope_it_is_taken_in() {
    use democratising::pool::budget::scope::{Kind, Scope};
    in_modes("device_memory_is_charged_to_the_scope_it_is_taken_in", ALL, || {
        let device = Device::cuda(1).unwrap();
        let step = Scope::new("step");
        step.set_limit(Kind::DeviceBytes, 5 * MIB as u64);
        let kept = step.run(|| Tensor::zeros_on(&[MIB], &device)).unwrap();
        assert_eq!((step.used(Kind::DeviceBytes), step.used(Kind::HostBytes)), (4 * MIB as u64, 0));
        let other = Scope::new("other");
        let on_host = other.run(|| Tensor::zeros(&[8 * MIB]).unwrap());
        let on_device = other.run(|| Tensor::zeros_on(&[MIB / 2], &device)).unwrap();
        let refused = step.run(|| Tensor::zeros_on(&[MIB], &device)).unwrap_err();
        let DemoError::OutOfMemory(report) = refused else { panic!("{refused}") };
        let rows: Vec<_> = report.scopes().map(|scope| (scope.name.as_str(), scope.bytes)).collect();
        assert_eq!(
            rows,
            [("step", 4 * MIB as u64), ("other", 2 * MIB as u64)],
            "of the device's memory alone"
        );
        assert!(!report.to_string().contains("heap, idle"), "{report}");
        assert_eq!(report.largest_free_bytes, MIB as u64);
        drop((on_host, on_device, other));
        assert_eq!((report.device, report.scope()), (DeviceId::Cuda(1), Some("step")));
        assert_eq!((report.limit_bytes, report.in_use_bytes), (5 * MIB as u64, 4 * MIB as u64));
        let view = kept.clone();
        drop(kept);
        assert_eq!(step.used(Kind::DeviceBytes), 4 * MIB as u64, "a clone shares");
        drop(view);
        assert_eq!(step.used(Kind::DeviceBytes), 0);
        nothing_is_left();
    });
}
