//! One device of the process: its context, its memory, its streams. Made at the first use, and kept for good.

use super::block::Block;
use super::cache::{self, CLASSES};
use super::context::Context;
use super::memory::Memory;
use super::order::Order;
use super::result::{CAPTURED, Refused};
use super::staging::Staging;
use super::stream::{Inner, Stream};
use crate::arena::NoBlock;
use crate::device::Device;
use crate::device::handover::Slots;
use crate::error::{DemoError, DeviceId, Result};
use crate::heap::misused;
use crate::pool::PoolConfig;
use crate::pool::budget::scope::Scope;
use crate::size::{Offset, SizeClass};
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::{HostLock, Lock, OnceLock};
use crate::timeline::{self, Place};
use core::alloc::Layout;
use std::boxed::Box;
use std::sync::{Arc, Weak};
use std::vec::Vec;

/// A device and everything that was taken from it.
pub(super) struct Gpu {
    context: Arc<Context>,
    order: Arc<Order>,
    pub(super) memory: Memory,
    pub(super) total_bytes: u64,
    pub(super) settings: Lock<HostLock, Settings>,
    /// More is held than the limit that was set: what comes back is given up until it fits.
    pub(super) is_over: AtomicBool,
    streams: Lock<HostLock, Vec<Weak<Inner>>>,
    default: OnceLock<Stream>,
    pub(super) staging: OnceLock<Staging>,
    /// Blocks that were given back while another device copied them and nobody could wait for that.
    stranded: Lock<HostLock, Vec<Block>>,
}

/// What was set: by the pool's builder, and by the memory limit. Both hold.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) pool: PoolConfig,
    pub(super) limit_bytes: u64,
}

impl Settings {
    /// What the pool is told.
    pub(super) fn config(self) -> PoolConfig {
        self.pool.max_bytes(self.pool.max_bytes.min(self.limit_bytes))
    }
}

/// As many devices as one machine is known to have, four times.
const MOST_DEVICES: usize = 64;

static GPUS: [OnceLock<&'static Gpu>; MOST_DEVICES] = [const { OnceLock::new() }; MOST_DEVICES];
/// Held while a device is made, so that one that failed can be tried again.
static MAKING: Lock<HostLock, ()> = Lock::new(());

/// The device of an ordinal.
pub(super) fn get(ordinal: u32) -> Result<&'static Gpu> {
    // Asked each time: a fork must not even look.
    if let (Some(made), false) =
        (GPUS.get(ordinal as usize).and_then(OnceLock::get), super::driver::is_fork())
    {
        return Ok(made);
    }
    make(ordinal)
}

#[cold]
fn make(ordinal: u32) -> Result<&'static Gpu> {
    super::driver::with_device(ordinal)?;
    let device = DeviceId::Cuda(ordinal);
    let place = GPUS.get(ordinal as usize).ok_or(DemoError::DeviceUnavailable {
        device,
        problem: "it is beyond the 64 devices that are kept account of; choose some with CUDA_VISIBLE_DEVICES",
    })?;
    let _making = MAKING.lock();
    if let Some(made) = place.get() {
        return Ok(made);
    }
    let failed = |refused: Refused| refused.on(ordinal);
    let context = Arc::new(Context::retain(ordinal)?);
    let (_, total_bytes) = context.memory_info().map_err(failed)?;
    let order = Arc::new(Order::new(context.clone(), super::memory::addresses(total_bytes))?);
    let memory = Memory::new(&context, &order, total_bytes).map_err(failed)?;
    let gpu: &'static Gpu = Box::leak(Box::new(Gpu {
        context,
        order,
        memory,
        total_bytes,
        settings: Lock::new(Settings { pool: PoolConfig::DEFAULT, limit_bytes: u64::MAX }),
        is_over: AtomicBool::new(false),
        streams: Lock::new(Vec::new()),
        default: OnceLock::new(),
        staging: OnceLock::new(),
        stranded: Lock::new(Vec::new()),
    }));
    let default = Stream::default_of(gpu)?;
    gpu.default.get_or_init(|| default);
    super::shortage::register(gpu);
    Ok(place.get_or_init(|| gpu))
}

/// The device behind a [`Device`].
pub(super) fn of(device: &Device, operation: &'static str) -> Result<&'static Gpu> {
    match device.id() {
        DeviceId::Cuda(ordinal) => get(ordinal),
        held => {
            let (what, needed) = ("a device such as", DeviceId::Cuda(0));
            Err(DemoError::WrongDevice { operation, what, held, needed, advice: "Device::cuda gives one" })
        }
    }
}

/// Why there is no block.
pub(super) enum Missing {
    /// The memory's reason.
    Block(NoBlock),
    /// The driver's.
    Driver(Refused),
}

impl Gpu {
    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    pub(super) fn id(&self) -> DeviceId {
        DeviceId::Cuda(self.context.ordinal())
    }

    pub(super) fn failed(&self, refused: Refused) -> DemoError {
        refused.on(self.context.ordinal())
    }

    /// The stream that is meant where none is named.
    pub(super) fn default_stream(&self) -> &Stream {
        match self.default.get() {
            Some(stream) => stream,
            None => unreachable!("a device is handed out with its default stream"),
        }
    }

    /// A stream of this device to keep account of.
    pub(super) fn know(&self, stream: &Arc<Inner>) {
        let mut streams = self.streams.lock();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(stream));
    }

    /// Every stream that lives.
    pub(super) fn streams(&self) -> Vec<Arc<Inner>> {
        self.streams.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// One try at a block for use on a stream, which may have to wait for who used it before.
    #[inline]
    pub(super) fn take(&self, layout: Layout, stream: &Inner) -> Result<(u64, u64), Missing> {
        super::driver::not_forked().map_err(Missing::Driver)?;
        let class = CLASSES.class(layout.size() as u64, layout.align() as u64);
        let (at, bytes) = match (&self.memory, class) {
            (Memory::Mapped { .. }, Some(class)) => {
                let at = self.take_small(class, stream)?;
                (at, CLASSES.slot_bytes(class))
            }
            _ => {
                let (at, bytes) = self.memory.allocate(layout).map_err(Missing::Block)?;
                match self.order.reuse(stream.slot, at, bytes) {
                    Ok(()) => (at, bytes),
                    Err(refused) => self.take_elsewhere(layout, stream, (at, bytes), refused)?,
                }
            }
        };
        stream.took(bytes);
        if timeline::wants_backing() {
            self.tell(timeline::allocated, at, layout, bytes, stream);
        }
        Ok((at, bytes))
    }

    /// A block whose last users the stream cannot be made to wait for is left to them. While a stream is captured that is so of what was
    /// freed on it, and for itself of what others freed; then there is other memory to be had.
    #[cold]
    fn take_elsewhere(
        &self,
        layout: Layout,
        stream: &Inner,
        first: (u64, u64),
        mut refused: Refused,
    ) -> Result<(u64, u64), Missing> {
        let mut aside = Vec::from([first]);
        let taken = loop {
            if refused.code != CAPTURED {
                break Err(Missing::Driver(refused));
            }
            let Ok((at, bytes)) = self.memory.allocate(layout) else { break Err(Missing::Driver(refused)) };
            match self.order.reuse(stream.slot, at, bytes) {
                Ok(()) => break Ok((at, bytes)),
                Err(again) => refused = again,
            }
            aside.push((at, bytes));
        };
        for (at, bytes) in aside {
            self.give_to_memory(at, layout, bytes, stream, Slots::NONE);
        }
        taken
    }

    /// Tells the timeline of a block that was handed out, or is about to come back; and before that of the frames that were created for it.
    #[cold]
    #[inline(never)]
    fn tell(
        &self,
        tell: fn(Place, u64, u64, u64, u64, &str),
        at: u64,
        layout: Layout,
        bytes: u64,
        stream: &Inner,
    ) {
        self.tell_backing();
        if timeline::is_recording() {
            let scope = Scope::current();
            tell(self.place(), at, layout.size() as u64, bytes, stream.handle as u64, scope.name());
        }
    }

    fn place(&self) -> Place {
        Place::Cuda(self.context.ordinal() as u8)
    }

    /// Tells what the pool has reserved, if anybody wants to know.
    pub(super) fn tell_backing(&self) {
        if timeline::wants_backing() {
            let stats = self.memory.stats();
            timeline::backed(self.place(), stats.reserved_bytes, [stats.creates, stats.steals, stats.unmaps]);
        }
    }

    /// Gives back what [`take`](Self::take) gave to `owner`. Work on it is queued on `stream`, and on those of `also`.
    #[inline]
    pub(super) fn give(
        &self,
        at: u64,
        layout: Layout,
        bytes: u64,
        owner: &Inner,
        stream: &Inner,
        also: Slots,
    ) {
        if super::driver::is_fork() {
            return;
        }
        if timeline::wants_backing() {
            self.tell(timeline::freed, at, layout, bytes, owner);
        }
        owner.gave(bytes);
        let class = CLASSES.class(layout.size() as u64, layout.align() as u64);
        match (&self.memory, class) {
            (Memory::Mapped { .. }, Some(class)) if also.is_empty() => {
                stream.cached_bytes.fetch_add(bytes, Relaxed);
                let overflow = stream.cache.lock().push(class, at);
                if let Some(blocks) = overflow {
                    self.flush(class, &blocks, stream);
                }
            }
            _ => self.give_to_memory(at, layout, bytes, owner, also.and(stream.slot)),
        }
    }

    #[inline]
    fn take_small(&self, class: SizeClass, stream: &Inner) -> Result<u64, Missing> {
        let mut cache = stream.cache.lock();
        let at = match cache.pop(class) {
            Some(at) => at,
            None => {
                let mut blocks = self.refill(class, stream)?;
                let Some(at) = blocks.pop() else { unreachable!("a refill has a block") };
                stream.cached_bytes.fetch_add((blocks.len() as u64 + 1) * CLASSES.slot_bytes(class), Relaxed);
                for block in blocks {
                    let overflow = cache.push(class, block);
                    debug_assert!(overflow.is_none(), "the cache had none of the class");
                }
                at
            }
        };
        stream.cached_bytes.fetch_sub(CLASSES.slot_bytes(class), Relaxed);
        Ok(at)
    }

    /// A magazine of blocks that the stream has waited for.
    #[cold]
    fn refill(&self, class: SizeClass, stream: &Inner) -> Result<Vec<u64>, Missing> {
        let Memory::Mapped { pool, start } = &self.memory else {
            unreachable!("only mapped memory has caches")
        };
        let mut aside: Vec<Vec<Offset>> = Vec::new();
        let mut refused = None;
        let taken = loop {
            let mut offsets = [Offset(0); cache::MOST];
            let refilled = match (pool.refill(class, &mut offsets[..cache::capacity(class)]), refused) {
                (Ok(refilled), _) => refilled,
                (Err(_), Some(refused)) => break Err(Missing::Driver(refused)),
                (Err(why), None) => break Err(Missing::Block(why)),
            };
            let offsets = &offsets[..refilled.blocks];
            // The lowest on top, so that the high ones run idle.
            let blocks: Vec<u64> = offsets.iter().rev().map(|at| start + at.0).collect();
            let waited = blocks
                .iter()
                .try_for_each(|&at| self.order.reuse(stream.slot, at, CLASSES.slot_bytes(class)));
            let Err(why) = waited else { break Ok(blocks) };
            aside.push(offsets.to_vec());
            // As in `take_elsewhere`.
            if why.code != CAPTURED {
                break Err(Missing::Driver(why));
            }
            refused = Some(why);
        };
        for offsets in aside {
            // Nobody has worked on them since they were found free.
            // SAFETY: 1. They were taken a moment ago, and never handed out.
            unsafe { pool.flush(class, &offsets) };
        }
        taken
    }

    /// Gives small blocks that were freed on a stream back to the slabs.
    fn flush(&self, class: SizeClass, blocks: &[u64], stream: &Inner) {
        let Memory::Mapped { pool, start } = &self.memory else { return };
        let bytes = CLASSES.slot_bytes(class);
        stream.cached_bytes.fetch_sub(blocks.len() as u64 * bytes, Relaxed);
        self.order.freed(Slots::one(stream.slot), blocks.iter().map(|&at| (at, bytes)));
        let offsets: Vec<Offset> = blocks.iter().map(|at| Offset(at.wrapping_sub(*start))).collect();
        let mut given = 0;
        while given < offsets.len() {
            // SAFETY: 1. Their users freed them, and the order of streams knows of the work that is still queued.
            let flushed = unsafe { pool.flush(class, &offsets[given..]) };
            given += flushed.blocks;
            if let Some(why) = flushed.refused {
                // It was not this stream's to give.
                stream.took(bytes);
                misused(blocks[given] as usize, bytes as usize, why);
                given += 1;
            }
        }
    }

    /// Empties a stream's cache. Returns the bytes.
    pub(super) fn empty(&self, stream: &Inner) -> u64 {
        if super::driver::is_fork() {
            return 0;
        }
        let held: Vec<_> = stream.cache.lock().drain().collect();
        held.iter()
            .map(|(class, blocks)| {
                self.flush(*class, blocks, stream);
                blocks.len() as u64 * CLASSES.slot_bytes(*class)
            })
            .sum()
    }

    /// Empties every stream's cache. Returns the bytes.
    pub(super) fn empty_all(&self) -> u64 {
        self.streams().iter().map(|stream| self.empty(stream)).sum()
    }

    fn give_to_memory(&self, at: u64, layout: Layout, bytes: u64, user: &Inner, on: Slots) {
        // First: from the moment that it is found free, whoever takes it asks.
        self.order.freed(on, core::iter::once((at, bytes)));
        let freed = match &self.memory {
            // SAFETY: 1. Its owner is dropped, and the order of streams knows of the work that is still queued.
            Memory::Mapped { pool, .. } => unsafe { pool.free(at, layout) },
            Memory::Ranges(ranges) => ranges.free(at, layout),
        };
        if let Err(why) = freed {
            user.took(bytes);
            misused(at as usize, bytes as usize, why);
        }
        // Relaxed: whoever sees it too late is followed by another free, or by the next change of the limit.
        if self.is_over.load(Relaxed) {
            self.shrink();
        }
    }

    /// Gives idle frames up while more is held than the limit.
    #[cold]
    pub(super) fn shrink(&self) {
        let limit_bytes = self.settings.lock().config().max_bytes;
        let over_bytes = self.memory.stats().reserved_bytes.saturating_sub(limit_bytes);
        let idle_bytes = self.memory.idle_bytes();
        if over_bytes > 0 && idle_bytes > 0 {
            self.memory.trim(idle_bytes.saturating_sub(over_bytes));
        }
        self.tell_backing();
        self.is_over.store(self.memory.stats().reserved_bytes > limit_bytes, Relaxed);
    }

    /// Keeps a block that cannot be given back yet; until it can, it is in use.
    #[cold]
    pub(super) fn strand(&self, block: Block) {
        self.stranded.lock().push(block);
    }

    /// Gives idle frames up until `target_bytes` were given, and waits for the streams that freed in them.
    pub(super) fn reclaim(&self, target_bytes: u64) -> u64 {
        if super::driver::is_fork() {
            return 0;
        }
        // Each tries again to be given back. Outside of the lock: one that cannot comes here again.
        let stranded = core::mem::take(&mut *self.stranded.lock());
        drop(stranded);
        self.empty_all();
        let given = self.memory.trim(self.memory.idle_bytes().saturating_sub(target_bytes));
        self.tell_backing();
        given
    }
}
