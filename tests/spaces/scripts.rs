//! The script over every space.

use crate::failing::Failing;
use crate::pools::{MAPPED, config, mapped, pool, simulated};
use crate::script::{Step, run, script};
use democratising::SpinLock;
use democratising::arena::{Arena, Borrowed, ByFit, ByTree, IndexKind, Unframed};
use democratising::pool::{Pool, PoolConfig};
use democratising::space::{Fixed, Geometry, Mapped, Simulated, WithIndex};
use proptest::prelude::*;
use std::mem::MaybeUninit;

/// Runs a script on a fixed array, whose tables are carved from exactly the bytes that they are said to need.
fn run_carved<I: IndexKind>(bytes: &mut [MaybeUninit<u8>], script: &[Step]) {
    let space = WithIndex::<_, I>::new(Fixed::new(bytes));
    let needed = Arena::<WithIndex<Fixed, I>, Borrowed>::metadata_bytes(&space) as usize;
    let mut tables = Box::<[u8]>::new_uninit_slice(needed + 8);
    let pool = Pool::<_, SpinLock, _>::new(space, Borrowed::new(&mut tables), PoolConfig::DEFAULT).unwrap();
    run(&pool, script);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 96 }, ..ProptestConfig::default() })]

    #[test]
    fn the_script_holds_on_simulated_device_memory(script in script(64 << 20), config in config()) {
        run(&simulated::<ByTree>(config), &script);
        run(&simulated::<ByFit>(config), &script);
    }

    #[test]
    fn the_script_holds_on_mapped_host_memory(script in script(24 << 20), config in config()) {
        run(&mapped::<ByTree>(config), &script);
        run(&mapped::<ByFit>(config), &script);
    }

    #[test]
    fn the_script_holds_on_a_fixed_array_of_any_size_and_start(
        script in script(128 << 10), len in 0usize..512 << 10, skip in 0usize..5000,
    ) {
        let mut bytes = Box::<[u8]>::new_uninit_slice(len + skip);
        run_carved::<ByTree>(&mut bytes[skip..], &script);
        run_carved::<ByFit<Unframed>>(&mut bytes[skip..], &script);
    }

    #[test]
    fn the_script_holds_on_a_fixed_array_counted_like_the_host(script in script(1 << 20), skip in 0usize..70_000) {
        let geometry = Geometry::spans(4 << 10).slabs(16 << 10, 16);
        let mut bytes = Box::<[u8]>::new_uninit_slice((4 << 20) + skip);
        let config = PoolConfig::DEFAULT;
        run(&pool::<_, ByTree>(Fixed::with_geometry(&mut bytes[skip..], geometry), config), &script);
        run(&pool::<_, ByFit>(Fixed::with_geometry(&mut bytes[skip..], geometry), config), &script);
        run(&pool::<_, ByFit<Unframed>>(Fixed::with_geometry(&mut bytes[skip..], geometry), config), &script);
    }

    #[test]
    fn running_out_at_any_commit_rolls_back_and_loses_nothing(
        script in script(24 << 20), fail_in in 1u32..60, for_good in any::<bool>(), config in config(),
    ) {
        let mapped = || Failing::new(Mapped::reserve(MAPPED).unwrap(), fail_in, for_good);
        run(&pool::<_, ByTree>(mapped(), config), &script);
        run(&pool::<_, ByFit>(mapped(), config), &script);
        let device = || Simulated::device(MAPPED as u64, 2 << 20);
        let simulated = || Failing::new(device(), fail_in, for_good);
        run(&pool::<_, ByTree>(simulated(), config), &script);
        run(&pool::<_, ByFit>(simulated(), config), &script);
    }
}

/// The same script on a device's memory: the driver really maps, moves and unmaps.
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[test]
fn the_script_holds_on_cuda_device_memory() {
    use crate::harness;
    use democratising::{Device, cuda::CudaSpace};
    use proptest::test_runner::TestRunner;

    let modes = [harness::EAGER, harness::POISON];
    harness::in_modes("scripts::the_script_holds_on_cuda_device_memory", &modes, || {
        let device = Device::cuda(0).unwrap();
        let before = harness::is_soft().then(harness::held);
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let scripts = (script(64 << 20), config(), 0u64..200);
        runner
            .run(&scripts, |(script, config, fail_in)| {
                let space = || CudaSpace::reserve(&device, MAPPED as u64).unwrap();
                run(&pool::<_, ByTree>(space(), config), &script);
                run(&pool::<_, ByFit>(space(), config), &script);
                if before.is_some() {
                    // Any call of the driver fails once on the way.
                    let space = space();
                    harness::fail_in(fail_in, 2);
                    run(&pool::<_, ByTree>(space, config), &script);
                    harness::fail_in(0, 0);
                    assert_eq!(
                        Some(harness::held()),
                        before,
                        "a space gives everything back when it is dropped"
                    );
                }
                Ok(())
            })
            .unwrap();
    });
}
