//! `TensorBuf`: an owned, typed, shaped buffer over any allocator; no `std`, no `alloc`.

use super::ALIGN_BYTES;
use super::element::Element;
use super::extent::Extent;
use crate::error::{DemoError, OutOfMemory, Result};
use crate::heap::Global;
use crate::size::Shape;
use allocator_api2::alloc::Allocator;
use core::alloc::Layout;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::slice;

/// An owned buffer of elements with a shape, 64-byte aligned, given back when it is dropped.
///
/// It dereferences to the slice of its elements, in row-major order. A buffer without elements holds no memory.
pub struct TensorBuf<T: Element, A = Global> {
    /// `elements` initialised values, in a block of `layout` from `allocator`, or dangling where that has no bytes.
    at: NonNull<T>,
    elements: usize,
    layout: Layout,
    shape: Shape,
    /// `A::deallocate`. Kept as a value, so that the type itself needs no `A: Allocator`: its default, the process's
    /// heap, is an allocator with `std` only, while the type exists without.
    release: unsafe fn(&A, NonNull<u8>, Layout),
    allocator: A,
}

/// Something to dangle on with the right alignment.
#[repr(align(64))]
struct Aligned;

const _: () = assert!(align_of::<Aligned>() == ALIGN_BYTES);

unsafe fn release<A: Allocator>(allocator: &A, at: NonNull<u8>, layout: Layout) {
    // SAFETY: 1. The caller's: `at` is a live block of `layout` from this allocator.
    unsafe { allocator.deallocate(at, layout) }
}

impl<T: Element, A: Allocator> TensorBuf<T, A> {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// [`DemoError::ImpossibleShape`] where the bytes cannot be counted, [`DemoError::OutOfMemory`] where the
    /// allocator has none.
    pub fn zeros_in(shape: &[usize], allocator: A) -> Result<Self> {
        let extent = Extent::new(shape, size_of::<T>())?;
        let layout = layout(extent)?;
        let at = if layout.size() == 0 {
            NonNull::<Aligned>::dangling().cast()
        } else {
            allocator.allocate_zeroed(layout).map_err(|_| out_of_memory(layout))?.cast()
        };
        // `at` holds zeros, and zeros are values (the contract of `Element`).
        Ok(Self::hold(at, extent, layout, allocator))
    }

    /// A buffer with a copy of `elements`.
    ///
    /// # Errors
    /// [`DemoError::ElementCount`] where they do not make the shape, and those of [`zeros_in`](Self::zeros_in).
    pub fn from_slice_in(shape: &[usize], elements: &[T], allocator: A) -> Result<Self> {
        let extent = Extent::filled_by(shape, size_of::<T>(), elements.len())?;
        let layout = layout(extent)?;
        let at: NonNull<T> = if layout.size() == 0 {
            NonNull::<Aligned>::dangling().cast()
        } else {
            allocator.allocate(layout).map_err(|_| out_of_memory(layout))?.cast()
        };
        // SAFETY: 1. `extent` counted the block as room for as many elements as there are. 2. It is new, so it does
        // not overlap them.
        unsafe { ptr::copy_nonoverlapping(elements.as_ptr(), at.as_ptr(), elements.len()) };
        Ok(Self::hold(at, extent, layout, allocator))
    }

    /// A buffer whose elements are `element(0)`, `element(1)`, .. in row-major order.
    ///
    /// # Errors
    /// Those of [`zeros_in`](Self::zeros_in).
    pub fn from_fn_in(shape: &[usize], allocator: A, mut element: impl FnMut(usize) -> T) -> Result<Self> {
        // Zeros first, so that a panic in `element` drops a buffer like any other.
        let mut buf = Self::zeros_in(shape, allocator)?;
        for (i, at) in buf.as_mut_slice().iter_mut().enumerate() {
            *at = element(i);
        }
        Ok(buf)
    }

    /// A copy from the same allocator.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] where the allocator has none.
    pub fn try_clone(&self) -> Result<Self>
    where
        A: Clone,
    {
        Self::from_slice_in(&self.shape, self, self.allocator.clone())
    }

    /// Takes a block of `layout` at `at` that holds the elements of `extent`.
    fn hold(at: NonNull<T>, extent: Extent, layout: Layout, allocator: A) -> Self {
        let Extent { shape, elements, .. } = extent;
        TensorBuf { at, elements, layout, shape, release: release::<A>, allocator }
    }
}

fn layout(extent: Extent) -> Result<Layout> {
    Layout::from_size_align(extent.bytes, ALIGN_BYTES).map_err(|_| DemoError::ImpossibleShape {
        lengths: extent.shape,
        problem: "its bytes are more than can be addressed",
    })
}

#[cfg(feature = "std")]
impl<A: Allocator> TensorBuf<u8, A> {
    /// A buffer around a block that was taken before.
    ///
    /// # Safety
    /// `at` is a live block from `allocator` of `bytes` bytes aligned to [`ALIGN_BYTES`], at least one, all of them
    /// written, and the caller gives it away.
    pub(crate) unsafe fn from_raw_in(at: NonNull<u8>, bytes: usize, allocator: A) -> Self {
        let shape = Shape::new(&[bytes]).unwrap_or_default();
        // A block that was handed out has a layout.
        let layout = Layout::from_size_align(bytes, ALIGN_BYTES).unwrap_or(Layout::new::<()>());
        Self::hold(at, Extent { shape, elements: bytes, bytes }, layout, allocator)
    }
}

/// What can be said of any allocator. Whoever knows the allocator says more.
#[cold]
fn out_of_memory(layout: Layout) -> DemoError {
    OutOfMemory { requested_bytes: layout.size() as u64, limit_bytes: u64::MAX, ..OutOfMemory::default() }
        .into()
}

impl<T: Element, A> TensorBuf<T, A> {
    /// The lengths of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in row-major order.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: 1. `at` holds `elements` initialised values, aligned to more than `T` needs. 2. They are ours, and
        // `&self` keeps them unchanged. 3. `Extent` bounds their bytes by `isize::MAX`.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.elements) }
    }

    /// The elements in row-major order, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: 1. As in `as_slice`. 2. `&mut self` makes the access the only one.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.elements) }
    }

    /// Where the memory came from and goes back to.
    pub fn allocator(&self) -> &A {
        &self.allocator
    }

    /// The same memory, its elements seen as bytes.
    #[cfg(feature = "std")]
    pub(crate) fn into_bytes(self) -> TensorBuf<u8, A> {
        let this = core::mem::ManuallyDrop::new(self);
        let bytes = this.layout.size();
        // SAFETY: 1. `this` is never dropped, so the allocator has one owner again.
        let allocator = unsafe { ptr::read(&this.allocator) };
        // Elements have no padding (the contract of `Element`), so all of their bytes are initialised.
        TensorBuf {
            at: this.at.cast(),
            elements: bytes,
            layout: this.layout,
            shape: Shape::new(&[bytes]).unwrap_or_default(),
            release: this.release,
            allocator,
        }
    }
}

#[cfg(feature = "std")]
impl<T: Element> TensorBuf<T> {
    /// A buffer of zeros from the process's heap. When memory runs out, what can be reclaimed is, and it tries again.
    ///
    /// # Errors
    /// Those of [`zeros_in`](Self::zeros_in).
    pub fn zeros(shape: &[usize]) -> Result<Self> {
        crate::gc::with_retry(|_| Self::zeros_in(shape, Global))
    }

    /// A buffer from the process's heap with a copy of `elements`.
    ///
    /// # Errors
    /// Those of [`from_slice_in`](Self::from_slice_in).
    pub fn from_slice(shape: &[usize], elements: &[T]) -> Result<Self> {
        crate::gc::with_retry(|_| Self::from_slice_in(shape, elements, Global))
    }

    /// A buffer from the process's heap whose elements are `element(0)`, `element(1)`, .. in row-major order.
    ///
    /// # Errors
    /// Those of [`zeros`](Self::zeros).
    pub fn from_fn(shape: &[usize], mut element: impl FnMut(usize) -> T) -> Result<Self> {
        let mut buf = Self::zeros(shape)?;
        for (i, at) in buf.as_mut_slice().iter_mut().enumerate() {
            *at = element(i);
        }
        Ok(buf)
    }
}

impl<T: Element, A> Drop for TensorBuf<T, A> {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: 1. `release` is `deallocate` of this allocator's type. 2. `at` is its block, taken with this
            // layout. 3. Nobody uses it after this.
            unsafe { (self.release)(&self.allocator, self.at.cast(), self.layout) }
        }
    }
}

// SAFETY: 1. The elements are owned, as by a `Vec`, and every element may be sent. 2. The allocator is sent along.
unsafe impl<T: Element, A: Send> Send for TensorBuf<T, A> {}

// SAFETY: 1. A shared buffer is only read, and every element may be shared. 2. The allocator is shared along.
unsafe impl<T: Element, A: Sync> Sync for TensorBuf<T, A> {}

impl<T: Element, A> Deref for TensorBuf<T, A> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T: Element, A> DerefMut for TensorBuf<T, A> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

/// Equal shapes and equal elements, wherever they live.
impl<T: Element, A, B> PartialEq<TensorBuf<T, B>> for TensorBuf<T, A> {
    fn eq(&self, other: &TensorBuf<T, B>) -> bool {
        self.shape == other.shape && self.as_slice() == other.as_slice()
    }
}

impl<T: Element, A> fmt::Debug for TensorBuf<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorBuf")
            .field("dtype", &T::DTYPE)
            .field("shape", &self.shape)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
