//! Devices that fail: a call of the driver, any of them; the device itself; a process that was forked.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "common/fork.rs"]
mod fork;
#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;
#[path = "softcuda/round.rs"]
mod round;

use democratising::{DemoError, Device, Tensor, cuda, gc};
use harness::{EAGER, LAZY, Mode, RANGES, in_modes, in_soft_modes};
use left::nothing_is_left;
use round::a_round;

const MIB: usize = 1 << 20;

#[test]
fn any_call_of_the_driver_may_fail_once_and_nothing_is_lost() {
    const MODES: &[Mode] = &[EAGER, LAZY, RANGES];
    in_soft_modes("any_call_of_the_driver_may_fail_once_and_nothing_is_lost", MODES, || {
        // The first calls of all belong to the start, and are made to fail in children of their own below.
        a_round().unwrap();
        nothing_is_left();
        let settled = harness::held();
        let (mut failures, mut most_events, mut names) = (0, 0, std::collections::BTreeSet::new());
        for n in 1.. {
            harness::fail_in(n, if n % 3 == 0 { 2 } else { 999 });
            let result = std::panic::catch_unwind(a_round);
            let failed = harness::failed();
            harness::fail_in(0, 0);
            let Some(name) = failed else { break };
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    failures += 1;
                    let text = error.to_string();
                    assert!(text.contains("cuda:"), "{name}: {text}");
                }
                Err(_) => panic!("call {n}, {name}: a panic"),
            }
            names.insert(name.clone());
            cuda::set_memory_limit(0, u64::MAX).unwrap();
            gc::collect().unwrap();
            let held = harness::held();
            let kept =
                (held.handles, held.mappings, held.allocations, held.reservations, held.streams, held.pinned);
            let settled = (0, 0, 0, settled.reservations, settled.streams, 0);
            most_events = most_events.max(held.events);
            assert_eq!(kept, settled, "call {n}, {name}, leaves something behind: {held:?}");
            assert_eq!(harness::violations(), 0, "call {n}, {name}");
        }
        // Events are kept for the next time: as many as there ever were streams and uploads at once, however much failed.
        assert!(most_events <= settled.events + 4, "{most_events} of {}", settled.events);
        println!("# {failures} failures among the calls {names:?}");
        assert!(failures > 20 && names.len() > 12, "{failures} {names:?}");
        a_round().unwrap();
        nothing_is_left();
    });
}

#[test]
fn pinned_memory_is_not_lost_where_the_driver_refuses_to_wait_for_it() {
    in_soft_modes("pinned_memory_is_not_lost_where_the_driver_refuses_to_wait_for_it", &[LAZY], || {
        let device = Device::cuda(0).unwrap();
        let here = Tensor::new(&[40 * MIB], vec![7u8; 40 * MIB]).unwrap();
        let copy = || here.to_device(&device);
        drop(copy().unwrap());
        gc::collect().unwrap();
        let before = harness::calls();
        drop(copy().unwrap());
        let of_one = harness::calls() - before;
        gc::collect().unwrap();
        // What the second copies goes through waits for the first, when the first 12 of its pieces are queued.
        let name = (of_one + 120..of_one + 300).find_map(|n| {
            harness::fail_in(n, 999);
            let copies = copy().and_then(|first| Ok((first, copy()?)));
            let failed = harness::failed();
            harness::fail_in(0, 0);
            drop(copies);
            gc::collect().unwrap();
            assert_eq!(harness::held().pinned, 0, "call {n}, {failed:?}");
            failed.filter(|name| name == "cuEventSynchronize")
        });
        assert!(name.is_some(), "nobody was waited for");
        assert_eq!(harness::violations(), 0);
        nothing_is_left();
    });
}

#[test]
fn a_driver_call_that_fails_at_the_start_is_an_error_and_can_be_tried_again() {
    in_modes(
        "a_driver_call_that_fails_at_the_start_is_an_error_and_can_be_tried_again",
        &[EAGER, RANGES],
        || {
            for n in 1..40 {
                harness::fail_in(n, 999);
                let first = Device::cuda(0);
                let failed = harness::failed();
                harness::fail_in(0, 0);
                match (first, failed) {
                    (Err(error), Some(name)) => {
                        let text = error.to_string();
                        assert!(text.contains("cuda:0"), "{name}: {text}");
                    }
                    (Ok(_), _) => {
                        println!("# {} calls could fail", n - 1);
                        assert!(n > 3);
                        let tensor = Tensor::zeros_on(&[1000], &Device::cuda(0).unwrap()).unwrap();
                        assert_eq!(tensor.to_vec::<f32>().unwrap(), [0.0; 1000]);
                        return;
                    }
                    (Err(error), None) => panic!("{n}: {error}"),
                }
            }
            panic!("the device never came");
        },
    );
}

#[test]
fn a_lost_device_is_an_error_that_says_which() {
    in_soft_modes("a_lost_device_is_an_error_that_says_which", &[EAGER, LAZY], || {
        let devices = Device::cuda_all().unwrap();
        let held = Tensor::zeros_on(&[MIB], &devices[0]).unwrap();
        let fine = Tensor::zeros_on(&[MIB], &devices[1]).unwrap();
        harness::lose(0, true);
        let errors = [
            Tensor::zeros_on(&[20 * MIB], &devices[0]).map(drop),
            held.to_vec::<f32>().map(drop),
            cuda::get_memory_info(0).map(drop),
            held.to_device(&devices[1]).map(drop),
        ];
        for error in errors {
            let error = error.unwrap_err();
            let calls = harness::calls();
            let text = format!("{error} {error:?}");
            assert_eq!(harness::calls(), calls, "formatting asks the driver nothing");
            assert!(text.contains("cuda:0") && text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{text}");
        }
        drop(held);
        gc::collect().unwrap();
        assert_eq!(fine.to_vec::<f32>().unwrap().len(), MIB, "the other device works on");
    });
}

#[test]
fn a_forked_process_is_told_so() {
    in_modes("a_forked_process_is_told_so", &[EAGER, LAZY], || {
        let device = Device::cuda(0).unwrap();
        let tensor = Tensor::new(&[3], vec![1.0f32, 2.0, 3.0]).unwrap().to_device(&device).unwrap();
        let theirs = Tensor::zeros_on(&[3], &device).unwrap();
        let calls = harness::calls();
        let ended = fork::in_child(|| {
            let errors = [
                Device::cuda(0).map(drop),
                Device::cuda_all().map(drop),
                tensor.to_vec::<f32>().map(drop),
                Tensor::zeros_on(&[1000], &device).map(drop),
                cuda::get_memory_info(0).map(drop),
                cuda::set_memory_limit(0, 5).map(drop),
            ];
            let told = errors.iter().all(|error| {
                error.as_ref().is_err_and(|error| {
                    error.to_string().contains("forked") && error.to_string().contains("cuda:0")
                })
            });
            drop(theirs);
            let _ = gc::collect();
            told && harness::calls() == calls
        });
        assert_eq!(ended, fork::RIGHT, "the child was not told");
        assert_eq!(tensor.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0], "the parent works on");
    });
}

#[test]
fn a_fork_waits_for_no_thread_of_its_parent() {
    in_modes("a_fork_waits_for_no_thread_of_its_parent", &[EAGER], || {
        let device = Device::cuda(0).unwrap();
        let streams = [(); 3].map(|()| cuda::Stream::new(&device).unwrap());
        let tensor = || Tensor::zeros_on(&[1000], &device).unwrap();
        let used = tensor();
        used.used_on(&streams[0]).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Holds the order of streams nearly all the time.
            scope.spawn(|| {
                let busy = tensor();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    busy.used_on(&streams[0]).unwrap();
                    busy.used_on(&streams[1]).unwrap();
                }
            });
            for round in 0..20 {
                let own = cuda::Stream::new(&device).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
                let ended = fork::in_child(|| {
                    let told = [used.to_vec::<f32>().map(drop), used.used_on(&streams[2]), own.synchronize()];
                    told.iter().all(|told| told.as_ref().is_err_and(|why| why.to_string().contains("forked")))
                });
                if ended != fork::RIGHT {
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                assert_eq!(ended, fork::RIGHT, "round {round}");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn a_fork_waits_for_no_thread_that_starts_the_driver() {
    const SLOW: Mode = Mode("slow", &[("SOFTCUDA_CALL_NS", "100000000")]);
    in_modes("a_fork_waits_for_no_thread_that_starts_the_driver", &[SLOW], || {
        let begun = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begun.wait();
                Device::cuda(0).unwrap();
            });
            begun.wait();
            std::thread::sleep(std::time::Duration::from_millis(100));
            let ended =
                fork::in_child(|| Device::cuda(0).is_err_and(|why| why.to_string().contains("forked")));
            assert_eq!(ended, fork::RIGHT);
        });
    });
}

#[test]
fn as_many_buffers_as_fit_share_one_stream_of_cudarcs() {
    use cudarc::driver::CudaContext;
    use democratising::cuda::DeviceBuf;
    in_modes("as_many_buffers_as_fit_share_one_stream_of_cudarcs", &[EAGER, LAZY], || {
        Device::cuda(0).unwrap();
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let buffers: Vec<_> =
            (0..1000u32).map(|i| DeviceBuf::from_slice(&stream, &[i; 300]).unwrap()).collect();
        for (i, buffer) in buffers.iter().enumerate() {
            assert_eq!(buffer.to_vec().unwrap(), [i as u32; 300]);
        }
        drop((buffers, stream));
        nothing_is_left();
    });
}

#[test]
fn the_stream_that_is_another_in_each_thread_is_refused() {
    in_modes("the_stream_that_is_another_in_each_thread_is_refused", &[EAGER], || {
        // SAFETY: 1. Nothing is queued on it: it is refused.
        let error = unsafe { cuda::raw::allocate(1000, 0, 2) }.unwrap_err();
        assert!(error.to_string().contains("CU_STREAM_PER_THREAD"), "{error}");
    });
}

#[test]
fn a_second_free_is_refused_on_whichever_stream_and_counts_for_nobody() {
    in_modes("a_second_free_is_refused_on_whichever_stream_and_counts_for_nobody", &[EAGER, RANGES], || {
        use democratising::error::BadFree;
        let device = Device::cuda(0).unwrap();
        let other = cuda::Stream::new(&device).unwrap();
        for bytes in [1000, 1 << 20] {
            for second in [0, other.as_raw()] {
                // SAFETY: 1. The default stream, and one that lives until all is free. 2. Nobody works on the block.
                unsafe {
                    let at = cuda::raw::allocate(bytes, 0, 0).unwrap();
                    let error = cuda::raw::free(at, bytes * 3, 0, 0).unwrap_err();
                    assert!(matches!(error, DemoError::BadFree(BadFree::WrongSize { .. })), "{error}");
                    assert!(matches!(cuda::raw::free(at, bytes, 1, 0), Err(DemoError::BadFree(_))));
                    cuda::raw::free(at, bytes, 0, 0).unwrap();
                    let error = cuda::raw::free(at, bytes, 0, second).unwrap_err();
                    assert!(matches!(error, DemoError::BadFree(BadFree::AlreadyFree { .. })), "{error}");
                }
            }
        }
        // A tensor's memory is its own to give back.
        let tensor = Tensor::zeros_on(&[100], &device).unwrap();
        // SAFETY: 1. and 2. As above.
        let error = unsafe { cuda::raw::free(tensor.device_address().unwrap(), 400, 0, 0) }.unwrap_err();
        assert!(matches!(error, DemoError::BadFree(BadFree::Foreign)), "{error}");
        assert_eq!(tensor.to_vec::<f32>().unwrap(), [0.0; 100]);
        drop(tensor);
        let stats = cuda::MemoryPool::stats(0).unwrap();
        assert!(stats.streams.iter().all(|stream| stream.in_use_bytes == 0), "{stats:?}");
        nothing_is_left();
    });
}
