//! One run of a program: what the system counted for it and for what it started.

#![allow(unsafe_code)]

use crate::allocators::Allocator;
use crate::programs::Program;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The cost of a run.
pub struct Run {
    pub cpu_ms: f64,
    pub peak_kib: u64,
}

/// What each program printed the first time.
static PRINTED: Mutex<BTreeMap<&str, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// Runs it once. An error when it fails, or prints something else than under another allocator.
pub fn run(program: &Program, allocator: &Allocator) -> Result<Run, String> {
    let failed = |what: &str| format!("{} under {}: {what}", program.name, allocator.name);
    let mut command = Command::new(&program.command[0]);
    command.args(&program.command[1..]).envs(program.environment.iter().copied());
    command.stdin(match &program.input {
        Some(path) => Stdio::from(File::open(path).map_err(|error| failed(&error.to_string()))?),
        None => Stdio::null(),
    });
    command.stdout(Stdio::piped());
    match &allocator.object {
        Some(object) => command.env("LD_PRELOAD", object),
        None => command.env_remove("LD_PRELOAD"),
    };
    let mut child = command.spawn().map_err(|error| failed(&error.to_string()))?;
    let mut printed = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut printed).map_err(|error| failed(&error.to_string()))?;
    }
    let mut status = 0;
    // SAFETY: 1. All zeros is a value of the structure. 2. The child is this process's own and not waited for elsewhere.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage) < 0 {
            return Err(failed("it cannot be waited for"));
        }
        usage
    };
    if status != 0 {
        return Err(failed(&format!("it ended with status {status:#x}")));
    }
    let mut first = PRINTED.lock().map_err(|_| failed("poisoned"))?;
    let expected = first.entry(program.name).or_insert_with(|| printed.clone());
    if *expected != printed {
        return Err(failed("it printed something else than before"));
    }
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok(Run { cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime), peak_kib: usage.ru_maxrss as u64 })
}
