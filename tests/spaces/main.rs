//! One randomized script over every space, divided by either index: no overlap, alignment, bytes intact where they can be touched, everything
//! returned, bad frees refused, and running out of memory at any moment loses nothing.

mod failing;
mod geometries;
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[path = "../softcuda/harness.rs"]
mod harness;
mod pools;
mod rules;
mod script;
mod scripts;
mod touch;
