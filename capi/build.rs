//! How the object is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // It stays when it is closed: threads have caches in its heap, blocks outlive whoever took them, and the addresses that the
    // heap reserves cannot be given back while there may be one.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
