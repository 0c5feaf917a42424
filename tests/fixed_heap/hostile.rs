//! Random scripts without mercy against a model that foretells what is there: where each free run lies, what a request must find in them,
//! what is told of every address, and that nothing of the program is ever called under the lock.

mod model;
mod steps;
mod watched;

use crate::block::Ram;
use democratising::heap::OnMisuse;
use model::{Heap, Model};
use proptest::prelude::*;
use std::collections::BTreeMap;
use watched::{HELP, Help, With, help, told};

fn run<const SLABS: bool>(ram_bytes: usize, claims: &[(usize, usize)], script: &[(u8, u32, u32)]) {
    let ram = Ram::new(ram_bytes);
    let heap: Heap<SLABS> = Heap::empty();
    heap.on_misuse(OnMisuse::Hook(told));
    heap.on_low_memory(Some(help));
    HELP.set(Help { with: With::Nothing, asked: Vec::new() });
    let mut model = Model {
        heap: &heap,
        ram: &ram,
        ram_bytes,
        claims: Vec::new(),
        live: BTreeMap::new(),
        in_use: 0,
        peak: (0, 0),
        failures: 0,
        bad_frees: 0,
        patterns: 0,
    };
    for &(at, len) in claims {
        let got = ram.give(&heap, at, len.min(ram_bytes - at));
        model.claimed(at, len.min(ram_bytes - at), got);
    }
    for &(what, number, other) in script {
        model.step(what, number as usize, other as usize);
    }
    model.check();
    while !model.live.is_empty() {
        model.free(model.patterns as usize, model.live.len());
    }
    model.check();
    let whole = model.claims.iter().map(|claim| claim.end - claim.first).max().unwrap_or(0);
    assert_eq!(heap.stats().largest_free_bytes as usize, whole, "all of a range is one free run again");
    assert_eq!(heap.live_spans().count(), 0);
}

fn script(most: usize) -> impl Strategy<Value = Vec<(u8, u32, u32)>> {
    prop::collection::vec(any::<(u8, u32, u32)>(), 1..if cfg!(miri) { most / 12 } else { most })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("DEMOCRATISING_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(if cfg!(miri) { 1 } else { 24 }),
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_model_foretells_what_is_in_small_ranges(
        claims in prop::collection::vec((0..40_000usize, 0..30_000usize), 0..=1), script in script(400),
    ) {
        run::<true>(70_000, &claims, &script);
    }

    #[test]
    fn a_model_foretells_what_is_in_ranges_of_a_few_kib(len in 0..5000usize, at in 0..100usize, script in script(300)) {
        run::<true>(8000, &[(at, len)], &script);
    }

    #[test]
    fn a_model_foretells_what_is_in_ranges_with_slabs(at in 0..3000usize, len in 330usize << 10..900 << 10, script in script(600)) {
        run::<true>(1 << 20, &[(at, len)], &script);
    }

    #[test]
    fn a_model_foretells_what_is_in_ranges_that_set_spans_aside(at in 0..3000usize, len in 4usize << 20..6 << 20, script in script(900)) {
        let bytes = if cfg!(miri) { 1 << 20 } else { 8 << 20 };
        run::<true>(bytes, &[(at, len)], &script);
    }

    #[test]
    fn a_model_foretells_what_is_in_ranges_of_a_heap_without_slabs(at in 0..3000usize, len in 1usize..3 << 20, script in script(400)) {
        run::<false>(if cfg!(miri) { 40_000 } else { 4 << 20 }, &[(at, len)], &script);
    }
}
