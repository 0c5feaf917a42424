//! The way to the device: through pinned memory, so that a copy runs on its own and its source may be dropped.
//!
//! 1. Bytes are copied into blocks of a pool of pinned memory, piece by piece, and each piece is queued from there. A piece lies
//!    in one frame, since each frame is pinned by itself and a copy may not leave what was pinned at once.
//! 2. The blocks of an upload are kept until an event behind its copies is over. At most [`MOST_UNDER_WAY`] bytes are: then the
//!    oldest is waited for.
//! 3. Where nothing can be pinned, the bytes are copied as they are, and waited for.
//! 4. A few bytes, up to [`SMALL`], are taken over into memory that nobody has pinned, and the driver has read them when its call
//!    returns.

use super::context::Context;
use super::gpu::Gpu;
use super::pinned::Pinned;
use super::result::Refused;
use super::stream::Inner;
use super::sys::Handle;
use crate::pool::{Pool, PoolConfig};
use crate::space::MappedTables;
use crate::sync::HostLock;
use core::alloc::Layout;
use core::ptr::NonNull;
use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::Vec;

/// One piece, which is also a frame of pinned memory.
const PIECE: usize = 2 << 20;
/// What is staged at most at once, and so what is pinned at most.
const MOST_UNDER_WAY: usize = 64 << 20;
/// What is kept pinned for the next upload.
const RETAIN: u64 = 32 << 20;
/// Up to this many bytes the driver itself takes a copy before it returns.
const SMALL: usize = 64 << 10;

/// The staging memory of one device.
pub(super) struct Staging {
    context: Arc<Context>,
    pool: Pool<Pinned, HostLock>,
    under_way: VecDeque<Upload>,
    bytes: usize,
    /// Events to be used again.
    events: Vec<Handle>,
}

/// Copies that are queued.
struct Upload {
    event: Handle,
    pieces: Vec<(NonNull<u8>, Layout)>,
}

// SAFETY: 1. The pieces are blocks of the pool beside them, which only this value uses.
unsafe impl Send for Upload {}

impl Gpu {
    /// Queues a copy of `bytes` to a block; they may be dropped at once.
    pub(super) fn upload(&self, to: u64, bytes: &[u8], stream: &Inner) -> Result<(), Refused> {
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.len() <= SMALL {
            if let Some(own) = taken_over(bytes) {
                return drop_into_place(self.context(), to, &own, stream);
            }
        } else {
            let mut staging = self.staging.lock();
            if staging.is_none() {
                *staging = Staging::new(self.context().clone());
            }
            if let Some(staging) = &mut *staging {
                let staged = staging.upload(to, bytes, stream.handle)?;
                if staged == bytes.len() {
                    return Ok(());
                }
                drop_into_place(self.context(), to + staged as u64, &bytes[staged..], stream)?;
                return self.context().synchronize(stream.handle);
            }
        }
        drop_into_place(self.context(), to, bytes, stream)?;
        // A driver may read what is larger, or pinned, while it runs.
        self.context().synchronize(stream.handle)
    }

    /// Gives back the staging memory of copies that are over. Returns the bytes of the host.
    pub(super) fn trim_staging(&self) -> u64 {
        match &mut *self.staging.lock() {
            Some(staging) => {
                staging.collect();
                staging.pool.trim(0)
            }
            None => 0,
        }
    }
}

/// The same bytes in memory of our own: those handed in may be pinned by whoever has them, and the driver reads pinned memory only when
/// the copy runs. `None` where there is no room.
fn taken_over(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut own = Vec::new();
    own.try_reserve_exact(bytes.len()).ok()?;
    own.extend_from_slice(bytes);
    Some(own)
}

/// A copy by the driver itself.
fn drop_into_place(context: &Context, to: u64, bytes: &[u8], stream: &Inner) -> Result<(), Refused> {
    // SAFETY: 1. The block is the caller's, and as long as the bytes. 2. Up to 64 KiB that are not pinned the driver has copied when it
    // returns; for all else the caller waits for the stream.
    unsafe { context.copy_to_device(to, bytes.as_ptr(), bytes.len(), stream.handle) }
}

impl Staging {
    /// `None` where there are no addresses for it.
    fn new(context: Arc<Context>) -> Option<Staging> {
        let space = Pinned::reserve(context.clone(), 4 * MOST_UNDER_WAY).ok()?;
        let config = PoolConfig::DEFAULT.max_bytes(MOST_UNDER_WAY as u64).retain_bytes(RETAIN);
        let pool = Pool::new(space, MappedTables, config).ok()?;
        Some(Staging { context, pool, under_way: VecDeque::new(), bytes: 0, events: Vec::new() })
    }

    /// Queues copies of as many of the first bytes as can be staged: less than all where nothing more can be pinned.
    fn upload(&mut self, to: u64, bytes: &[u8], stream: Handle) -> Result<usize, Refused> {
        self.collect();
        let (mut pieces, mut staged) = (Vec::new(), 0);
        let mut failure = None;
        for piece in bytes.chunks(PIECE) {
            // Aligned to its own size, it lies in one frame.
            let align = piece.len().next_power_of_two().min(PIECE);
            let Ok(layout) = Layout::from_size_align(piece.len(), align) else { break };
            let block = match self.piece(layout) {
                Ok(None) if !pieces.is_empty() => {
                    self.keep(core::mem::take(&mut pieces), stream)?;
                    self.piece(layout)
                }
                found => found,
            };
            // What is queued from the pieces so far is kept, whatever comes of this one.
            let at = match block {
                Ok(Some(at)) => at,
                Ok(None) => break,
                Err(refused) => {
                    failure = Some(refused);
                    break;
                }
            };
            // SAFETY: 1. The block is ours alone, and as long as its layout.
            unsafe { at.copy_from_nonoverlapping(NonNull::from(piece).cast(), piece.len()) };
            pieces.push((at, layout));
            let to = to + staged as u64;
            // SAFETY: 1. The target is the caller's, and as long as all bytes. 2. The piece is kept until an event behind the
            // copy is over: `keep`.
            let queued = unsafe { self.context.copy_to_device(to, at.as_ptr(), piece.len(), stream) };
            if let Err(refused) = queued {
                failure = Some(refused);
                break;
            }
            staged += piece.len();
        }
        self.keep(pieces, stream)?;
        failure.map_or(Ok(staged), Err)
    }

    /// Pinned memory for a piece. Where there is none, copies under way are waited for, oldest first; `None` where that does not help.
    fn piece(&mut self, layout: Layout) -> Result<Option<NonNull<u8>>, Refused> {
        loop {
            match self.pool.allocate(layout) {
                Ok(block) => return Ok(Some(block.addr)),
                Err(_) if self.wait_for_oldest()? => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Keeps pieces until what is queued on the stream now is over.
    fn keep(&mut self, pieces: Vec<(NonNull<u8>, Layout)>, stream: Handle) -> Result<(), Refused> {
        if pieces.is_empty() {
            return Ok(());
        }
        let event = match self.events.pop() {
            Some(event) => Ok(event),
            None => self.context.event(),
        };
        let recorded = event.and_then(|event| {
            self.context.record(event, stream).inspect_err(|_| self.events.push(event))?;
            Ok(event)
        });
        match recorded {
            Ok(event) => {
                self.bytes += pieces.iter().map(|(_, layout)| layout.size()).sum::<usize>();
                self.under_way.push_back(Upload { event, pieces });
                Ok(())
            }
            // Without an event the stream itself is waited for. One that cannot be waited for is lost, and reads no more.
            Err(refused) => {
                let waited = self.context.synchronize_twice(stream);
                self.give(pieces);
                waited.and(Err(refused))
            }
        }
    }

    fn give(&self, pieces: Vec<(NonNull<u8>, Layout)>) {
        for (at, layout) in pieces {
            // SAFETY: 1. The copy out of it is over.
            let freed = unsafe { self.pool.free(at, layout) };
            debug_assert_eq!(freed, Ok(()));
        }
    }

    /// Takes back the pieces of uploads that are over, oldest first.
    fn collect(&mut self) {
        while let Some(oldest) = self.under_way.front()
            && self.context.is_over(oldest.event) == Ok(true)
        {
            self.take_oldest();
        }
    }

    /// Whether there was one to wait for.
    fn wait_for_oldest(&mut self) -> Result<bool, Refused> {
        let Some(oldest) = self.under_way.front() else { return Ok(false) };
        self.context.wait_here(oldest.event)?;
        self.take_oldest();
        Ok(true)
    }

    fn take_oldest(&mut self) {
        if let Some(Upload { event, pieces }) = self.under_way.pop_front() {
            self.bytes -= pieces.iter().map(|(_, layout)| layout.size()).sum::<usize>();
            self.give(pieces);
            self.events.push(event);
        }
    }
}
