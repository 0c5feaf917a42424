//! A block of device memory with its owner: given back on its stream when it is dropped.

#![forbid(unsafe_code)]

use super::driver::{is_fork, not_forked};
use super::gpu::Gpu;
use super::result::Refused;
use super::stream::{Inner, Stream};
use super::sys::Handle;
use crate::device::handover::Slots;
use crate::device::{Backend, DeviceMemory, Queue};
use crate::error::{DemoError, DeviceId, Result};
use crate::sync::{HostLock, Lock};
use core::alloc::Layout;
use core::any::Any;
use core::mem::take;
use core::ops::Range;
use std::sync::Arc;
use std::vec::Vec;

/// What `cudaMalloc` promises, and what kernels with vector loads need.
pub(super) const ALIGN: usize = 256;

/// A block that was taken on a stream.
pub(super) struct Block {
    at: u64,
    bytes: usize,
    /// What the pool gave.
    held_bytes: u64,
    layout: Layout,
    stream: Arc<Inner>,
    /// Other streams that work on it, kept until it is free: a stream that ended could not be waited for. Once the next one is behind all that was queued
    /// in it, one that ended is kept no more.
    also: Lock<HostLock, Vec<Arc<Inner>>>,
    /// Streams of other devices with copies of it that its own could not be made to wait for, nor this process.
    abroad: Lock<HostLock, Vec<Arc<Inner>>>,
    /// Somebody may use it for as long as the process lives, so nobody else is given it.
    is_lost: bool,
}

impl Block {
    /// A block for use on a stream; it holds anything.
    pub(super) fn new(bytes: usize, stream: &Stream) -> Result<Block> {
        let stream = &stream.0;
        let gpu = stream.gpu;
        let layout =
            Layout::from_size_align(bytes, ALIGN).map_err(|_| super::shortage::report(gpu, bytes as u64))?;
        let (at, held_bytes) = gpu.allocate(layout, stream)?;
        let (also, abroad) = (Lock::new(Vec::new()), Lock::new(Vec::new()));
        Ok(Block { at, bytes, held_bytes, layout, stream: stream.clone(), also, abroad, is_lost: false })
    }

    /// The same, all zeros.
    pub(super) fn zeros(bytes: usize, stream: &Stream) -> Result<Block> {
        let block = Block::new(bytes, stream)?;
        if bytes > 0 {
            let gpu = block.gpu();
            gpu.context()
                .clear(block.at, bytes, block.stream.handle)
                .map_err(|refused| gpu.failed(refused))?;
        }
        Ok(block)
    }

    /// The same, with these bytes in it, which the caller may drop at once.
    pub(super) fn of(bytes: &[u8], stream: &Stream) -> Result<Block> {
        let block = Block::new(bytes.len(), stream)?;
        let gpu = block.gpu();
        gpu.upload(block.at, bytes, &block.stream).map_err(|refused| gpu.failed(refused))?;
        Ok(block)
    }

    pub(super) fn gpu(&self) -> &'static Gpu {
        self.stream.gpu
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// `other`, of the same device, waits for everything that was queued on the block so far; from here on it works on it too.
    pub(super) fn share(&self, other: &Arc<Inner>) -> Result<(), Refused> {
        if other.slot == self.stream.slot {
            return self.gather();
        }
        not_forked()?;
        let mut also = self.also.lock();
        let order = self.gpu().order();
        // Before the waits: what is queued between them and a stream's end is behind nobody.
        let over = also.iter().filter(|user| user.has_ended());
        let over = over.fold(Slots::NONE, |slots, user| slots.and(user.slot));
        order.follow(other.slot, self.stream.slot)?;
        also.iter()
            .filter(|user| user.slot != other.slot)
            .try_for_each(|user| order.follow(other.slot, user.slot))?;
        let over: Vec<Arc<Inner>> = also.extract_if(.., |user| over.without(user.slot) != over).collect();
        if also.iter().all(|user| user.slot != other.slot) {
            also.push(other.clone());
        }
        drop(also);
        // Outside of the lock: the last of a stream gives its cache back.
        drop(over);
        Ok(())
    }

    /// Who uses it cannot be waited for: it is not given back when it is dropped, and counts as in use.
    pub(super) fn lose(&mut self) {
        self.is_lost = true;
    }

    /// An event behind everything that is queued on the block's stream now.
    pub(super) fn mark(&self) -> Result<Handle, Refused> {
        self.gpu().order().mark(self.stream.slot)
    }

    /// The block's own stream waits for the others that work on it.
    fn gather(&self) -> Result<(), Refused> {
        not_forked()?;
        let also = self.also.lock();
        also.iter().try_for_each(|user| self.gpu().order().follow(self.stream.slot, user.slot))
    }

    /// A copy of some bytes, on a stream of the same device or another one.
    fn copied(&self, range: Range<usize>, stream: &Stream) -> Result<Block> {
        debug_assert!(range.end <= self.bytes);
        let (from, bytes) = (self.at + range.start as u64, range.len());
        let copy = Block::new(bytes, stream)?;
        if bytes == 0 {
            return Ok(copy);
        }
        let (here, there) = (self.gpu(), copy.gpu());
        if core::ptr::eq(here, there) {
            let queued = self
                .share(&copy.stream)
                .and_then(|()| there.context().copy(copy.at, from, bytes, copy.stream.handle));
            queued.map_err(|refused| there.failed(refused))?;
            return Ok(copy);
        }
        // The copy waits for this block's stream, and that for the copy: what is freed here afterwards is free behind it.
        let behind = self.gather().and_then(|()| here.order().mark(self.stream.slot));
        let behind = behind.map_err(|refused| here.failed(refused))?;
        here.admit(there);
        let queued = there.order().await_foreign(copy.stream.slot, behind).and_then(|()| {
            there.context().copy_from(here.context(), copy.at, from, bytes, copy.stream.handle)
        });
        queued.map_err(|refused| there.failed(refused))?;
        let waits = there
            .order()
            .mark(copy.stream.slot)
            .and_then(|done| here.order().await_foreign(self.stream.slot, done));
        // This block's stream cannot wait for the copy, so this thread does; or whoever gives the block back.
        waits.or_else(|_| there.context().synchronize_twice(copy.stream.handle)).map_err(|refused| {
            self.abroad.lock().push(copy.stream.clone());
            there.failed(refused)
        })?;
        Ok(copy)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.is_lost || is_fork() {
            return;
        }
        let mut abroad = self.abroad.get_mut().iter();
        if !abroad.all(|user| user.gpu.context().synchronize_twice(user.handle).is_ok()) {
            let (also, abroad) = (take(self.also.get_mut()), take(self.abroad.get_mut()));
            let (also, abroad, stream) = (Lock::new(also), Lock::new(abroad), self.stream.clone());
            self.stream.gpu.strand(Block { stream, also, abroad, ..*self });
            return;
        }
        let also = self.also.get_mut().iter().fold(Slots::NONE, |slots, user| slots.and(user.slot));
        self.stream.gpu.give(self.at, self.layout, self.held_bytes, &self.stream, &self.stream, also);
    }
}

impl DeviceMemory for Block {
    fn device(&self) -> DeviceId {
        self.gpu().id()
    }

    fn address(&self) -> u64 {
        self.at
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        debug_assert!(offset + out.len() <= self.bytes);
        let gpu = self.gpu();
        let read = self
            .gather()
            .and_then(|()| gpu.context().copy_to_host(out, self.at + offset as u64, self.stream.handle));
        read.map_err(|refused| gpu.failed(refused))
    }

    fn used_on(&self, queue: &dyn Queue) -> Result<()> {
        let stream = self.gpu().stream(Some(queue))?;
        self.share(&stream.0).map_err(|refused| self.gpu().failed(refused))
    }
}

impl Gpu {
    /// The stream that is meant.
    fn stream<'a>(&'a self, queue: Option<&'a dyn Queue>) -> Result<&'a Stream> {
        let Some(queue) = queue else { return Ok(self.default_stream()) };
        match (queue as &dyn Any).downcast_ref::<Stream>() {
            Some(stream) if queue.device() == self.id() => Ok(stream),
            _ => Err(DemoError::WrongDevice {
                operation: "this work",
                what: "a stream of",
                held: queue.device(),
                needed: self.id(),
                advice: "make one with cuda::Stream::new",
            }),
        }
    }

    /// Lets another device read this one's memory on its own, where it can. Where not, the driver copies by way of the host.
    fn admit(&self, peer: &Gpu) {
        if let super::memory::Memory::Mapped { pool, .. } = &self.memory
            && peer.context().can_reach(self.context())
        {
            // A refusal costs speed and nothing else.
            let _ = pool.look(|space| space.admit(peer.context().ordinal()));
        }
    }
}

// A panic leaves nothing half done: what is behind locks is changed in whole steps, none of which calls anybody else's code.
impl core::panic::RefUnwindSafe for Gpu {}
impl core::panic::RefUnwindSafe for Block {}

impl Backend for Gpu {
    fn device(&self) -> DeviceId {
        self.id()
    }

    fn is_short_of(&self, bytes: u64) -> bool {
        // Fewer are not worth a look at all streams.
        const MANY_BYTES: u64 = 2 << 20;
        bytes >= MANY_BYTES && self.in_use_bytes().saturating_add(bytes) > self.limit_bytes()
    }

    fn zeros(&self, bytes: usize, queue: Option<&dyn Queue>) -> Result<Arc<dyn DeviceMemory>> {
        Ok(Arc::new(Block::zeros(bytes, self.stream(queue)?)?))
    }

    fn upload(&self, bytes: &[u8], queue: Option<&dyn Queue>) -> Result<Arc<dyn DeviceMemory>> {
        Ok(Arc::new(Block::of(bytes, self.stream(queue)?)?))
    }

    fn copy(
        &self,
        from: &dyn DeviceMemory,
        range: Range<usize>,
        queue: Option<&dyn Queue>,
    ) -> Result<Arc<dyn DeviceMemory>> {
        let stream = self.stream(queue)?;
        match (from as &dyn Any).downcast_ref::<Block>() {
            Some(block) => Ok(Arc::new(block.copied(range, stream)?)),
            None => {
                let advice = "only memory of CUDA devices can be copied to one so";
                let (held, needed) = (from.device(), self.id());
                Err(DemoError::WrongDevice { operation: "a copy", what: "memory of", held, needed, advice })
            }
        }
    }
}
