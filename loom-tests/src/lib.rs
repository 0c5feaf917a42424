//! Models of what several threads share. Each file in `tests/` says what must hold, over a trait; the crate's own type keeps
//! to it, and types with a planted bug show that the model would notice.
//!
//! `RUSTFLAGS="--cfg democratising_loom" cargo test -p loom-tests --release` runs every interleaving under loom. Without the
//! cfg the same scripts run on real threads, a few hundred times each, and the planted bugs stay away: real threads
//! meet them too rarely. The heap's stock has no face in a normal build: its models run under loom only.
//!
//! No model has a time limit: one that ends has seen everything, up to the bound on preemptions where it names one (`bounded`).

#![forbid(unsafe_code)]

#[cfg(democratising_loom)]
pub use loom::{model, sync::Arc, sync::Mutex, sync::atomic, thread};
#[cfg(not(democratising_loom))]
pub use std::{sync::Arc, sync::Mutex, sync::atomic, thread};

/// Runs `script` on real threads, again and again.
#[cfg(not(democratising_loom))]
pub fn model(script: impl Fn() + Sync + Send + 'static) {
    for _ in 0..300 {
        script();
    }
}

/// Runs `script` under every interleaving in which threads are interrupted so often at most, where they could go on.
#[cfg(democratising_loom)]
pub fn bounded(preemptions: usize, script: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(script);
}
