//! How much of this process is in memory, read without allocating.
//!
//! `ru_maxrss` will not do: a child begins with its parent's high-water mark, since Linux carries it over `exec`, and
//! no small workload could fall below the runner. `VmHWM` belongs to the new image alone.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};

/// The most KiB that were resident since this program began.
pub fn peak_kib() -> Result<u64> {
    status_kib("VmHWM:")
}

/// The KiB that are resident now.
pub fn now_kib() -> Result<u64> {
    status_kib("VmRSS:")
}

fn status_kib(field: &str) -> Result<u64> {
    let mut buffer = [0; 8192];
    let mut length = 0;
    let mut file = File::open("/proc/self/status")?;
    loop {
        match file.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    let value =
        text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok());
    value.ok_or_else(|| {
        Error::new(ErrorKind::InvalidData, format!("/proc/self/status names no {field} in kB"))
    })
}
