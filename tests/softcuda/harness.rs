//! Tests on the software driver: built when first needed, and found by a child process in the real one's place.
//!
//! A test says in which settings it runs, and runs once in a process for each, since a process has one driver and its devices for
//! good. Where the machine has a real driver the same tests run on it too, and say so.

#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set in the child.
const CHILD: &str = "DEMOCRATISING_TEST_ON_DRIVER";

/// Settings of the software driver.
#[derive(Clone, Copy, Debug)]
pub struct Mode(pub &'static str, pub &'static [(&'static str, &'static str)]);

pub const EAGER: Mode = Mode("eager", &[]);
pub const LAZY: Mode = Mode("lazy", &[("SOFTCUDA_LAZY", "1")]);
pub const POISON: Mode = Mode("poison", &[("SOFTCUDA_POISON", "1")]);
pub const LAZY_POISON: Mode = Mode("lazy and poison", &[("SOFTCUDA_LAZY", "1"), ("SOFTCUDA_POISON", "1")]);
pub const RANGES: Mode =
    Mode("without virtual memory", &[("SOFTCUDA_NO_VMM", "1"), ("SOFTCUDA_POISON", "1")]);
pub const NO_PEER: Mode = Mode("without peer access", &[("SOFTCUDA_NO_PEER", "1"), ("SOFTCUDA_LAZY", "1")]);

/// Those in which memory can move.
pub const MAPPED: &[Mode] = &[EAGER, LAZY, POISON, LAZY_POISON, NO_PEER];
/// Every way in which the driver can be.
pub const ALL: &[Mode] = &[EAGER, LAZY, POISON, LAZY_POISON, RANGES, NO_PEER];

/// The checkout, for tests of packages in it too.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if here.join("tests/softcuda").exists() { here } else { here.parent().unwrap() }
}

/// The folder in which the software driver lies under the driver's name.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let manifest = root().join("tests/softcuda/Cargo.toml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("softcuda");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--release", "--quiet", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target)
            .env_remove("RUSTFLAGS")
            // Where other tests of this process change the directory.
            .current_dir(root())
            .output()
            .unwrap_or_else(|error| panic!("cannot run cargo, which builds the software driver: {error}"));
        assert!(
            built.status.success(),
            "the software driver does not build:\n{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let folder = target.join("found");
        std::fs::create_dir_all(&folder).unwrap();
        // Under another name first: another test may be loading it.
        let fresh = folder.join(format!("libcuda.so.{}", std::process::id()));
        std::fs::copy(target.join("release/libcuda.so"), &fresh).unwrap();
        std::fs::rename(&fresh, folder.join("libcuda.so.1")).unwrap();
        folder
    })
}

/// Runs `test`, which is the body of the test of that name, in a process of its own for each mode.
pub fn in_modes(name: &str, modes: &[Mode], test: impl FnOnce()) {
    in_soft_modes(name, modes, test);
    if std::env::var_os(CHILD).is_none() && has_real_driver() {
        println!("{name} runs on this machine's own driver too");
        in_child(name, Mode("the machine's own driver", &[]), None);
    }
}

/// The same for what only the software driver can be made to do: on the machine's own it does not run.
pub fn in_soft_modes(name: &str, modes: &[Mode], test: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return test();
    }
    modes.iter().for_each(|mode| in_child(name, *mode, Some(folder())));
}

/// Runs the test of that name once more, in a process with that driver.
fn in_child(name: &str, mode: Mode, library: Option<&Path>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, mode.0)
        .envs(mode.1.iter().copied());
    child.current_dir(root());
    if let Some(library) = library {
        child.env("LD_LIBRARY_PATH", library);
    }
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}, {}: {}\n{text}\n{}",
        mode.0,
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    for line in text.lines().filter(|line| line.starts_with("# ")) {
        println!("{}: {}", mode.0, &line[2..]);
    }
}

/// Whether the loader knows a driver, and there is a device node.
pub fn has_real_driver() -> bool {
    Path::new("/dev/nvidiactl").exists()
}

/// Whether this process runs on the software driver, whose own functions can then be called.
pub fn is_soft() -> bool {
    !symbol("softcuda_calls").is_null()
}

/// A function of the driver that is loaded, or of the software one.
fn symbol(name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: 1. Both names end with a zero.
    unsafe {
        let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW);
        if library.is_null() { library } else { libc::dlsym(library, name.as_ptr()) }
    }
}

macro_rules! call {
    ($name:literal, fn($($type:ty),*) $(-> $result:ty)?, $($argument:expr),*) => {{
        let found = symbol($name);
        assert!(!found.is_null(), "{} is the software driver's", $name);
        // SAFETY: 1. The software driver declares it so, or the driver's header.
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) $(-> $result)?>(found)($($argument),*) }
    }};
}

/// Calls of the driver so far.
pub fn calls() -> u64 {
    call!("softcuda_calls", fn() -> u64,)
}

/// Calls of one of its functions so far.
pub fn calls_of(name: &str) -> u64 {
    let name = CString::new(name).unwrap();
    call!("softcuda_calls_of", fn(*const c_char) -> u64, name.as_ptr())
}

/// Nanoseconds of processor time that the driver took so far, without [`outside_ns`].
pub fn busy_ns() -> u64 {
    call!("softcuda_busy_ns", fn() -> u64,)
}

/// Nanoseconds of each call that the driver does not see itself: its lock, and half of its two looks at the clock.
pub fn outside_ns() -> f64 {
    const CALLS: u32 = 20_000;
    let found = symbol("cuCtxGetCurrent");
    assert!(!found.is_null());
    type Call = unsafe extern "C" fn(*mut usize) -> c_int;
    // SAFETY: 1. The driver's header declares it so.
    let call = unsafe { std::mem::transmute::<*mut c_void, Call>(found) };
    let once = || {
        let (began, busy) = (cpu_ns(), busy_ns());
        for _ in 0..CALLS {
            let mut context = 0;
            // SAFETY: 1. The pointer is to a value of ours.
            assert_eq!(unsafe { call(&mut context) }, 0);
        }
        (cpu_ns() - began).saturating_sub(busy_ns() - busy) as f64 / f64::from(CALLS)
    };
    (0..5).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds of processor time of this thread.
pub fn cpu_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: 1. The pointer is to a value of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Fails the `n`-th call from now on; 0 ends it.
pub fn fail_in(n: u64, code: c_int) {
    fail_from(n, 1, code)
}

/// Fails `count` calls in a row, the `n`-th from now on first; 0 ends it.
pub fn fail_from(n: u64, count: u64, code: c_int) {
    call!("softcuda_fail_in", fn(u64, u64, c_int), n, count - 1, code)
}

/// Refuses the next `times` calls of one function; 0 ends it.
pub fn refuse(name: &str, times: u64, code: c_int) {
    let name = CString::new(name).unwrap();
    call!("softcuda_refuse", fn(*const c_char, u64, c_int), name.as_ptr(), times, code)
}

/// Work that is queued, in all streams.
pub fn queued() -> u64 {
    call!("softcuda_queued", fn() -> u64,)
}

/// The name of the call that was made to fail, if it has come.
pub fn failed() -> Option<String> {
    let mut name = [0u8; 64];
    call!("softcuda_failed", fn(*mut c_char, usize), name.as_mut_ptr().cast(), name.len());
    let end = name.iter().position(|&byte| byte == 0).unwrap();
    (end > 0).then(|| String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Every call for a device fails from now on, or no longer.
pub fn lose(device: usize, lost: bool) {
    call!("softcuda_lose", fn(usize, bool), device, lost)
}

pub fn used_bytes(device: usize) -> u64 {
    call!("softcuda_used_bytes", fn(usize) -> u64, device)
}

/// What the driver holds for this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub handles: u64,
    pub mappings: u64,
    pub reservations: u64,
    pub allocations: u64,
    pub pinned: u64,
    pub streams: u64,
    pub events: u64,
}

pub fn held() -> Held {
    let of = |what: u32| call!("softcuda_held", fn(u32) -> u64, what);
    Held {
        handles: of(0),
        mappings: of(1),
        reservations: of(2),
        allocations: of(3),
        pinned: of(4),
        streams: of(5),
        events: of(6),
    }
}

/// How often memory went away under queued work.
pub fn violations() -> u64 {
    call!("softcuda_violations", fn() -> u64,)
}

/// Queues a fill, as a kernel would write.
pub fn fill(at: u64, byte: u8, bytes: usize, stream: usize) {
    assert_eq!(call!("cuMemsetD8Async", fn(u64, u8, usize, usize) -> c_int, at, byte, bytes, stream), 0);
}

/// Queues a copy within a device, as a kernel would read and write.
pub fn copy(to: u64, from: u64, bytes: usize, stream: usize) {
    assert_eq!(
        call!("cuMemcpyDtoDAsync_v2", fn(u64, u64, usize, usize) -> c_int, to, from, bytes, stream),
        0
    );
}

/// The current context of this thread.
pub fn context() -> usize {
    let mut context = 0usize;
    assert_eq!(call!("cuCtxGetCurrent", fn(*mut usize) -> c_int, &mut context), 0);
    context
}

pub fn set_context(context: usize) {
    assert_eq!(call!("cuCtxSetCurrent", fn(usize) -> c_int, context), 0);
}

/// From now on what is put into a stream goes into a graph; no thread may do what is unsafe beside that.
pub fn begin_capture(stream: usize) {
    assert_eq!(call!("cuStreamBeginCapture_v2", fn(usize, c_int) -> c_int, stream, 0), 0);
}

/// Ends that: the driver's code, which tells whether anything broke it off.
pub fn end_capture(stream: usize) -> c_int {
    let mut graph = 0usize;
    call!("cuStreamEndCapture", fn(usize, *mut usize) -> c_int, stream, &mut graph)
}

pub fn is_captured(stream: usize) -> bool {
    let mut status = 0;
    assert_eq!(call!("cuStreamIsCapturing", fn(usize, *mut c_int) -> c_int, stream, &mut status), 0);
    status != 0
}
