//! The workloads under this crate's heap with its feature `hardened`.

#[global_allocator]
static GLOBAL: democratising::Global = democratising::Global;

fn main() -> std::process::ExitCode {
    compare::child::main()
}
