//! The allocators: this project's, built here, and those that the system has installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A shared object to preload, or none.
pub struct Allocator {
    pub name: &'static str,
    pub object: Option<PathBuf>,
}

/// Names, and where Debian's packages put them, newest first.
const OTHERS: [(&str, &[&str], &str); 3] = [
    ("mimalloc", &["libmimalloc.so.3", "libmimalloc.so.2"], "libmimalloc3 or libmimalloc2.0"),
    ("jemalloc", &["libjemalloc.so.2"], "libjemalloc2"),
    ("tcmalloc", &["libtcmalloc_minimal.so.4"], "libtcmalloc-minimal4t64 or libtcmalloc-minimal4"),
];

/// This project's first, then the others that are installed, then the system's own. What is missing is said.
pub fn all() -> Result<Vec<Allocator>, String> {
    let mut found = vec![Allocator { name: "democratising", object: Some(ours()?) }];
    for (name, objects, package) in OTHERS {
        match objects.iter().find_map(|object| installed(object)) {
            Some(object) => found.push(Allocator { name, object: Some(object) }),
            None => eprintln!("{name} is not here: install the package {package}"),
        }
    }
    found.push(Allocator { name: "system", object: None });
    Ok(found)
}

fn ours() -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../capi/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--quiet",
            "--message-format=json-render-diagnostics",
            "--manifest-path",
        ])
        .arg(&manifest)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    // One message a line; the object's own is the one that names a file of that name.
    let text = String::from_utf8_lossy(&built.stdout);
    let object = text.split('"').rfind(|part| part.ends_with("/libdemocratising.so"));
    object
        .filter(|_| built.status.success())
        .map(PathBuf::from)
        .ok_or(format!("{} does not build", manifest.display()))
}

fn installed(object: &str) -> Option<PathBuf> {
    let listed = Command::new("/sbin/ldconfig").arg("-p").output().ok()?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{object} ")))?;
    line.split("=> ").nth(1).map(PathBuf::from)
}
