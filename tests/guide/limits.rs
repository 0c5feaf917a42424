//! Best Practices: Resource Limits.

use crate::{in_directory, process};
#[cfg(feature = "cuda")]
use democratising::cuda;
use democratising::{DemoError, Device, MemoryPool, Result, Tensor, gc};
use std::sync::{Arc, Mutex};

// ---- Best Practices: Resource Limits ----

fn configure_limits() -> Result<()> {
    // Set memory pool limits
    MemoryPool::configure().max_size(8 * 1024 * 1024 * 1024).enable()?;

    // Set CUDA memory limits
    // differs: a machine without a device is no failure here; the line itself runs in `gpu_limits`.
    if Device::cuda(0).is_ok() {
        set_cuda_memory_limit()?;
    }

    Ok(())
}

#[cfg(feature = "cuda")]
pub fn set_cuda_memory_limit() -> Result<()> {
    cuda::set_memory_limit(0, 4 * 1024 * 1024 * 1024)?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
pub fn set_cuda_memory_limit() -> Result<()> {
    unreachable!("without the feature there is no device")
}

#[test]
fn practices_memory_limits() {
    in_directory(|_| {
        configure_limits().unwrap();
        assert_eq!(MemoryPool::stats().limit_bytes, 8 << 30);
    });
}

fn handle_out_of_memory() -> Result<()> {
    match allocate_large_tensor() {
        Ok(tensor) => process(&tensor),
        // differs: the error carries a report.
        Err(DemoError::OutOfMemory(_)) => {
            // Try to free some memory
            gc::collect()?;
            // Retry with smaller size
            allocate_smaller_tensor()
        }
        Err(e) => Err(e),
    }
}

fn allocate_large_tensor() -> Result<Tensor> {
    Tensor::zeros(&[10_000, 10_000])
}

fn allocate_smaller_tensor() -> Result<()> {
    process(&Tensor::zeros(&[1_000, 1_000])?)
}

/// Something that can be built again, kept while nobody needs its memory.
struct Cache(Mutex<Vec<Tensor>>);

impl gc::Reclaim for Cache {
    fn reclaimable_bytes(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|tensor| tensor.byte_len() as u64).sum()
    }

    fn reclaim(&self, target_bytes: u64, until: gc::Deadline) -> u64 {
        let kept = std::mem::take(&mut *self.0.lock().unwrap());
        kept.iter().map(|tensor| tensor.byte_len() as u64).sum()
    }
}

#[test]
fn practices_resource_exhaustion() {
    in_directory(|_| {
        MemoryPool::configure().max_size(64 << 20).enable().unwrap();
        let DemoError::OutOfMemory(report) = allocate_large_tensor().unwrap_err() else { panic!() };
        assert_eq!((report.requested_bytes, report.limit_bytes), (400_000_000, 64 << 20));
        handle_out_of_memory().unwrap();

        // A tensor that would fit without the cache makes the cache give way, without a word in the program.
        let cached = (0..14).map(|_| Tensor::zeros(&[1 << 20]).unwrap()).collect();
        let cache = Arc::new(Cache(Mutex::new(cached)));
        let id = gc::register("cache", 0, Arc::clone(&cache) as Arc<dyn gc::Reclaim>);
        let large = Tensor::zeros(&[8 << 20]).unwrap();
        assert_eq!(large.byte_len(), 32 << 20);
        assert!(cache.0.lock().unwrap().is_empty());
        assert!(gc::unregister(id));
    });
}
