//! One process: what it cost, and what it said.

use serde_json::Value;
use std::io::{Error, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What one run of a workload took.
#[derive(Clone, Debug)]
pub struct Sample {
    /// CPU time of all its threads in the program.
    pub user: Duration,
    /// CPU time of all its threads in the kernel.
    pub system: Duration,
    /// From start to end.
    pub wall: Duration,
    /// The most that was resident, in KiB.
    pub peak_kib: u64,
    /// What the workload computed.
    pub checksum: String,
}

impl Sample {
    /// The time that counts.
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// What one process kept after its peak.
#[derive(Clone, Debug)]
pub struct Rested {
    /// The most that was resident, in KiB.
    pub peak_kib: u64,
    /// What was resident two seconds after the last free, in KiB.
    pub rested_kib: u64,
}

/// Runs a workload under the binary's allocator.
pub fn workload(binary: &Path, name: &str, scale_percent: u32, limit_seconds: u32) -> Result<Sample, String> {
    let ended = run(binary, name, scale_percent, limit_seconds)?;
    let (Some(peak_kib), Some(checksum)) = (ended.said["peak_kib"].as_u64(), ended.said["checksum"].as_str())
    else {
        return Err(format!("a peak and a checksum were expected, not {}", ended.said));
    };
    let checksum = checksum.to_owned();
    Ok(Sample { user: ended.user, system: ended.system, wall: ended.wall, peak_kib, checksum })
}

/// Lets the binary's allocator rest after a peak.
pub fn rest(binary: &Path, shape: &str, limit_seconds: u32) -> Result<Rested, String> {
    let ended = run(binary, shape, 100, limit_seconds)?;
    match (ended.said["peak_kib"].as_u64(), ended.said["rested_kib"].as_u64()) {
        (Some(peak_kib), Some(rested_kib)) => Ok(Rested { peak_kib, rested_kib }),
        _ => Err(format!("what is resident was expected, not {}", ended.said)),
    }
}

/// A process that ended well.
struct Ended {
    user: Duration,
    system: Duration,
    wall: Duration,
    said: Value,
}

fn run(binary: &Path, name: &str, scale_percent: u32, limit_seconds: u32) -> Result<Ended, String> {
    let start = Instant::now();
    let mut child = Command::new(binary)
        .args([name, &scale_percent.to_string(), &limit_seconds.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
    // A line is less than a pipe holds, so reading it before waiting is only to see the end.
    let mut text = String::new();
    let read = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut text));
    let (status, usage) = wait(child.id()).map_err(|error| format!("cannot wait for {name}: {error}"))?;
    let wall = start.elapsed();
    if let Some(signal) = status.signal() {
        let hung =
            if signal == libc::SIGALRM { format!(": it ran for {limit_seconds} s") } else { String::new() };
        return Err(format!("ended by signal {signal}{hung}"));
    }
    if !status.success() {
        return Err(format!("{status}; its message stands above"));
    }
    read.map_err(|error| format!("cannot read what it printed: {error}"))?;
    let said = serde_json::from_str(&text)
        .map_err(|error| format!("printed {text:?}, which is no JSON: {error}"))?;
    Ok(Ended { user: duration(usage.ru_utime), system: duration(usage.ru_stime), wall, said })
}

/// Waits for one child and takes its resource usage with it; `std` waits without, and the usage of all children
/// together would mix those that run at the same time.
fn wait(id: u32) -> Result<(ExitStatus, libc::rusage), Error> {
    let id = libc::pid_t::try_from(id).map_err(Error::other)?;
    let mut status = 0;
    // SAFETY: `rusage` is integers alone, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: 1. Both pointers are to live variables of the right type. 2. The child is ours and nobody else waits
        //    for it: `Child` does so only when asked.
        if unsafe { libc::wait4(id, &mut status, 0, &mut usage) } == id {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{rest, run, workload};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// A script in place of an allocator's binary; `$1` is the workload, `$3` the limit.
    fn script(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("compare-{}-{name}", std::process::id()));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn cpu_time_is_the_childs_and_sleep_is_not_counted() {
        let busy = script(
            "busy",
            r#"i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo '{"peak_kib":7,"checksum":"a"}'"#,
        );
        let idle = script("idle", r#"sleep 0.3; echo '{"peak_kib":7,"checksum":"a"}'"#);
        let (busy_sample, idle_sample) =
            (workload(&busy, "x", 1, 9).unwrap(), workload(&idle, "x", 1, 9).unwrap());
        assert!(busy_sample.cpu() > idle_sample.cpu() * 2, "{busy_sample:?} {idle_sample:?}");
        assert!(idle_sample.wall.as_millis() >= 300);
        assert_eq!((busy_sample.peak_kib, busy_sample.checksum.as_str()), (7, "a"));
        let _ = (std::fs::remove_file(busy), std::fs::remove_file(idle));
    }

    #[test]
    fn a_child_that_fails_says_how() {
        for (name, text, expected) in [
            ("status", "exit 3", "exit status: 3"),
            ("signal", "kill -SEGV $$", "signal 11"),
            ("hung", "kill -ALRM $$", "it ran for 9 s"),
            ("silent", "true", "no JSON"),
            ("strange", "echo '{}'", "expected"),
        ] {
            let path = script(name, text);
            let message = workload(&path, "x", 1, 9).unwrap_err();
            assert!(message.contains(expected), "{name}: {message}");
            assert!(rest(&path, "x", 9).is_err());
            let _ = std::fs::remove_file(path);
        }
        assert!(run(&PathBuf::from("/no/such/binary"), "x", 1, 1).err().unwrap().contains("cannot start"));
    }
}
