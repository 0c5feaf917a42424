//! A little of everything that devices are used for.

use democratising::{DemoError, Device, Tensor, cuda};

const MIB: usize = 1 << 20;

/// Ends with nothing in use, whatever fails.
pub fn a_round() -> Result<(), DemoError> {
    let device = Device::cuda(0)?;
    let other = Device::cuda(1)?;
    let (a, b) = (cuda::Stream::new(&device)?, cuda::Stream::new(&device)?);
    let here = Tensor::new(&[3 * MIB], vec![7u8; 3 * MIB])?;
    let one = here.to_device_on(&device, &a)?;
    one.used_on(&b)?;
    drop(one);
    let two = Tensor::zeros_on(&[MIB], &device)?.to_device_on(&device, &b)?;
    let small: Result<Vec<_>, _> = (0..50).map(|_| Tensor::zeros_on(&[100], &device)).collect();
    let far = two.to_device(&other)?;
    drop((two, small?));
    let back = far.to_device(&Device::host())?;
    assert_eq!(back.len(), MIB);
    let large = Tensor::zeros_on(&[MIB], &device)?;
    let larger = Tensor::zeros_on(&[2 * MIB], &device)?;
    drop(large);
    let moved = Tensor::zeros_on(&[MIB + MIB / 2], &device)?;
    cuda::set_memory_limit(0, 12 << 20)?;
    drop((larger, moved));
    cuda::set_memory_limit(0, u64::MAX)?;
    a.synchronize()?;
    Ok(())
}
