//! The name under which programs ask for the driver: a library of that name that is loaded already is what they get.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
}
