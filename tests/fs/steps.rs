//! A checkpoint that is saved in steps, so that it can be told which one stands there.

use democratising::fs::ModelCheckpoint;
use democratising::tempfile::{self, TempDir};
use democratising::{Result, Tensor};
use std::fs;
use std::path::{Path, PathBuf};

pub fn ones(n: usize) -> Tensor {
    Tensor::new(&[n], vec![1.0f32; n]).unwrap()
}

/// A directory with a checkpoint of step 1 in it.
pub fn with_old() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    save(&path, "1").unwrap();
    (directory, path)
}

pub fn save(path: &Path, step: &str) -> Result<()> {
    ModelCheckpoint::create(path)?.add("w", &ones(100_000))?.metadata("step", step)?.commit()
}

pub fn step(path: &Path) -> String {
    let c = ModelCheckpoint::load(path).unwrap();
    assert_eq!(c.get("w").unwrap(), ones(100_000));
    c.metadata("step").unwrap().into()
}

/// Everything in a directory, hidden files included.
pub fn entries(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
