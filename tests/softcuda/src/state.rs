//! All that the driver knows, behind one lock.

use crate::work::{Event, Stream};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_int;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A driver's result code.
pub type Code = c_int;
pub type Answer = Result<(), Code>;

pub const INVALID_VALUE: Code = 1;
pub const OUT_OF_MEMORY: Code = 2;
pub const NOT_INITIALIZED: Code = 3;
pub const NO_DEVICE: Code = 100;
pub const INVALID_DEVICE: Code = 101;
pub const INVALID_CONTEXT: Code = 201;
pub const ALREADY_MAPPED: Code = 208;
pub const INVALID_HANDLE: Code = 400;
pub const NOT_READY: Code = 600;
pub const CAPTURE_UNSUPPORTED: Code = 900;
pub const CAPTURE_INVALIDATED: Code = 901;
pub const CAPTURE_ISOLATION: Code = 905;
pub const CAPTURED_EVENT: Code = 907;
pub const PEER_ALREADY: Code = 704;
pub const ALREADY_REGISTERED: Code = 712;
pub const NOT_REGISTERED: Code = 713;
pub const NOT_SUPPORTED: Code = 801;

/// What the environment says.
pub struct Settings {
    pub devices: usize,
    pub memory_bytes: usize,
    pub lazy: bool,
    pub poison: bool,
    pub vmm: bool,
    pub peer: bool,
    pub call: Duration,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Settings {
    fn read() -> Settings {
        Settings {
            devices: number("SOFTCUDA_DEVICES", 2) as usize,
            memory_bytes: (number("SOFTCUDA_MEM_MIB", 1024) as usize) << 20,
            lazy: number("SOFTCUDA_LAZY", 0) != 0,
            poison: number("SOFTCUDA_POISON", 0) != 0,
            vmm: number("SOFTCUDA_NO_VMM", 0) == 0,
            peer: number("SOFTCUDA_NO_PEER", 0) == 0,
            call: Duration::from_nanos(number("SOFTCUDA_CALL_NS", 0)),
        }
    }
}

/// Physical memory of a device: places in its file.
pub struct Device {
    pub used_bytes: usize,
    /// The file in memory, made when first needed.
    pub file: Option<c_int>,
    /// Where the file ends, and what was given back before it.
    pub file_end: usize,
    pub file_holes: Vec<Hole>,
    pub primary: i32,
    pub lost: bool,
}

/// A part of a device's file that nobody has.
pub struct Hole {
    pub offset: usize,
    pub bytes: usize,
    /// Whether it still has its pages.
    pub kept: bool,
}

/// A handle of physical memory.
pub struct Handle {
    pub device: usize,
    pub bytes: usize,
    pub offset: usize,
    pub mappings: usize,
    pub released: bool,
}

/// A mapping: how long, of which handle, whom it can be touched by.
pub struct Mapping {
    pub bytes: usize,
    pub handle: u64,
}

pub struct State {
    pub settings: Settings,
    pub started: bool,
    pub devices: Vec<Device>,
    /// `cuMemAlloc`: start, to length and device.
    pub allocations: BTreeMap<u64, (usize, usize)>,
    pub reservations: BTreeMap<u64, usize>,
    pub mappings: BTreeMap<u64, Mapping>,
    pub handles: HashMap<u64, Handle>,
    /// `cuMemHostAlloc` and `cuMemHostRegister`: start, to length and whether it is the driver's own.
    pub pinned: BTreeMap<u64, (usize, bool)>,
    pub streams: HashMap<u64, Stream>,
    pub events: HashMap<u64, Event>,
    pub next: u64,
    pub calls: u64,
    pub calls_of: HashMap<&'static str, u64>,
    pub busy: Duration,
    /// The first call that fails, from now on, and how many more do behind it.
    pub fail_in: u64,
    pub fail_more: u64,
    pub fail_code: Code,
    /// A function that refuses so many calls more.
    pub refusing: Option<(String, u64, Code)>,
    pub failed: Option<&'static str>,
    pub violations: u64,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| {
    let settings = Settings::read();
    let devices: Vec<Device> = (0..settings.devices)
        .map(|_| Device {
            used_bytes: 0,
            file: None,
            file_end: 0,
            file_holes: Vec::new(),
            primary: 0,
            lost: false,
        })
        .collect();
    let mut state = State {
        started: false,
        allocations: BTreeMap::new(),
        reservations: BTreeMap::new(),
        mappings: BTreeMap::new(),
        handles: HashMap::new(),
        pinned: BTreeMap::new(),
        streams: HashMap::new(),
        events: HashMap::new(),
        next: 0x10_0000,
        calls: 0,
        calls_of: HashMap::new(),
        busy: Duration::ZERO,
        fail_in: 0,
        fail_more: 0,
        fail_code: 0,
        refusing: None,
        failed: None,
        violations: 0,
        settings,
        devices,
    };
    for device in 0..state.devices.len() {
        state.streams.insert(null_stream(device), Stream::new(device, true));
    }
    Mutex::new(state)
});

thread_local!(static CONTEXT: Cell<u64> = const { Cell::new(0) });
thread_local!(pub static CAPTURE_MODE: Cell<c_int> = const { Cell::new(0) });

/// What may not be done beside a capture in global mode, by threads that do not say otherwise: what may wait for streams, and events.
const UNSAFE_BESIDE_CAPTURES: &[&str] = &[
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemCreate",
    "cuMemRelease",
    "cuMemMap",
    "cuMemUnmap",
    "cuMemSetAccess",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuStreamSynchronize",
];

const CONTEXT_STEP: u64 = 0x1000;

pub fn null_stream(device: usize) -> u64 {
    0xF000_0000 + device as u64
}

pub fn context_of(device: usize) -> u64 {
    CONTEXT_STEP * (device as u64 + 1)
}

pub fn current_context() -> u64 {
    CONTEXT.get()
}

pub fn set_context(context: u64) {
    CONTEXT.set(context);
}

pub fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Processor time of this thread: what a shared machine does between is not the driver's.
fn thread_cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: 1. The pointer is to a value of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// One call of the driver: counted, timed, and refused where a test wants that.
pub fn call(name: &'static str, run: impl FnOnce(&mut State) -> Answer) -> Code {
    let mut state = lock();
    let (began, spent) = (Instant::now(), thread_cpu());
    state.calls += 1;
    *state.calls_of.entry(name).or_default() += 1;
    let planned = match state.fail_in {
        0 => None,
        1 => {
            // The same again for those behind it.
            state.fail_in = (state.fail_more > 0) as u64;
            state.fail_more = state.fail_more.saturating_sub(1);
            state.failed = Some(name);
            Some(state.fail_code)
        }
        _ => {
            state.fail_in -= 1;
            None
        }
    };
    let planned = planned.or(match &mut state.refusing {
        Some((refusing, times, code)) if refusing == name && *times > 0 => {
            *times -= 1;
            Some(*code)
        }
        _ => None,
    });
    let lost = state.device_of(current_context()).is_ok_and(|device| state.devices[device].lost);
    // What a lost device's driver still answers.
    let local = matches!(
        name,
        "cuInit"
            | "cuDeviceGetCount"
            | "cuDriverGetVersion"
            | "cuDeviceGet"
            | "cuCtxGetCurrent"
            | "cuCtxSetCurrent"
    );
    let answer = match planned {
        Some(code) => Err(code),
        None if lost && !local => Err(700),
        None if CAPTURE_MODE.get() != 2
            && UNSAFE_BESIDE_CAPTURES.contains(&name)
            && state.invalidate(|_, capture| capture.mode == 0) =>
        {
            Err(CAPTURE_UNSUPPORTED)
        }
        None => run(&mut state),
    };
    while began.elapsed() < state.settings.call {
        std::hint::spin_loop();
    }
    state.busy += thread_cpu().saturating_sub(spent);
    answer.err().unwrap_or(0)
}

impl State {
    pub fn id(&mut self) -> u64 {
        self.next += 0x10;
        self.next
    }

    pub fn device_of(&self, context: u64) -> Result<usize, Code> {
        let device = (context / CONTEXT_STEP).checked_sub(1).ok_or(INVALID_CONTEXT)? as usize;
        if !context.is_multiple_of(CONTEXT_STEP)
            || device >= self.devices.len()
            || self.devices[device].primary == 0
        {
            return Err(INVALID_CONTEXT);
        }
        Ok(device)
    }

    /// The device of the calling thread's context.
    pub fn current(&self) -> Result<usize, Code> {
        self.device_of(current_context())
    }

    pub fn ordinal(&self, device: c_int) -> Result<usize, Code> {
        usize::try_from(device).ok().filter(|&device| device < self.devices.len()).ok_or(INVALID_DEVICE)
    }
}
