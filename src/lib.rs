//! One allocator for every memory.

#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod error;
#[cfg(feature = "std")]
pub mod fs;
pub mod gc;
pub mod heap;
pub mod size;
mod sync;
pub mod tensor;

pub use device::Device;
pub use error::{BadFree, DemoError, DeviceId, OutOfMemory, Result};
pub use heap::Global;
#[cfg(feature = "std")]
pub use tempfile;
pub use tensor::{DType, Element, TensorBuf};
#[cfg(feature = "std")]
pub use tensor::{IntoElements, Tensor};
