//! The way to a device through pinned memory, of which several streams share a little.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;

use democratising::{Device, Tensor, cuda};
use harness::{EAGER, LAZY, LAZY_POISON, Mode, in_modes, in_soft_modes};
use left::nothing_is_left;

const MIB: usize = 1 << 20;
/// Those in which nothing runs before somebody waits for it.
const LAZIES: &[Mode] = &[LAZY, LAZY_POISON];

fn filled(mib: usize, byte: u8) -> Tensor {
    Tensor::new(&[mib * MIB], vec![byte; mib * MIB]).unwrap()
}

fn waits() -> u64 {
    harness::calls_of("cuEventSynchronize") + harness::calls_of("cuStreamSynchronize")
}

#[test]
fn a_copy_that_is_over_makes_room_whosever_is_older() {
    in_soft_modes("a_copy_that_is_over_makes_room_whosever_is_older", LAZIES, || {
        let device = Device::cuda(0).unwrap();
        let (slow, quick) = (cuda::Stream::new(&device).unwrap(), cuda::Stream::new(&device).unwrap());
        let first = filled(62, 1).to_device_on(&device, &slow).unwrap();
        let mut copies = vec![filled(2, 2).to_device_on(&device, &quick).unwrap()];
        quick.synchronize().unwrap();
        let before = waits();
        copies.push(filled(2, 3).to_device_on(&device, &quick).unwrap());
        assert_eq!(waits(), before, "the piece of the first copy is there");
        assert!(harness::queued() > 31, "the slow stream has not run");
        for (copy, byte) in copies.iter().zip([2, 3]) {
            assert!(copy.to_vec::<u8>().unwrap() == vec![byte; 2 * MIB]);
        }
        assert!(first.to_vec::<u8>().unwrap() == vec![1; 62 * MIB]);
        drop((first, copies, slow, quick));
        nothing_is_left();
    });
}

#[test]
fn a_copy_waits_for_no_other_stream_even_where_that_has_all_pinned_memory() {
    in_soft_modes("a_copy_waits_for_no_other_stream_even_where_that_has_all_pinned_memory", LAZIES, || {
        let device = Device::cuda(0).unwrap();
        let (slow, quick) = (cuda::Stream::new(&device).unwrap(), cuda::Stream::new(&device).unwrap());
        let first = filled(64, 1).to_device_on(&device, &slow).unwrap();
        let before = harness::queued();
        let second = filled(5, 2).to_device_on(&device, &quick).unwrap();
        assert!(harness::queued() >= before && before > 32, "the slow stream has not run");
        assert!(second.to_vec::<u8>().unwrap() == vec![2; 5 * MIB]);
        assert!(first.to_vec::<u8>().unwrap() == vec![1; 64 * MIB]);
        drop((first, second, slow, quick));
        nothing_is_left();
    });
}

#[test]
fn threads_that_copy_at_once_share_what_is_pinned() {
    in_modes("threads_that_copy_at_once_share_what_is_pinned", &[EAGER, LAZY_POISON], || {
        let device = Device::cuda(0).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3u8 {
                let device = &device;
                scope.spawn(move || {
                    let stream = cuda::Stream::new(device).unwrap();
                    for round in 0..3 {
                        let byte = 10 * thread + round;
                        let there = filled(23, byte).to_device_on(device, &stream).unwrap();
                        assert!(there.to_vec::<u8>().unwrap() == vec![byte; 23 * MIB]);
                    }
                });
            }
        });
        nothing_is_left();
        if harness::is_soft() {
            assert_eq!(harness::held().pinned, 0);
        }
    });
}
