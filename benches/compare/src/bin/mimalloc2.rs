//! The workloads under mimalloc 2, the mimalloc crate's feature `v2`.

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    compare::child::main()
}
