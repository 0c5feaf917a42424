//! Tensors on a device that give way to the host, and from there to a file.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/bytes.rs"]
mod bytes;
#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;

use bytes::pattern;
use democratising::fs::{Evictable, Kept};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DType, DemoError, Device, Tensor, cuda, gc};
use harness::{EAGER, LAZY_POISON, RANGES, in_modes};
use left::nothing_is_left;

const MIB: usize = 1 << 20;

fn elements(seed: usize) -> Vec<u8> {
    pattern(4 * MIB, seed)
}

#[test]
fn a_device_holds_more_than_it_has_by_way_of_the_host_and_of_files() {
    in_modes(
        "a_device_holds_more_than_it_has_by_way_of_the_host_and_of_files",
        &[EAGER, LAZY_POISON],
        || {
            let device = Device::cuda(0).unwrap();
            cuda::set_memory_limit(0, 12 << 20).unwrap();
            let scope = Scope::process().child("layers");
            // Two on the host beside those on the device, and room for the copy on its way.
            scope.set_limit(Kind::HostBytes, 12 << 20);
            let layers: Vec<Evictable> = (0..8)
                .map(|i| {
                    scope.run(|| {
                        let here = Tensor::new(&[4 * MIB], elements(i)).unwrap();
                        here.to_device(&device).unwrap().evictable(format!("layer {i}"))
                    })
                })
                .collect();
            let kept = |what: Kept| layers.iter().filter(|layer| layer.kept() == what).count();
            assert!(kept(Kept::InPlace) >= 2 && kept(Kept::Host) + kept(Kept::File) >= 5, "{layers:?}");
            for round in 0..2 {
                for i in (0..8).map(|i| (i * 3 + round) % 8) {
                    let there = layers[i].get().unwrap();
                    assert_eq!(there.device(), &device);
                    assert!(there.to_vec::<u8>().unwrap() == elements(i), "layer {i}");
                    assert!(cuda::get_memory_info(0).unwrap().reserved <= 12 << 20);
                }
            }
            assert!(scope.peak(Kind::HostBytes) <= 12 << 20);
            // All that fit are in hand: a request is refused, and nothing is lost.
            let held: Vec<Tensor> = (0..2).map(|i| layers[i].get().unwrap()).collect();
            let third = layers[2].get();
            let fourth = layers[3].get();
            let refused = [third, fourth].into_iter().filter_map(Result::err).next().unwrap();
            assert!(matches!(refused, DemoError::OutOfMemory(_)), "{refused}");
            drop(held);
            for (i, layer) in layers.into_iter().enumerate() {
                assert!(layer.into_tensor().unwrap().to_vec::<u8>().unwrap() == elements(i));
            }
            gc::collect().unwrap();
            assert!(scope.end().is_nothing());
            cuda::set_memory_limit(0, u64::MAX).unwrap();
            nothing_is_left();
        },
    );
}

#[test]
fn a_request_that_one_device_has_no_room_for_takes_nothing_from_another() {
    in_modes(
        "a_request_that_one_device_has_no_room_for_takes_nothing_from_another",
        &[EAGER, RANGES],
        || {
            if Device::cuda_all().unwrap().len() < 2 {
                return;
            }
            let (full, other) = (Device::cuda(0).unwrap(), Device::cuda(1).unwrap());
            let on = |mib: usize, device: &Device| Tensor::zeros_with(&[mib * MIB], DType::U8, device);
            let theirs = on(8, &other).unwrap().evictable("theirs");
            drop(on(128, &other).unwrap());
            let reserved = || cuda::get_memory_info(1).unwrap().reserved;
            let before = reserved();
            cuda::set_memory_limit(0, 96 << 20).unwrap();
            let ours = on(30, &full).unwrap().evictable("ours");
            let held = on(60, &full).unwrap();
            let roomy = on(32, &full).unwrap();
            assert_eq!(ours.kept(), Kept::Host, "what is on the device itself makes room");
            let refused = on(60, &full).unwrap_err();
            assert!(matches!(refused, DemoError::OutOfMemory(_)), "{refused}");
            assert_eq!((theirs.kept(), reserved()), (Kept::InPlace, before), "the other device is as it was");
            cuda::set_memory_limit(0, u64::MAX).unwrap();
            drop((ours, theirs, held, roomy));
            nothing_is_left();
        },
    );
}
