//! A device's memory as a space: addresses reserved once, frames of physical memory mapped where they are needed.
//!
//! 1. A frame has one handle of physical memory. Moving backing maps the same handle at its new place, lets the device
//!    touch it there, and only then unmaps the old place: until the last step there is nothing to undo but the new mapping.
//! 2. A frame is not moved or given up before every stream has passed the frees in it: see `order`.
//! 3. A frame that the driver refuses to unmap stays the pool's, which counts it, uses it as it is and gives it up again later.
//! 4. What it refuses while a step that failed is undone is a leftover: it is tried again whenever memory is given back.

use super::context::Context;
use super::leftovers::Leftovers;
use super::order::Order;
use super::result::Refused;
use super::sys::Address;
use crate::arena::index::BuddyTree;
use crate::arena::metadata::Metadata;
use crate::device::Device;
use crate::error::Result;
use crate::space::{Alignment, Contents, Geometry, MappedTables, Offset, Space, SpaceError, Span};
use crate::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use crate::sync::{HostLock, Lock};
use core::ops::Range;
use std::boxed::Box;
use std::sync::Arc;

/// A granule, and what slabs are: those of simulated device memory, so that what was measured there holds here.
const GRANULE: usize = 64 << 10;
const SMALLEST_SLOT: usize = 512;
/// The least that a frame is.
const FRAME: u64 = 2 << 20;
/// Blocks can be aligned to this.
const MOST_ALIGN: u64 = 1 << 30;

/// A range of one device's addresses, backed frame by frame. Dropping it gives addresses and memory back.
pub struct CudaSpace {
    context: Arc<Context>,
    order: Arc<Order>,
    start: Address,
    bytes: u64,
    frame_bytes: u64,
    /// The handle behind each frame; 0 where there is none. The pool's lock makes these plain words.
    handles: Box<[AtomicU64]>,
    left: Lock<HostLock, Leftovers>,
    /// Other devices that may touch it, one bit each.
    peers: AtomicU64,
    /// The driver's last refusal.
    refusal: AtomicI32,
}

impl CudaSpace {
    /// Addresses on a device: `bytes`, rounded up to a frame.
    ///
    /// # Errors
    /// [`DemoError::WrongDevice`](crate::DemoError::WrongDevice) for the host,
    /// [`DemoError::DeviceFailed`](crate::DemoError::DeviceFailed) where the driver refuses, as one does that has no virtual
    /// memory management.
    pub fn reserve(device: &Device, bytes: u64) -> Result<CudaSpace> {
        let gpu = super::gpu::of(device, "CudaSpace::reserve")?;
        let order = Arc::new(Order::new(gpu.context().clone(), bytes)?);
        CudaSpace::new(gpu.context().clone(), order, bytes)
            .map_err(|refused| refused.on(gpu.context().ordinal()))
    }

    pub(super) fn new(context: Arc<Context>, order: Arc<Order>, bytes: u64) -> Result<CudaSpace, Refused> {
        let frame_bytes = context.granularity()?.max(FRAME).next_power_of_two();
        let too_large = Refused { call: "cuMemAddressReserve", code: super::result::OUT_OF_MEMORY };
        let bytes = bytes.max(1).checked_next_multiple_of(frame_bytes).ok_or(too_large)?;
        let start = context.reserve(bytes, frame_bytes)?;
        let handles = (0..bytes / frame_bytes).map(|_| AtomicU64::new(0)).collect();
        let (left, peers, refusal) = (Lock::new(Leftovers::NONE), AtomicU64::new(0), AtomicI32::new(0));
        Ok(CudaSpace { context, order, start, bytes, frame_bytes, handles, left, peers, refusal })
    }

    pub(super) fn start(&self) -> Address {
        self.start
    }

    fn frames(&self, span: Span) -> Range<usize> {
        let shift = self.geometry().frame_granules_shift().unwrap_or(0);
        (span.start.0 >> shift) as usize..(span.end() >> shift) as usize
    }

    fn at(&self, frame: usize) -> Address {
        self.start + frame as u64 * self.frame_bytes
    }

    fn range(&self, frames: &Range<usize>) -> (Address, u64) {
        (self.at(frames.start), frames.len() as u64 * self.frame_bytes)
    }

    fn handle(&self, frame: usize) -> u64 {
        self.handles[frame].load(Relaxed)
    }

    fn keep(&self, frame: usize, handle: u64) {
        self.handles[frame].store(handle, Relaxed);
    }

    fn refused(&self, bytes: u64, refused: Refused) -> SpaceError {
        self.refusal.store(refused.code, Relaxed);
        SpaceError::new(bytes, refused.code)
    }

    /// Physical memory behind a frame that has none.
    fn back(&self, frame: usize) -> Result<(), Refused> {
        self.unalias(frame)?;
        let spare = self.left.lock().handles.pop();
        let handle = match spare {
            Some(handle) => handle,
            None => self.context.create(self.frame_bytes)?,
        };
        if let Err(refused) = self.context.map(self.at(frame), self.frame_bytes, handle) {
            self.release(handle);
            return Err(refused);
        }
        self.keep(frame, handle);
        Ok(())
    }

    /// Takes the physical memory behind a frame away. Where the driver refuses to unmap it, it stays.
    fn drop_backing(&self, frame: usize) -> Result<(), Refused> {
        self.unalias(frame)?;
        let handle = self.handle(frame);
        if handle == 0 {
            return Ok(());
        }
        self.context.unmap(self.at(frame), self.frame_bytes)?;
        self.keep(frame, 0);
        self.release(handle);
        Ok(())
    }

    /// Gives memory back that is mapped nowhere.
    fn release(&self, handle: u64) {
        if let Err(refused) = self.context.release(handle) {
            self.refused(self.frame_bytes, refused);
            self.left.lock().handles.push(handle);
        }
    }

    /// Unmaps what should have been at a frame, and wherever its memory is mapped a second time.
    fn unalias(&self, frame: usize) -> Result<(), Refused> {
        let mut left = self.left.lock();
        while let Some(at) =
            left.aliases.iter().position(|alias| alias.0 == frame || alias.1 == self.handle(frame))
        {
            self.context.unmap(self.at(left.aliases[at].0), self.frame_bytes)?;
            left.aliases.swap_remove(at);
        }
        Ok(())
    }

    /// The pool has these frames, whatever was left over of them.
    fn taken(&self, frames: &Range<usize>) {
        self.left.lock().frames.retain(|frame| !frames.contains(frame));
    }

    /// Gives back what was left over, as far as that can be done. Returns the bytes.
    pub(super) fn settle(&self) -> u64 {
        let (aliases, frames, handles) = {
            let mut left = self.left.lock();
            let frames = core::mem::take(&mut left.frames);
            (left.aliases.clone(), frames, core::mem::take(&mut left.handles))
        };
        let count = frames.len() + handles.len();
        if aliases.is_empty() && count == 0 {
            return 0;
        }
        // Where this is refused each call is, and what is left stays left.
        let _entered = self.context.enter();
        for (frame, _) in aliases {
            let _ = self.unalias(frame);
        }
        frames.into_iter().for_each(|frame| self.drop_made(frame));
        handles.into_iter().for_each(|handle| self.release(handle));
        (count - self.left.lock().frames_held().min(count)) as u64 * self.frame_bytes
    }

    /// What was left over and is no frame of the pool's.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left.lock().frames_held() as u64 * self.frame_bytes
    }

    /// Takes the memory behind a frame away that is none of the pool's.
    fn drop_made(&self, frame: usize) {
        if let Err(refused) = self.drop_backing(frame) {
            self.refused(self.frame_bytes, refused);
            self.left.lock().frames.push(frame);
        }
    }

    fn allow(&self, frames: &Range<usize>) -> Result<(), Refused> {
        let (at, bytes) = self.range(frames);
        self.context.set_access(at, bytes, self.peers.load(Relaxed))
    }

    /// Backs frames, or as many as were backed and why no more were.
    fn try_commit(&self, frames: Range<usize>) -> Result<(), Refused> {
        let _entered = self.context.enter()?;
        // One that was left over serves as it is.
        let backed =
            frames.clone().filter(|&frame| self.handle(frame) == 0).try_for_each(|frame| self.back(frame));
        self.taken(&frames);
        backed.and_then(|()| self.allow(&frames)).inspect_err(|_| {
            // Those that were left over before too.
            frames.filter(|&frame| self.handle(frame) != 0).for_each(|frame| self.drop_made(frame));
        })
    }

    fn try_rehome(&self, from: Range<usize>, to: Range<usize>) -> Result<(), Refused> {
        let (old, bytes) = self.range(&from);
        let _entered = self.context.enter()?;
        self.order.wait(old, bytes)?;
        let mut made = to.start..to.start;
        let undo = |made: Range<usize>| {
            for (source, frame) in from.clone().zip(made) {
                if self.context.unmap(self.at(frame), self.frame_bytes).is_err() {
                    self.left.lock().aliases.push((frame, self.handle(source)));
                }
            }
        };
        for (source, target) in from.clone().zip(to.clone()) {
            // What was left over there has memory of its own, which is one too many now.
            let mapped = self.drop_backing(target);
            let mapped = mapped.and_then(|()| {
                self.taken(&(target..target + 1));
                self.context.map(self.at(target), self.frame_bytes, self.handle(source))
            });
            if let Err(refused) = mapped {
                undo(made);
                return Err(refused);
            }
            made.end = target + 1;
        }
        let moved = self.allow(&to).and_then(|()| self.context.unmap(old, bytes));
        if let Err(refused) = moved {
            undo(made);
            return Err(refused);
        }
        for (source, target) in from.zip(to) {
            self.keep(target, self.handle(source));
            self.keep(source, 0);
        }
        Ok(())
    }

    /// Lets another device touch what is backed, now and from now on.
    pub(super) fn admit(&self, peer: u32) -> Result<(), Refused> {
        let bit = 1u64.checked_shl(peer).unwrap_or(0);
        if bit == 0 || self.peers.load(Relaxed) & bit != 0 {
            return Ok(());
        }
        let peers = self.peers.load(Relaxed) | bit;
        let mut frame = 0;
        while frame < self.handles.len() {
            let end =
                (frame..self.handles.len()).find(|&at| self.handle(at) == 0).unwrap_or(self.handles.len());
            if end > frame {
                let (at, bytes) = self.range(&(frame..end));
                self.context.set_access(at, bytes, peers)?;
            }
            frame = end + 1;
        }
        self.peers.store(peers, Relaxed);
        Ok(())
    }
}

// SAFETY: 1. The addresses are this reservation's own until it is dropped; `addr` and `offset` add and subtract its start.
unsafe impl Space for CudaSpace {
    type Addr = u64;
    type Index<M: Metadata> = BuddyTree<M>;
    type Tables = MappedTables;

    fn geometry(&self) -> Geometry {
        Geometry::spans(GRANULE).framed(self.frame_bytes as usize).slabs(GRANULE, SMALLEST_SLOT)
    }

    fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn alignment(&self) -> Alignment {
        Alignment { max_bytes: MOST_ALIGN, skew_bytes: self.start % MOST_ALIGN }
    }

    #[inline]
    fn addr(&self, at: Offset) -> u64 {
        self.start + at.0
    }

    #[inline]
    fn offset(&self, addr: u64) -> Option<Offset> {
        addr.checked_sub(self.start).filter(|&at| at < self.bytes).map(Offset)
    }

    fn commit(&self, span: Span) -> Result<Contents, SpaceError> {
        let frames = self.frames(span);
        let bytes = frames.len() as u64 * self.frame_bytes;
        self.try_commit(frames).map_err(|refused| self.refused(bytes, refused))?;
        Ok(Contents::Unknown)
    }

    fn decommit(&self, span: Span) {
        let frames = self.frames(span);
        let (at, bytes) = self.range(&frames);
        // Where this is refused each call is, and tells.
        let _entered = self.context.enter();
        // Where the streams cannot be waited for, nothing can be unmapped.
        if let Err(refused) = self.order.wait(at, bytes) {
            self.refused(bytes, refused);
            return;
        }
        for frame in frames {
            if let Err(refused) = self.drop_backing(frame) {
                self.refused(self.frame_bytes, refused);
            }
        }
    }

    fn kept(&self, given_up: Span) -> Option<Span> {
        let shift = self.geometry().frame_granules_shift().unwrap_or(0);
        let mut frames = self.frames(given_up);
        let first = frames.find(|&frame| self.handle(frame) != 0)?;
        let end = (first + 1..frames.end).find(|&frame| self.handle(frame) == 0).unwrap_or(frames.end);
        Some(Span::new((first as u32) << shift, ((end - first) as u32) << shift))
    }

    fn rehome(&self, from: Span, to: Span) -> Result<Contents, SpaceError> {
        let to = self.frames(to);
        let bytes = to.len() as u64 * self.frame_bytes;
        self.try_rehome(self.frames(from), to).map_err(|refused| self.refused(bytes, refused))?;
        Ok(Contents::Unknown)
    }

    fn at_rest(&self, idle: Span) -> bool {
        let (at, bytes) = self.range(&self.frames(idle));
        self.order.at_rest(at, bytes)
    }
}

impl Drop for CudaSpace {
    fn drop(&mut self) {
        let all = 0..self.handles.len();
        let (at, bytes) = self.range(&all);
        if self.order.wait(at, bytes).is_err() {
            return;
        }
        let dropped =
            all.map(|frame| self.drop_backing(frame)).fold(true, |ok, dropped| ok & dropped.is_ok());
        self.settle();
        if dropped {
            // Addresses that the driver does not take back cost nothing.
            let _ = self.context.release_addresses(self.start, self.bytes);
        }
    }
}

impl core::fmt::Debug for CudaSpace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaSpace")
            .field("device", &self.context.ordinal())
            .field("start", &format_args!("{:#x}", self.start))
            .field("bytes", &self.bytes)
            .field("frame_bytes", &self.frame_bytes)
            .finish()
    }
}
