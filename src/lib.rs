//! One allocator for every memory.

#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "std", test))]
extern crate std;

pub mod arena;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod error;
#[cfg(feature = "std")]
pub mod fs;
pub mod gc;
pub mod heap;
pub mod pool;
pub mod size;
pub mod space;
pub mod sync;
pub mod tensor;

pub use arena::Arena;
pub use device::Device;
pub use error::{BadFree, DemoError, DeviceId, OutOfMemory, Result};
pub use heap::Global;
pub use lock_api;
#[cfg(feature = "std")]
pub use pool::MemoryPool;
pub use pool::{Pool, PoolConfig};
#[cfg(feature = "std")]
pub use sync::HostLock;
pub use sync::SpinLock;
#[cfg(feature = "std")]
pub use tempfile;
pub use tensor::{DType, Element, TensorBuf};
#[cfg(feature = "std")]
pub use tensor::{IntoElements, Tensor};
