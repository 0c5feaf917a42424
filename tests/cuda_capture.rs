//! Streams that are captured into graphs: what cannot be done with them is an error, and breaks nothing off.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;

use democratising::{DemoError, Device, Tensor, cuda, gc};
use harness::{ALL, EAGER, LAZY, Mode, POISON, in_soft_modes};
use left::nothing_is_left;

const MIB: usize = 1 << 20;

fn filled(mib: usize, byte: u8) -> Tensor {
    Tensor::new(&[mib * MIB], vec![byte; mib * MIB]).unwrap()
}

#[test]
fn memory_is_taken_and_given_back_beside_a_capture() {
    in_soft_modes("memory_is_taken_and_given_back_beside_a_capture", ALL, || {
        let device = Device::cuda(0).unwrap();
        let [captured, free] = [(); 2].map(|()| cuda::Stream::new(&device).unwrap());
        harness::begin_capture(captured.as_raw());
        for byte in [3, 4] {
            let there = filled(9, byte).to_device_on(&device, &free).unwrap();
            let copy = there.to_device(&device).unwrap().to_device_on(&device, &captured);
            assert!(copy.is_err(), "it would wait for work outside of the graph");
            assert!(there.to_vec::<u8>().unwrap() == vec![byte; 9 * MIB]);
            drop(there);
            gc::collect().unwrap();
        }
        free.synchronize().unwrap();
        assert!(!harness::is_captured(free.as_raw()));
        assert_eq!(harness::end_capture(captured.as_raw()), 0, "nothing broke it off");
        assert!(
            filled(1, 5).to_device_on(&device, &captured).unwrap().to_vec::<u8>().unwrap() == vec![5; MIB]
        );
        drop((captured, free));
        nothing_is_left();
    });
}

#[test]
fn what_a_captured_stream_cannot_do_is_an_error_that_says_so() {
    in_soft_modes("what_a_captured_stream_cannot_do_is_an_error_that_says_so", ALL, || {
        let device = Device::cuda(0).unwrap();
        let [captured, other] = [(); 2].map(|()| cuda::Stream::new(&device).unwrap());
        let there = filled(1, 7).to_device_on(&device, &captured).unwrap();
        harness::begin_capture(captured.as_raw());
        let errors = [
            filled(1, 8).to_device_on(&device, &captured).map(drop),
            Tensor::new(&[10], vec![8u8; 10]).unwrap().to_device_on(&device, &captured).map(drop),
            there.to_vec::<u8>().map(drop),
            there.used_on(&other),
            captured.synchronize(),
        ];
        for error in errors {
            let error = error.unwrap_err();
            let DemoError::DeviceFailed { code: 900, .. } = &error else { panic!("{error}") };
            assert!(error.to_string().contains("captured into a graph"), "{error}");
        }
        assert!(!harness::is_captured(other.as_raw()));
        assert_eq!(harness::end_capture(captured.as_raw()), 0, "nothing broke it off");
        there.used_on(&other).unwrap();
        captured.synchronize().unwrap();
        assert!(there.to_vec::<u8>().unwrap() == vec![7; MIB]);
        drop((there, captured, other));
        nothing_is_left();
    });
}

#[test]
fn what_is_dropped_amid_a_capture_is_nobody_elses_before_its_stream_has_run() {
    const MODES: &[Mode] = &[EAGER, LAZY, POISON];
    in_soft_modes("what_is_dropped_amid_a_capture_is_nobody_elses_before_its_stream_has_run", MODES, || {
        let device = Device::cuda(0).unwrap();
        let [captured, other] = [(); 2].map(|()| cuda::Stream::new(&device).unwrap());
        let out = filled(3, 0).to_device(&device).unwrap();
        assert!(out.to_vec::<u8>().unwrap()[0] == 0);
        let block = filled(3, 1).to_device_on(&device, &captured).unwrap();
        let at = block.device_address().unwrap();
        // More than a cache holds, so that slabs have what the captured stream freed.
        let theirs: Vec<Tensor> = (0..200)
            .map(|byte: u8| {
                Tensor::new(&[4096], vec![byte; 4096]).unwrap().to_device_on(&device, &captured).unwrap()
            })
            .collect();
        harness::copy(out.device_address().unwrap(), at, 3 * MIB, captured.as_raw());
        harness::begin_capture(captured.as_raw());
        drop((block, theirs));
        gc::collect().unwrap();
        // It is left alone, and nobody is drawn into the capture.
        let elsewhere = filled(3, 8).to_device_on(&device, &other).unwrap();
        assert_ne!(elsewhere.device_address(), Some(at));
        let small =
            |byte: u8, stream| Tensor::new(&[4096], vec![byte; 4096]).unwrap().to_device_on(&device, stream);
        let ours: Vec<Tensor> = (0..40).map(|byte| small(byte, &other).unwrap()).collect();
        assert!(ours.iter().zip(0..).all(|(tensor, byte)| tensor.to_vec::<u8>().unwrap() == [byte; 4096]));
        assert!(!harness::is_captured(other.as_raw()));
        assert_eq!(harness::end_capture(captured.as_raw()), 0, "nothing broke it off");
        let nines = filled(3, 9).to_device_on(&device, &other).unwrap();
        assert_eq!(nines.device_address(), Some(at), "the block is used again");
        other.synchronize().unwrap();
        assert!(out.to_vec::<u8>().unwrap() == vec![1; 3 * MIB]);
        drop((out, nines, elsewhere, ours, captured, other));
        nothing_is_left();
    });
}

#[test]
fn a_stream_that_is_dropped_amid_its_capture_is_waited_for_later() {
    in_soft_modes("a_stream_that_is_dropped_amid_its_capture_is_waited_for_later", &[EAGER, LAZY], || {
        let device = Device::cuda(0).unwrap();
        let captured = cuda::Stream::new(&device).unwrap();
        let handle = captured.as_raw();
        drop(filled(3, 1).to_device_on(&device, &captured).unwrap());
        harness::begin_capture(handle);
        drop(captured);
        gc::collect().unwrap();
        assert_ne!(cuda::MemoryPool::stats(0).unwrap().pool.reserved_bytes, 0, "what it wrote to stays");
        assert_eq!(harness::end_capture(handle), 0, "nothing broke it off");
        nothing_is_left();
    });
}

#[test]
fn a_buffer_that_a_captured_stream_uses_is_as_usable_afterwards() {
    use cudarc::driver::{CudaContext, DevicePtr};
    use democratising::cuda::DeviceBuf;
    in_soft_modes("a_buffer_that_a_captured_stream_uses_is_as_usable_afterwards", ALL, || {
        Device::cuda(0).unwrap();
        let context = CudaContext::new(0).unwrap();
        let [own, captured] = [(); 2].map(|()| context.new_stream().unwrap());
        let buf = DeviceBuf::from_slice(&own, &[6u8; 5000]).unwrap();
        let handle = captured.cu_stream() as usize;
        harness::begin_capture(handle);
        let (at, until) = buf.device_ptr(&captured);
        harness::fill(at, 7, 5000, handle);
        drop(until);
        assert_eq!(harness::end_capture(handle), 0, "nothing broke it off");
        context.check_err().unwrap();
        assert!(buf.to_vec().unwrap() == [6; 5000], "the graph was not launched");
        assert!(!harness::is_captured(own.cu_stream() as usize));
        drop((buf, own, captured, context));
        nothing_is_left();
    });
}
