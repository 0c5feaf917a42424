//! One allocator for every memory: a microcontroller's static array, a process's pool, a GPU, and the tensors and
//! checkpoints that live in them.
//!
//! # Where to begin
//!
//! The [guide](guide/index.html) shows how things are done, in four chapters with pictures of who owns what:
//! [resources](guide/resource_management/index.html), [memory](guide/memory_management/index.html),
//! [errors](guide/error_handling/index.html), [the system around](guide/system_integration/index.html). What follows here is how it works.
//!
//! # Theory
//!
//! 1. **Space.** A *space* is a range of addresses of one kind: host, device or file.
//!    1. It is counted in *granules*, the smallest piece that is ever handed out as a whole.
//!    2. It is backed by *frames* of many granules, which it commits, moves and decommits. A fixed array is backed from
//!       the start and has no frames.
//!    3. It turns an offset into an address. Only the space knows whether bytes can be touched.
//! 2. **Arena.** An *arena* divides one space.
//!    1. All its bookkeeping lies beside the range, never in it, and is found by arithmetic. So it works where the bytes
//!       cannot be read, and a program that writes past its block cannot corrupt it.
//!    2. It works on granule numbers alone. No line of it is `unsafe`, and it has no lock.
//! 3. **Block.** What is handed out is a *block*.
//!    1. A block above the size classes is a *span*: a run of granules of exactly the size asked for, found by the
//!       arena's *span index*: the *buddy tree* where backing can move, lowest fit first, so that the high frames run
//!       idle; the *fit table* where it cannot, the tightest fit near at hand.
//!    2. A smaller one is a *slot* of a *slab*: a span cut into equal slots, one free bit each. Four or eight
//!       *size classes* to each doubling say how large the slots are.
//!    3. A second free of the same block is seen, since its bit is already set; so is one of an address inside a block,
//!       of another size, or of somebody else's block. This costs a few bit tests, and is done in release builds too.
//! 4. **Backing.** A span's frames are committed when it is handed out. Where that needs new ones, the highest idle frame is
//!    *stolen*, moved from where it idles to where it is needed, unless the *slack* still allows to create one. When
//!    neither works, everything is as it was before the request.
//! 5. **Pool.** A *pool* shares an arena: a lock, and a *budget* that no interleaving exceeds.
//! 6. **Cache.** A *cache* belongs to whoever can use a block again without asking anybody, a thread on the host and a *stream* on a
//!    device, and holds *magazines*, stacks of blocks, for every size class; its pop and push
//!    are the whole fast path. Full magazines change hands through the class's *depot*.
//! 7. **Reclaimer.** A *reclaimer* gives memory back when a budget is short: the pools' idle frames first, then what programs
//!    register.
//!
//! # Glossary
//!
//! | word | meaning | type |
//! |---|---|---|
//! | space | a range of addresses of one kind | [`space::Space`] |
//! | granule | the unit that spans are counted in | [`space::Granule`] |
//! | frame | the unit of backing: many granules | [`space::Geometry`] |
//! | span | a run of granules | [`space::Span`] |
//! | slab, slot | a span cut into equal slots | |
//! | size class | how large the slots of a slab are | [`size::SizeClass`] |
//! | block | a span or a slot that was handed out | [`arena::Block`] |
//! | arena | one space, divided | [`Arena`] |
//! | pool | an arena, shared | [`Pool`] |
//! | magazine, depot | a stack of blocks; a store of full stacks | [`pool::magazine`], [`pool::depot`] |
//! | cache | a thread's magazines, of [`Global`]; a stream's | |
//! | stream | an order of work on a device; blocks change hands between streams by a wait | `cuda::Stream`, [`device::handover`] |
//! | fixed heap | arenas over memory that is simply there, shared | [`FixedHeap`] |
//! | budget, charge | how much may be held; a share of it | [`pool::Budget`], [`pool::Charge`] |
//! | scope | a named part of what the process holds, with a budget of every kind | `pool::budget::scope::Scope` |
//! | reclaimer | who can give something back | [`gc::Reclaim`] |
//!
//! A *page* is the operating system's, and nothing else.
//!
//! # Features
//!
//! `std` (default) adds mapped memory, `MemoryPool`, `Tensor`, files and the registry of reclaimers; `net` (default) connections;
//! `serde` serialises reports; `backtrace` and `tracing` add callers to the memory timeline and events for subscribers; `cuda` adds
//! devices; `cli` builds the program `democratising`; `critical-section` and `portable-atomic` are for
//! microcontrollers. Without any, nothing but `core` is needed, not even `alloc`.

#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
// What models alone can name need not be shown.
#![cfg_attr(not(democratising_loom), deny(missing_debug_implementations))]

#[cfg(any(feature = "std", democratising_loom, test))]
extern crate std;

pub mod arena;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod error;
#[cfg(feature = "std")]
pub mod fs;
pub mod gc;
#[cfg(all(any(doc, doctest), feature = "net"))]
pub mod guide;
pub mod heap;
#[cfg(feature = "net")]
pub mod net;
pub mod pool;
#[cfg(feature = "std")]
pub mod report;
pub mod size;
pub mod space;
pub mod sync;
pub mod tensor;
#[cfg(feature = "std")]
pub mod timeline;

pub use arena::Arena;
pub use device::Device;
pub use error::{BadFree, DemoError, DeviceId, OutOfMemory, Result};
pub use heap::Global;
pub use heap::fixed::{FixedHeap, SingleCore, SmallHeap, StaticMemory};
pub use lock_api;
#[cfg(feature = "std")]
pub use pool::MemoryPool;
pub use pool::{Pool, PoolConfig};
#[cfg(feature = "std")]
pub use report::resources;
#[cfg(feature = "critical-section")]
pub use sync::CriticalSectionLock;
#[cfg(feature = "std")]
pub use sync::HostLock;
pub use sync::{NoLock, SpinLock};
#[cfg(feature = "std")]
pub use tempfile;
pub use tensor::{DType, Element, TensorBuf};
#[cfg(feature = "std")]
pub use tensor::{IntoElements, Tensor};

/// The examples of the README run as tests. They stand there as they are copied, without hidden lines: the one for a GPU needs its feature.
#[cfg(all(doctest, feature = "cuda"))]
#[doc = include_str!("../README.md")]
struct Readme;
