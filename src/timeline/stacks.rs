//! From where a block was asked for.

#![forbid(unsafe_code)]

#[cfg(feature = "backtrace")]
use crate::sync::forks::ForkLock;
use std::string::String;
#[cfg(feature = "backtrace")]
use std::string::ToString;
use std::vec::Vec;

/// One caller.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Frame {
    /// The function, as far as the program's symbols tell; else its address.
    pub function: String,
    /// The source file; empty where that is not known.
    pub file: String,
    /// The line in it; 0 where that is not known.
    pub line: u32,
}

/// Stacks by number, each kept once, as addresses; they become names when they are looked at.
#[derive(Clone, Default)]
pub(super) struct Stacks {
    #[cfg(feature = "backtrace")]
    numbers: std::collections::HashMap<std::boxed::Box<[usize]>, u32>,
}

/// Addresses of callers.
#[derive(Clone, Default)]
pub(super) struct Callers(#[cfg(feature = "backtrace")] Vec<usize>);

#[cfg(not(feature = "backtrace"))]
impl Callers {
    pub(super) fn here(_depth: usize) -> Callers {
        Callers()
    }
}

#[cfg(not(feature = "backtrace"))]
impl Stacks {
    pub(super) fn number(&mut self, _callers: &Callers) -> u32 {
        super::NO_STACK
    }

    pub(super) fn into_vec(self) -> Vec<Vec<Frame>> {
        Vec::new()
    }
}

#[cfg(feature = "backtrace")]
impl Callers {
    /// This thread's callers, innermost first.
    pub(super) fn here(depth: usize) -> Callers {
        // The recording's own come first, and are left out when names are made.
        let most = depth.min(MOST_DEPTH) + OWN_DEPTH;
        let mut callers = Vec::new();
        if depth > 0 && callers.try_reserve_exact(most).is_ok() {
            backtrace::trace(|frame| {
                // Where the system knows no more callers it may say 0.
                callers.extend(Some(frame.ip() as usize).filter(|&at| at > 0));
                callers.len() < most
            });
        }
        Callers(callers)
    }
}

/// The recording's own functions in each.
#[cfg(feature = "backtrace")]
const OWN_DEPTH: usize = 8;

/// The most callers of a stack.
#[cfg(feature = "backtrace")]
const MOST_DEPTH: usize = 256;

/// The most stacks: what comes from elsewhere after them has none.
#[cfg(feature = "backtrace")]
const MOST: usize = 1 << 16;

#[cfg(feature = "backtrace")]
impl Stacks {
    pub(super) fn number(&mut self, callers: &Callers) -> u32 {
        if callers.0.is_empty() {
            return super::NO_STACK;
        }
        if let Some(&number) = self.numbers.get(&callers.0[..]) {
            return number;
        }
        let next = self.numbers.len() as u32;
        if next as usize == MOST {
            return super::NO_STACK;
        }
        self.numbers.insert(callers.0.clone().into(), next);
        next
    }

    /// With names: the program's symbols are read for it.
    pub(super) fn into_vec(self) -> Vec<Vec<Frame>> {
        let mut all: Vec<(u32, std::boxed::Box<[usize]>)> =
            self.numbers.into_iter().map(|(callers, number)| (number, callers)).collect();
        all.sort_unstable();
        let mut known = std::collections::HashMap::new();
        all.into_iter()
            .map(|(_, callers)| {
                named(&callers, |at| known.entry(at).or_insert_with(|| frames_at(at)).clone())
            })
            .collect()
    }
}

/// The functions of callers, without those of the recording itself, which stand at the top of every stack.
#[cfg(feature = "backtrace")]
fn named(callers: &[usize], frames: impl FnMut(usize) -> Vec<Frame>) -> Vec<Frame> {
    let mut all: Vec<Frame> = callers.iter().copied().flat_map(frames).collect();
    let ours = all.iter().rposition(|frame| frame.function.starts_with("democratising::timeline::"));
    all.drain(..ours.map_or(0, |last| last + 1));
    all
}

/// The functions at an address: more than one where some were inlined.
#[cfg(feature = "backtrace")]
fn frames_at(at: usize) -> Vec<Frame> {
    // The crate `backtrace` has a lock that a fork does not know, and that the child would wait for at its next event. Callers are
    // asked for under the recording's own lock, which forks wait for; here they wait for this one.
    static NAMING: ForkLock<()> = ForkLock::new(());
    let _naming = NAMING.lock();
    let mut frames = Vec::new();
    // The address is where the call returns to: the call is before it.
    backtrace::resolve((at - 1) as *mut core::ffi::c_void, |symbol| {
        frames.push(Frame {
            function: symbol.name().map_or_else(|| std::format!("{at:#x}"), |name| std::format!("{name:#}")),
            file: symbol.filename().map_or_else(String::new, |file| file.display().to_string()),
            line: symbol.lineno().unwrap_or(0),
        });
    });
    if frames.is_empty() {
        frames.push(Frame { function: std::format!("{at:#x}"), ..Frame::default() });
    }
    frames
}
