//! How many instructions the hits of the heap take, counted by valgrind's callgrind: `cargo test --release --test instructions`.

#![cfg(all(target_os = "linux", target_arch = "x86_64", not(feature = "hardened")))]

use democratising::Global;
use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::process::Command;

#[global_allocator]
static GLOBAL: Global = Global;

/// What the counted child does how often: "NAME COUNT".
const ROLE: &str = "DEMOCRATISING_COUNT";

/// Nothing, but for the loop.
#[inline(never)]
fn nothing(count: u64) {
    for _ in 0..count {
        black_box(black_box(Layout::new::<[u64; 5]>()));
    }
}

// The test runner has a thread of its own: owners are looked at, which is 9 of the instructions below.

/// A layout that only the run knows.
#[inline(never)]
fn dynamic(count: u64) {
    for _ in 0..count {
        let layout = black_box(Layout::new::<[u64; 5]>());
        // SAFETY: 1. The layout has a size. 2. The block is freed with the layout that it was allocated with.
        unsafe { Global.dealloc(black_box(Global.alloc(layout)), layout) };
        black_box(layout);
    }
}

/// A layout that the compiler knows.
#[inline(never)]
fn constant(count: u64) {
    for _ in 0..count {
        let layout = Layout::new::<[u64; 5]>();
        black_box(black_box(layout));
        // SAFETY: 1. and 2. as above.
        unsafe { Global.dealloc(black_box(Global.alloc(layout)), layout) };
    }
}

/// The instructions of the whole process.
fn count(role: &str) -> u64 {
    let out = std::env::temp_dir().join(format!(
        "democratising-callgrind-{}-{}",
        std::process::id(),
        role.replace(' ', "-")
    ));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_hit_takes_no_more_instructions_than_the_code_says", "--test-threads=1"])
        .env(ROLE, role)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let _ = std::fs::remove_file(out);
    assert!(output.status.success(), "{told}");
    let line =
        told.lines().find_map(|line| line.split_once("Collected :")).unwrap_or_else(|| panic!("{told}"));
    line.1.trim().parse().unwrap()
}

/// Instructions of one round: the difference of many and few, less the loop's own.
fn per_round(name: &str) -> u64 {
    const ROUNDS: u64 = 200_000;
    let rounds = |name: &str| {
        let many = count(&format!("{name} {}", 2 * ROUNDS));
        many.saturating_sub(count(&format!("{name} {ROUNDS}")))
    };
    rounds(name).saturating_sub(rounds("nothing")).div_ceil(ROUNDS)
}

#[test]
fn a_hit_takes_no_more_instructions_than_the_code_says() {
    if let Ok(role) = std::env::var(ROLE) {
        let (name, count) = role.split_once(' ').unwrap();
        let count = count.parse().unwrap();
        return match name {
            "nothing" => nothing(count),
            "dynamic" => dynamic(count),
            "constant" => constant(count),
            _ => panic!("{name}"),
        };
    }
    if cfg!(debug_assertions) {
        println!("not counted: an unoptimised build; run it with --release");
        return;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "valgrind is missing: install it");
        println!("not counted: valgrind is missing");
        return;
    }
    let (dynamic, constant) = (per_round("dynamic"), per_round("constant"));
    println!(
        "instructions of an allocation and a free: {dynamic}, and {constant} of a layout known to the compiler"
    );
    assert!(dynamic <= 41, "{dynamic} of a layout known to the run");
    assert!(constant <= 32, "{constant} of a layout known to the compiler");
}
