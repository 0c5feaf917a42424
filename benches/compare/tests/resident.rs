//! What is resident is a property of the whole process, so one test has this one to itself.
#![forbid(unsafe_code)]

use compare::block::Block;
use compare::{resident, rest};

/// The kernel keeps its counters in batches for each core.
const SLACK_KIB: u64 = 2 << 10;

#[test]
fn what_is_resident_is_seen_while_it_lives_and_after_it_is_gone() {
    let before = resident::now_kib().unwrap();
    let mut block = Block::new(32 << 20, 8, 1);
    block.fill(1);
    let during = resident::now_kib().unwrap();
    assert!(during + SLACK_KIB >= before + (32 << 10), "{before} KiB before, {during} KiB with 32 MiB more");
    drop(block);
    assert!(resident::now_kib().unwrap() < during - (16 << 10));
    assert!(resident::peak_kib().unwrap() + SLACK_KIB >= during);

    let rested = rest::run(rest::named("large-idle").unwrap()).unwrap();
    assert!(rested.peak_kib > (290 << 10), "{rested:?}");
    assert!(rested.rested_kib < rested.peak_kib / 2, "{rested:?}");
}
