//! What happens when a device's memory is short, and what is said when nothing helped.
//!
//! The ladder: what streams keep in their caches; idle frames, moved to where they are needed (the pool does so by itself, and
//! waits for frees under way where it has to); reclaimers that were registered; everything that was freed and is not over is
//! waited for, and what is idle given back; then the request is tried once more, and then it is refused with all numbers.

#![forbid(unsafe_code)]

use super::gpu::{Gpu, Missing};
use super::result::{OUT_OF_MEMORY, Refused};
use super::stream::Inner;
use crate::arena::NoBlock;
use crate::error::{DemoError, OutOfMemory, Result, StreamUse};
use crate::gc::{self, Deadline, Reclaim, Resource};
use crate::sync::atomic::Ordering::Relaxed;
use core::alloc::Layout;
use std::format;
use std::vec::Vec;

/// Before everything that users register: what is idle costs nothing to lose.
const FIRST: i32 = i32::MIN;

/// From now on collections ask this device too.
pub(super) fn register(gpu: &'static Gpu) {
    gc::register(format!("{}, idle", gpu.id()), FIRST, Idle(gpu));
}

/// What a device keeps without need.
struct Idle(&'static Gpu);

impl Reclaim for Idle {
    fn reclaimable_bytes(&self) -> u64 {
        if super::driver::is_fork() || gc::is_for_another(self.0.id()) {
            return 0;
        }
        self.0.memory.idle_bytes()
    }

    fn reclaim(&self, target_bytes: u64, _until: Deadline) -> u64 {
        if super::driver::is_fork() || gc::is_for_another(self.0.id()) {
            return 0;
        }
        let given = self.0.reclaim(target_bytes);
        // Behind it, since what it waited for are copies too. Pinned memory is the host's, and its bytes are counted nowhere here.
        self.0.trim_staging();
        given
    }

    fn resource(&self) -> Resource {
        Resource::DeviceBytes
    }
}

impl Gpu {
    /// A block for use on a stream, after everything that can help when there is none.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] with all numbers, [`DemoError::DeviceFailed`] where the driver refused.
    #[inline]
    pub(super) fn allocate(&self, layout: Layout, stream: &Inner) -> Result<(u64, u64)> {
        match self.take(layout, stream) {
            Ok(block) => Ok(block),
            Err(why) => self.climb(layout, stream, why),
        }
    }

    #[cold]
    fn climb(&self, layout: Layout, stream: &Inner, why: Missing) -> Result<(u64, u64)> {
        let bytes = layout.size() as u64;
        let mut first = Some(why);
        gc::with_retry(|attempt| {
            let why = match first.take() {
                Some(why) => why,
                None => match self.take(layout, stream) {
                    Ok(block) => return Ok(block),
                    Err(why) => why,
                },
            };
            self.is_short(why)?;
            if attempt > 0 {
                self.order().wait_all().or_else(|refused| self.is_short(Missing::Driver(refused)))?;
            }
            self.empty_all();
            self.take(layout, stream).or_else(|why| {
                self.is_short(why)?;
                self.memory.trim(0);
                self.take(layout, stream).or_else(|why| {
                    self.is_short(why)?;
                    Err(report(self, bytes).into())
                })
            })
        })
    }

    /// Whether it is memory that is missing; else the error.
    fn is_short(&self, why: Missing) -> Result<()> {
        match why {
            Missing::Block(NoBlock::NotBacked(why)) if why.code != OUT_OF_MEMORY && why.code != 0 => {
                Err(self.failed(Refused {
                    call: "backing memory (cuMemCreate, cuMemMap, cuMemSetAccess)",
                    code: why.code,
                }))
            }
            Missing::Block(_) => Ok(()),
            // Events, and what the driver notes of waits, take memory of the device too.
            Missing::Driver(refused) if refused.is_out_of_memory() => Ok(()),
            Missing::Driver(refused) => Err(self.failed(refused)),
        }
    }

    /// The most that may be held here: what was set, or all there is.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.settings.lock().config().max_bytes.min(self.total_bytes)
    }

    /// What live blocks hold, caches apart.
    pub(super) fn in_use_bytes(&self) -> u64 {
        let cached = self.streams().iter().map(|stream| stream.cached_bytes.load(Relaxed)).sum();
        self.memory.stats().in_use_bytes.saturating_sub(cached)
    }

    /// How many blocks streams keep in their caches.
    pub(super) fn cached_blocks(&self) -> u64 {
        self.streams().iter().map(|stream| stream.cache.lock().len() as u64).sum()
    }

    /// Every stream and what was taken on it, largest first.
    pub(super) fn table(&self) -> Vec<StreamUse> {
        let row = |stream: &Inner| {
            let (in_use, cached) = (stream.in_use_bytes.load(Relaxed), stream.cached_bytes.load(Relaxed));
            // Below nothing after a block of another stream was freed twice.
            let in_use = (in_use as i64).max(0) as u64;
            StreamUse::new(stream.handle as u64, in_use, cached)
        };
        let mut table: Vec<StreamUse> = self.streams().iter().map(|stream| row(stream)).collect();
        table.sort_by_key(|row| core::cmp::Reverse(row.in_use_bytes + row.cached_bytes));
        table
    }
}

/// The numbers of a device for a request that failed.
#[cold]
pub(super) fn report(gpu: &Gpu, requested_bytes: u64) -> OutOfMemory {
    let (stats, limit_bytes) = (gpu.memory.stats(), gpu.limit_bytes());
    let in_use_bytes = gpu.in_use_bytes();
    OutOfMemory {
        device: gpu.id(),
        requested_bytes,
        in_use_bytes,
        limit_bytes,
        largest_free_bytes: stats.largest_free_bytes.min(limit_bytes.saturating_sub(in_use_bytes)),
        reclaimable_bytes: stats.idle_bytes,
        free_bytes: gpu.context().memory_info().ok().map(|(free, _)| free),
        streams: gpu.table(),
        ..OutOfMemory::default()
    }
}

/// As an error.
#[cold]
pub(super) fn refused(gpu: &Gpu, requested_bytes: u64) -> DemoError {
    report(gpu, requested_bytes).into()
}
