//! File System Resources.

use crate::in_directory;
use democratising::{Result, Tensor, tempfile};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

// ---- File System Resources: File Handling ----

#[cfg_attr(windows, allow(dead_code))]
fn handle_files() -> Result<()> {
    // Open file with automatic cleanup
    let file = File::open("model.pt")?;

    // Create temporary file
    let temp_file = tempfile::NamedTempFile::new()?;

    // Write data safely
    {
        let mut writer = BufWriter::new(&temp_file);
        serialize_model(&mut writer)?;
    } // writer flushed and closed here

    // Rename atomically
    temp_file.persist("model.pt")?;

    Ok(())
}

fn serialize_model(writer: &mut impl Write) -> Result<()> {
    Ok(writer.write_all(b"a newer model")?)
}

#[test]
fn files_file_handling() {
    in_directory(|_| {
        // As `tempfile` renames on Windows, what somebody has open is not replaced.
        #[cfg(not(windows))]
        {
            handle_files().unwrap();
            assert_eq!(fs::read("model.pt").unwrap(), b"a newer model");
        }

        // The same with the crate's own rename, which survives a power loss and crosses file systems.
        let mut temp_file = tempfile::NamedTempFile::new().unwrap();
        temp_file.write_all(b"the newest model").unwrap();
        democratising::fs::persist(temp_file, "model.pt").unwrap();
        assert_eq!(fs::read("model.pt").unwrap(), b"the newest model");
    });
}

// ---- File System Resources: Directory Management ----

fn manage_directories() -> Result<()> {
    // Create directory structure
    let cache_dir = Path::new("cache");
    fs::create_dir_all(cache_dir)?;

    // Temporary directory
    let temp_dir = tempfile::Builder::new().prefix("training-").tempdir()?;

    // Use temporary directory
    let model_path = temp_dir.path().join("model.pt");
    save_checkpoint(&model_path)?;

    Ok(())
} // temp_dir automatically cleaned up

fn save_checkpoint(path: &Path) -> Result<()> {
    let weight = Tensor::zeros(&[8, 8])?;
    democratising::fs::ModelCheckpoint::create(path)?
        .add("weight", &weight)?
        .metadata("step", "100")?
        .commit()?;
    let c = democratising::fs::ModelCheckpoint::load(path)?;
    assert_eq!((c.get("weight")?, c.names(), c.metadata("step")), (weight, vec!["weight"], Some("100")));
    Ok(())
}

#[test]
fn files_directory_management() {
    in_directory(|directory| {
        manage_directories().unwrap();
        assert!(directory.join("cache").is_dir());
    });
}
