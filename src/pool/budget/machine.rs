//! What the machine lets this process have.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// Memory as the kernel counts it, and the limits that were set on this process from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MachineMemory {
    /// What is built in: `MemTotal`, on Windows what the system can use of it.
    pub physical_bytes: Option<u64>,
    /// The least `memory.max` of the process's control group (version 2) and of those around it.
    pub cgroup_v2_bytes: Option<u64>,
    /// The least `memory.limit_in_bytes` of the process's control group (version 1) and of those around it.
    pub cgroup_v1_bytes: Option<u64>,
}

impl MachineMemory {
    /// What holds here and now. Where the kernel does not say, everything is `None`.
    pub fn read() -> MachineMemory {
        #[cfg(windows)]
        return MachineMemory {
            physical_bytes: super::windows::physical().map(|memory| memory.of_bytes),
            ..MachineMemory::default()
        };
        #[cfg(not(windows))]
        MachineMemory::read_under(Path::new("/"))
    }

    /// The same with another root than `/`: what a container's files say, or a test's.
    ///
    /// `/proc/meminfo`, `/proc/self/cgroup` and `/sys/fs/cgroup` are looked for under it.
    pub fn read_under(root: &Path) -> MachineMemory {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounted = root.join("sys/fs/cgroup");
        let mut memory = MachineMemory {
            physical_bytes: fs::read_to_string(root.join("proc/meminfo"))
                .ok()
                .and_then(|it| meminfo(&it, "MemTotal:")),
            ..MachineMemory::default()
        };
        for line in groups.lines() {
            // "0::/path" in version 2, "5:cpu,memory:/path" in version 1.
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                memory.cgroup_v2_bytes = least(&mounted, group, "memory.max");
                if memory.cgroup_v2_bytes.is_none() {
                    // Both versions at once: the second is mounted beside the controllers of the first.
                    memory.cgroup_v2_bytes = least(&mounted.join("unified"), group, "memory.max");
                }
            } else if controllers.split(',').any(|controller| controller == "memory") {
                memory.cgroup_v1_bytes = least(&mounted.join("memory"), group, "memory.limit_in_bytes");
            }
        }
        memory
    }

    /// The smallest of all that is known: more than this cannot be had without being stopped.
    pub fn limit_bytes(&self) -> Option<u64> {
        [self.physical_bytes, self.cgroup_v2_bytes, self.cgroup_v1_bytes].into_iter().flatten().min()
    }
}

/// The least limit of a group and of all around it.
fn least(mounted: &Path, group: &str, file: &str) -> Option<u64> {
    ancestors(mounted, group).filter_map(|at| limit(&fs::read_to_string(at.join(file)).ok()?)).min()
}

/// The folders of a group and of all around it. In a container the group's own path often is not there, and the mounted
/// root is the group.
pub(super) fn ancestors(mounted: &Path, group: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let mounted = PathBuf::from(mounted);
    let mut next = Some(PathBuf::from(group.trim_start_matches('/')));
    let groups = core::iter::from_fn(move || {
        let at = next.take()?;
        let mut around = at.clone();
        next = around.pop().then_some(around);
        Some(at)
    });
    // A path with `..` would lead out of the mount: such groups are another namespace's, and not seen here.
    let inside = |at: &PathBuf| !at.components().any(|part| part.as_os_str() == "..");
    groups.filter(inside).map(move |at| mounted.join(at))
}

/// A limit as the kernel writes it. "max", and numbers that no memory has, are none.
pub(super) fn limit(text: &str) -> Option<u64> {
    // Version 1 writes "no limit" as the highest number of whole pages.
    text.trim().parse().ok().filter(|&bytes: &u64| bytes < 1 << 60)
}

/// A line of `/proc/meminfo`, in bytes.
pub(super) fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
