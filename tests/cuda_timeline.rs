//! What the memory timeline records of devices, on the software driver in every mode.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;

use democratising::pool::budget::scope::Scope;
use democratising::timeline::{self, Action, Options, Place};
use democratising::{DType, Device, Tensor, cuda};
use harness::{ALL, in_modes};
use left::nothing_is_left;
use std::collections::HashMap;

#[test]
fn blocks_of_devices_are_recorded_with_stream_scope_and_what_is_reserved() {
    in_modes("blocks_of_devices_are_recorded_with_stream_scope_and_what_is_reserved", ALL, || {
        let devices = [Device::cuda(0).unwrap(), Device::cuda(1).unwrap()];
        let stream = cuda::Stream::new(&devices[1]).unwrap();
        timeline::start(Options::new()).unwrap();
        let here = Tensor::zeros_with(&[5 << 20], DType::U8, &Device::host()).unwrap();
        let step = Scope::new("step");
        let there = step.run(|| here.to_device(&devices[0]).unwrap());
        let far = step.run(|| here.to_device_on(&devices[1], &stream).unwrap());
        for _ in 0..50 {
            drop(Tensor::zeros_on(&[100], &devices[0]).unwrap());
        }
        assert!(Tensor::zeros_on(&[1 << 40], &devices[0]).is_err());
        let addresses = [there.device_address().unwrap(), far.device_address().unwrap()];
        drop((there, far));
        let timeline = timeline::stop().unwrap();

        for (ordinal, address) in addresses.iter().enumerate() {
            let place = Place::Cuda(ordinal as u8);
            let mut live = HashMap::new();
            let (mut reserved, mut most) = (0, 0);
            for event in timeline.events().iter().filter(|event| event.place == place) {
                match event.action {
                    Action::Allocate => {
                        assert_eq!(live.insert(event.address, event.more), None, "{event:?}");
                        assert!(event.more >= event.bytes && event.bytes > 0);
                    }
                    Action::Free => assert_eq!(live.remove(&event.address), Some(event.more), "{event:?}"),
                    Action::Reserve => (reserved, most) = (event.bytes, most.max(event.bytes)),
                    _ => {}
                }
                assert!(live.values().sum::<u64>() <= reserved, "{event:?}: {live:?} of {reserved}");
            }
            assert!(live.is_empty() && most >= 5 << 20, "{live:?}, {most}");
            let taken = timeline
                .events()
                .iter()
                .find(|event| {
                    event.place == place && event.bytes == 5 << 20 && event.action == Action::Allocate
                })
                .unwrap();
            assert_eq!((taken.address, timeline.name(taken.name)), (*address, "step"));
            assert_eq!(taken.stream == 0, ordinal == 0, "the default stream, and one of its own");
        }
        let failed = timeline.events().iter().find(|event| event.action == Action::OutOfMemory).unwrap();
        assert_eq!((failed.place, failed.bytes), (Place::Cuda(0), 4 << 40));
        timeline.write_pytorch(&mut Vec::new()).unwrap();
        timeline.write_chrome(&mut Vec::new()).unwrap();
        drop(here);
        nothing_is_left();
    });
}
