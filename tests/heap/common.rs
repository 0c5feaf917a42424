//! Blocks that know what was written into them, and this program run again as a child.

use crate::again::again;
use crate::start::start;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::thread;
use std::time::{Duration, Instant};

/// What a child of this test program is to do: see `child`.
pub const ROLE: &str = "DEMOCRATISING_TEST_ROLE";

/// Runs this program again, with only the named test, in a role. Ends it after a minute: a heap that hangs is a failure.
pub fn child(test: &str, role: &str) -> (Option<i32>, String) {
    let mut command = again();
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    let piped = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = start(piped).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{test} as {role} hangs");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn role(name: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|role| role == name)
}

/// A small generator: xorshift.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// A live block with what was written into it.
pub struct Live {
    pub at: *mut u8,
    pub layout: Layout,
    pattern: u8,
}

// SAFETY: 1. A block is owned by whoever has it, in whichever thread.
unsafe impl Send for Live {}

impl Live {
    pub fn new(layout: Layout, pattern: u8, zeroed: bool) -> Live {
        // SAFETY: 1. No layout here has a size of zero.
        let at = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        assert!(!at.is_null() && (at as usize).is_multiple_of(layout.align()), "{layout:?} at {at:p}");
        let live = Live { at, layout, pattern };
        assert!(!zeroed || live.edges().all(|i| live.byte(i) == 0), "{layout:?} was to be zero");
        live.fill();
        live
    }

    pub fn edges(&self) -> impl Iterator<Item = usize> + use<> {
        let bytes = self.layout.size();
        (0..bytes.min(64)).chain((4096..bytes).step_by(4096)).chain(bytes.saturating_sub(64).max(64)..bytes)
    }

    pub fn byte(&self, i: usize) -> u8 {
        assert!(i < self.layout.size());
        // SAFETY: 1. The block has that many bytes.
        unsafe { self.at.add(i).read() }
    }

    pub fn fill(&self) {
        // SAFETY: 1. The block has that many bytes.
        self.edges().for_each(|i| unsafe { self.at.add(i).write(self.pattern ^ i as u8) });
    }

    pub fn check(&self, bytes: usize) {
        for i in self.edges().filter(|i| *i < bytes) {
            assert_eq!(self.byte(i), self.pattern ^ i as u8, "byte {i} of {:?}", self.layout);
        }
    }

    pub fn resize(&mut self, bytes: usize) {
        let kept = bytes.min(self.layout.size());
        // SAFETY: 1. The block is live with this layout. 2. The new size is not zero.
        self.at = unsafe { realloc(self.at, self.layout, bytes) };
        assert!(!self.at.is_null());
        // Every byte that `fill` wrote and that is kept.
        for i in self.edges().filter(|i| *i < kept) {
            assert_eq!(self.byte(i), self.pattern ^ i as u8, "byte {i} moved to {bytes} bytes");
        }
        self.layout = Layout::from_size_align(bytes, self.layout.align()).unwrap();
        self.fill();
    }

    pub fn free(self) {
        self.check(self.layout.size());
        // SAFETY: 1. The block is live with this layout, and nobody uses it.
        unsafe { dealloc(self.at, self.layout) }
    }
}

pub fn layout(draw: &mut Draw) -> Layout {
    let bytes = match draw.below(10) {
        0 => 1 + draw.below(3 << 20),
        1 => 1 + draw.below(200_000),
        2 | 3 => 1 + draw.below(20_000),
        _ => 1 + draw.below(600),
    };
    let align = match draw.below(8) {
        0 => 1 << draw.below(13),
        _ => 8,
    };
    Layout::from_size_align(bytes, align).unwrap()
}
