//! The allocators that are compared: each is a feature and a binary of its own name.
#![forbid(unsafe_code)]

/// One allocator.
#[derive(Debug)]
pub struct Allocator {
    /// The name of its binary, its feature and its column.
    pub name: &'static str,
    origin: Origin,
}

/// Where one comes from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// A package.
    Package(&'static str),
    /// The C library.
    System,
    /// It is no allocator: what the workloads cost by themselves.
    Floor,
}

/// Every allocator, in the order of the table.
pub static ALL: [Allocator; 9] = [
    Allocator { name: "democratising", origin: Origin::Package("democratising") },
    Allocator { name: "mimalloc3", origin: Origin::Package("mimalloc") },
    Allocator { name: "mimalloc2", origin: Origin::Package("mimalloc") },
    Allocator { name: "jemalloc", origin: Origin::Package("tikv-jemallocator") },
    Allocator { name: "snmalloc", origin: Origin::Package("snmalloc-rs") },
    Allocator { name: "system", origin: Origin::System },
    Allocator { name: "talc", origin: Origin::Package("talc") },
    Allocator { name: "floor", origin: Origin::Floor },
    Allocator { name: "hardened", origin: Origin::Package("democratising") },
];

/// The lock file that the binaries are built with.
const LOCK: &str = include_str!("../../Cargo.lock");

impl Allocator {
    /// Whether it is an allocator at all.
    pub fn is_one(&self) -> bool {
        !matches!(self.origin, Origin::Floor)
    }

    /// The package and its version.
    pub fn origin(&self) -> String {
        let package = match self.origin {
            Origin::Package(package) => package,
            Origin::System => return "the C library".to_owned(),
            Origin::Floor => {
                return "no allocator: lists that check, share and return nothing; large blocks the C library's".to_owned();
            }
        };
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
