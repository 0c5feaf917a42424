//! What the machine has left for this process now.

#![forbid(unsafe_code)]

use super::machine::{ancestors, limit, meminfo};
use std::fs;
use std::path::Path;
use std::vec::Vec;

/// Memory that is left, of what there is: the machine's, or the control group's that has the least share left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemoryLeft {
    /// What can still be had. What the kernel would drop first, files that nobody looked at lately, counts as left.
    pub left_bytes: u64,
    /// What there is.
    pub of_bytes: u64,
}

impl MemoryLeft {
    /// What holds here and now; `None` where the kernel does not say.
    pub fn read() -> Option<MemoryLeft> {
        #[cfg(windows)]
        return super::windows::physical();
        #[cfg(not(windows))]
        MemoryLeft::read_under(Path::new("/"))
    }

    /// The same with another root than `/`, as for [`MachineMemory::read_under`](super::machine::MachineMemory::read_under).
    pub fn read_under(root: &Path) -> Option<MemoryLeft> {
        let mut all = Vec::new();
        let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        if let (Some(left_bytes), Some(of_bytes)) =
            (meminfo(&text, "MemAvailable:"), meminfo(&text, "MemTotal:"))
        {
            all.push(MemoryLeft { left_bytes, of_bytes });
        }
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounted = root.join("sys/fs/cgroup");
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                for mounted in [mounted.clone(), mounted.join("unified")] {
                    let left = |at: &Path| of_group(at, ["memory.max", "memory.current", "inactive_file"]);
                    all.extend(ancestors(&mounted, group).filter_map(|at| left(&at)));
                }
            } else if controllers.split(',').any(|controller| controller == "memory") {
                let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
                all.extend(ancestors(&mounted.join("memory"), group).filter_map(|at| of_group(&at, names)));
            }
        }
        all.into_iter().min_by_key(MemoryLeft::permille)
    }

    /// What is left, in thousandths.
    pub fn permille(&self) -> u32 {
        (u128::from(self.left_bytes) * 1000 / u128::from(self.of_bytes.max(1))).min(1000) as u32
    }

    /// Whether less than so many thousandths are left.
    pub fn is_below(&self, permille: u32) -> bool {
        u128::from(self.left_bytes) * 1000 < u128::from(self.of_bytes) * u128::from(permille)
    }
}

/// What a control group has left, if it has a limit.
fn of_group(at: &Path, [most, used, inactive]: [&str; 3]) -> Option<MemoryLeft> {
    let read = |name: &str| fs::read_to_string(at.join(name)).ok();
    let of_bytes = limit(&read(most)?)?;
    let used = limit(&read(used)?)?;
    let stat = read("memory.stat").unwrap_or_default();
    let idle = stat.lines().find_map(|line| line.strip_prefix(inactive)?.strip_prefix(' ')?.parse().ok());
    let used = used.saturating_sub(idle.unwrap_or(0));
    Some(MemoryLeft { left_bytes: of_bytes.saturating_sub(used), of_bytes })
}
