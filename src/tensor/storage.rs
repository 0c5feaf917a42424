//! Where a tensor's bytes are, and whose.
//!
//! 1. A storage is made for one dtype and a number of elements, and its bytes hold that many values of that dtype,
//!    aligned for it. Everything that makes one sees to this, so reading it as that dtype's Rust type is sound.
//! 2. A block is shared by counting, and it is written only while its count is one.
//! 3. Mapped bytes are never written: they belong to a file. They are checked when they are first wanted.
//! 4. What a tensor holds outside of itself is charged to the scope in which it was made, until its last clone is gone. A mapped
//!    file is charged as a whole by whoever maps it.

mod adopted;
pub(crate) mod file;
#[cfg(feature = "dlpack")]
mod foreign;
mod owned;
mod resident;
pub(crate) mod unfilled;

use super::TensorBuf;
use super::dtype::DType;
use super::element::Element;
use super::layout::Layout;
use crate::device::{Backend, DeviceMemory, Queue};
use crate::error::{DemoError, DeviceId, Result};
use crate::pool::budget::scope::{self, Holding, Kind, Scope};
use crate::pool::{MemoryPool, host};
use adopted::Adopted;
use core::fmt;
use core::ops::Range;
use core::slice;
use file::SharedFile;
use owned::Owned;
use std::format;
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

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage")
            .field("dtype", &self.dtype)
            .field("elements", &self.elements)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Place {
    Inline(Inline),
    Shared(Arc<Owned>),
    /// Memory that only a device can touch.
    Device(Arc<Lent>),
}

/// A device's memory and what is charged for it.
struct Lent {
    memory: Arc<dyn DeviceMemory>,
    _charged: Holding,
}

enum Block {
    Adopted(Adopted),
    Pooled(TensorBuf<u8, MemoryPool>),
    /// A buffer that its maker took from the process's heap.
    Heaped(TensorBuf<u8>),
    Mapped(Mapped),
    /// Another library's.
    #[cfg(feature = "dlpack")]
    Foreign(foreign::Foreign),
}

impl Storage {
    /// As many zeros.
    pub(crate) fn zeros(dtype: DType, elements: usize) -> Result<Storage> {
        let bytes = elements * dtype.size_bytes();
        let place = if bytes <= INLINE_BYTES {
            Place::Inline(Inline::default())
        } else {
            Place::charged(from_pool(bytes, || TensorBuf::zeros_in(&[bytes], MemoryPool))?, Block::Pooled)
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
            let copy = || TensorBuf::from_slice_in(&[bytes.len()], bytes, MemoryPool);
            Place::charged(from_pool(bytes.len(), copy)?, Block::Pooled)
        };
        Ok(Storage { place, dtype, elements })
    }

    /// The vector's own memory; what fits into the tensor itself moves there.
    pub(crate) fn adopt<T: Element>(vec: Vec<T>) -> Result<Storage> {
        if size_of_val(vec.as_slice()) <= INLINE_BYTES {
            return Self::copy(&vec);
        }
        let elements = vec.len();
        let ((), charged) = from_pool(vec.capacity() * size_of::<T>(), || Ok(()))?;
        let place = Place::charged((Adopted::new(vec), charged), Block::Adopted);
        Ok(Storage { place, dtype: T::DTYPE, elements })
    }

    /// The buffer's own memory; what fits into the tensor itself moves there.
    pub(crate) fn take<T: Element>(buf: TensorBuf<T>) -> Result<Storage> {
        if size_of_val(buf.as_slice()) <= INLINE_BYTES {
            return Self::copy(&buf);
        }
        let elements = buf.len();
        let ((), charged) = from_pool(size_of_val(buf.as_slice()), || Ok(()))?;
        let place = Place::charged((buf.into_bytes(), charged), Block::Heaped);
        Ok(Storage { place, dtype: T::DTYPE, elements })
    }

    /// A copy of the elements of a view, one behind the other.
    pub(crate) fn gathered(&self, view: &Layout) -> Result<Storage> {
        let mut walk = view.walk();
        let element_bytes = self.dtype.size_bytes();
        let from = self.as_bytes()?;
        // They are values of the dtype already, `bool`s too.
        let mut storage = Self::zeros(self.dtype, walk.left())?;
        walk.gather(from, 0, element_bytes, storage.bytes_mut()?);
        Ok(storage)
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
        check_bools(dtype, 0, bytes)?;
        Ok(storage)
    }

    /// Elements at `range` of a part of a file, little-endian: in place where they are aligned, else a copy.
    ///
    /// The caller has seen that the part holds them.
    ///
    /// # Errors
    /// Where they have to be copied, [`DemoError::Format`] for a damaged file and for a byte that no `bool` has, and
    /// [`DemoError::OutOfMemory`] where the copy has no room.
    pub(crate) fn in_file(
        file: &Arc<SharedFile>,
        part: usize,
        range: Range<usize>,
        dtype: DType,
        swapped: bool,
    ) -> Result<Storage> {
        let elements = range.len() / dtype.size_bytes();
        let start = file.bytes()[file.part(part).range()][range.clone()].as_ptr();
        let aligned = start.addr().is_multiple_of(dtype.size_bytes());
        // A `bool` is checked once, so its bytes may not be a file's, which somebody could change after that.
        let in_place = aligned && !swapped && dtype != DType::Bool && range.len() > INLINE_BYTES;
        let mapped = Mapped { file: Arc::clone(file), part, range };
        if in_place {
            return Ok(Storage { place: Place::uncharged(Block::Mapped(mapped)), dtype, elements });
        }
        let mut copy = Self::copy_bytes(dtype, elements, mapped.bytes()?)?;
        check_bools(dtype, 0, copy.as_bytes()?)?;
        if swapped {
            copy.bytes_mut()?.chunks_exact_mut(dtype.size_bytes()).for_each(<[u8]>::reverse);
        }
        Ok(copy)
    }

    /// Elements in memory of another library, in place where they are aligned, else a copy.
    ///
    /// # Errors
    /// Where they have to be copied, [`DemoError::Format`] for a byte that no `bool` has, and
    /// [`DemoError::OutOfMemory`] where the copy has no room.
    ///
    /// # Safety
    /// The bytes are there, and nobody writes to them, until `owner` is dropped. They may be read, and `owner` dropped, on any
    /// thread.
    #[cfg(feature = "dlpack")]
    pub(crate) unsafe fn foreign(
        at: core::ptr::NonNull<u8>,
        bytes: usize,
        dtype: DType,
        owner: std::boxed::Box<dyn core::any::Any>,
    ) -> Result<Storage> {
        let elements = bytes / dtype.size_bytes();
        // SAFETY: 1. The caller's promise, handed on.
        let foreign = unsafe { foreign::Foreign::new(at, bytes, owner) };
        let aligned = at.as_ptr().addr().is_multiple_of(dtype.size_bytes());
        // A `bool` is checked once, so its bytes may not be somebody else's.
        if aligned && dtype != DType::Bool && bytes > INLINE_BYTES {
            return Ok(Storage { place: Place::uncharged(Block::Foreign(foreign)), dtype, elements });
        }
        let copy = Self::copy_bytes(dtype, elements, foreign.bytes())?;
        check_bools(dtype, 0, copy.as_bytes()?)?;
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
            Place::Device(_) => "on the device",
            Place::Shared(owned) => match owned.block {
                Block::Adopted(_) => "adopted",
                Block::Pooled(_) => "pool",
                Block::Heaped(_) => "heap",
                Block::Mapped(_) => "in a mapped file",
                #[cfg(feature = "dlpack")]
                Block::Foreign(_) => "of another library",
            },
        }
    }

    /// The bytes of all elements.
    ///
    /// # Errors
    /// [`DemoError::Format`] where they are a file's and damaged, [`DemoError::WrongDevice`] where only a device can touch them.
    pub(crate) fn as_bytes(&self) -> Result<&[u8]> {
        match &self.place {
            Place::Inline(inline) => Ok(&inline_bytes(inline)[..self.len_bytes()]),
            Place::Shared(owned) => owned.block.bytes(),
            Place::Device(lent) => Err(DemoError::WrongDevice {
                operation: "touching elements",
                what: "a tensor on",
                held: lent.memory.device(),
                needed: DeviceId::Host,
                advice: "move it with to_device first",
            }),
        }
    }

    /// The elements, or `None` where they are of another dtype.
    ///
    /// # Errors
    /// Those of [`as_bytes`](Self::as_bytes).
    pub(crate) fn as_slice<T: Element>(&self) -> Result<Option<&[T]>> {
        if self.dtype != T::DTYPE {
            return Ok(None);
        }
        let at = self.as_bytes()?.as_ptr().cast::<T>();
        debug_assert!(at.is_aligned());
        // SAFETY: 1. The bytes hold `elements` values of the dtype of `T`, aligned for it (1. of this file).
        // 2. They are borrowed from `self`.
        Ok(Some(unsafe { slice::from_raw_parts(at, self.elements) }))
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
        if !self.is_writable() {
            *self = Self::copy_bytes(self.dtype, self.elements, self.as_bytes()?)?;
        }
        let len_bytes = self.len_bytes();
        match &mut self.place {
            Place::Inline(inline) => Ok(&mut inline_bytes_mut(inline)[..len_bytes]),
            Place::Shared(owned) => match Arc::get_mut(owned).and_then(|owned| owned.block.bytes_mut()) {
                Some(bytes) => Ok(bytes),
                None => unreachable!("the block is ours alone, and not mapped: seen or made above"),
            },
            Place::Device(_) => {
                unreachable!("what a device holds is never writable here, nor a copy of it: seen above")
            }
        }
    }
}

impl Storage {
    /// Whether the bytes are ours alone, so that they can be changed where they are.
    pub(crate) fn is_writable(&mut self) -> bool {
        match &mut self.place {
            Place::Inline(_) => true,
            Place::Shared(owned) => {
                Arc::get_mut(owned).is_some_and(|owned| owned.block.bytes_mut().is_some())
            }
            Place::Device(_) => false,
        }
    }
}

impl Storage {
    /// The bytes that come free when this goes: none where others share them, where they are inline, or a file's.
    pub(crate) fn sole_bytes(&self) -> u64 {
        let sole = match &self.place {
            Place::Inline(_) => false,
            Place::Shared(owned) => !matches!(owned.block, Block::Mapped(_)) && Arc::strong_count(owned) == 1,
            Place::Device(lent) => Arc::strong_count(lent) == 1,
        };
        if sole { self.len_bytes() as u64 } else { 0 }
    }
}

/// Elements on a device.
impl Storage {
    /// As many zeros on a device.
    pub(crate) fn zeros_on(
        dtype: DType,
        elements: usize,
        backend: &dyn Backend,
        queue: Option<&dyn Queue>,
    ) -> Result<Storage> {
        let bytes = elements * dtype.size_bytes();
        let place = Place::lent(backend, bytes, || backend.zeros(bytes, queue))?;
        Ok(Storage { place, dtype, elements })
    }

    /// A copy of some elements on a device.
    pub(crate) fn on(
        &self,
        range: Range<usize>,
        backend: &dyn Backend,
        queue: Option<&dyn Queue>,
    ) -> Result<Storage> {
        let (element_bytes, elements) = (self.dtype.size_bytes(), range.len());
        let range = range.start * element_bytes..range.end * element_bytes;
        let place = Place::lent(backend, range.len(), || match &self.place {
            Place::Device(lent) => backend.copy(&*lent.memory, range, queue),
            _ => backend.upload(&self.as_bytes()?[range], queue),
        })?;
        Ok(Storage { place, dtype: self.dtype, elements })
    }

    /// A copy on the host, of some elements; `first` is what an error calls the first of them.
    pub(crate) fn on_host(&self, range: Range<usize>, first: usize) -> Result<Storage> {
        let element_bytes = self.dtype.size_bytes();
        match &self.place {
            Place::Device(lent) => {
                let mut storage = Self::zeros(self.dtype, range.len())?;
                let bytes = storage.bytes_mut()?;
                lent.memory.read(range.start * element_bytes, bytes)?;
                check_bools(self.dtype, first, bytes)?;
                Ok(storage)
            }
            _ => Storage::copy_bytes(
                self.dtype,
                range.len(),
                &self.as_bytes()?[range.start * element_bytes..range.end * element_bytes],
            ),
        }
    }

    /// The device's memory, where it is on one.
    pub(crate) fn device_memory(&self) -> Option<&dyn DeviceMemory> {
        match &self.place {
            Place::Device(lent) => Some(&*lent.memory),
            _ => None,
        }
    }
}

impl Place {
    fn charged<B>((block, charged): (B, Holding), kind: impl FnOnce(B) -> Block) -> Place {
        Place::Shared(Arc::new(Owned::new(kind(block), charged)))
    }

    /// Memory of a device, charged before it is asked for; as on the host, not where the device has no room for it.
    fn lent(
        backend: &dyn Backend,
        bytes: usize,
        allocate: impl FnOnce() -> Result<Arc<dyn DeviceMemory>>,
    ) -> Result<Place> {
        // What the device's own pool lacks it collects by itself.
        let charge = || {
            crate::gc::with_retry(|_| {
                Ok(scope::charge(Kind::DeviceBytes, bytes as u64).map_err(|why| {
                    let mut report = crate::gc::scope_report(&why);
                    report.device = backend.device();
                    report
                })?)
            })
        };
        let lends = |memory, _charged| Place::Device(Arc::new(Lent { memory, _charged }));
        if backend.is_short_of(bytes as u64) && Scope::current().left(Kind::DeviceBytes) >= bytes as u64 {
            let memory = allocate()?;
            return Ok(lends(memory, charge()?));
        }
        let charged = charge()?;
        Ok(lends(allocate()?, charged))
    }

    fn uncharged(block: Block) -> Place {
        Place::Shared(Arc::new(Owned::new(block, Holding::nothing(Kind::MappedBytes))))
    }
}

impl Block {
    fn bytes(&self) -> Result<&[u8]> {
        match self {
            Block::Adopted(adopted) => Ok(adopted.bytes()),
            Block::Pooled(buf) => Ok(buf),
            Block::Heaped(buf) => Ok(buf),
            Block::Mapped(mapped) => mapped.bytes(),
            #[cfg(feature = "dlpack")]
            Block::Foreign(foreign) => Ok(foreign.bytes()),
        }
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Block::Adopted(adopted) => Some(adopted.bytes_mut()),
            Block::Pooled(buf) => Some(buf),
            Block::Heaped(buf) => Some(buf),
            Block::Mapped(_) => None,
            #[cfg(feature = "dlpack")]
            Block::Foreign(_) => None,
        }
    }
}

/// A part of a file, or some of it.
struct Mapped {
    file: Arc<SharedFile>,
    part: usize,
    /// Within the part.
    range: Range<usize>,
}

impl Mapped {
    fn bytes(&self) -> Result<&[u8]> {
        Ok(&self.file.checked(self.part)?[self.range.clone()])
    }
}

/// Charges `bytes` and takes memory; collects and tries again when either runs out. Each failure is told in the numbers of whoever
/// refused, the pool or a scope, by which the collector sees whether trying again can help.
fn from_pool<T>(bytes: usize, allocate: impl Fn() -> Result<T>) -> Result<(T, Holding)> {
    let charge = || scope::charge(Kind::HostBytes, bytes as u64).map_err(|why| crate::gc::scope_report(&why));
    let refused = |why| match why {
        DemoError::OutOfMemory(report) => crate::gc::host_report(report.requested_bytes).into(),
        other => other,
    };
    crate::gc::with_retry(|_| {
        // What the pool has no room for is not charged first: a scope's mark would count it, and nobody ever held it.
        if host::is_short_of(bytes as u64) && Scope::current().left(Kind::HostBytes) >= bytes as u64 {
            let memory = allocate().map_err(refused)?;
            return Ok((memory, charge()?));
        }
        let charged = charge()?;
        match allocate() {
            Ok(memory) => Ok((memory, charged)),
            Err(why) => {
                // Before the report: it shows what is held, and this is not.
                drop(charged);
                Err(refused(why))
            }
        }
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

/// Whether bytes are values of the dtype, of which the element `first` is the first.
pub(super) fn check_bools(dtype: DType, first: usize, bytes: &[u8]) -> Result<()> {
    match (dtype == DType::Bool).then(|| bytes.iter().position(|&byte| byte > 1)).flatten() {
        None => Ok(()),
        Some(i) => Err(DemoError::Format {
            format: "BOOL elements",
            path: None,
            at: format!(" element {}", first + i),
            problem: format!("a bool is stored as 0 or 1, not {}", bytes[i]),
        }),
    }
}
