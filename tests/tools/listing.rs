//! The same lines that `listing.py` makes, and Python to make them.

use democratising::Tensor;
use democratising::fs::Checkpoint;
use std::path::PathBuf;
use std::process::Command;

/// `name dtype shape bytes`, little-endian.
pub fn line(name: &str, tensor: &Tensor) -> String {
    let tensor = tensor.contiguous().unwrap();
    let shape: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
    // In memory the bytes of an element are in the order of the processor.
    let turned = if cfg!(target_endian = "big") { tensor.dtype().size_bytes() } else { 1 };
    let bytes = tensor.as_bytes().unwrap().chunks(turned).flat_map(|element| element.iter().rev());
    let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
    format!("{name}\t{}\t{}\t{hex}", tensor.dtype(), shape.join(","))
}

/// The lines of all tensors of a file, sorted.
pub fn lines(checkpoint: &Checkpoint) -> Vec<String> {
    let mut lines: Vec<_> =
        checkpoint.names().iter().map(|name| line(name, &checkpoint.get(name).unwrap())).collect();
    lines.sort();
    lines
}

/// Python with these modules; `None`, and loud words, where it is missing, which fails under `CI`.
#[allow(dead_code, reason = "not every test runs Python")]
pub fn python(modules: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let own = std::env::var_os("DEMOCRATISING_PYTHON").map(PathBuf::from);
    let candidates = own.into_iter().chain([target.join("ci/python/bin/python"), "python3".into()]);
    let imports = |python: &PathBuf| {
        let tried = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let found = candidates.into_iter().find(imports);
    if found.is_none() {
        eprintln!(
            "\n*** NOT TESTED: no Python with {modules}. Name one in DEMOCRATISING_PYTHON, or run .ci/run python ***\n"
        );
    }
    found
}

/// Runs a script with `listing.py` beside it; its output.
#[allow(dead_code, reason = "not every test runs Python")]
pub fn run(python: &PathBuf, script: &str, arguments: &[&std::path::Path]) -> String {
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
    let output = Command::new(python)
        .args(["-B", "-c", script])
        .args(arguments)
        .env("PYTHONPATH", tools)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}\n{said}");
    String::from_utf8(output.stdout).unwrap()
}
