//! One allocator for every memory.

#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "std", test))]
extern crate std;

pub mod arena;
pub mod error;
pub mod gc;
pub mod heap;
pub mod pool;
pub mod size;
pub mod space;
pub mod sync;

pub use arena::Arena;
pub use error::{BadFree, DemoError, DeviceId, OutOfMemory, Result};
pub use heap::Global;
pub use lock_api;
#[cfg(feature = "std")]
pub use pool::MemoryPool;
pub use pool::{Pool, PoolConfig};
#[cfg(feature = "std")]
pub use sync::HostLock;
pub use sync::SpinLock;
