//! The workloads under the system's allocator: glibc's or musl's malloc.

#[global_allocator]
static GLOBAL: std::alloc::System = std::alloc::System;

fn main() -> std::process::ExitCode {
    compare::child::main()
}
