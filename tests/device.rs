//! Devices that are missing, each in its own words. The drivers are small libraries, built here, that a child process
//! finds in the real one's place.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use democratising::{DemoError, Device, DeviceId, tempfile};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Set in the child: what each error has to say, for ordinals 0 and 5 and for all devices.
const EXPECTED: &str = "DEMOCRATISING_TEST_EXPECTED";

/// Runs the child with a driver of this C text, or with none to be found.
fn with_driver(source: Option<&str>, expected: [&str; 3]) {
    let directory = tempfile::tempdir().unwrap();
    if let Some(source) = source {
        build(directory.path(), source);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_missing_device_says_what_is_missing", "--nocapture"])
        .env("LD_LIBRARY_PATH", directory.path())
        .env(EXPECTED, expected.join("|"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{source:?}: {output:?}");
}

fn build(directory: &Path, source: &str) {
    let text = directory.join("driver.c");
    fs::write(&text, source).unwrap();
    let library = directory.join("libcuda.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &text]).output();
    let built =
        built.unwrap_or_else(|error| panic!("cannot run cc, which this test needs; install it: {error}"));
    assert!(built.status.success(), "{built:?}");
    // The names under which drivers are installed.
    for name in ["libcuda.so.1", "libnvcuda.so"] {
        fs::copy(&library, directory.join(name)).unwrap();
    }
}

#[test]
fn a_missing_device_says_what_is_missing() {
    if let Ok(expected) = std::env::var(EXPECTED) {
        let expected: Vec<_> = expected.split('|').collect();
        let errors = [Device::cuda(0), Device::cuda(5), Device::cuda_all().map(|mut all| all.remove(0))];
        for ((error, ordinal), expected) in errors.into_iter().zip([0, 5, 0]).zip(expected) {
            let error = error.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}, not {expected}");
            assert!(
                matches!(error, DemoError::DeviceUnavailable { device: DeviceId::Cuda(at), .. } if at == ordinal)
            );
        }
        return;
    }
    let answering = |init: i32, devices: i32| {
        format!(
            "int cuInit(unsigned flags) {{ (void)flags; return {init}; }}\n\
             int cuDeviceGetCount(int *count) {{ *count = {devices}; return 0; }}\n"
        )
    };
    let none = ["sees no device"; 3];
    with_driver(Some(&answering(0, 0)), none);
    with_driver(Some(&answering(100, 0)), none);
    with_driver(Some(&answering(34, 0)), ["the toolkit's stub"; 3]);
    with_driver(Some(&answering(803, 0)), ["of different versions"; 3]);
    with_driver(Some(&answering(999, 0)), ["does not start; see what nvidia-smi says"; 3]);
    with_driver(Some("int not_cuda;"), ["is no CUDA driver"; 3]);
    with_driver(Some(&answering(0, 2)), ["lacks functions that every driver since CUDA 10 has"; 3]);
    // A machine with a driver has it in the loader's own list, where no child can be kept from finding it.
    let listed = Command::new("/sbin/ldconfig").arg("-p").output().expect("this test needs ldconfig");
    if !String::from_utf8_lossy(&listed.stdout).contains("libcuda.so") {
        with_driver(None, ["the CUDA driver's library is not installed"; 3]);
    }
}
