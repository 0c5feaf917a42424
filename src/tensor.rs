//! Tensors: typed, shaped memory.
//!
//! [`TensorBuf<T>`] is the core: one owned, 64-byte aligned buffer over any allocator, without `std`. `Tensor` is
//! what programs work with: its dtype and device are values, since files and devices are chosen at run time, its
//! clones share storage, and the storage is whatever costs least: the tensor itself, the `Vec` it was made from, the
//! process's pool, a mapped file.

mod buf;
mod dtype;
mod element;
mod extent;

#[cfg(feature = "std")]
mod apart;
#[cfg(feature = "std")]
mod compare;
#[cfg(feature = "std")]
mod device;
#[cfg(feature = "std")]
mod elements;
#[cfg(any(feature = "dlpack", feature = "ndarray"))]
mod interop;
#[cfg(feature = "std")]
mod iter;
#[cfg(feature = "std")]
pub(crate) mod layout;
#[cfg(feature = "std")]
mod print;
#[cfg(feature = "std")]
pub(crate) mod storage;
#[cfg(feature = "std")]
mod value;
#[cfg(feature = "std")]
mod view;
#[cfg(feature = "std")]
mod walk;

pub use buf::TensorBuf;
pub use dtype::DType;
pub use element::Element;
#[cfg(feature = "std")]
pub(crate) use extent::Extent;

#[cfg(feature = "std")]
pub use elements::IntoElements;
#[cfg(feature = "std")]
pub use iter::Iter;
#[cfg(feature = "std")]
pub use value::Tensor;
#[cfg(feature = "std")]
pub(crate) use value::no_vec;

/// What every tensor in a pool is aligned to: a cache line, and the widest vector registers.
pub const ALIGN_BYTES: usize = 64;
