//! Without virtual memory management: pools over blocks of the driver's own allocator, as many as are needed.
//!
//! A range is taken when no other has room: twice as large as the last, at least [`LEAST`], and exactly as large as the request
//! where that cannot be had. One that holds nothing goes back when memory is short or somebody asks.

use super::context::Context;
use super::order::Order;
use super::result::{OUT_OF_MEMORY, Refused};
use crate::arena::NoBlock;
use crate::arena::index::FitTable;
use crate::arena::metadata::Metadata;
use crate::error::BadFree;
use crate::pool::{Pool, PoolConfig, Stats};
use crate::space::{Alignment, Contents, Geometry, MappedTables, Offset, Space, SpaceError, Span};
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::{HostLock, Lock};
use core::alloc::Layout;
use std::sync::Arc;
use std::vec::Vec;

/// What a range is a multiple of, and its smallest and largest size where it may be larger than a request.
const UNIT: u64 = 2 << 20;
const LEAST: u64 = 32 << 20;
const MOST: u64 = 1 << 30;

/// One block of the driver's allocator, divided.
struct DeviceRange {
    context: Arc<Context>,
    start: u64,
    bytes: u64,
    /// Until the driver has it back.
    is_held: AtomicBool,
}

// SAFETY: 1. The block is this value's own until it is dropped; `addr` and `offset` add and subtract its start.
unsafe impl Space for DeviceRange {
    type Addr = u64;
    type Index<M: Metadata> = FitTable<M>;
    type Tables = MappedTables;

    fn geometry(&self) -> Geometry {
        Geometry::spans(64 << 10).slabs(64 << 10, 512)
    }
    fn len_bytes(&self) -> u64 {
        self.bytes
    }
    fn alignment(&self) -> Alignment {
        const MOST_ALIGN: u64 = 2 << 20;
        Alignment { max_bytes: MOST_ALIGN, skew_bytes: self.start % MOST_ALIGN }
    }
    fn addr(&self, at: Offset) -> u64 {
        self.start + at.0
    }
    fn offset(&self, addr: u64) -> Option<Offset> {
        addr.checked_sub(self.start).filter(|&at| at < self.bytes).map(Offset)
    }
    fn commit(&self, _frames: Span) -> Result<Contents, SpaceError> {
        Ok(Contents::Unknown)
    }
    fn decommit(&self, _frames: Span) {}
    fn rehome(&self, _from: Span, to: Span) -> Result<Contents, SpaceError> {
        Err(SpaceError::new(self.geometry().bytes(to.granules), 0))
    }
}

impl DeviceRange {
    /// Gives the block back. Where the driver refuses that, it is as it was.
    fn give_back(&self) -> Result<(), Refused> {
        // Relaxed, both: whoever gives a range up has all ranges' lock.
        if self.is_held.load(Relaxed) {
            self.context.free(self.start)?;
            self.is_held.store(false, Relaxed);
        }
        Ok(())
    }
}

impl Drop for DeviceRange {
    fn drop(&mut self) {
        // Of what is dropped while it holds a block the driver is asked once more, and no more.
        let _ = self.give_back();
    }
}

struct Range {
    start: u64,
    bytes: u64,
    pool: Pool<DeviceRange, HostLock>,
}

struct Held {
    ranges: Vec<Range>,
    config: PoolConfig,
    reserved_bytes: u64,
    peak_reserved_bytes: u64,
    in_use_bytes: u64,
    peak_in_use_bytes: u64,
    allocations: u64,
    failures: u64,
    creates: u64,
    unmaps: u64,
}

/// All ranges of one device.
pub(super) struct Ranges {
    context: Arc<Context>,
    order: Arc<Order>,
    held: Lock<HostLock, Held>,
}

impl Ranges {
    pub(super) fn new(context: Arc<Context>, order: Arc<Order>) -> Ranges {
        let held = Held {
            ranges: Vec::new(),
            config: PoolConfig::DEFAULT,
            reserved_bytes: 0,
            peak_reserved_bytes: 0,
            in_use_bytes: 0,
            peak_in_use_bytes: 0,
            allocations: 0,
            failures: 0,
            creates: 0,
            unmaps: 0,
        };
        Ranges { context, order, held: Lock::new(held) }
    }

    pub(super) fn allocate(&self, layout: Layout) -> Result<(u64, u64), NoBlock> {
        let mut held = self.held.lock();
        let found = held.ranges.iter().find_map(|range| range.pool.allocate(layout).ok());
        let block = match found {
            Some(block) => Ok(block),
            None => self.take_range(&mut held, layout.size() as u64).and_then(|()| {
                let newest = held.ranges.last().map(|range| range.pool.allocate(layout));
                newest
                    .unwrap_or(Err(NoBlock::NeverFits { asked_bytes: layout.size() as u64, space_bytes: 0 }))
            }),
        };
        match block {
            Ok(block) => {
                held.allocations += 1;
                held.in_use_bytes += block.bytes;
                held.peak_in_use_bytes = held.peak_in_use_bytes.max(held.in_use_bytes);
                Ok((block.addr, block.bytes))
            }
            Err(why) => {
                held.failures += 1;
                Err(why)
            }
        }
    }

    fn take_range(&self, held: &mut Held, bytes: u64) -> Result<(), NoBlock> {
        let never = NoBlock::NeverFits { asked_bytes: bytes, space_bytes: held.config.max_bytes };
        let exact = bytes.max(1).checked_next_multiple_of(UNIT).ok_or(never)?;
        if exact > held.config.max_bytes.saturating_sub(held.reserved_bytes) {
            // Ranges that hold nothing make room.
            self.give_up(held, 0);
        }
        let left = held.config.max_bytes.saturating_sub(held.reserved_bytes);
        if exact > left {
            return Err(NoBlock::OverBudget { asked_bytes: exact });
        }
        let roomy = held
            .ranges
            .last()
            .map_or(LEAST, |last| (last.bytes * 2).min(MOST))
            .max(exact)
            .min(left / UNIT * UNIT);
        let made = self.make(roomy).or_else(|refused| match refused {
            refused if refused.is_out_of_memory() => {
                self.give_up(held, 0);
                self.make(exact)
            }
            refused => Err(refused),
        });
        let range = made.map_err(|refused| NoBlock::NotBacked(SpaceError::new(exact, refused.code)))?;
        held.reserved_bytes += range.bytes;
        held.peak_reserved_bytes = held.peak_reserved_bytes.max(held.reserved_bytes);
        held.creates += 1;
        held.ranges.push(range);
        Ok(())
    }

    fn make(&self, bytes: u64) -> Result<Range, Refused> {
        let start = self.context.allocate(bytes)?;
        let is_held = AtomicBool::new(true);
        let space = DeviceRange { context: self.context.clone(), start, bytes, is_held };
        let no_tables = Refused { call: "tables", code: OUT_OF_MEMORY };
        let pool = Pool::new(space, MappedTables, PoolConfig::DEFAULT).map_err(|_| no_tables)?;
        Ok(Range { start, bytes, pool })
    }

    pub(super) fn free(&self, at: u64, layout: Layout) -> Result<(), BadFree> {
        let mut held = self.held.lock();
        let range = held.ranges.iter().find(|range| (range.start..range.start + range.bytes).contains(&at));
        let range = range.ok_or(BadFree::Foreign)?;
        let bytes = range.pool.usable_bytes(at)?;
        // SAFETY: 1. The caller of the device's `free` uses the block no more; on a device that means: no work is queued on it
        // but what the order of streams knows of.
        unsafe { range.pool.free(at, layout) }?;
        held.in_use_bytes -= bytes;
        Ok(())
    }

    pub(super) fn usable_bytes(&self, at: u64) -> Result<u64, BadFree> {
        let held = self.held.lock();
        let range = held.ranges.iter().find(|range| (range.start..range.start + range.bytes).contains(&at));
        range.ok_or(BadFree::Foreign)?.pool.usable_bytes(at)
    }

    /// Gives ranges back that hold nothing, until at most so much of them is kept.
    pub(super) fn trim(&self, keep_bytes: u64) -> u64 {
        self.give_up(&mut self.held.lock(), keep_bytes)
    }

    fn give_up(&self, held: &mut Held, keep_bytes: u64) -> u64 {
        let (mut kept, mut given) = (0, 0);
        held.ranges.retain(|range| {
            if range.pool.stats().blocks > 0 {
                return true;
            }
            if kept + range.bytes <= keep_bytes {
                kept += range.bytes;
                return true;
            }
            // Where the device cannot be waited for, or its driver refuses, the range stays, and serves the next request.
            let given_back = self
                .order
                .wait(range.start, range.bytes)
                .and_then(|()| range.pool.look(DeviceRange::give_back));
            if given_back.is_err() {
                return true;
            }
            given += range.bytes;
            held.unmaps += 1;
            false
        });
        held.reserved_bytes -= given;
        given
    }

    pub(super) fn idle_bytes(&self) -> u64 {
        let held = self.held.lock();
        let idle = held.ranges.iter().filter(|range| range.pool.stats().blocks == 0);
        idle.map(|range| range.bytes).sum()
    }

    pub(super) fn configure(&self, config: PoolConfig) {
        let mut held = self.held.lock();
        held.config = config;
        if held.reserved_bytes > config.max_bytes {
            self.give_up(&mut held, 0);
        }
        let missing =
            config.initial_bytes.min(config.max_bytes).saturating_sub(held.reserved_bytes) / UNIT * UNIT;
        if missing > 0
            && let Ok(range) = self.make(missing)
        {
            held.reserved_bytes += range.bytes;
            held.peak_reserved_bytes = held.peak_reserved_bytes.max(held.reserved_bytes);
            held.creates += 1;
            held.ranges.push(range);
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let held = self.held.lock();
        let parts: Vec<Stats> = held.ranges.iter().map(|range| range.pool.stats()).collect();
        let idle = parts.iter().zip(&held.ranges).filter(|(part, _)| part.blocks == 0);
        let mut stats = Stats {
            in_use_bytes: held.in_use_bytes,
            peak_in_use_bytes: held.peak_in_use_bytes,
            reserved_bytes: held.reserved_bytes,
            peak_reserved_bytes: held.peak_reserved_bytes,
            limit_bytes: held.config.max_bytes,
            ..Stats::default()
        };
        stats.idle_bytes = idle.map(|(_, range)| range.bytes).sum();
        stats.largest_free_bytes = parts.iter().map(|part| part.largest_free_bytes).max().unwrap_or(0);
        stats.blocks = parts.iter().map(|part| part.blocks).sum();
        (stats.allocations, stats.failures) = (held.allocations, held.failures);
        (stats.creates, stats.unmaps) = (held.creates, held.unmaps);
        stats
    }
}
