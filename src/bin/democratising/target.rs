//! The one place that touches the allocator: what a replay needs of it, on every kind of space.

#![allow(unsafe_code)]

use crate::args::{IndexChoice, Permille, SpaceKind};
use crate::failure::Failure;
use crate::units::round;
use core::alloc::Layout;
use democratising::space::{Fixed, Mapped, MappedTables, Simulated, Space};
use democratising::{BadFree, HostLock, Pool, PoolConfig};
use memmap2::{MmapMut, MmapOptions};
use std::fmt::Display;
use std::mem::MaybeUninit;

/// Something that blocks come from.
pub trait Target {
    /// What a live block is known by.
    type Handle: Copy;
    /// Why a block could not be given back.
    type Refusal: Display;

    /// A block, or `None` when there is no room.
    fn allocate(&mut self, bytes: u64) -> Option<Self::Handle>;

    /// Gives back a block that was allocated with so many bytes.
    fn free(&mut self, handle: Self::Handle, bytes: u64) -> Result<(), Self::Refusal>;

    /// The counters at this moment.
    fn figures(&self) -> Figures;
}

/// The counters of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    pub reserved_bytes: u64,
    pub peak_reserved_bytes: u64,
    /// In blocks, as the allocator rounds them.
    pub in_use_bytes: u64,
    /// Units of backing that were made new.
    pub creates: u64,
    /// Units of backing that were moved to where they were needed.
    pub steals: u64,
}

/// What the memory of a replay is like.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub slack: Permille,
    pub frame_bytes: u64,
    pub limit_bytes: Option<u64>,
    /// The most bytes that the trace has live at once.
    pub demand_bytes: u64,
}

/// The least range of addresses that is worth having: small traces fragment relatively more.
const LEAST_RANGE_BYTES: u64 = 1 << 30;
/// A terabyte of addresses: more than any one device has, and its tables still fit in a few megabytes.
const MOST_RANGE_BYTES: u64 = 1 << 40;
/// What `cudaMalloc` promises.
const DEVICE_ALIGN: usize = 256;
/// What tensors on the host ask for: a cache line, and the widest vector register.
const HOST_ALIGN: usize = 64;
/// What a fixed range is rounded up to.
const FIXED_UNIT_BYTES: u64 = 2 << 20;

impl Setup {
    /// Addresses cost nothing, and holes between live blocks must not use them up: four times the demand, where a frame
    /// that is idle can be moved to the next free address.
    fn range_bytes(&self) -> u64 {
        let wanted = self.demand_bytes.saturating_mul(4).clamp(LEAST_RANGE_BYTES, MOST_RANGE_BYTES);
        wanted.next_multiple_of(self.frame_bytes)
    }

    /// The limit, or an eighth more than the demand: what a fixed range needs for its holes.
    fn fixed_bytes(&self) -> u64 {
        self.limit_bytes.unwrap_or_else(|| {
            let roomy = self.demand_bytes.saturating_add(self.demand_bytes / 8).max(1);
            roomy.checked_next_multiple_of(FIXED_UNIT_BYTES).unwrap_or(u64::MAX)
        })
    }

    fn config(&self) -> PoolConfig {
        let config = PoolConfig::DEFAULT.slack_permille(self.slack.0);
        match self.limit_bytes {
            Some(limit_bytes) => config.max_bytes(limit_bytes),
            None => config,
        }
    }

    /// The memory in words.
    pub fn describe(&self, space: SpaceKind, index: Option<IndexChoice>) -> String {
        let movable = || {
            let limit = self.limit_bytes.map_or(String::new(), |bytes| format!(", limit {}", round(bytes)));
            format!("frames of {}, slack {}{limit}", round(self.frame_bytes), self.slack)
        };
        let index = match index {
            None => "",
            Some(IndexChoice::Tree) => ", buddy tree",
            Some(IndexChoice::Fit) => ", fit table",
        };
        match space {
            SpaceKind::Simulated => format!("simulated memory ({}{index})", movable()),
            SpaceKind::Cuda => format!("CUDA device memory ({})", movable()),
            SpaceKind::Mapped => format!("mapped memory ({}{index})", movable()),
            SpaceKind::Fixed => format!("fixed memory (one range of {}{index})", round(self.fixed_bytes())),
        }
    }
}

/// A device's memory, of which only the addresses exist, with the index that `divide` gives it.
pub fn simulated<S: Space>(
    setup: &Setup,
    divide: fn(Simulated) -> S,
) -> Result<impl Target<Handle = S::Addr>, Failure> {
    let frame_bytes = usize::try_from(setup.frame_bytes).map_err(machine)?;
    let space = Simulated::device(setup.range_bytes(), frame_bytes);
    Pooled::new(divide(space), setup, DEVICE_ALIGN, None)
}

/// Memory of the first CUDA device, a range of its own for each pass.
#[cfg(feature = "cuda")]
pub fn cuda(setup: &Setup) -> Result<impl Target, Failure> {
    let device = democratising::Device::cuda(0).map_err(machine)?;
    let space = democratising::cuda::CudaSpace::reserve(&device, setup.range_bytes()).map_err(machine)?;
    if let Some(frame_bytes) = space.geometry().frame_bytes().filter(|&bytes| bytes != setup.frame_bytes) {
        let problem =
            format!("{} cannot be: {device} has frames of {}", round(setup.frame_bytes), round(frame_bytes));
        return Err(Failure::input("--frame", problem));
    }
    Pooled::new(space, setup, DEVICE_ALIGN, None)
}

/// This process's own memory.
pub fn mapped<S: Space>(setup: &Setup, divide: fn(Mapped) -> S) -> Result<impl Target, Failure> {
    let range_bytes = usize::try_from(setup.range_bytes()).unwrap_or(usize::MAX);
    let space = Mapped::reserve(range_bytes).map_err(|error| {
        Failure::Machine(format!("cannot reserve {} of addresses: {error}", round(range_bytes as u64)))
    })?;
    if let Some(frame_bytes) = space.geometry().frame_bytes().filter(|&bytes| bytes != setup.frame_bytes) {
        let problem = format!(
            "{} cannot be: mapped memory has frames of {}",
            round(setup.frame_bytes),
            round(frame_bytes)
        );
        return Err(Failure::input("--frame", problem));
    }
    Pooled::new(divide(space), setup, HOST_ALIGN, None)
}

/// One range that is there from the start and cannot grow. Nothing touches it, so that it costs addresses only.
pub fn fixed<S: Space>(setup: &Setup, divide: fn(Fixed<'static>) -> S) -> Result<impl Target, Failure> {
    let bytes = setup.fixed_bytes();
    let no_range =
        |why: &dyn Display| Failure::Machine(format!("cannot have a fixed range of {}: {why}", round(bytes)));
    let len = usize::try_from(bytes).map_err(|error| no_range(&error))?;
    let mut options = MmapOptions::new();
    options.len(len).no_reserve_swap();
    let mut memory = options.map_anon().map_err(|error| no_range(&error))?;
    let (first, len) = (memory.as_mut_ptr().cast(), memory.len());
    // SAFETY: 1. The pointer and the length are those of a mapping that is readable, writable and nobody else's.
    // 2. Any byte is a `MaybeUninit<u8>`. 3. It is used as long as the pool lives, and `Pooled` drops its pool before
    // its memory, which it never touches or lends in between; moving the owner of a mapping does not move the mapping.
    let range: &'static mut [MaybeUninit<u8>] = unsafe { std::slice::from_raw_parts_mut(first, len) };
    Pooled::new(divide(Fixed::new(range)), setup, HOST_ALIGN, Some(memory))
}

fn machine(error: impl Display) -> Failure {
    Failure::Machine(error.to_string())
}

/// A pool over any space. Fields are dropped in their order: the pool before the memory that its space may lie in.
struct Pooled<S: Space> {
    pool: Pool<S, HostLock, MappedTables>,
    align: usize,
    _memory: Option<MmapMut>,
}

impl<S: Space> Pooled<S> {
    fn new(space: S, setup: &Setup, align: usize, memory: Option<MmapMut>) -> Result<Pooled<S>, Failure> {
        let pool = Pool::new(space, MappedTables, setup.config()).map_err(machine)?;
        Ok(Pooled { pool, align, _memory: memory })
    }

    /// `None` for a size that no address space has.
    #[inline]
    fn layout(&self, bytes: u64) -> Option<Layout> {
        Layout::from_size_align(usize::try_from(bytes).ok()?, self.align).ok()
    }
}

impl<S: Space> Target for Pooled<S> {
    type Handle = S::Addr;
    type Refusal = BadFree;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<S::Addr> {
        Some(self.pool.allocate(self.layout(bytes)?).ok()?.addr)
    }

    #[inline]
    fn free(&mut self, handle: S::Addr, bytes: u64) -> Result<(), BadFree> {
        // A size without a layout was never allocated.
        let layout = self.layout(bytes).ok_or(BadFree::Foreign)?;
        // SAFETY: 1. The block's bytes are never used at all.
        unsafe { self.pool.free(handle, layout) }
    }

    fn figures(&self) -> Figures {
        let stats = self.pool.stats();
        Figures {
            reserved_bytes: stats.reserved_bytes,
            peak_reserved_bytes: stats.peak_reserved_bytes,
            in_use_bytes: stats.in_use_bytes,
            creates: stats.creates,
            steals: stats.steals,
        }
    }
}

/// An exact model of an allocator that wastes nothing within its frames and never gives one back.
#[cfg(test)]
pub mod model {
    use super::*;

    /// What a model does wrong, on purpose.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Fault {
        RefusesFree,
        KeepsBytes,
    }

    pub struct Model {
        frame_bytes: u64,
        limit_bytes: u64,
        fault: Option<Fault>,
        figures: Figures,
    }

    impl Model {
        pub fn new(frame_bytes: u64, limit_bytes: u64) -> Model {
            Model { frame_bytes, limit_bytes, fault: None, figures: Figures::default() }
        }

        pub fn with(mut self, fault: Fault) -> Model {
            self.fault = Some(fault);
            self
        }
    }

    impl Target for Model {
        type Handle = u64;
        type Refusal = &'static str;

        fn allocate(&mut self, bytes: u64) -> Option<u64> {
            let in_use = self.figures.in_use_bytes.checked_add(bytes)?;
            let needed = in_use.checked_next_multiple_of(self.frame_bytes)?;
            if needed > self.limit_bytes {
                return None;
            }
            self.figures.creates += needed.saturating_sub(self.figures.reserved_bytes) / self.frame_bytes;
            self.figures.reserved_bytes = self.figures.reserved_bytes.max(needed);
            self.figures.peak_reserved_bytes = self.figures.reserved_bytes;
            self.figures.in_use_bytes = in_use;
            Some(bytes)
        }

        fn free(&mut self, handle: u64, bytes: u64) -> Result<(), &'static str> {
            assert_eq!(handle, bytes, "a block is freed with the size it was allocated with");
            match self.fault {
                Some(Fault::RefusesFree) => Err("refused on purpose"),
                Some(Fault::KeepsBytes) => Ok(()),
                None => {
                    self.figures.in_use_bytes -= bytes;
                    Ok(())
                }
            }
        }

        fn figures(&self) -> Figures {
            self.figures
        }
    }
}
