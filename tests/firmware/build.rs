use std::path::PathBuf;
use std::{env, fs};

/// Stellaris LM3S6965 (Cortex-M3 board that also takes a Cortex-M4).
const LM3S6965: &str =
    "MEMORY { FLASH : ORIGIN = 0x00000000, LENGTH = 256K  RAM : ORIGIN = 0x20000000, LENGTH = 64K }";
/// micro:bit (nRF51, Cortex-M0).
const MICROBIT: &str =
    "MEMORY { FLASH : ORIGIN = 0x00000000, LENGTH = 256K  RAM : ORIGIN = 0x20000000, LENGTH = 16K }";

fn main() {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo says where to write"));
    let small = env::var("TARGET").is_ok_and(|target| target.starts_with("thumbv6m"));
    fs::write(out.join("memory.x"), if small { MICROBIT } else { LM3S6965 })
        .expect("the folder can be written to");
    println!("cargo:rustc-check-cfg=cfg(small)");
    if small {
        println!("cargo:rustc-cfg=small");
    }
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    println!("cargo:rerun-if-changed=build.rs");
}
