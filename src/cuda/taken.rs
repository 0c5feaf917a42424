//! Blocks that were handed out by address: which stream each was taken on, since it may be freed on another.

#![forbid(unsafe_code)]

use super::stream::Inner;
use crate::arena::draw::mix;
use crate::error::OutOfMemory;
use crate::sync::{HostLock, Lock};
use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;
use std::sync::Arc;

/// A block that somebody has.
pub(super) struct Taken {
    /// The stream that it counts for.
    pub(super) owner: Arc<Inner>,
    /// What the pool gave.
    pub(super) held_bytes: u64,
}

type Blocks = HashMap<u64, Taken, BuildHasherDefault<ByAddress>>;

/// Over all devices: no two have an address in common.
static TAKEN: Lock<HostLock, Blocks> = Lock::new(Blocks::with_hasher(BuildHasherDefault::new()));

/// Addresses are the allocator's own, so nobody can choose those that collide.
#[derive(Default)]
struct ByAddress(u64);

impl Hasher for ByAddress {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, address: u64) {
        self.0 = mix(self.0 ^ address);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Enters a block that was handed out just now.
///
/// # Errors
/// The host has no memory to enter it in.
pub(super) fn enter(at: u64, taken: Taken) -> Result<(), OutOfMemory> {
    let mut blocks = TAKEN.lock();
    blocks.try_reserve(1).map_err(|_| OutOfMemory {
        requested_bytes: (size_of::<u64>() + size_of::<Taken>()) as u64,
        limit_bytes: u64::MAX,
        ..OutOfMemory::default()
    })?;
    blocks.insert(at, taken);
    Ok(())
}

/// Takes a block of that device off, if `is_it` says of its bytes that it is the one that is meant; else those bytes.
///
/// # Errors
/// `None`: there is no such block.
pub(super) fn take_off(at: u64, ordinal: u32, is_it: impl FnOnce(u64) -> bool) -> Result<Taken, Option<u64>> {
    let mut blocks = TAKEN.lock();
    let held = blocks.get(&at).filter(|taken| taken.owner.gpu.context().ordinal() == ordinal).ok_or(None)?;
    if !is_it(held.held_bytes) {
        return Err(Some(held.held_bytes));
    }
    blocks.remove(&at).ok_or(None)
}
