//! What must hold at the end of every test on a device.

use super::harness;
use democratising::{cuda, gc};

/// Everything goes back to the driver.
pub fn nothing_is_left() {
    gc::collect().unwrap();
    for ordinal in 0..2 {
        let Ok(stats) = cuda::MemoryPool::stats(ordinal) else { continue };
        assert_eq!((stats.pool.in_use_bytes, stats.pool.blocks), (0, 0), "device {ordinal}: {stats:?}");
        assert_eq!(stats.pool.reserved_bytes, 0, "device {ordinal}: {stats:?}");
        if harness::is_soft() {
            assert_eq!(harness::used_bytes(ordinal as usize), 0, "device {ordinal}");
        }
    }
    if harness::is_soft() {
        let held = harness::held();
        assert_eq!(
            (held.handles, held.mappings, held.allocations, harness::violations()),
            (0, 0, 0, 0),
            "{held:?}"
        );
    }
}
