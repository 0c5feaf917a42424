//! RAII Pattern.

use crate::in_directory;
use democratising::{DemoError, Device, DeviceId, Result, Tensor};
use std::fs::{self, File};
use std::path::PathBuf;

// ---- RAII Pattern: Basic Resource Management ----

pub fn process_data() -> Result<()> {
    // File automatically closed when scope ends
    let file = File::open("data.txt")?;

    // Tensor memory automatically freed
    let tensor = Tensor::from_file(&file)?;

    // GPU memory automatically freed
    let gpu_tensor = tensor.to_device(&Device::cuda(0)?)?;

    Ok(())
} // All resources cleaned up here

#[test]
fn raii_basic_resource_management() {
    in_directory(|_| {
        match process_data() {
            Ok(()) => {}
            // A machine or build without that device says so, and nothing before it failed.
            Err(DemoError::DeviceUnavailable { device, .. }) => assert_eq!(device, DeviceId::Cuda(0)),
            Err(error) => panic!("{error}"),
        }
        let tensor = Tensor::from_file(&File::open("data.txt").unwrap()).unwrap();
        assert_eq!(tensor, Tensor::new(&[2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());

        fs::remove_file("data.txt").unwrap();
        assert!(matches!(process_data(), Err(DemoError::Io { .. })), "`?` takes errors of files");
    });
}

// ---- RAII Pattern: Custom Resource Types ----

mod custom_resource_types {
    use super::*;

    pub struct ModelCheckpoint {
        pub file: File,
        pub path: PathBuf,
        pub temp_path: PathBuf,
    }

    impl Drop for ModelCheckpoint {
        fn drop(&mut self) {
            // Clean up temporary files
            if self.temp_path.exists() {
                let _ = fs::remove_file(&self.temp_path);
            }
        }
    }
}

#[test]
fn raii_custom_resource_types() {
    in_directory(|directory| {
        let (path, temp_path) = (directory.join("model.pt"), directory.join("model.tmp"));
        let file = File::create(&temp_path).unwrap();
        drop(custom_resource_types::ModelCheckpoint {
            file,
            path: path.clone(),
            temp_path: temp_path.clone(),
        });
        assert!(path.exists() && !temp_path.exists());

        // The crate's own does the same, and makes the file durable too.
        drop(democratising::fs::ModelCheckpoint::create("model.safetensors").unwrap());
        assert_eq!(fs::read_dir(directory).unwrap().count(), 2, "data.txt and model.pt");
    });
}
