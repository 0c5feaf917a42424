//! The way to the device: through pinned memory, so that a copy runs on its own and its source may be dropped.
//!
//! 1. Bytes are copied into blocks of a pool of pinned memory, piece by piece, and each piece is queued from there. A piece lies
//!    in one frame, since each frame is pinned by itself and a copy may not leave what was pinned at once.
//! 2. The blocks of an upload are kept until an event behind its copies is over. At most [`MOST_UNDER_WAY`] bytes are: then one of any
//!    stream that is over makes room, or else the oldest of its own stream is waited for, behind which it runs anyway. No stream waits for
//!    another, and nobody for a lock while somebody waits.
//! 3. Where nothing can be pinned, or others have all of it, the bytes are copied as they are, and waited for.
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
use crate::sync::{HostLock, Lock};
use core::alloc::Layout;
use core::ptr::NonNull;
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
    queued: Lock<HostLock, Queued>,
}

struct Queued {
    /// Oldest first. Who waits for one has taken it out.
    under_way: Vec<Upload>,
    /// Events to be used again.
    events: Vec<Handle>,
}

/// Copies that are queued.
struct Upload {
    event: Handle,
    stream: Handle,
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
        } else if let Some(staging) = self.staging() {
            let staged = staging.upload(to, bytes, stream.handle)?;
            if staged == bytes.len() {
                return Ok(());
            }
            drop_into_place(self.context(), to + staged as u64, &bytes[staged..], stream)?;
            return self.context().synchronize_twice(stream.handle);
        }
        drop_into_place(self.context(), to, bytes, stream)?;
        // A driver may read what is larger, or pinned, while it runs.
        self.context().synchronize_twice(stream.handle)
    }

    /// `None` where there are no addresses for it.
    fn staging(&self) -> Option<&Staging> {
        if let Some(made) = self.staging.get() {
            return Some(made);
        }
        // Two threads may make one each: what is dropped then has pinned nothing.
        let made = Staging::new(self.context().clone())?;
        Some(self.staging.get_or_init(|| made))
    }

    /// Gives back the staging memory of copies that are over. Returns the bytes of the host.
    pub(super) fn trim_staging(&self) -> u64 {
        self.staging.get().map_or(0, |staging| {
            staging.collect();
            staging.pool.trim(0)
        })
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
        let queued = Lock::new(Queued { under_way: Vec::new(), events: Vec::new() });
        Some(Staging { context, pool, queued })
    }

    /// Queues copies of as many of the first bytes as can be staged: less than all where nothing more can be pinned.
    fn upload(&self, to: u64, bytes: &[u8], stream: Handle) -> Result<usize, Refused> {
        self.collect();
        let (mut pieces, mut staged) = (Vec::new(), 0);
        let mut failure = None;
        for piece in bytes.chunks(PIECE) {
            // Aligned to its own size, it lies in one frame.
            let align = piece.len().next_power_of_two().min(PIECE);
            let Ok(layout) = Layout::from_size_align(piece.len(), align) else { break };
            let block = match self.piece(layout, stream) {
                Ok(None) if !pieces.is_empty() => {
                    self.keep(core::mem::take(&mut pieces), stream)?;
                    self.piece(layout, stream)
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

    /// Pinned memory for a piece. Where there is none, copies of any stream that are over make room, and then the oldest of this
    /// one is waited for; `None` where that does not help.
    fn piece(&self, layout: Layout, stream: Handle) -> Result<Option<NonNull<u8>>, Refused> {
        loop {
            match self.pool.allocate(layout) {
                Ok(block) => return Ok(Some(block.addr)),
                Err(_) if self.collect() || self.wait_for_oldest_of(stream)? => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Keeps pieces until what is queued on the stream now is over.
    fn keep(&self, pieces: Vec<(NonNull<u8>, Layout)>, stream: Handle) -> Result<(), Refused> {
        if pieces.is_empty() {
            return Ok(());
        }
        let spare = self.queued.lock().events.pop();
        let event = spare.map_or_else(|| self.context.event(), Ok);
        let recorded = event.and_then(|event| {
            self.context.record(event, stream).inspect_err(|_| self.queued.lock().events.push(event))?;
            Ok(event)
        });
        match recorded {
            Ok(event) => {
                self.queued.lock().under_way.push(Upload { event, stream, pieces });
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

    /// Takes back the pieces of uploads that are over, whosever. Whether there were any.
    fn collect(&self) -> bool {
        let over: Vec<Upload> = {
            let mut queued = self.queued.lock();
            // Behind one that is not over none of its stream is.
            let mut busy: Vec<Handle> = Vec::new();
            let is_over = |upload: &mut Upload| {
                let is_over =
                    !busy.contains(&upload.stream) && self.context.is_over(upload.event) == Ok(true);
                if !is_over && !busy.contains(&upload.stream) {
                    busy.push(upload.stream);
                }
                is_over
            };
            queued.under_way.extract_if(.., is_over).collect()
        };
        let any = !over.is_empty();
        over.into_iter().for_each(|upload| self.take_back(upload));
        any
    }

    /// Whether there was one to wait for.
    fn wait_for_oldest_of(&self, stream: Handle) -> Result<bool, Refused> {
        let oldest = {
            let mut queued = self.queued.lock();
            let oldest = queued.under_way.iter().position(|upload| upload.stream == stream);
            oldest.map(|at| queued.under_way.remove(at))
        };
        let Some(oldest) = oldest else { return Ok(false) };
        if let Err(refused) = self.context.wait_here(oldest.event) {
            self.queued.lock().under_way.insert(0, oldest);
            return Err(refused);
        }
        self.take_back(oldest);
        Ok(true)
    }

    fn take_back(&self, upload: Upload) {
        self.give(upload.pieces);
        self.queued.lock().events.push(upload.event);
    }
}
