//! The fuzzer's target without the fuzzer: its corpus, then as many random scripts.

#[path = "../fuzz/driver.rs"]
mod driver;

use proptest::prelude::*;
use std::path::Path;

#[test]
fn the_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/fixed_heap");
    let mut played = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("an entry of the corpus").path();
        driver::play(&std::fs::read(&path).expect("an input of the corpus"));
        played += 1;
    }
    assert!(played >= 10, "{played} inputs in {}", folder.display());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("DEMOCRATISING_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_scripts_hold(claims in prop::collection::vec(any::<[u8; 3]>(), 0..3), script in prop::collection::vec(any::<u8>(), 0..4000)) {
        let claims = claims.into_iter().flat_map(|[a, b, c]| [0, a, b, c]);
        driver::play(&claims.chain(script).collect::<Vec<u8>>());
    }
}
