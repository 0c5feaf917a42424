//! GPU Resources, on the software driver and on a real one.

use crate::harness::{EAGER, LAZY, Mode, RANGES, in_modes};
use crate::in_directory;
use crate::limits::set_cuda_memory_limit;
use crate::raii::process_data;
use democratising::{Device, Result, Tensor, cuda};

/// The guide asks for a gigabyte.
const LARGE: Mode = Mode("3 GiB", &[("SOFTCUDA_MEM_MIB", "3072")]);

fn manage_gpu_memory() -> Result<()> {
    // Configure CUDA memory pool
    cuda::MemoryPool::configure().initial_size(1024 * 1024 * 1024).enable()?;

    // Allocate on GPU
    // differs: zeros on a device is `zeros_on`.
    let gpu_tensor = Tensor::zeros_on(&[1000, 1000], &Device::cuda(0)?)?;

    // Automatically freed when dropped
    drop(gpu_tensor);

    // Check memory usage
    let info = cuda::get_memory_info(0)?;
    println!("Free memory: {} bytes", info.free);

    Ok(())
}

#[test]
fn gpu_memory_management() {
    in_modes("gpu::gpu_memory_management", &[LARGE], || {
        manage_gpu_memory().unwrap();
        let info = cuda::get_memory_info(0).unwrap();
        assert_eq!((info.reserved, info.in_use), (1 << 30, 0));
        assert!(info.free <= info.total - (1 << 30));
        cuda::MemoryPool::disable(0).unwrap();
        assert_eq!(cuda::get_memory_info(0).unwrap().reserved, 0);
    });
}

fn manage_multiple_gpus() -> Result<()> {
    let devices = Device::cuda_all()?;

    // Allocate across GPUs
    let mut tensors = Vec::new();
    for (i, device) in devices.iter().enumerate() {
        // differs: zeros on a device is `zeros_on`.
        let tensor = Tensor::zeros_on(&[1000, 1000], device)?;
        tensors.push(tensor);
    }
    assert_eq!(tensors.len(), devices.len());
    assert!(tensors.iter().zip(&devices).all(|(tensor, device)| tensor.device() == device));

    // Resources freed when tensors dropped
    Ok(())
}

#[test]
fn gpu_multi_management() {
    in_modes("gpu::gpu_multi_management", &[EAGER, LAZY, RANGES], || {
        manage_multiple_gpus().unwrap();
        for ordinal in 0..Device::cuda_all().unwrap().len() as u32 {
            let info = cuda::get_memory_info(ordinal).unwrap();
            assert_eq!(info.in_use, 0);
            assert!(info.reserved >= 4_000_000, "it was there");
        }
    });
}

#[test]
fn gpu_limits() {
    in_modes("gpu::gpu_limits", &[LARGE], || {
        set_cuda_memory_limit().unwrap();
        let info = cuda::get_memory_info(0).unwrap();
        assert_eq!(info.limit, info.total.min(4 << 30));
    });
}

#[test]
fn gpu_tensors_are_freed_at_the_end_of_their_scope() {
    in_modes("gpu::gpu_tensors_are_freed_at_the_end_of_their_scope", &[EAGER, LAZY], || {
        in_directory(|_| {
            process_data().unwrap();
            assert_eq!(cuda::get_memory_info(0).unwrap().in_use, 0);
        });
    });
}
