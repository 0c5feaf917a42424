//! Time and memory, as the kernel counts them.

use std::time::Instant;

/// The least time of several repeats.
#[derive(Clone, Copy)]
pub struct Time {
    pub cpu_ms: f64,
    pub wall_ms: f64,
}

/// CPU time of the process, all threads, its own and the kernel's for it.
fn cpu_ms() -> f64 {
    // SAFETY: 1. A structure of integers, for which zeros are a value. 2. The call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

pub fn best<T>(repeats: usize, mut run: impl FnMut() -> T) -> Time {
    let mut best = Time { cpu_ms: f64::INFINITY, wall_ms: f64::INFINITY };
    for _ in 0..repeats {
        once(&mut best, &mut run);
    }
    best
}

fn once<T>(best: &mut Time, run: &mut impl FnMut() -> T) {
    let (cpu, wall) = (cpu_ms(), Instant::now());
    std::hint::black_box(run());
    best.wall_ms = best.wall_ms.min(wall.elapsed().as_secs_f64() * 1e3);
    best.cpu_ms = best.cpu_ms.min(cpu_ms() - cpu);
}

/// The same of several, in turn, so that a busy moment meets all of them.
pub fn interleaved<const N: usize>(repeats: usize, mut runs: [&mut dyn FnMut(); N]) -> [Time; N] {
    let mut times = [Time { cpu_ms: f64::INFINITY, wall_ms: f64::INFINITY }; N];
    for _ in 0..repeats {
        for (time, run) in times.iter_mut().zip(&mut runs) {
            once(time, run);
        }
    }
    times
}

/// How much more memory than before `run` has at its peak, in bytes.
pub fn extra_memory<T>(run: impl FnOnce() -> T) -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").expect("a kernel that counts peaks");
    let before = status("VmRSS");
    std::hint::black_box(run());
    status("VmHWM").saturating_sub(before)
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("the key");
    line.trim().strip_suffix(" kB").expect("kB").trim().parse::<u64>().expect("a number") << 10
}
