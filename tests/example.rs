//! The example program, as a newcomer runs it. `cargo test` builds it beside the tests.
#![cfg(feature = "net")]

#[path = "common/start.rs"]
mod start;

use democratising::tempfile;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(Path::parent).unwrap().join("examples/train_and_serve");
    let path = path.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is not built: cargo build --example train_and_serve", path.display());
    path
}

fn run(arguments: &[&Path]) -> Output {
    start::output(Command::new(program()).args(arguments)).unwrap()
}

#[test]
fn the_example_trains_recovers_saves_serves_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/wine.csv");
    let checkpoints = folder.path().join("checkpoints");
    let output = run(&[&table, &checkpoints]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "178 rows, 13 features, 3 classes",
        "does not fit",
        "step 300: loss",
        "kept: [250, 300]",
        "serving at 127.0.0.1:",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    let right = text.lines().find(|line| line.ends_with("predictions were right")).unwrap();
    let right: u32 = right.split(' ').next().unwrap().parse().unwrap();
    assert!(right >= 170, "{text}");
    assert!(text.ends_with("nothing is left\n"), "{text}");
    assert!(!text.contains("training forgot something"));

    // Again: everything is learned already, and served from the file.
    let text = String::from_utf8(run(&[&table, &checkpoints]).stdout).unwrap();
    assert!(
        text.contains("going on from the checkpoint of step 300") && !text.contains("step 300: loss"),
        "{text}"
    );
    assert!(text.ends_with("nothing is left\n"), "{text}");
}

#[test]
fn the_example_says_what_is_wrong_with_its_table() {
    let folder = tempfile::tempdir().unwrap();
    for (text, message) in [
        ("1,2,3\n", "too few rows"),
        (&"1,2,0.5\n".repeat(20), "its last column is no class"),
        ("1,2\n3,x\n", "\"x\" is no number"),
    ] {
        let table = folder.path().join("table.csv");
        std::fs::write(&table, text).unwrap();
        let output = run(&[&table]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(message) && said.lines().count() == 1, "{said}");
        assert!(said.contains("table.csv"), "{said}");
    }
}
