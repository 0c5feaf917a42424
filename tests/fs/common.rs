//! Files made for tests, and reading them.

use democratising::fs::ModelCheckpoint;
use democratising::{DemoError, Result, Tensor};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::PathBuf;

/// A file with this content, standing at its beginning.
pub fn file(content: impl AsRef<[u8]>) -> File {
    let mut file = democratising::tempfile::tempfile().unwrap();
    file.write_all(content.as_ref()).unwrap();
    file.rewind().unwrap();
    file
}

pub fn read(content: impl AsRef<[u8]>) -> Result<Tensor> {
    Tensor::from_file(&file(content))
}

/// What reading this content says.
pub fn refusal(content: impl AsRef<[u8]>) -> String {
    let error = read(content).expect_err("this content is to be refused");
    assert!(matches!(error, DemoError::Format { .. }), "{error:?}");
    error.to_string()
}

pub struct Directory(democratising::tempfile::TempDir);

impl Directory {
    pub fn new() -> Directory {
        Directory(democratising::tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn with(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// An npy file as NumPy writes it.
pub fn npy<const N: usize>(
    version: u8,
    descr: &str,
    fortran_order: bool,
    shape: &str,
    elements: impl IntoIterator<Item = [u8; N]>,
) -> Vec<u8> {
    let order = if fortran_order { "True" } else { "False" };
    npy_with(
        version,
        &format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"),
        elements,
    )
}

pub fn npy_with<const N: usize>(
    version: u8,
    header: &str,
    elements: impl IntoIterator<Item = [u8; N]>,
) -> Vec<u8> {
    let length_bytes = if version == 1 { 2 } else { 4 };
    let before = 8 + length_bytes;
    let length = (before + header.len() + 1).next_multiple_of(64) - before;
    let mut file = b"\x93NUMPY".to_vec();
    file.extend([version, 0]);
    file.extend(&(length as u32).to_le_bytes()[..length_bytes]);
    file.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    file.extend(elements.into_iter().flatten());
    file
}

/// A checkpoint of these tensors, as bytes.
#[cfg_attr(not(unix), allow(dead_code))]
pub fn saved(tensors: &[(&str, &Tensor)]) -> Vec<u8> {
    let directory = Directory::new();
    let path = directory.path("t.safetensors");
    let mut checkpoint = ModelCheckpoint::create(&path).unwrap();
    for (name, tensor) in tensors {
        checkpoint = checkpoint.add(*name, tensor).unwrap();
    }
    checkpoint.commit().unwrap();
    std::fs::read(path).unwrap()
}
