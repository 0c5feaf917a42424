//! Best Practices: Resource Cleanup, Performance Optimization.

use crate::{in_directory, process};
use democratising::{MemoryPool, Result, Tensor};
use std::fs::{self, File};
use std::io::Write;

// ---- Best Practices: Resource Cleanup ----

mod resource_cleanup {
    use super::*;

    pub struct ResourceHandle {
        pub data: Vec<u8>,
        pub file: File,
    }

    impl Drop for ResourceHandle {
        fn drop(&mut self) {
            // Cleanup code here
            let _ = self.file.write_all(&self.data);
        }
    }
}

fn process_large_data() -> Result<()> {
    let tensor = Tensor::zeros(&[10000, 10000])?;
    process(&tensor)?;
    drop(tensor); // Free memory early

    // Continue with other work
    Ok(())
}

#[test]
fn practices_resource_cleanup() {
    in_directory(|_| {
        let file = File::create("out").unwrap();
        drop(resource_cleanup::ResourceHandle { data: b"all of it".to_vec(), file });
        assert_eq!(fs::read("out").unwrap(), b"all of it");

        let before = MemoryPool::stats().in_use_bytes;
        process_large_data().unwrap();
        assert_eq!(MemoryPool::stats().in_use_bytes, before);
    });
}

// ---- Best Practices: Performance Optimization ----

fn optimize_allocations() -> Result<()> {
    // Preallocate buffer
    let mut buffer = Vec::with_capacity(1000);

    for _ in 0..1000 {
        buffer.clear(); // Reuse allocation
        fill_buffer(&mut buffer)?;
        process_buffer(&buffer)?; // differs: `process` takes tensors above
    }

    Ok(())
}

fn fill_buffer(buffer: &mut Vec<f32>) -> Result<()> {
    buffer.extend((0..1000).map(|i| i as f32));
    Ok(())
}

fn process_buffer(buffer: &[f32]) -> Result<()> {
    let tensor = Tensor::new(&[10, 100], buffer)?;
    assert_eq!(tensor.as_slice::<f32>()?[999], 999.0);
    Ok(())
}

#[test]
fn practices_reuse() {
    in_directory(|_| optimize_allocations().unwrap());
}
