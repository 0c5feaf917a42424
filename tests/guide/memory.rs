//! Memory Management.

use crate::{in_directory, process};
use democratising::{DemoError, MemoryPool, Result, Tensor};

// ---- Memory Management: Tensor Memory ----

fn optimize_memory() -> Result<()> {
    // Stack allocation for small tensors
    let small_tensor = Tensor::new(&[2, 2], vec![1.0, 2.0, 3.0, 4.0])?;

    // Heap allocation for large tensors
    let large_tensor = Tensor::zeros(&[1000, 1000])?;

    // Explicit cleanup
    drop(large_tensor);

    // Continue processing with small_tensor
    Ok(())
}

#[test]
fn memory_tensor_memory() {
    in_directory(|_| {
        let before = MemoryPool::stats().in_use_bytes;
        optimize_memory().unwrap();
        assert_eq!(MemoryPool::stats().in_use_bytes, before);
        let large = Tensor::zeros(&[1000, 1000]).unwrap();
        assert!(MemoryPool::stats().in_use_bytes >= before + 4_000_000);
        drop(large);
        assert_eq!(MemoryPool::stats().in_use_bytes, before, "freed at once, not later");
    });
}

// ---- Memory Management: Memory Pools ----

fn use_memory_pool() -> Result<()> {
    // Configure memory pool
    MemoryPool::configure()
        .initial_size(1024 * 1024)
        .growth_factor(2.0)
        .max_size(1024 * 1024 * 1024)
        .enable()?;

    // Tensors will use pooled memory
    for _ in 0..1000 {
        let tensor = Tensor::zeros(&[100, 100])?;
        process(&tensor)?;
    } // Memory returned to pool

    Ok(())
}

#[test]
fn memory_memory_pools() {
    in_directory(|_| {
        let before = MemoryPool::stats().in_use_bytes;
        use_memory_pool().unwrap();
        let stats = MemoryPool::stats();
        assert_eq!(stats.in_use_bytes, before);
        assert!(
            stats.reserved_bytes <= 64 << 20,
            "1,000 tensors one after the other use the same memory: {stats:?}"
        );
        assert_eq!(stats.limit_bytes, 1 << 30);
        let error =
            Tensor::zeros(&[1 << 28]).and_then(|half| Ok((half, Tensor::zeros(&[1 << 10])?))).unwrap_err();
        let DemoError::OutOfMemory(report) = error else { panic!("{error}") };
        assert_eq!(report.limit_bytes, 1 << 30, "a GiB and a bit do not fit into a GiB");
    });
}
