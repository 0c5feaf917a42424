//! What tensors ask of a device.

#![forbid(unsafe_code)]

use super::Queue;
use crate::error::{DeviceId, Result};
use core::any::Any;
use core::ops::Range;
use core::panic::RefUnwindSafe;
use std::sync::Arc;

/// A device's driver. One for each device, as long as the process lives.
///
/// Without a queue the device's default one is meant. Everything is queued: what is read back is waited for, nothing else.
pub(crate) trait Backend: Send + Sync + RefUnwindSafe + Any {
    fn device(&self) -> DeviceId;

    /// Whether its limit leaves no room for so many bytes beside what is in use. Of few bytes it need not be known.
    fn is_short_of(&self, bytes: u64) -> bool;

    /// Memory that is all zeros.
    fn zeros(&self, bytes: usize, queue: Option<&dyn Queue>) -> Result<Arc<dyn DeviceMemory>>;

    /// Memory that holds these bytes, which the caller may drop at once.
    fn upload(&self, bytes: &[u8], queue: Option<&dyn Queue>) -> Result<Arc<dyn DeviceMemory>>;

    /// A copy of some bytes of another device's memory, or of memory of this one on another queue.
    fn copy(
        &self,
        from: &dyn DeviceMemory,
        range: Range<usize>,
        queue: Option<&dyn Queue>,
    ) -> Result<Arc<dyn DeviceMemory>>;
}

/// Memory of a device, given back when it is dropped.
pub(crate) trait DeviceMemory: Send + Sync + RefUnwindSafe + Any {
    fn device(&self) -> DeviceId;

    /// Where it starts, in the device's addresses.
    fn address(&self) -> u64;

    /// Copies what stands from `offset` on into `out`, when the device has done what was queued before.
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Work on it was put into that queue: it is not used for anything else before that is done.
    fn used_on(&self, queue: &dyn Queue) -> Result<()>;
}
