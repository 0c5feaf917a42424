//! A device's pool from outside: how it grows, where it ends, what it holds.

#![forbid(unsafe_code)]

use super::gpu::{self, Gpu, Settings};
use super::shortage;
use crate::device::Device;
use crate::error::{Result, StreamUse};
use crate::pool::host::settings;
use crate::pool::{PoolConfig, Stats};
use std::string::String;
use std::vec::Vec;

/// The pool that a CUDA device's tensors and buffers draw from.
///
/// It is there from the first use of the device on; enabling it says how it grows and where it ends.
///
/// ```no_run
/// use democratising::{Device, Tensor, cuda};
///
/// cuda::MemoryPool::configure().initial_size(1 << 30).enable()?;
/// let tensor = Tensor::zeros_on(&[1000, 1000], &Device::cuda(0)?)?;
/// assert!(cuda::MemoryPool::stats(0)?.pool.reserved_bytes >= 1 << 30);
/// # Ok::<(), democratising::DemoError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MemoryPool;

/// A device's pool in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// The pool; what streams keep in caches is not in use and no live block. The peak of what was in use, and the blocks that were handed
    /// out, count it.
    pub pool: Stats,
    /// Every stream and what was taken on it, largest first.
    pub streams: Vec<StreamUse>,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MemoryInfo {
    /// What the driver has left, for whoever comes.
    pub free: u64,
    /// All that the device has.
    pub total: u64,
    /// What this process's pool holds of it.
    pub reserved: u64,
    /// What live tensors and buffers hold of that.
    pub in_use: u64,
    /// The most that the pool may hold: what was set, or all there is.
    pub limit: u64,
}

/// The memory of a CUDA device.
///
/// # Errors
/// [`DemoError::DeviceUnavailable`](crate::DemoError::DeviceUnavailable) where there is no such device, [`DemoError::DeviceFailed`](crate::DemoError::DeviceFailed) where the driver refuses.
pub fn get_memory_info(ordinal: u32) -> Result<MemoryInfo> {
    let gpu = gpu::get(ordinal)?;
    let (free, total) = gpu.context().memory_info().map_err(|refused| gpu.failed(refused))?;
    let reserved = gpu.memory.stats().reserved_bytes;
    Ok(MemoryInfo { free, total, reserved, in_use: gpu.in_use_bytes(), limit: gpu.limit_bytes() })
}

/// From now on the pool of a device never holds more than `bytes`; `u64::MAX` ends that. A limit below what is in use takes nothing
/// away: what is idle is given back at once, and requests that need more fail until it fits.
///
/// # Errors
/// [`DemoError::DeviceUnavailable`](crate::DemoError::DeviceUnavailable) where there is no such device.
pub fn set_memory_limit(ordinal: u32, bytes: u64) -> Result<()> {
    let gpu = gpu::get(ordinal)?;
    gpu.set(|settings| settings.limit_bytes = bytes);
    Ok(())
}

impl Gpu {
    /// Changes the settings and puts them into force. Returns those before.
    fn set(&self, change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = self.settings.lock();
        let before = *settings;
        change(&mut settings);
        self.empty_all();
        self.memory.configure(settings.config());
        drop(settings);
        self.shrink();
        before
    }
}

impl MemoryPool {
    /// Settings to choose for the pool of device 0, unless [`ordinal`](MemoryPoolBuilder::ordinal) names another.
    pub fn configure() -> MemoryPoolBuilder {
        MemoryPoolBuilder { ordinal: 0, initial_bytes: 0, max_bytes: None, growth_factor: 1.0, slack: 0.03 }
    }

    /// The pool of a device in numbers.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`](crate::DemoError::DeviceUnavailable) where there is no such device.
    pub fn stats(ordinal: u32) -> Result<PoolStats> {
        let gpu = gpu::get(ordinal)?;
        let mut pool = gpu.memory.stats();
        pool.in_use_bytes = gpu.in_use_bytes();
        pool.blocks = pool.blocks.saturating_sub(gpu.cached_blocks());
        Ok(PoolStats { pool, streams: gpu.table() })
    }

    /// Ends what [`enable`](MemoryPoolBuilder::enable) began, and gives back what is idle. What is live stays as it is, and so does
    /// a limit that [`set_memory_limit`] set.
    ///
    /// # Errors
    /// [`DemoError::DeviceUnavailable`](crate::DemoError::DeviceUnavailable) where there is no such device.
    pub fn disable(ordinal: u32) -> Result<()> {
        let gpu = gpu::get(ordinal)?;
        gpu.set(|settings| settings.pool = PoolConfig::DEFAULT);
        gpu.reclaim(u64::MAX);
        Ok(())
    }
}

/// Settings for the [`MemoryPool`] of a device.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing happens before `enable`"]
pub struct MemoryPoolBuilder {
    ordinal: u32,
    initial_bytes: u64,
    max_bytes: Option<u64>,
    growth_factor: f64,
    slack: f64,
}

impl MemoryPoolBuilder {
    /// The device whose pool is meant.
    pub fn ordinal(mut self, ordinal: u32) -> Self {
        self.ordinal = ordinal;
        self
    }

    /// Bytes that are backed at once. They count towards the maximum, which is reached all the same.
    pub fn initial_size(mut self, bytes: u64) -> Self {
        self.initial_bytes = bytes;
        self
    }

    /// Never more than this is backed, to the last whole frame of 2 MiB.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How much is backed when more is needed: 1.0 just what is needed, 2.0 doubles what there is.
    pub fn growth_factor(mut self, factor: f64) -> Self {
        self.growth_factor = factor;
        self
    }

    /// How much more than was ever in use may be backed before idle memory is moved to where it is needed; 0 is tightest.
    pub fn slack(mut self, share: f64) -> Self {
        self.slack = share;
        self
    }

    /// Puts the settings into force. A second time, they are replaced; nothing live is lost.
    ///
    /// # Errors
    /// [`DemoError::InvalidConfig`](crate::DemoError::InvalidConfig) when a setting cannot be, [`DemoError::DeviceUnavailable`](crate::DemoError::DeviceUnavailable) where there is no such device,
    /// [`DemoError::OutOfMemory`](crate::DemoError::OutOfMemory) when the initial size cannot be had. Then the settings before are in force.
    pub fn enable(self) -> Result<()> {
        let config = settings(self.initial_bytes, self.growth_factor, self.max_bytes, self.slack)?;
        let gpu = gpu::get(self.ordinal)?;
        let before = gpu.set(|settings| settings.pool = config);
        // The last whole frame is what a size that is no multiple of one can get.
        if gpu.memory.stats().reserved_bytes + (2 << 20) <= config.initial_bytes {
            let refused = shortage::refused(gpu, config.initial_bytes);
            // Its own settings alone: a limit, or those of another `enable`, may have come meanwhile.
            gpu.set(|settings| {
                if settings.pool == config {
                    settings.pool = before.pool;
                }
            });
            gpu.reclaim(u64::MAX);
            return Err(refused);
        }
        Ok(())
    }
}

/// What a device is, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// How many multiprocessors it has.
    pub multiprocessors: i32,
    /// The driver, as it counts itself: 12080 is 12.8.
    pub driver_version: i32,
    /// Whether memory is mapped frame by frame; without, it comes from the driver's allocator in ranges.
    pub virtual_memory: bool,
    /// Its memory.
    pub memory: MemoryInfo,
}

/// What is known of a device.
///
/// # Errors
/// As [`get_memory_info`].
pub fn get_device_info(device: &Device) -> Result<DeviceInfo> {
    let gpu = gpu::of(device, "cuda::get_device_info")?;
    let failed = |refused| gpu.failed(refused);
    let (major, minor, multiprocessors) = gpu.context().capability().map_err(failed)?;
    Ok(DeviceInfo {
        name: gpu.context().name().map_err(failed)?,
        capability: (major, minor),
        multiprocessors,
        driver_version: gpu.context().driver_version(),
        virtual_memory: gpu.context().has_virtual_memory(),
        memory: get_memory_info(gpu.context().ordinal())?,
    })
}
