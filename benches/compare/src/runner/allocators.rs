//! The allocators that are compared: each is a feature and a binary of its own name.
#![forbid(unsafe_code)]

/// One allocator.
#[derive(Debug)]
pub struct Allocator {
    /// The name of its binary, its feature and its column.
    pub name: &'static str,
    /// The package that it comes from, if it is one.
    package: Option<&'static str>,
}

/// Every allocator, in the order of the table.
pub static ALL: [Allocator; 8] = [
    Allocator { name: "democratising", package: Some("democratising") },
    Allocator { name: "mimalloc3", package: Some("mimalloc") },
    Allocator { name: "mimalloc2", package: Some("mimalloc") },
    Allocator { name: "jemalloc", package: Some("tikv-jemallocator") },
    Allocator { name: "snmalloc", package: Some("snmalloc-rs") },
    Allocator { name: "system", package: None },
    Allocator { name: "talc", package: Some("talc") },
    Allocator { name: "hardened", package: Some("democratising") },
];

/// The lock file that the binaries are built with.
const LOCK: &str = include_str!("../../Cargo.lock");

impl Allocator {
    /// The package and its version.
    pub fn origin(&self) -> String {
        let Some(package) = self.package else { return "the C library".to_owned() };
        let name = format!("name = \"{package}\"");
        let mut lines = LOCK.lines().skip_while(|line| *line != name);
        let version =
            lines.nth(1).and_then(|line| line.strip_prefix("version = ")).unwrap_or("of unknown version");
        format!("{package} {}", version.trim_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn every_allocator_is_a_feature_and_a_binary_and_its_version_is_locked() {
        let manifest = include_str!("../../Cargo.toml");
        for allocator in &ALL {
            assert!(
                manifest.contains(&format!("required-features = [\"{}\"]", allocator.name)),
                "{}",
                allocator.name
            );
            assert!(!allocator.origin().contains("unknown"), "{}", allocator.origin());
        }
        assert_eq!(ALL[1].origin(), "mimalloc 0.1.52");
    }
}
