fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    // No start code, no C library, no loader: a file that lies in memory as the script says.
    let arguments = ["-nostartfiles", "-nostdlib", "-static", "-no-pie"];
    let linker =
        ["--build-id=none", "-z,norelro", "--gc-sections", "-z,max-page-size=4096", "--no-dynamic-linker"];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    for argument in linker {
        println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{folder}/kernel.ld");
    println!("cargo:rerun-if-changed=kernel.ld");
}
