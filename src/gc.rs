//! Reclaimers: who can give something back, and asking them when it runs short.
//!
//! A cache that could be built again is worth keeping only while nobody needs its memory. It registers a [`Reclaim`]; when
//! memory runs out (`with_retry`), or when somebody asks (`collect`), it is told how much is wanted and until when.
//!
//! 1. The process's own pool is asked first, since what it keeps idle costs nothing to lose. Then come the registered
//!    ones: low priority numbers first, among equals whoever has most. Where a scope is full, what the pool keeps idle does not
//!    help, and of `evictable` tensors those of that scope come first.
//! 2. A reclaimer is called with no lock held. It may allocate, register, unregister, and even collect: that returns
//!    at once with nothing.
//! 3. A reclaimer that panics is named in the result, and the others still run.
//! 4. Two threads may collect at once, and call one reclaimer at once. Neither waits for the other.

#![forbid(unsafe_code)]

#[cfg(feature = "std")]
mod collect;
#[cfg(feature = "std")]
mod pressure;
#[cfg(feature = "std")]
mod registry;
#[cfg(feature = "std")]
mod under_way;

#[cfg(feature = "net")]
pub(crate) use collect::contained;
#[cfg(feature = "std")]
pub use collect::{
    Collected, collect, collect_resource, collect_until, host_report, reclaimable, scope_report, with_retry,
};
#[cfg(feature = "std")]
pub(crate) use collect::{for_scope, is_for_another};
#[cfg(feature = "std")]
pub use pressure::{Pressure, PressureWatch, Source as PressureSource};
#[cfg(feature = "std")]
pub(crate) use registry::Standing;
#[cfg(feature = "std")]
pub use registry::{ReclaimerId, register, unregister};
#[cfg(feature = "std")]
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
#[cfg(feature = "std")]
pub(crate) use under_way::is_asking;

/// Somebody who holds what could be given back.
pub trait Reclaim: Send + Sync {
    /// How much could be given back now. Asked before [`reclaim`](Self::reclaim) and for reports, so it is best counted already.
    ///
    /// Where [`resource`](Self::resource) is something else than bytes, this and `reclaim` count that instead.
    fn reclaimable_bytes(&self) -> u64;

    /// Gives back about `target_bytes` (`u64::MAX`: everything), not beyond `until`, and returns how much it was.
    ///
    /// Several threads may call this at once.
    fn reclaim(&self, target_bytes: u64, until: Deadline) -> u64;

    /// What the numbers count.
    fn resource(&self) -> Resource {
        Resource::HostBytes
    }
}

/// What a reclaimer gives back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of the machine's own memory.
    #[default]
    HostBytes,
    /// Bytes of a device's memory.
    DeviceBytes,
    /// Bytes of mapped files that are in memory: the machine's, and no pool's. They are asked for by `collect` and `collect_until`, not
    /// where a pool ran out.
    MappedBytes,
    /// Idle connections.
    Connections,
    /// Open files.
    Files,
}

impl core::fmt::Display for Resource {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Resource::HostBytes => "host bytes",
            Resource::DeviceBytes => "device bytes",
            Resource::MappedBytes => "mapped bytes",
            Resource::Connections => "connections",
            Resource::Files => "files",
        })
    }
}

macro_rules! reclaim_through {
    ($($pointer:ty),*) => { $(
        impl<R: Reclaim + ?Sized> Reclaim for $pointer {
            fn reclaimable_bytes(&self) -> u64 {
                (**self).reclaimable_bytes()
            }

            fn reclaim(&self, target_bytes: u64, until: Deadline) -> u64 {
                (**self).reclaim(target_bytes, until)
            }

            fn resource(&self) -> Resource {
                (**self).resource()
            }
        }
    )* };
}

reclaim_through!(&R);
#[cfg(feature = "std")]
reclaim_through!(Arc<R>);

/// Until when something may take. Without `std` there is no clock, and so no end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deadline {
    #[cfg(feature = "std")]
    at: Option<Instant>,
}

impl Deadline {
    /// As long as it takes.
    pub const NEVER: Deadline = Deadline {
        #[cfg(feature = "std")]
        at: None,
    };

    /// Until then.
    #[cfg(feature = "std")]
    pub const fn at(instant: Instant) -> Deadline {
        Deadline { at: Some(instant) }
    }

    /// From now on for so long. A time that no clock can tell is no deadline.
    #[cfg(feature = "std")]
    pub fn after(time: Duration) -> Deadline {
        Deadline { at: Instant::now().checked_add(time) }
    }

    /// Whether it is over.
    pub fn has_passed(&self) -> bool {
        #[cfg(feature = "std")]
        return self.at.is_some_and(|at| Instant::now() >= at);
        #[cfg(not(feature = "std"))]
        false
    }

    /// What is left of it, or `None` without an end.
    #[cfg(feature = "std")]
    pub fn remaining(&self) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

#[cfg(feature = "std")]
impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Deadline {
        Deadline::at(instant)
    }
}

#[cfg(feature = "std")]
impl From<Duration> for Deadline {
    fn from(time: Duration) -> Deadline {
        Deadline::after(time)
    }
}

#[cfg(feature = "std")]
impl From<Option<Instant>> for Deadline {
    fn from(at: Option<Instant>) -> Deadline {
        Deadline { at }
    }
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_deadline_never_passes() {
        assert!(!Deadline::NEVER.has_passed());
        assert_eq!(Deadline::default(), Deadline::NEVER);
    }

    #[cfg(feature = "std")]
    #[test]
    fn a_deadline_passes_when_its_time_has_come() {
        assert!(Deadline::after(Duration::ZERO).has_passed());
        assert_eq!(Deadline::after(Duration::ZERO).remaining(), Some(Duration::ZERO));
        assert!(!Deadline::after(Duration::from_secs(3600)).has_passed());
        assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
        assert_eq!(Deadline::from(None), Deadline::NEVER);
    }
}
