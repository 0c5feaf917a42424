//! The memory of one device: a pool over mapped frames, or, where the driver cannot map, pools over what `cuMemAlloc` gives.

#![forbid(unsafe_code)]

use super::cache::{CLASSES, GEOMETRY};
use super::context::Context;
use super::order::Order;
use super::ranges::Ranges;
use super::result::Refused;
use super::space::CudaSpace;
use crate::arena::NoBlock;
use crate::error::BadFree;
use crate::pool::{Pool, PoolConfig, Stats};
use crate::space::MappedTables;
use crate::sync::HostLock;
use core::alloc::Layout;
use std::sync::Arc;

pub(super) type CudaPool = Pool<CudaSpace, HostLock>;

/// Where a device's blocks come from.
#[allow(clippy::large_enum_variant, reason = "one for each device, and the larger one is the rule")]
pub(super) enum Memory {
    /// One range of addresses, and the device's own pool over it.
    Mapped { pool: CudaPool, start: u64 },
    /// Several ranges, each as the driver gave it.
    Ranges(Ranges),
}

/// Addresses for each byte that the device has: holes between live blocks cost addresses, and those cost nothing.
const ADDRESSES: u64 = 4;
const LEAST_ADDRESSES: u64 = 1 << 30;
const MOST_ADDRESSES: u64 = 1 << 42;

/// The addresses that are worth having for a device of so many bytes.
pub(super) fn addresses(total_bytes: u64) -> u64 {
    total_bytes.saturating_mul(ADDRESSES).clamp(LEAST_ADDRESSES, MOST_ADDRESSES)
}

impl Memory {
    pub(super) fn new(
        context: &Arc<Context>,
        order: &Arc<Order>,
        total_bytes: u64,
    ) -> Result<Memory, Refused> {
        if context.has_virtual_memory() {
            let mut bytes = addresses(total_bytes);
            loop {
                match CudaSpace::new(context.clone(), order.clone(), bytes) {
                    Ok(space) => {
                        let start = space.start();
                        let no_tables = Refused { call: "tables", code: super::result::OUT_OF_MEMORY };
                        let pool =
                            Pool::new(space, MappedTables, PoolConfig::DEFAULT).map_err(|_| no_tables)?;
                        return Ok(Memory::Mapped { pool, start });
                    }
                    // The process may have a limit of addresses.
                    Err(refused) if refused.is_out_of_memory() && bytes / 2 >= LEAST_ADDRESSES => bytes /= 2,
                    Err(refused) => return Err(refused),
                }
            }
        }
        Ok(Memory::Ranges(Ranges::new(context.clone(), order.clone())))
    }

    #[inline]
    pub(super) fn allocate(&self, layout: Layout) -> Result<(u64, u64), NoBlock> {
        match self {
            Memory::Mapped { pool, .. } => pool.allocate(layout).map(|block| (block.addr, block.bytes)),
            Memory::Ranges(ranges) => ranges.allocate(layout),
        }
    }

    /// The bytes of the live block at `at`.
    pub(super) fn usable_bytes(&self, at: u64) -> Result<u64, BadFree> {
        match self {
            Memory::Mapped { pool, .. } => pool.usable_bytes(at),
            Memory::Ranges(ranges) => ranges.usable_bytes(at),
        }
    }

    /// Whether a block of so many bytes is what a request gets.
    pub(super) fn is_size_of(&self, layout: Layout, held_bytes: u64) -> bool {
        match CLASSES.class(layout.size() as u64, layout.align() as u64) {
            Some(class) => CLASSES.slot_bytes(class) == held_bytes,
            None => (layout.size() as u64).next_multiple_of(GEOMETRY.granule_bytes()) == held_bytes,
        }
    }

    pub(super) fn trim(&self, keep_bytes: u64) -> u64 {
        match self {
            Memory::Mapped { pool, .. } => {
                // First, so that it is given before frames are.
                let settled = pool.look(CudaSpace::settle);
                settled + pool.trim(keep_bytes)
            }
            Memory::Ranges(ranges) => ranges.trim(keep_bytes),
        }
    }

    pub(super) fn idle_bytes(&self) -> u64 {
        match self {
            Memory::Mapped { pool, .. } => pool.idle_bytes() + pool.look(CudaSpace::left_bytes),
            Memory::Ranges(ranges) => ranges.idle_bytes(),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        match self {
            Memory::Mapped { pool, .. } => {
                let mut stats = pool.stats();
                let left_bytes = pool.look(CudaSpace::left_bytes);
                stats.reserved_bytes += left_bytes;
                stats.idle_bytes += left_bytes;
                stats.peak_reserved_bytes = stats.peak_reserved_bytes.max(stats.reserved_bytes);
                stats
            }
            Memory::Ranges(ranges) => ranges.stats(),
        }
    }

    pub(super) fn configure(&self, config: PoolConfig) {
        match self {
            Memory::Mapped { pool, .. } => pool.configure(config),
            Memory::Ranges(ranges) => ranges.configure(config),
        }
    }
}
