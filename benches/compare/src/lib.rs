//! The same workloads under several allocators.
//!
//! 1. An allocator is a property of a whole process, so each has a binary of its own (`src/bin`), and every binary is
//!    [`child::main`] under another `#[global_allocator]`.
//! 2. One process runs one [`workload`](workload::Workload) and ends: nothing that one workload left behind, neither a
//!    warm cache nor a fragmented heap, is charged to the next.
//! 3. A workload is a fixed number of operations, drawn from a generator with a fixed seed, so every allocator is asked
//!    the same. It returns a checksum over what it wrote and read back; the runner refuses a table whose checksums differ.
//! 4. What counts is CPU time, user and system, of the whole process, and the most memory that was resident. Wall time
//!    would measure the neighbours.
//! 5. The runner (`src/main.rs`) interleaves the allocators within each repeat, so that a slow minute of the machine
//!    is shared by all, and takes the least of the repeats: noise only ever adds
//!    (but see [`workload::Counted`]).

pub mod block;
pub mod child;
pub mod handoff;
pub mod limit;
pub mod resident;
pub mod rest;
pub mod rng;
pub mod workload;
