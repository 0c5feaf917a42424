//! Tensors on devices: there and back, as views, shown, compared, saved and loaded, by little memory of the host.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/bytes.rs"]
mod bytes;
#[path = "softcuda/harness.rs"]
mod harness;
#[path = "softcuda/left.rs"]
mod left;

use bytes::pattern;
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DType, DemoError, Device, DeviceId, Tensor, cuda};
use harness::{ALL, EAGER, LAZY, RANGES, in_modes};
use left::nothing_is_left;

const MIB: usize = 1 << 20;

#[test]
fn what_a_device_refuses_leaves_no_mark_on_a_scope_that_never_held_it() {
    in_modes("what_a_device_refuses_leaves_no_mark_on_a_scope_that_never_held_it", ALL, || {
        let device = Device::cuda(0).unwrap();
        cuda::set_memory_limit(0, 64 << 20).unwrap();
        let scope = Scope::new("refused");
        let held = scope.run(|| Tensor::zeros_on(&[8 * MIB], &device)).unwrap();
        for bytes in [33 * MIB, 80 * MIB] {
            let error = scope.run(|| Tensor::zeros_on(&[bytes / 4], &device)).unwrap_err();
            assert!(
                matches!(&error, DemoError::OutOfMemory(report) if report.device == DeviceId::Cuda(0)),
                "{error}"
            );
        }
        assert_eq!(scope.peak(Kind::DeviceBytes), 32 << 20);
        drop(held);
        assert!(scope.end().is_nothing());
        cuda::set_memory_limit(0, u64::MAX).unwrap();
        nothing_is_left();
    });
}

#[test]
fn tensors_go_there_and_back_and_keep_their_elements() {
    in_modes("tensors_go_there_and_back_and_keep_their_elements", ALL, || {
        let device = Device::cuda(0).unwrap();
        for bytes in [0, 1, 64, 65, 511, 40_000, 70_000, 2 * MIB - 1, 5 * MIB + 3, 100 * MIB] {
            let elements = pattern(bytes, 1);
            let here = Tensor::new(&[bytes], elements.clone()).unwrap();
            let there = here.to_device(&device).unwrap();
            drop(here);
            assert_eq!((there.device(), there.dtype(), there.shape()), (&device, DType::U8, &[bytes][..]));
            let back = there.to_device(&Device::host()).unwrap();
            drop(there);
            assert!(back.as_slice::<u8>().unwrap() == elements, "{bytes} bytes");
        }
        let zeros = Tensor::zeros_on(&[300, 1000], &device).unwrap();
        assert!(zeros.to_vec::<f32>().unwrap().iter().all(|&x| x == 0.0));
        assert_eq!(zeros.to_device(&device).unwrap().device_address(), zeros.device_address(), "shared");
        drop(zeros);
        nothing_is_left();
    });
}

#[test]
fn a_view_is_the_same_view_on_a_device() {
    in_modes("a_view_is_the_same_view_on_a_device", ALL, || {
        let device = Device::cuda(0).unwrap();
        let here = Tensor::new(&[3, 40], (0..120).collect::<Vec<i32>>()).unwrap();
        let there = here.to_device(&device).unwrap();
        let (turned, narrow) = (there.transpose(0, 1).unwrap(), there.narrow(0, 1, 2).unwrap());
        assert_eq!(turned, here.transpose(0, 1).unwrap());
        assert_eq!(narrow.to_vec::<i32>().unwrap(), (40..120).collect::<Vec<i32>>());
        assert_eq!(narrow.device_address(), there.device_address().map(|at| at + 160));
        // What of it lies together goes alone, within the device and to another.
        let taken = || [0, 1].map(|ordinal| cuda::MemoryPool::stats(ordinal).unwrap().pool.in_use_bytes);
        let large = Tensor::new(&[64, MIB], vec![3u8; 64 * MIB]).unwrap().to_device(&device).unwrap();
        let row = large.narrow(0, 9, 1).unwrap();
        let before = taken();
        let stream = cuda::Stream::new(&device).unwrap();
        let near = row.to_device_on(&device, &stream).unwrap();
        let far = row.to_device(&Device::cuda(1).unwrap()).unwrap();
        assert_eq!(
            taken().map(|bytes| bytes / MIB as u64),
            [before[0] / MIB as u64 + 1, before[1] / MIB as u64 + 1]
        );
        assert!(near == row && far == row && near.shape() == [1, MIB]);
        drop((large, row, near, far));
        let copy = turned.contiguous().unwrap();
        assert_eq!((copy.device(), copy.is_contiguous()), (&device, true));
        assert_eq!(copy, turned);
        assert_eq!(here.transpose(0, 1).unwrap().to_device(&device).unwrap(), turned);
        let error = there.as_slice::<i32>().unwrap_err();
        let held = DeviceId::Cuda(0);
        assert!(
            matches!(error, DemoError::WrongDevice { held: at, needed: DeviceId::Host, .. } if at == held),
            "{error}"
        );
        assert!(
            there.to_string().contains("119") && there.to_string().ends_with("Tensor[[3, 40], I32, cuda:0]")
        );
    });
}

#[test]
fn tensors_go_from_device_to_device_while_their_sources_are_dropped() {
    in_modes("tensors_go_from_device_to_device_while_their_sources_are_dropped", ALL, || {
        let devices = Device::cuda_all().unwrap();
        let other = devices.last().unwrap();
        for round in 0..6 {
            let elements = pattern(3 * MIB + round, round);
            let first =
                Tensor::new(&[elements.len()], elements.clone()).unwrap().to_device(&devices[0]).unwrap();
            let second = first.to_device(other).unwrap();
            drop(first);
            // Takes the place of the first, and would be in the copy if that had not waited.
            let overwriting = Tensor::zeros_with(&[elements.len()], DType::U8, &devices[0]).unwrap();
            let third = second.to_device(&devices[0]).unwrap();
            drop(second);
            drop(overwriting);
            assert!(third.to_vec::<u8>().unwrap() == elements, "round {round}");
        }
        nothing_is_left();
    });
}

#[test]
fn a_tensor_on_a_device_is_shown_like_one_on_the_host_without_a_copy_of_it() {
    use democratising::pool::budget::scope::{Kind, Scope};
    in_modes("a_tensor_on_a_device_is_shown_like_one_on_the_host_without_a_copy_of_it", ALL, || {
        let device = Device::cuda(0).unwrap();
        let here = Tensor::new(&[400, 3000], (0..1_200_000).collect::<Vec<i32>>()).unwrap();
        let there = here.to_device(&device).unwrap();
        let shapes: [fn(&Tensor) -> Tensor; 5] = [
            |all| all.clone(),
            |all| all.transpose(0, 1).unwrap(),
            |all| all.narrow(1, 2345, 1).unwrap(),
            |all| all.reshape(&[10, 40, 30, 100]).unwrap(),
            |all| all.narrow(0, 7, 0).unwrap(),
        ];
        let scope = Scope::process().child("shown");
        scope.set_limit(Kind::HostBytes, 1 << 20);
        for view in shapes {
            let text = scope.run(|| view(&there).to_string());
            assert_eq!(text, view(&here).to_string().replace("I32]", "I32, cuda:0]"));
        }
        assert!(scope.peak(Kind::HostBytes) < 256 << 10, "{}", scope.peak(Kind::HostBytes));
        // Nor is there one beside a vector of its elements.
        scope.set_limit(Kind::HostBytes, 3 << 20);
        assert!(scope.run(|| there.to_vec::<i32>()).unwrap() == here.to_vec::<i32>().unwrap());
        let error = there.to_vec::<f32>().unwrap_err();
        assert!(matches!(error, DemoError::DTypeMismatch { .. }), "{error}");
        drop(there);
        nothing_is_left();
    });
}

#[test]
fn a_checkpoint_is_saved_from_a_device_and_loaded_to_it_by_little_memory_of_the_host() {
    use democratising::fs::ModelCheckpoint;
    use democratising::pool::budget::scope::{Kind, Scope};
    const NAME: &str = "a_checkpoint_is_saved_from_a_device_and_loaded_to_it_by_little_memory_of_the_host";
    in_modes(NAME, &[LAZY], || {
        let device = Device::cuda(0).unwrap();
        let elements: Vec<_> = (0..3).map(|seed| pattern(45 * MIB + seed, seed)).collect();
        let on_device = |bytes: &Vec<u8>| Tensor::new(&[bytes.len()], &bytes[..])?.to_device(&device);
        let tensors: Vec<_> = elements.iter().map(|bytes| on_device(bytes).unwrap()).collect();
        let flags = Tensor::new(&[3], [true, false, true]).unwrap().to_device(&device).unwrap();
        let folder = democratising::tempfile::tempdir().unwrap();
        let path = folder.path().join("layers.safetensors");
        let scope = Scope::process().child("on the way");
        scope.set_limit(Kind::HostBytes, 4 << 20);
        scope
            .run(|| {
                let mut writer = ModelCheckpoint::create(&path)?.add("flags", &flags)?;
                for (name, tensor) in ["a", "b", "c"].iter().zip(&tensors) {
                    writer = writer.add(*name, tensor)?;
                }
                writer.commit()
            })
            .unwrap();
        drop(tensors);
        // Two of the three at once, where each of them alone would do.
        scope.set_limit(Kind::HostBytes, 100 << 20);
        let loaded = scope.run(|| ModelCheckpoint::load(&path)?.load_to(&device)).unwrap();
        assert_eq!(loaded.len(), 4);
        assert_eq!(loaded["flags"], flags);
        for (name, bytes) in ["a", "b", "c"].iter().zip(&elements) {
            assert_eq!(loaded[*name].device(), &device);
            assert!(loaded[*name].to_vec::<u8>().unwrap() == *bytes, "{name}");
        }
        drop((loaded, flags));
        nothing_is_left();
    });
}

#[test]
fn a_byte_that_is_no_bool_is_told_by_its_place_in_the_tensor_whatever_reads_it() {
    use democratising::fs::ModelCheckpoint;
    in_modes(
        "a_byte_that_is_no_bool_is_told_by_its_place_in_the_tensor_whatever_reads_it",
        &[EAGER, RANGES],
        || {
            const AT: usize = 5 * MIB / 2;
            let device = Device::cuda(0).unwrap();
            let stream = cuda::Stream::new(&device).unwrap();
            let all = Tensor::zeros_with(&[3 * MIB + 100], DType::Bool, &device).unwrap();
            all.used_on(&stream).unwrap();
            let flags = all.narrow(0, 100, 3 * MIB).unwrap();
            harness::fill(flags.device_address().unwrap() + AT as u64, 7, 1, stream.as_raw());
            stream.synchronize().unwrap();
            let folder = democratising::tempfile::tempdir().unwrap();
            let saved =
                || ModelCheckpoint::create(folder.path().join("flags"))?.add("flags", &flags)?.commit();
            for error in
                [flags.to_vec::<bool>().map(drop), flags.to_device(&Device::host()).map(drop), saved()]
            {
                let error = error.unwrap_err().to_string();
                assert!(error.contains(&format!("element {AT}:")) && error.contains("not 7"), "{error}");
            }
            // Of a view that lies apart by its place in the memory that it is a view of, and only where it shows the byte.
            let rows = all.narrow(0, 0, 3 * MIB).unwrap().reshape(&[3, MIB]).unwrap();
            let (row, column) = ((AT + 100) / MIB, (AT + 100) % MIB);
            let columns = |from| rows.narrow(1, from, 1)?.to_vec::<bool>();
            let error = columns(column).unwrap_err().to_string();
            assert!(row == 2 && error.contains(&format!("element {}:", AT + 100)), "{error}");
            assert_eq!(columns(column + 1).unwrap(), [false; 3]);
            assert_eq!(columns(column - 1).unwrap(), [false; 3]);
            drop((all, flags, rows, stream));
            nothing_is_left();
        },
    );
}

#[test]
fn of_a_view_that_lies_apart_on_a_device_little_is_copied_that_it_does_not_show() {
    use democratising::pool::budget::scope::{Kind, Scope};
    const NAME: &str = "of_a_view_that_lies_apart_on_a_device_little_is_copied_that_it_does_not_show";
    in_modes(NAME, &[LAZY], || {
        let device = Device::cuda(0).unwrap();
        let here = Tensor::new(&[300, 40_000], (0..12_000_000).collect::<Vec<i32>>()).unwrap();
        let there = here.to_device(&device).unwrap();
        let scope = Scope::process().child("shown");
        scope.set_limit(Kind::HostBytes, 1 << 20);
        let views: [fn(&Tensor) -> democratising::Result<Tensor>; 4] = [
            |all| all.narrow(1, 39_990, 3),
            |all| all.transpose(0, 1)?.narrow(0, 20_000, 100),
            |all| all.narrow(0, 17, 2)?.transpose(0, 1),
            |all| all.reshape(&[300, 400, 100])?.narrow(1, 7, 1)?.permute(&[2, 0, 1]),
        ];
        for view in views {
            let (here, there) = (view(&here).unwrap(), view(&there).unwrap());
            assert!(scope.run(|| there.to_vec::<i32>()).unwrap() == here.to_vec::<i32>().unwrap());
            let equal = scope.run(|| [there == here, here == there, there == there.clone()]);
            assert_eq!(equal, [true; 3]);
        }
        // Of what lies together a piece of each side at once.
        scope.set_limit(Kind::HostBytes, 5 << 20);
        assert_eq!(scope.run(|| [there == here, here == there, there == there.clone()]), [true; 3]);
        // Nor on another device.
        let taken = || cuda::MemoryPool::stats(1).unwrap().pool.in_use_bytes;
        let (before, far) = (taken(), Device::cuda(1).unwrap());
        let copy = there.narrow(0, 17, 2).unwrap().transpose(0, 1).unwrap().to_device(&far).unwrap();
        assert!((320_000..340_000).contains(&(taken() - before)), "{}", taken() - before);
        assert!(copy == here.narrow(0, 17, 2).unwrap().transpose(0, 1).unwrap());
        drop((there, copy));
        nothing_is_left();
    });
}

#[test]
fn any_view_on_a_device_comes_to_the_host_with_its_elements() {
    in_modes("any_view_on_a_device_comes_to_the_host_with_its_elements", &[EAGER], || {
        let device = Device::cuda(0).unwrap();
        // Rows of 160 KB, and groups of seven of them: less and more apart than what is read along, and more than is read at once.
        let lengths = [5, 7, 40_000];
        let here = Tensor::new(&lengths, (0..1_400_000).collect::<Vec<i32>>()).unwrap();
        let there = here.to_device(&device).unwrap();
        let mut state = 1u64;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        };
        for round in 0..60 {
            let mut parts = [(0, 0); 3];
            for (part, length) in parts.iter_mut().zip(lengths) {
                let start = below(length);
                // Few of the last dimension now and then, and none of any.
                *part = (
                    start,
                    if round % 3 == 0 { below(3).min(length - start) } else { below(length - start + 1) },
                );
            }
            let mut order = [0, 1, 2];
            order.swap(0, below(3));
            order.swap(1, 1 + below(2));
            let view = |all: &Tensor| {
                let narrow =
                    |all: Tensor, (axis, part): (usize, &(usize, usize))| all.narrow(axis, part.0, part.1);
                parts.iter().enumerate().try_fold(all.clone(), narrow)?.permute(&order)
            };
            let (here, there) = (view(&here).unwrap(), view(&there).unwrap());
            let copy = there.to_device(&Device::host()).unwrap();
            assert_eq!(copy.shape(), here.shape());
            assert!(copy == here, "{parts:?} {order:?}");
            assert!(there.to_vec::<i32>().unwrap() == here.to_vec::<i32>().unwrap(), "{parts:?} {order:?}");
        }
        drop(there);
        nothing_is_left();
    });
}
