//! What tensors hold outside of themselves: charged while they live, given back when they go, and not told as held where it was refused.
#![cfg(feature = "std")]

#[path = "common/alone.rs"]
mod alone;

use democratising::fs::{ModelCheckpoint, temp_dir};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DemoError, Device, MemoryPool, Result, Tensor};

const ELEMENTS: usize = 2 << 20;
const BYTES: u64 = 4 * ELEMENTS as u64;

fn numbers() -> Result<Tensor> {
    Tensor::new(&[ELEMENTS], (0..ELEMENTS as u32).collect::<Vec<_>>())
}

#[test]
fn what_is_loaded_into_memory_is_charged_as_long_as_it_lives_and_a_load_that_fails_leaves_nothing()
-> Result<()> {
    let _alone = alone::alone();
    let directory = temp_dir()?;
    let path = directory.path().join("m.safetensors");
    ModelCheckpoint::create(&path)?.add("v", &numbers()?)?.add("w", &numbers()?)?.commit()?;
    let mut content = std::fs::read(&path)?;
    let scope = Scope::process().child("loads");
    let held = || (MemoryPool::stats().blocks, scope.used(Kind::HostBytes));
    let (blocks, _) = held();
    let load = || scope.run(|| ModelCheckpoint::load(&path)?.load_to(&Device::host()));
    for _ in 0..2 {
        let mut loaded = load()?;
        assert_eq!(held(), (blocks + 2, 2 * BYTES));
        let kept = loaded.remove("w").unwrap().clone();
        drop(loaded);
        assert_eq!(held(), (blocks + 1, BYTES));
        assert_eq!(kept, numbers()?);
        drop(kept);
        assert_eq!(held(), (blocks, 0));
    }
    let last = content.len() - 1;
    content[last] ^= 4;
    std::fs::write(&path, content)?;
    for _ in 0..2 {
        let error = load().unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        assert_eq!(held(), (blocks, 0), "all that was read of the other, too");
    }
    Ok(())
}

#[test]
fn what_the_pool_refuses_is_not_told_as_held() -> Result<()> {
    let _alone = alone::alone();
    MemoryPool::configure().max_size(8 << 20).enable()?;
    let scope = Scope::process().child("asks for too much");
    let small = scope.run(|| Tensor::zeros(&[100_000]))?;
    let error = scope.run(|| Tensor::zeros(&[4 << 20])).unwrap_err();
    MemoryPool::disable()?;
    let DemoError::OutOfMemory(report) = &error else { panic!("{error}") };
    let told = report.consumers.iter().filter(|consumer| consumer.name.contains("asks for too much"));
    let told: Vec<u64> = told.map(|consumer| consumer.bytes).collect();
    assert_eq!((told, report.requested_bytes), (vec![400_000], 16 << 20), "{error}");
    assert_eq!(scope.used(Kind::HostBytes), 400_000);
    drop(small);
    assert_eq!(scope.used(Kind::HostBytes), 0);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn of_a_mapped_file_goes_what_was_looked_at_and_about_as_much_as_is_wanted() -> Result<()> {
    use democratising::gc::{Resource, collect_resource};
    let _alone = alone::alone();
    let directory = democratising::fs::temp_dir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let path = directory.path().join("m.safetensors");
    let mut checkpoint = ModelCheckpoint::create(&path)?;
    for name in ["a", "b", "c", "d"] {
        checkpoint = checkpoint.add(name, &numbers()?)?;
    }
    checkpoint.commit()?;
    let loaded = ModelCheckpoint::load(&path)?;
    let tensors = ["a", "b", "c", "d"].map(|name| loaded.get(name).unwrap());
    let collected = |wanted| collect_resource(Resource::MappedBytes, wanted);
    assert_eq!(collected(1 << 40)?, 0, "nobody has looked at any");
    for tensor in &tensors[..3] {
        assert_eq!(tensor.as_slice::<u32>()?[5], 5);
    }
    for (wanted, given) in [(1, 1), (BYTES, 1), (BYTES, 1), (1, 0)] {
        assert_eq!(collected(wanted)?, given * BYTES, "{wanted} of them");
    }
    assert_eq!(tensors[1].as_slice::<u32>()?[ELEMENTS - 1], ELEMENTS as u32 - 1);
    assert_eq!((collected(1 << 40)?, collected(1 << 40)?), (BYTES, 0));
    for tensor in &tensors {
        assert_eq!(*tensor, numbers()?);
    }
    assert_eq!(collected(BYTES + 1)?, 2 * BYTES);
    assert_eq!(collected(1 << 40)?, 2 * BYTES);
    // Of another file no more is asked than is still wanted.
    let other = directory.path().join("other.safetensors");
    std::fs::copy(&path, &other)?;
    let other = ModelCheckpoint::load(&other)?;
    let others = ["a", "b"].map(|name| other.get(name).unwrap());
    let look = |tensors: &[&Tensor]| tensors.iter().all(|tensor| tensor.as_slice::<u32>().is_ok());
    assert!(look(&[&tensors[0], &others[0], &others[1]]));
    assert_eq!((collected(1)?, collected(1)?, collected(1)?, collected(1)?), (BYTES, BYTES, BYTES, 0));
    assert!(look(&[&tensors[0], &others[0], &others[1]]));
    assert_eq!((collected(BYTES + 1)?, collected(BYTES + 1)?), (2 * BYTES, BYTES));
    drop((tensors, loaded, others, other));
    assert_eq!(collected(1 << 40)?, 0);
    Ok(())
}
