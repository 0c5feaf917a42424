//! Loading and saving a checkpoint of 1 GiB: this crate, by hand, and what others have.
//!
//! `cargo run --release --manifest-path benches/load/Cargo.toml [DIRECTORY] [REPEATS]`. A package of its own, since candle, which it
//! compares with, takes minutes to build. Everything is from the page cache; times are the least of the repeats, CPU time
//! of all threads and the kernel's for them, wall time behind it. `DEMOCRATISING_PYTHON` names a Python with torch.

mod clock;
mod others;

use clock::{Time, best, interleaved};
use democratising::fs::ModelCheckpoint;
use democratising::{Device, MemoryPool, Result, Tensor};
use memmap2::Mmap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const TENSORS: usize = 64;
const ELEMENTS: usize = 4 << 20;
const BYTES: usize = TENSORS * ELEMENTS * 4;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let repeats: usize = arguments.next().map_or(5, |text| text.parse().expect("a number of repeats"));
    let directory = democratising::tempfile::tempdir_in(directory)?;
    let path = directory.path().join("model.safetensors");
    let bare = directory.path().join("bare");

    let tensors: Vec<(String, Tensor)> = (0..TENSORS)
        .map(|i| {
            let elements: Vec<f32> = (0..ELEMENTS).map(|j| ((i * 31 + j) % 1000) as f32).collect();
            Ok((format!("layer.{i:02}.weight"), Tensor::new(&[1024, ELEMENTS / 1024], elements)?))
        })
        .collect::<Result<_>>()?;

    println!("saving {} MiB, {TENSORS} tensors; CPU ms, wall ms", BYTES >> 20);
    let peak = clock::extra_memory(|| save(&path, &tensors));
    let [bare_time, save_time] = interleaved(
        repeats,
        [&mut || write_bare(&bare, &tensors), &mut || save(&path, &tensors).expect("a checkpoint is saved")],
    );
    row("write and fsync by hand", bare_time, None);
    row("ModelCheckpoint::commit", save_time, Some(bare_time));
    println!("  wall, relative to by hand: {:.3} (asked: 1.15)", save_time.wall_ms / bare_time.wall_ms);
    println!("  extra memory at its peak: {:.1} MiB (asked: 16)", peak as f64 / (1 << 20) as f64);
    std::fs::remove_file(&bare)?;
    drop(tensors);

    println!("\nlooking at it");
    let open = best(repeats, || {
        let checkpoint = ModelCheckpoint::load(&path).expect("a checkpoint");
        checkpoint.names().iter().map(|name| checkpoint.get(name).expect("a tensor").len()).sum::<usize>()
    });
    row("open, and a view of every tensor", open, None);
    let [by_hand, ours, unchecked] = interleaved(
        repeats,
        [
            &mut || assert_sum(sum_by_hand(&path)),
            &mut || assert_sum(sum(ModelCheckpoint::load(&path))),
            &mut || assert_sum(sum(ModelCheckpoint::load_unchecked(&path))),
        ],
    );
    row("mmap by hand, sum of all values", by_hand, None);
    row("load, sum of all values, checksums compared", ours, Some(by_hand));
    row("load_unchecked, sum of all values", unchecked, Some(by_hand));

    println!("\nloading it into memory");
    MemoryPool::configure().initial_size(BYTES as u64 + (64 << 20)).enable()?;
    let load = || {
        let loaded = ModelCheckpoint::load(&path).and_then(|c| c.load_to(&Device::host())).expect("loads");
        assert_eq!(loaded.len(), TENSORS);
    };
    let load_unchecked = || {
        let c = ModelCheckpoint::load_unchecked(&path).and_then(|c| c.load_to(&Device::host()));
        assert_eq!(c.expect("loads").len(), TENSORS);
    };
    load();
    let [read, ours, unchecked, candle, candle_mapped] = interleaved(
        repeats,
        [
            &mut || assert_eq!(std::fs::read(&path).expect("reads").len() / BYTES, 1),
            &mut { load },
            &mut { load_unchecked },
            &mut || others::candle(&path, TENSORS),
            &mut || others::candle_mapped(&path, TENSORS),
        ],
    );
    row("load_to the pool, checksums compared", ours, None);
    row("load_unchecked, load_to the pool", unchecked, Some(ours));
    row("std::fs::read", read, Some(ours));
    row("candle: safetensors::load", candle, Some(ours));
    row("candle: MmapedSafetensors, load each", candle_mapped, Some(ours));
    others::python(&path, repeats, |name, time| row(name, time, Some(ours)));
    Ok(())
}

fn row(name: &str, time: Time, than: Option<Time>) {
    let factor = than.map_or(String::new(), |than| {
        format!("   CPU {:.2} times the line it is compared with", time.cpu_ms / than.cpu_ms)
    });
    println!("  {name:<46} {:>9.2} {:>9.2}{factor}", time.cpu_ms, time.wall_ms);
}

fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut checkpoint = ModelCheckpoint::create(path)?;
    for (name, tensor) in tensors {
        checkpoint = checkpoint.add(name.as_str(), tensor)?;
    }
    checkpoint.commit()
}

fn write_bare(path: &Path, tensors: &[(String, Tensor)]) {
    // As a checkpoint does: a new file beside the one that is there, in place of it at the end.
    let new = path.with_extension("new");
    let mut file = File::create(&new).expect("a file");
    for (_, tensor) in tensors {
        file.write_all(tensor.as_bytes().expect("its bytes")).expect("room");
    }
    file.sync_all().expect("a disk that works");
    std::fs::rename(new, path).expect("a rename");
}

/// The data begins at a multiple of 4 bytes.
fn sum_by_hand(path: &Path) -> f64 {
    let file = File::open(path).expect("the file");
    // SAFETY: 1. Nobody changes the file meanwhile.
    let map = unsafe { Mmap::map(&file) }.expect("a mapping");
    let header = u64::from_le_bytes(map[..8].try_into().expect("8 bytes")) as usize;
    // SAFETY: 1. Every pattern of 4 bytes is an f32; the ends that do not fit stand apart.
    let (before, floats, after) = unsafe { map[8 + header..].align_to::<f32>() };
    assert!(before.is_empty() && after.is_empty());
    floats.chunks(ELEMENTS).map(sum_of).sum()
}

fn sum(checkpoint: Result<democratising::fs::Checkpoint>) -> f64 {
    let checkpoint = checkpoint.expect("a checkpoint");
    let sum =
        |name: &&str| sum_of(checkpoint.get(name).expect("a tensor").as_slice::<f32>().expect("floats"));
    checkpoint.names().iter().map(sum).sum()
}

fn sum_of(floats: &[f32]) -> f64 {
    let mut sums = [0f32; 16];
    let mut total = 0f64;
    for block in floats.chunks(1 << 12) {
        for part in block.chunks_exact(16) {
            for (sum, x) in sums.iter_mut().zip(part) {
                *sum += x;
            }
        }
        total += sums.iter().map(|&x| f64::from(x)).sum::<f64>();
        sums = [0.0; 16];
    }
    total
}

fn assert_sum(sum: f64) {
    let each = |i: usize| (0..ELEMENTS).map(|j| ((i * 31 + j) % 1000) as f64).sum::<f64>();
    use std::sync::OnceLock;
    static WANTED: OnceLock<f64> = OnceLock::new();
    let wanted = *WANTED.get_or_init(|| (0..TENSORS).map(each).sum());
    assert!((sum - wanted).abs() < wanted * 1e-6, "{sum} is not {wanted}");
}
