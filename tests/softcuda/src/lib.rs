//! A CUDA driver in software: host memory in the place of device memory, queues in the place of streams.
//!
//! It keeps to what the driver's manual promises and no more, so what works here by luck is little:
//! 1. Physical memory is one file in memory for each device, and mapping it maps the file: a handle that is mapped twice is seen
//!    at both addresses. What is reserved and not mapped cannot be touched.
//! 2. With `SOFTCUDA_LAZY=1` nothing that is put into a stream runs before somebody waits for it, and then no more runs than that
//!    somebody asked for: the worst schedule that is still legal. Memory that is unmapped or freed under queued work counts as a
//!    violation (`softcuda_violations`).
//!    A stream that is destroyed runs no sooner than others.
//! 3. A copy from pinned memory reads it when it runs; from other memory it is read at the call.
//! 4. Streams can be captured, to the extent that it is told what must not be done meanwhile: no graph is made.
//!
//! Settings are read from the environment at the first call: `SOFTCUDA_DEVICES` (2), `SOFTCUDA_MEM_MIB` of each (1024),
//! `SOFTCUDA_LAZY`, `SOFTCUDA_POISON` (fresh and freed memory holds a pattern), `SOFTCUDA_NO_VMM`, `SOFTCUDA_NO_PEER`,
//! `SOFTCUDA_CALL_NS` (every call takes so long).
//!
//! The functions `softcuda_*` are for tests: see `control`.

#![allow(non_snake_case, clippy::missing_safety_doc)]

mod api;
mod api_vmm;
mod control;
mod memory;
mod state;
mod work;
