//! Where a tensor's bytes are, and whose.
//!
//! 1. A storage is made for one dtype and a number of elements, and its bytes hold that many values of that dtype,
//!    aligned for it. Everything that makes one sees to this, so reading it as that dtype's Rust type is sound.
//! 2. A block is shared by counting, and it is written only while its count is one.
//! 3. Mapped bytes are never written: they belong to a file.

use super::TensorBuf;
use super::dtype::DType;
use super::element::Element;
use crate::error::{DemoError, Result};
use crate::pool::MemoryPool;
use core::ptr::NonNull;
use core::slice;
use memmap2::Mmap;
use std::format;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::vec::Vec;

/// The bytes that a tensor holds in itself, without any allocation.
pub(crate) const INLINE_BYTES: usize = 64;

type Inline = [u64; INLINE_BYTES / 8];

/// A number of elements of one dtype, somewhere. A clone shares them, or copies what is inline.
#[derive(Clone)]
pub struct Storage {
    place: Place,
    dtype: DType,
    elements: usize,
}

#[derive(Clone)]
enum Place {
    Inline(Inline),
    Shared(Arc<Block>),
}

enum Block {
    Adopted(Adopted),
    Pooled(TensorBuf<u8, MemoryPool>),
    /// A buffer that its maker took from the process's heap.
    Heaped(TensorBuf<u8>),
    Mapped(Mapped),
}

impl Storage {
    /// As many zeros.
    pub(crate) fn zeros(dtype: DType, elements: usize) -> Result<Storage> {
        let bytes = elements * dtype.size_bytes();
        let place = if bytes <= INLINE_BYTES {
            Place::Inline(Inline::default())
        } else {
            Place::pooled(from_pool(|| TensorBuf::zeros_in(&[bytes], MemoryPool))?)
        };
        Ok(Storage { place, dtype, elements })
    }

    /// A copy of these elements.
    pub(crate) fn copy<T: Element>(elements: &[T]) -> Result<Storage> {
        Self::copy_bytes(T::DTYPE, elements.len(), bytes_of(elements))
    }

    /// A copy of the bytes of `elements` valid elements.
    fn copy_bytes(dtype: DType, elements: usize, bytes: &[u8]) -> Result<Storage> {
        let place = if bytes.len() <= INLINE_BYTES {
            let mut inline = Inline::default();
            inline_bytes_mut(&mut inline)[..bytes.len()].copy_from_slice(bytes);
            Place::Inline(inline)
        } else {
            Place::pooled(from_pool(|| TensorBuf::from_slice_in(&[bytes.len()], bytes, MemoryPool))?)
        };
        Ok(Storage { place, dtype, elements })
    }

    /// The vector's own memory; what fits into the tensor itself moves there.
    pub(crate) fn adopt<T: Element>(vec: Vec<T>) -> Result<Storage> {
        if size_of_val(vec.as_slice()) <= INLINE_BYTES {
            return Self::copy(&vec);
        }
        let elements = vec.len();
        let place = Place::Shared(Arc::new(Block::Adopted(Adopted::new(vec))));
        Ok(Storage { place, dtype: T::DTYPE, elements })
    }

    /// The buffer's own memory; what fits into the tensor itself moves there.
    pub(crate) fn take<T: Element>(buf: TensorBuf<T>) -> Result<Storage> {
        if size_of_val(buf.as_slice()) <= INLINE_BYTES {
            return Self::copy(&buf);
        }
        let elements = buf.len();
        let place = Place::Shared(Arc::new(Block::Heaped(buf.into_bytes())));
        Ok(Storage { place, dtype: T::DTYPE, elements })
    }

    /// As many elements, whose bytes `write` puts into memory that is all zeros before.
    ///
    /// # Errors
    /// What `write` returns, and [`DemoError::Format`] where it leaves a byte that no `bool` has.
    pub(crate) fn filled(
        dtype: DType,
        elements: usize,
        write: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Storage> {
        let mut storage = Self::zeros(dtype, elements)?;
        let bytes = storage.bytes_mut()?;
        write(bytes)?;
        check_bools(dtype, bytes)?;
        Ok(storage)
    }

    /// The elements at `offset_bytes` of a mapped file: in place where they are aligned, else a copy.
    ///
    /// The caller has seen that the file holds them.
    ///
    /// # Errors
    /// [`DemoError::Format`] for a byte that no `bool` has, [`DemoError::OutOfMemory`] where a copy has no room.
    pub(crate) fn mapped(
        map: &Arc<Mmap>,
        offset_bytes: usize,
        dtype: DType,
        elements: usize,
    ) -> Result<Storage> {
        let mapped = Mapped { map: Arc::clone(map), offset_bytes, bytes: elements * dtype.size_bytes() };
        let bytes = mapped.bytes();
        let aligned = bytes.as_ptr().addr() % dtype.size_bytes() == 0;
        // A `bool` is checked once, so its bytes may not be a file's, which somebody could change after that.
        if aligned && dtype != DType::Bool && bytes.len() > INLINE_BYTES {
            return Ok(Storage { place: Place::Shared(Arc::new(Block::Mapped(mapped))), dtype, elements });
        }
        let copy = Self::copy_bytes(dtype, elements, bytes)?;
        check_bools(dtype, copy.as_bytes())?;
        Ok(copy)
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    fn len_bytes(&self) -> usize {
        self.elements * self.dtype.size_bytes()
    }

    /// Where the bytes are, in a word.
    pub(crate) fn place(&self) -> &'static str {
        match &self.place {
            Place::Inline(_) => "inline",
            Place::Shared(block) => match **block {
                Block::Adopted(_) => "adopted",
                Block::Pooled(_) => "pool",
                Block::Heaped(_) => "heap",
                Block::Mapped(_) => "mapped file",
            },
        }
    }

    /// The bytes of all elements.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.place {
            Place::Inline(inline) => &inline_bytes(inline)[..self.len_bytes()],
            Place::Shared(block) => block.bytes(),
        }
    }

    /// The elements, or `None` where they are of another dtype.
    pub(crate) fn as_slice<T: Element>(&self) -> Option<&[T]> {
        if self.dtype != T::DTYPE {
            return None;
        }
        let at = self.as_bytes().as_ptr().cast::<T>();
        debug_assert!(at.is_aligned());
        // SAFETY: 1. The bytes hold `elements` values of the dtype of `T`, aligned for it (1. of this file).
        // 2. They are borrowed from `self`.
        Some(unsafe { slice::from_raw_parts(at, self.elements) })
    }

    /// The elements to be changed, of a copy where they are shared; `None` where they are of another dtype.
    pub(crate) fn as_mut_slice<T: Element>(&mut self) -> Result<Option<&mut [T]>> {
        if self.dtype != T::DTYPE {
            return Ok(None);
        }
        let elements = self.elements;
        let at = self.bytes_mut()?.as_mut_ptr().cast::<T>();
        debug_assert!(at.is_aligned());
        // SAFETY: 1. As in `as_slice`. 2. `bytes_mut` hands out bytes that nobody else sees, borrowed from `self`.
        Ok(Some(unsafe { slice::from_raw_parts_mut(at, elements) }))
    }

    /// The bytes, ours alone: a shared or mapped block is copied first. What is written must be values of the dtype.
    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        let writable = match &mut self.place {
            Place::Inline(_) => true,
            Place::Shared(block) => Arc::get_mut(block).is_some_and(|block| block.bytes_mut().is_some()),
        };
        if !writable {
            *self = Self::copy_bytes(self.dtype, self.elements, self.as_bytes())?;
        }
        let len_bytes = self.len_bytes();
        match &mut self.place {
            Place::Inline(inline) => Ok(&mut inline_bytes_mut(inline)[..len_bytes]),
            Place::Shared(block) => match Arc::get_mut(block).and_then(Block::bytes_mut) {
                Some(bytes) => Ok(bytes),
                None => unreachable!("the block is ours alone, and not mapped: seen or made above"),
            },
        }
    }
}

impl Place {
    fn pooled(buf: TensorBuf<u8, MemoryPool>) -> Place {
        Place::Shared(Arc::new(Block::Pooled(buf)))
    }
}

impl Block {
    fn bytes(&self) -> &[u8] {
        match self {
            Block::Adopted(adopted) => adopted.bytes(),
            Block::Pooled(buf) => buf,
            Block::Heaped(buf) => buf,
            Block::Mapped(mapped) => mapped.bytes(),
        }
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Block::Adopted(adopted) => Some(adopted.bytes_mut()),
            Block::Pooled(buf) => Some(buf),
            Block::Heaped(buf) => Some(buf),
            Block::Mapped(_) => None,
        }
    }
}

/// A `Vec<T>` of some `T: Element`, as bytes.
///
/// Its memory must be given back with the layout of `Vec<T>`, capacity and alignment of `T` included, so `free`
/// remembers `T`: it is the function that turns the parts into that very `Vec<T>` again.
struct Adopted {
    at: NonNull<u8>,
    bytes: usize,
    capacity: usize,
    free: unsafe fn(NonNull<u8>, usize),
}

impl Adopted {
    fn new<T: Element>(vec: Vec<T>) -> Adopted {
        unsafe fn free<T: Element>(at: NonNull<u8>, capacity: usize) {
            // SAFETY: 1. The caller's: `at` and `capacity` came from a `Vec<T>` that was taken apart. 2. Elements
            // need no drop, so a length of 0 loses nothing.
            drop(unsafe { Vec::<T>::from_raw_parts(at.cast().as_ptr(), 0, capacity) });
        }

        let mut vec = ManuallyDrop::new(vec);
        // The vector's own pointer: one made from its slice would be valid for the elements only, and not for freeing
        // the rest of the capacity.
        // SAFETY: 1. The pointer of a vector is never null.
        let at = unsafe { NonNull::new_unchecked(vec.as_mut_ptr()) };
        Adopted {
            at: at.cast(),
            bytes: size_of_val(vec.as_slice()),
            capacity: vec.capacity(),
            free: free::<T>,
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: 1. The vector's initialised elements, without padding. 2. Owned, so unchanged during `&self`.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: 1. As in `bytes`. 2. `&mut self` makes the access the only one.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.bytes) }
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        // SAFETY: 1. The parts are those of the vector that `free` was made for. 2. Nobody uses them after this.
        unsafe { (self.free)(self.at, self.capacity) }
    }
}

// SAFETY: 1. It owns a `Vec` of elements, and elements are `Send`.
unsafe impl Send for Adopted {}

// SAFETY: 1. Shared, its elements are only read, and elements are `Sync`.
unsafe impl Sync for Adopted {}

/// A part of a mapped file.
struct Mapped {
    map: Arc<Mmap>,
    offset_bytes: usize,
    bytes: usize,
}

impl Mapped {
    fn bytes(&self) -> &[u8] {
        &self.map[self.offset_bytes..][..self.bytes]
    }
}

/// Collects and tries again when memory runs out. Each failure is told in the pool's own numbers, by which the collector
/// sees whether trying again can help.
fn from_pool<T>(allocate: impl Fn() -> Result<T>) -> Result<T> {
    crate::gc::with_retry(|_| {
        allocate().map_err(|error| match error {
            DemoError::OutOfMemory(report) => crate::gc::host_report(report.requested_bytes).into(),
            other => other,
        })
    })
}

fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: 1. Elements have no padding (the contract of `Element`), so each of their bytes is initialised.
    unsafe { slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

fn inline_bytes(inline: &Inline) -> &[u8] {
    bytes_of(inline)
}

fn inline_bytes_mut(inline: &mut Inline) -> &mut [u8] {
    // SAFETY: 1. An integer has no padding and takes every pattern. 2. Borrowed from the only reference.
    unsafe { slice::from_raw_parts_mut(inline.as_mut_ptr().cast(), INLINE_BYTES) }
}

fn check_bools(dtype: DType, bytes: &[u8]) -> Result<()> {
    match (dtype == DType::Bool).then(|| bytes.iter().position(|&byte| byte > 1)).flatten() {
        None => Ok(()),
        Some(i) => Err(DemoError::Format {
            format: "BOOL elements",
            path: None,
            at: format!(" element {i}"),
            problem: format!("a bool is stored as 0 or 1, not {}", bytes[i]),
        }),
    }
}
