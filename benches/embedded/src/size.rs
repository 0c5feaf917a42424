//! Bytes of code in firmware for a Cortex-M4F, optimised for size, beyond what a program that does nothing has.
//!
//! Built by a nightly compiler with its source (`rustup component add rust-src --toolchain nightly`), since the target's own
//! library may not be installed.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "thumbv7em-none-eabihf";

/// The linker that comes with the compiler.
fn linker() -> Option<PathBuf> {
    let told = Command::new("rustc").args(["+nightly", "--print", "target-libdir"]).output().ok()?;
    let libraries = PathBuf::from(String::from_utf8(told.stdout).ok()?.trim());
    let linker = libraries.parent()?.join("bin/rust-lld");
    linker.exists().then_some(linker)
}

/// Builds the program with one allocator; where it is.
fn build(feature: &str, linker: &Path) -> Option<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("size");
    let folder = std::env::temp_dir().join("democratising-code-size");
    let done = Command::new("cargo")
        .args(["+nightly", "build", "--quiet", "--release", "-Zbuild-std=core,alloc", "--target", TARGET])
        .args(["--features", feature])
        .current_dir(package)
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER", linker)
        .env("CARGO_TARGET_THUMBV7EM_NONE_EABIHF_RUSTFLAGS", "-C link-arg=--gc-sections")
        .status()
        .ok()?;
    done.success().then(|| folder.join(TARGET).join("release/size"))
}

/// The bytes of `.text` and `.rodata` in a little-endian ELF file of 32 bits.
fn code_bytes(file: &Path) -> Option<[u32; 2]> {
    let bytes = std::fs::read(file).ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?) as usize);
    let (first, count, names) = (word(32)? as usize, half(48)?, half(50)?);
    let names = word(first + 40 * names + 16)? as usize;
    let mut sums = [0; 2];
    for section in (0..count).map(|at| first + 40 * at) {
        let name = bytes.get(names + word(section)? as usize..)?;
        for (sum, wanted) in sums.iter_mut().zip([&b".text"[..], b".rodata"]) {
            if name.starts_with(wanted) {
                *sum += word(section + 20)?;
            }
        }
    }
    Some(sums)
}

/// Prints the table.
pub fn table() {
    println!("\nBytes of code and of constants for {TARGET} at opt-level s");
    let Some(linker) = linker() else { return println!("not built: no nightly compiler with rust-lld") };
    let sizes = |feature| build(feature, &linker).and_then(|file| code_bytes(&file));
    for (name, feature) in [("democratising", "democratising"), ("its SmallHeap", "small"), ("talc", "talc")]
    {
        match (sizes(feature), sizes("")) {
            (Some([code, constants]), Some([less, fewer])) => {
                println!(
                    "{name:>16} {:>9} {:>9}",
                    code.saturating_sub(less),
                    constants.saturating_sub(fewer)
                );
            }
            _ => println!("{name:>16}  not built: needs the component rust-src of the nightly compiler"),
        }
    }
}
