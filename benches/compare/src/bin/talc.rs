//! The workloads under talc, which wants a lock and a source of memory.
//!
//! The lock yields its core while it waits: a lock that parks would allocate under itself, and one that spins would
//! charge its waiting as CPU time where there are fewer cores than threads. The source is the system's allocator, in
//! steps of 1 MiB.

use spin::mutex::SpinMutex;
use spin::relax::Yield;
use std::alloc::System;
use talc::TalcLock;
use talc::source::GlobalAllocSource;

#[global_allocator]
static GLOBAL: TalcLock<SpinMutex<(), Yield>, GlobalAllocSource<System>> =
    TalcLock::new(GlobalAllocSource::new(System));

fn main() -> std::process::ExitCode {
    compare::child::main()
}
