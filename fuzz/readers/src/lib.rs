//! What a reader has to keep to, whatever bytes it is given: no panic, no more memory than the bytes justify, an error or
//! tensors that can be used.
//!
//! Under cargo-fuzz: `cargo fuzz run --fuzz-dir fuzz/readers --features libfuzzer read_pt fuzz/readers/corpus/pt`. Without it:
//! `cargo test --release --manifest-path fuzz/readers/Cargo.toml`, for as long as `DEMOCRATISING_FUZZ_SECONDS` says.

use democratising::fs::ModelCheckpoint;
use democratising::{Device, MemoryPool, Tensor};
use std::io::Write;

/// Zip archives, as the tests make them.
#[path = "../../../tests/fs/zip.rs"]
mod zip;

use zip::zip;

/// What a tensor may take beyond what the file's length explains: a broadcast view of a `.pt` may show its elements
/// again and again, up to 64 MiB.
const FREE_BYTES: u64 = 80 << 20;

/// Deflate makes at most so many bytes of one.
const MOST_INFLATION: u64 = 1100;

/// Every way in which a file can be read.
pub fn read(data: &[u8]) {
    let mut file = democratising::tempfile::Builder::new().tempfile_in(directory()).expect("a temp file");
    file.write_all(data).expect("room");
    let path = file.path();
    let allowed = FREE_BYTES + data.len() as u64 * MOST_INFLATION;
    let in_use = MemoryPool::stats().in_use_bytes;
    let hold = |tensor: &Tensor| {
        assert!(tensor.byte_len() as u64 <= allowed, "{tensor:?} of {} bytes", data.len());
        drop(format!("{tensor:?} {tensor}"));
        let contiguous = tensor.contiguous().map(|tensor| tensor.byte_len());
        assert!(contiguous.is_ok_and(|bytes| bytes == tensor.byte_len()) || tensor.iter::<u8>().is_err());
    };
    match ModelCheckpoint::load(path) {
        Ok(checkpoint) => {
            let names = checkpoint.names();
            for name in &names[..names.len().min(64)] {
                drop(checkpoint.info(name));
                match checkpoint.get(name) {
                    Ok(tensor) => hold(&tensor),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
            drop(checkpoint.verify());
            if names.len() <= 64 {
                drop(checkpoint.load_to(&Device::host()));
            }
            checkpoint
                .all_metadata()
                .for_each(|(key, value)| assert!(key.len() + value.len() <= allowed as usize));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(tensor) = Tensor::open(path) {
        hold(&tensor);
    }
    let stats = MemoryPool::stats();
    assert_eq!(stats.in_use_bytes, in_use, "everything was given back");
    assert!(stats.peak_in_use_bytes <= FREE_BYTES * 4 + (1 << 30), "{stats:?}");
}

/// Memory, where there is such a directory.
fn directory() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

pub fn read_safetensors(data: &[u8]) {
    read(data);
    // A header alone, with the length that belongs to it and some elements.
    let mut whole = (data.len() as u64).to_le_bytes().to_vec();
    whole.extend(data);
    whole.extend([1; 64]);
    read(&whole);
}

pub fn read_npy(data: &[u8]) {
    read(data);
}

/// An archive, and an archive of an array with the right checksum.
pub fn read_npz(data: &[u8]) {
    read(data);
    read(&zip(&[("a.npy", data)], false));
}

pub fn read_pt(data: &[u8]) {
    read(data);
}

/// A pickle alone, in an archive with the right checksum and in a legacy file.
pub fn read_pickle(data: &[u8]) {
    read(&zip(&[("x/data.pkl", data), ("x/data/0", &[1; 256]), ("x/byteorder", b"little")], false));
    let mut legacy =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    legacy.extend(data);
    legacy.extend(b"\x80\x02]X\x01\0\0\x000a.\x40\0\0\0\0\0\0\0");
    legacy.extend([1; 256]);
    read(&legacy);
}

pub fn read_text(data: &[u8]) {
    read(data);
}

/// By the name of a folder in the corpus.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    Some(match name {
        "safetensors" => read_safetensors,
        "npy" => read_npy,
        "npz" => read_npz,
        "pt" => read_pt,
        "pickle" => read_pickle,
        "text" => read_text,
        _ => return None,
    })
}
