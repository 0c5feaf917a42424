//! The workloads under mimalloc 3, which the mimalloc crate builds by default.

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    compare::child::main()
}
