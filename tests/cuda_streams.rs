//! Streams: how many there are, who keeps them, and what two of them do with one block.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;

use democratising::{DType, Device, Tensor, cuda, gc};
use harness::{ALL, in_modes};
use left::nothing_is_left;

const MIB: usize = 1 << 20;

#[test]
fn streams_that_use_a_buffer_at_the_same_time_are_all_waited_for() {
    in_modes("streams_that_use_a_buffer_at_the_same_time_are_all_waited_for", ALL, || {
        for bytes in [2 * MIB, 5000] {
            use_on_two_streams(bytes, || ());
        }
        nothing_is_left();
    });
}

#[test]
fn a_wait_that_is_refused_once_does_not_let_a_buffer_go_too_early() {
    in_modes("a_wait_that_is_refused_once_does_not_let_a_buffer_go_too_early", ALL, || {
        for n in 1..10 {
            use_on_two_streams(2 * MIB, || {
                if harness::is_soft() {
                    harness::fail_in(n, 999);
                }
            });
        }
        nothing_is_left();
    });
}

#[test]
fn the_default_stream_of_another_device_is_another_stream() {
    use cudarc::driver::{CudaContext, DevicePtr, SyncOnDrop};
    use democratising::cuda::DeviceBuf;

    in_modes("the_default_stream_of_another_device_is_another_stream", ALL, || {
        let devices = Device::cuda_all().unwrap();
        let streams: Vec<_> =
            (0..devices.len()).map(|at| CudaContext::new(at).unwrap().default_stream()).collect();
        let [here, there, ..] = &streams[..] else { return };
        let buf = DeviceBuf::from_slice(here, &[1u8; 100]).unwrap();
        assert!(matches!(buf.device_ptr(here).1, SyncOnDrop::Record(None)));
        assert!(matches!(buf.device_ptr(there).1, SyncOnDrop::Sync(Some(_))), "it is waited for");
    });
}

#[test]
fn the_default_stream_of_another_device_waits_for_what_a_buffers_own_does() {
    use cudarc::driver::{CudaContext, DevicePtr};
    use democratising::cuda::DeviceBuf;

    in_modes("the_default_stream_of_another_device_waits_for_what_a_buffers_own_does", ALL, || {
        if Device::cuda_all().unwrap().len() < 2 || !harness::is_soft() {
            return;
        }
        let (here, there) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap().default_stream());
        let (own, other) = (here.new_stream().unwrap(), here.new_stream().unwrap());
        let out = DeviceBuf::<u8>::zeros(&there, 5000).unwrap();
        let buf = DeviceBuf::from_slice(&own, &[7u8; 5000]).unwrap();
        {
            let (at, _until) = buf.device_ptr(&other);
            harness::fill(at, 8, 1000, other.cu_stream() as usize);
        }
        let (from, until) = buf.device_ptr(&there);
        there.context().bind_to_thread().unwrap();
        harness::copy(out.device_ptr(&there).0, from, 5000, 0);
        drop(until);
        assert!(out.to_vec().unwrap() == [vec![8u8; 1000], vec![7; 4000]].concat());
        drop((buf, out));
        nothing_is_left();
    });
}

#[test]
fn a_wait_that_is_refused_again_and_again_does_not_let_a_buffer_go_too_early() {
    in_modes("a_wait_that_is_refused_again_and_again_does_not_let_a_buffer_go_too_early", ALL, || {
        for bytes in [2 * MIB, 5000] {
            use_on_two_streams(bytes, || {
                if harness::is_soft() {
                    harness::refuse("cuStreamWaitEvent", 100, 999);
                }
            });
        }
        nothing_is_left();
    });
}

/// Two streams read a buffer of a third at the same time, and it is dropped before they have; nothing that takes its memory is seen by
/// them.
fn use_on_two_streams(bytes: usize, before_the_drop: impl Fn()) {
    use cudarc::driver::{CudaContext, DevicePtr};
    use democratising::cuda::DeviceBuf;

    // First: cudarc panics without a driver.
    let _device = Device::cuda(0).unwrap();
    let context = CudaContext::new(0).unwrap();
    let [a, b, c] = [(); 3].map(|()| context.new_stream().unwrap());
    // The stream's cache stays while a buffer of its own does.
    let _kept = DeviceBuf::<u8>::zeros(&a, 1).unwrap();
    let source = DeviceBuf::from_slice(&a, &vec![3u8; bytes]).unwrap();
    let [of_b, of_c] = [&b, &c].map(|stream| DeviceBuf::<u8>::zeros(stream, bytes).unwrap());
    let ((from, on_b), (_, on_c)) = (source.device_ptr(&b), source.device_ptr(&c));
    for (target, stream) in [(&of_b, &b), (&of_c, &c)] {
        harness::copy(target.device_ptr(stream).0, from, bytes, stream.cu_stream() as usize);
    }
    drop((on_b, on_c));
    before_the_drop();
    drop(source);
    if harness::is_soft() {
        harness::fail_in(0, 0);
        harness::refuse("", 0, 0);
        // cudarc asks once where it gives its events back, and remembers.
        let _ = context.check_err();
    }
    // The same block again, on its own stream, which runs to its end first.
    let mut again: Vec<DeviceBuf<u8>> = Vec::new();
    while again.last().is_none_or(|buf| buf.device_ptr(&a).0 != from) {
        again.push(DeviceBuf::from_slice(&a, &vec![8u8; bytes]).unwrap());
        assert!(again.len() < 1000, "the block is used again");
    }
    a.synchronize().unwrap();
    for target in [of_b, of_c] {
        assert!(target.to_vec().unwrap() == vec![3; bytes], "{bytes}: it read what came later");
    }
}

#[test]
fn a_device_has_128_streams_at_most_and_gets_them_back() {
    in_modes("a_device_has_128_streams_at_most_and_gets_them_back", ALL, || {
        let device = Device::cuda(0).unwrap();
        for _ in 0..3 {
            // The default stream is one of them.
            let streams: Vec<_> = (0..127).map(|_| cuda::Stream::new(&device).unwrap()).collect();
            let error = cuda::Stream::new(&device).unwrap_err();
            assert!(error.to_string().contains("128 streams"), "{error}");
            let tensors: Vec<_> = streams
                .iter()
                .map(|stream| {
                    Tensor::new(&[100_000], vec![1u8; 100_000])
                        .unwrap()
                        .to_device_on(&device, stream)
                        .unwrap()
                })
                .collect();
            drop((tensors, streams));
            gc::collect().unwrap();
        }
        nothing_is_left();
    });
}

#[test]
fn streams_that_ended_with_work_under_way_make_room_for_others() {
    in_modes("streams_that_ended_with_work_under_way_make_room_for_others", ALL, || {
        let device = Device::cuda(0).unwrap();
        for number in 0..300 {
            let stream = cuda::Stream::new(&device).unwrap_or_else(|error| panic!("{number}: {error}"));
            let here = Tensor::new(&[1000], vec![number as u8; 1000]).unwrap();
            drop(here.to_device_on(&device, &stream).unwrap());
        }
        nothing_is_left();
    });
}

#[test]
fn a_tensor_does_not_keep_the_streams_that_used_it_and_ended() {
    in_modes("a_tensor_does_not_keep_the_streams_that_used_it_and_ended", ALL, || {
        let device = Device::cuda(0).unwrap();
        let own = cuda::Stream::new(&device).unwrap();
        let ones = |value: u8| Tensor::new(&[300_000], vec![value; 300_000]).unwrap();
        let weights = [ones(3), ones(4)].map(|here| here.to_device_on(&device, &own).unwrap());
        let request = |_| {
            let stream = cuda::Stream::new(&device).unwrap();
            let out = Tensor::zeros_with(&[100_000], DType::U8, &device).unwrap();
            out.used_on(&stream).unwrap();
            for (weight, half) in weights.iter().zip([0, 50_000]) {
                weight.used_on(&stream).unwrap();
                let to = out.device_address().unwrap() + half;
                harness::copy(to, weight.device_address().unwrap(), 50_000, stream.as_raw());
            }
            out
        };
        // A result keeps its request's stream; those of the others go.
        let outs: Vec<Tensor> = (0..20).map(request).collect();
        (0..140).for_each(|number| drop(request(number)));
        let streams = cuda::MemoryPool::stats(0).unwrap().streams.len();
        assert!(streams < 30, "{streams} streams of 160 are kept");
        let places = weights.each_ref().map(|weight| weight.device_address());
        drop(weights);
        // What comes in the place of the weights comes behind every request.
        let nines: Vec<Tensor> = (0..20).map(|_| ones(9).to_device_on(&device, &own).unwrap()).collect();
        assert!(places.iter().all(|place| nines.iter().any(|nine| nine.device_address() == *place)));
        own.synchronize().unwrap();
        let wanted = [vec![3; 50_000], vec![4; 50_000]].concat();
        assert!(outs.iter().all(|out| out.to_vec::<u8>().unwrap() == wanted));
        drop((nines, outs, own));
        nothing_is_left();
    });
}

#[test]
fn a_block_counts_for_the_stream_it_was_taken_on_whichever_it_is_freed_on() {
    in_modes("a_block_counts_for_the_stream_it_was_taken_on_whichever_it_is_freed_on", ALL, || {
        let device = Device::cuda(0).unwrap();
        let (a, b) = (cuda::Stream::new(&device).unwrap(), cuda::Stream::new(&device).unwrap());
        let in_use = |stream: &cuda::Stream| {
            let rows = cuda::MemoryPool::stats(0).unwrap().streams;
            let rows = rows.iter().filter(|row| row.stream == stream.as_raw() as u64);
            rows.map(|row| row.in_use_bytes).sum::<u64>()
        };
        for bytes in [4096, 3 * MIB] {
            // SAFETY: 1. Both streams live until all is free. 2. Nobody works on the blocks.
            unsafe {
                let of_a = [(); 2].map(|()| cuda::raw::allocate(bytes, 0, a.as_raw()).unwrap());
                let of_b = cuda::raw::allocate(bytes, 0, b.as_raw()).unwrap();
                let bytes_of = [in_use(&a), in_use(&b)];
                assert!(bytes_of == [2 * bytes as u64, bytes as u64], "{bytes_of:?}");
                cuda::raw::free(of_a[0], bytes, 0, b.as_raw()).unwrap();
                cuda::raw::free(of_b, bytes, 0, a.as_raw()).unwrap();
                assert_eq!([in_use(&a), in_use(&b)], [bytes as u64, 0]);
                cuda::raw::free(of_a[1], bytes, 0, b.as_raw()).unwrap();
                assert_eq!([in_use(&a), in_use(&b)], [0, 0]);
            }
        }
        nothing_is_left();
    });
}

#[test]
fn a_stream_that_ends_while_the_driver_makes_no_event_is_waited_for() {
    in_modes("a_stream_that_ends_while_the_driver_makes_no_event_is_waited_for", ALL, || {
        let device = Device::cuda(0).unwrap();
        let other = cuda::Stream::new(&device).unwrap();
        let filled = |byte| Tensor::new(&[3 * MIB], vec![byte; 3 * MIB]).unwrap();
        let ones = filled(1u8).to_device(&device).unwrap();
        for call in ["cuEventCreate", "cuEventRecord"] {
            let out = filled(0).to_device(&device).unwrap();
            // Filled by now, so that the stream's work needs to be told to nobody, and nobody keeps the stream for it.
            assert!(out.to_vec::<u8>().unwrap()[0] == 0 && ones.to_vec::<u8>().unwrap()[0] == 1);
            let stream = cuda::Stream::new(&device).unwrap();
            let block = filled(0).to_device_on(&device, &stream).unwrap();
            let at = block.device_address().unwrap();
            harness::copy(at, ones.device_address().unwrap(), 3 * MIB, stream.as_raw());
            harness::copy(out.device_address().unwrap(), at, 3 * MIB, stream.as_raw());
            drop(block);
            if harness::is_soft() {
                harness::refuse(call, 100, 2);
            }
            drop(stream);
            if harness::is_soft() {
                harness::refuse("", 0, 0);
            }
            let mut again: Vec<Tensor> = Vec::new();
            while again.last().is_none_or(|tensor| tensor.device_address() != Some(at)) {
                again.push(filled(9).to_device_on(&device, &other).unwrap());
                assert!(again.len() < 100, "the block is used again");
            }
            other.synchronize().unwrap();
            assert!(out.to_vec::<u8>().unwrap() == vec![1; 3 * MIB], "{call}");
        }
        drop((ones, other));
        nothing_is_left();
    });
}
