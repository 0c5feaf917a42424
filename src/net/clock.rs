//! A clock that costs next to nothing to read, for times that nobody wants to know exactly.

#![forbid(unsafe_code)]

/// Milliseconds since some moment, never going back, a few milliseconds late.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn now_ms() -> u64 {
    use crate::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}
