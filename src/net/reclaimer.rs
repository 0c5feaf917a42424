//! A pool's idle connections, for whoever collects.

#![forbid(unsafe_code)]

use super::manager::Manager;
use super::pool::Inner;
use super::shared::count;
use crate::gc;
use std::sync::{Arc, Weak};

/// In a fork there is nothing to be had.
pub(super) struct Reclaimer<M: Manager>(pub(super) Weak<Inner<M>>);

impl<M: Manager> Reclaimer<M> {
    fn pool(&self) -> Option<Arc<Inner<M>>> {
        self.0.upgrade().filter(|pool| pool.shared.maker.is_this())
    }
}

impl<M: Manager> gc::Reclaim for Reclaimer<M> {
    fn reclaimable_bytes(&self) -> u64 {
        self.pool().map_or(0, |pool| pool.idle_count() as u64)
    }

    fn reclaim(&self, target: u64, _until: gc::Deadline) -> u64 {
        let Some(pool) = self.pool() else { return 0 };
        let keep = pool.idle_count().saturating_sub(usize::try_from(target).unwrap_or(usize::MAX));
        let closed = pool.close_idle(keep, |_| true);
        for _ in 0..closed {
            count(&pool.shared.counts.unused);
        }
        closed as u64
    }

    fn resource(&self) -> gc::Resource {
        gc::Resource::Connections
    }
}
