//! Tensors: where their bytes are, who shares them, what is refused.
#![cfg(feature = "std")]

use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use democratising::{DType, DemoError, Device, DeviceId, Element, Result, Tensor, TensorBuf};
use proptest::prelude::*;
use std::alloc::System;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Counts, thread by thread, what the tests take from the heap.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: 1. Every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE_BYTES.set(LIVE_BYTES.get() + layout.size() as isize);
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE_BYTES.set(LIVE_BYTES.get() - layout.size() as isize);
        // SAFETY: 1. The caller's promise, handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// The allocations that `run` makes on this thread.
fn allocations<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATIONS.get();
    let result = run();
    (result, ALLOCATIONS.get() - before)
}

/// A heap that can run dry, and that knows of every block whether it came back as it was taken.
struct Checked {
    live: RefCell<Vec<(usize, Layout)>>,
    left_blocks: Cell<usize>,
}

fn heap(left_blocks: usize) -> Checked {
    Checked { live: RefCell::default(), left_blocks: Cell::new(left_blocks) }
}

// SAFETY: 1. Blocks are the system allocator's and live until they are given back.
unsafe impl Allocator for &Checked {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.left_blocks.set(self.left_blocks.get().checked_sub(1).ok_or(AllocError)?);
        assert!(layout.size() > 0, "a block of no bytes was asked for");
        // SAFETY: 1. The layout has bytes.
        let at = NonNull::new(unsafe { System.alloc(layout) }).ok_or(AllocError)?;
        // Dirty, as real heaps are.
        // SAFETY: 1. A new block of that many bytes.
        unsafe { at.as_ptr().write_bytes(0xa5, layout.size()) };
        self.live.borrow_mut().push((at.as_ptr().addr(), layout));
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        let block = (at.as_ptr().addr(), layout);
        let mut live = self.live.borrow_mut();
        let known =
            live.iter().position(|&other| other == block).expect("a block comes back as it was taken");
        live.swap_remove(known);
        // SAFETY: 1. It is one of ours and was live until now.
        unsafe { System.dealloc(at.as_ptr(), layout) }
    }
}

// ---- TensorBuf ----

#[test]
fn a_buffer_is_aligned_zeroed_and_given_back_as_it_was_taken() -> Result<()> {
    let heap = heap(usize::MAX);
    {
        let mut buf = TensorBuf::<f32, _>::zeros_in(&[3, 5], &heap)?;
        assert_eq!(buf.as_ptr().addr() % 64, 0);
        assert_eq!(buf.shape(), [3, 5]);
        assert_eq!(*buf, [0.0; 15], "the heap's own bytes are 0xa5");
        buf.as_mut_slice()[14] = 7.0;
        assert_eq!(buf[14], 7.0);
        assert_eq!(heap.live.borrow().len(), 1);
        assert_eq!(heap.live.borrow()[0].1, Layout::from_size_align(60, 64).unwrap());
    }
    assert!(heap.live.borrow().is_empty());
    Ok(())
}

#[test]
fn a_buffer_without_elements_takes_nothing() -> Result<()> {
    let heap = heap(0);
    let empty = TensorBuf::<f64, _>::zeros_in(&[4, 0, usize::MAX], &heap)?;
    assert_eq!(empty.as_slice(), [0.0f64; 0]);
    assert_eq!(empty.as_ptr().addr() % 64, 0);
    assert_eq!(empty.try_clone()?.shape(), [4, 0, usize::MAX]);
    TensorBuf::<u8, _>::from_slice_in(&[0], &[], &heap)?;
    Ok(())
}

#[test]
fn a_heap_that_is_dry_is_an_error_and_loses_nothing() -> Result<()> {
    let heap = heap(1);
    let first = TensorBuf::<u8, _>::from_slice_in(&[3], &[1, 2, 3], &heap)?;
    let error = first.try_clone().unwrap_err();
    assert!(matches!(&error, DemoError::OutOfMemory(report) if report.requested_bytes == 3), "{error}");
    assert!(!error.to_string().contains("limit"), "no limit is known here: {error}");
    assert!(TensorBuf::<u8, _>::zeros_in(&[1], &heap).is_err());
    assert_eq!(*first, [1, 2, 3]);
    drop(first);
    assert!(heap.live.borrow().is_empty());
    Ok(())
}

#[test]
fn a_panic_while_a_buffer_is_filled_gives_it_back() {
    let heap = heap(usize::MAX);
    let result = catch_unwind(AssertUnwindSafe(|| {
        TensorBuf::<u32, _>::from_fn_in(&[100], &heap, |i| if i < 50 { 1 } else { panic!("half way") })
    }));
    assert!(result.is_err());
    assert!(heap.live.borrow().is_empty());
}

#[test]
fn a_clone_of_a_buffer_is_its_own() -> Result<()> {
    let heap = heap(usize::MAX);
    let buf = TensorBuf::<i64, _>::from_fn_in(&[2, 3], &heap, |i| i as i64)?;
    let mut clone = buf.try_clone()?;
    assert_eq!(buf, clone);
    clone[0] = -1;
    assert_eq!(buf[0], 0);
    assert_ne!(buf, clone);
    assert_eq!(TensorBuf::<i64>::from_slice(&[2, 3], &buf)?, buf, "equal wherever they live");
    assert_ne!(TensorBuf::<i64>::from_slice(&[3, 2], &buf)?, buf);
    assert!(format!("{buf:?}").contains("shape: [2, 3]"), "{buf:?}");
    Ok(())
}

#[test]
fn a_buffer_becomes_a_tensor_without_a_copy() -> Result<()> {
    let buf = TensorBuf::<u16>::from_fn(&[10, 10], |i| i as u16)?;
    let at = buf.as_ptr();
    let t = Tensor::new(&[4, 25], buf)?;
    assert_eq!(t.as_slice::<u16>()?.as_ptr(), at);
    assert_eq!(t.as_slice::<u16>()?[99], 99);
    let small = Tensor::new(&[2], TensorBuf::<u16>::from_slice(&[2], &[5, 6])?)?;
    assert_eq!(small.as_slice::<u16>()?, [5, 6]);
    Ok(())
}

// ---- where the bytes are ----

#[test]
fn small_tensors_need_no_heap() -> Result<()> {
    let (t, count) = allocations(|| Tensor::new(&[2, 8], [0.5f32; 16]));
    let t = t?;
    assert_eq!(count, 0, "64 bytes are held in the tensor");
    let (sum, count) = allocations(|| {
        let mut clone = t.clone();
        clone.as_mut_slice::<f32>().unwrap()[0] = 1.0;
        let zeros = Tensor::zeros(&[16]).unwrap();
        let scalar = Tensor::new(&[], [3.0f32]).unwrap();
        let same = clone == t || !(clone == clone.clone());
        assert!(!same);
        clone.reshape(&[16]).unwrap().as_slice::<f32>().unwrap().iter().sum::<f32>()
            + zeros.as_slice::<f32>().unwrap()[0]
            + scalar.as_slice::<f32>().unwrap()[0]
    });
    assert_eq!((sum, count), (11.5, 0));
    assert!(format!("{t:?}").contains("inline"), "{t:?}");

    let (larger, count) = allocations(|| Tensor::new(&[17], [0.5f32; 17]));
    assert!(count <= 1, "one more element: only the count of its owners is on the heap, not {count} blocks");
    assert!(!format!("{:?}", larger?).contains("inline"));
    Ok(())
}

#[test]
fn a_small_vector_moves_into_the_tensor() -> Result<()> {
    let live = LIVE_BYTES.get();
    let mut vec = Vec::with_capacity(1000);
    vec.extend([1u8, 2, 3]);
    let t = Tensor::new(&[3], vec)?;
    assert_eq!(LIVE_BYTES.get(), live, "its memory is given back at once");
    assert_eq!(t.as_slice::<u8>()?, [1, 2, 3]);
    Ok(())
}

#[test]
fn a_vector_is_adopted_without_a_copy_and_freed_as_the_vector_it_was() -> Result<()> {
    fn adopts<T: Element>(one: T) -> Result<()> {
        let live = LIVE_BYTES.get();
        let mut vec = Vec::with_capacity(1001);
        vec.resize(100, one);
        let at = vec.as_ptr();
        let t = Tensor::new(&[100], vec)?;
        assert_eq!(t.as_slice::<T>()?.as_ptr(), at);
        assert_eq!(t.as_slice::<T>()?, [one; 100]);
        assert!(format!("{t:?}").contains("adopted"), "{t:?}");
        let clone = t.clone();
        drop(t);
        assert_eq!(clone.as_slice::<T>()?.as_ptr(), at);
        drop(clone);
        assert_eq!(LIVE_BYTES.get(), live, "all of its capacity came back, with its own layout");
        Ok(())
    }
    adopts(true)?;
    adopts(1u8)?;
    adopts(-1i16)?;
    adopts(1.5f32)?;
    adopts(u64::MAX)
}

#[test]
fn everything_else_comes_from_the_pool_aligned() -> Result<()> {
    let numbers = [1i32; 100];
    let (by_reference, vec) = (&numbers, &numbers.to_vec());
    for t in [
        Tensor::new(&[100], numbers)?,
        Tensor::new(&[100], by_reference)?,
        Tensor::new(&[100], &numbers[..])?,
        Tensor::new(&[100], vec)?,
        Tensor::zeros(&[100])?,
        Tensor::zeros_on(&[100], &Device::host())?,
    ] {
        assert_eq!(t.as_bytes().unwrap().as_ptr().addr() % 64, 0, "{t:?}");
        assert!(format!("{t:?}").contains("pool"), "{t:?}");
        assert_eq!(t.byte_len(), 400);
    }
    Ok(())
}

#[test]
fn zeros_are_zeros_in_memory_that_was_used_before() -> Result<()> {
    for dtype in DType::ALL {
        for _ in 0..if cfg!(miri) { 1 } else { 3 } {
            drop(Tensor::new(&[50, 40], TensorBuf::<u64>::from_fn(&[2000], |_| u64::MAX)?)?);
            let t = Tensor::zeros_with(&[50, 40], dtype, &Device::host())?;
            assert_eq!(t.dtype(), dtype);
            assert_eq!(t.byte_len(), 2000 * dtype.size_bytes());
            assert!(t.as_bytes().unwrap() == vec![0; t.byte_len()], "{t:?}");
        }
    }
    Ok(())
}

// ---- sharing ----

#[test]
fn clones_share_until_one_is_changed() -> Result<()> {
    let original = Tensor::new(&[2, 50], vec![1.0f32; 100])?;
    let mut changed = original.clone();
    let shared = original.as_slice::<f32>()?.as_ptr();
    assert_eq!(changed.as_slice::<f32>()?.as_ptr(), shared);
    assert_eq!(original.to_device(&Device::host())?.as_slice::<f32>()?.as_ptr(), shared);

    changed.as_mut_slice::<f32>()?[0] = 9.0;
    assert_ne!(changed.as_slice::<f32>()?.as_ptr(), shared);
    assert_eq!(original.as_slice::<f32>()?[0], 1.0);
    assert_eq!(changed.as_slice::<f32>()?[..2], [9.0, 1.0]);

    let alone = changed.as_slice::<f32>()?.as_ptr();
    changed.as_mut_slice::<f32>()?[1] = 8.0;
    assert_eq!(changed.as_slice::<f32>()?.as_ptr(), alone, "changed in place once it is alone");
    Ok(())
}

#[test]
fn a_reshaped_tensor_shares_its_memory() -> Result<()> {
    let t = Tensor::new(&[6, 20], (0..120i32).collect::<Vec<_>>())?;
    let r = t.reshape(&[2, 3, 20])?;
    assert_eq!(r.shape(), [2, 3, 20]);
    assert_eq!(r.as_slice::<i32>()?.as_ptr(), t.as_slice::<i32>()?.as_ptr());
    assert!(matches!(t.reshape(&[7, 20]), Err(DemoError::ElementCount { needed: 140, given: 120, .. })));
    Ok(())
}

#[test]
fn tensors_cross_threads_and_unwinding_drops_them() -> Result<()> {
    let t = Tensor::new(&[1000], vec![1u8; 1000])?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (t, mut own) = (&t, t.clone());
            scope.spawn(move || {
                own.as_mut_slice::<u8>().unwrap().fill(2);
                assert_eq!(t.as_slice::<u8>().unwrap(), [1; 1000]);
            });
        }
    });
    let clone = t.clone();
    let result = std::panic::catch_unwind(move || {
        let _held = clone;
        panic!("with a tensor in hand");
    });
    assert!(result.is_err());
    let mut t = t;
    let at = t.as_slice::<u8>()?.as_ptr();
    t.as_mut_slice::<u8>()?[0] = 7;
    assert_eq!(t.as_slice::<u8>()?.as_ptr(), at, "the clone was dropped by the panic, so nothing is shared");
    Ok(())
}

// ---- what is refused ----

#[test]
fn elements_that_do_not_make_the_shape_are_refused() {
    let error = Tensor::new(&[2, 3], [1.0; 5]).unwrap_err();
    assert_eq!(error.to_string(), "a tensor of shape [2, 3] needs 6 elements, but 5 were given");
    assert!(matches!(Tensor::new(&[], [0u8; 0]), Err(DemoError::ElementCount { needed: 1, given: 0, .. })));
    assert!(Tensor::new(&[0], [0u8; 0]).unwrap().is_empty());
}

#[test]
fn a_shape_that_cannot_be_is_refused_by_name() {
    for shape in [&[usize::MAX, 2][..], &[usize::MAX / 4 + 1], &[isize::MAX as usize / 4], &[1; 9]] {
        let error = Tensor::zeros(shape).unwrap_err();
        assert!(matches!(error, DemoError::ImpossibleShape { .. }), "{error}");
        assert!(error.to_string().contains("cannot exist"), "{error}");
    }
}

#[test]
fn a_tensor_larger_than_any_memory_is_out_of_memory_and_no_abort() {
    const LEN: usize = 1 << (usize::BITS - 4);
    let error = Tensor::zeros(&[LEN]).unwrap_err();
    let DemoError::OutOfMemory(report) = &error else { panic!("{error}") };
    assert_eq!(report.requested_bytes, 4 * LEN as u64);
    assert_eq!(report.device, DeviceId::Host);
    assert!(Tensor::zeros(&[100]).is_ok(), "the next one is served");
}

#[test]
fn another_element_type_is_refused_by_name() -> Result<()> {
    let mut t = Tensor::new(&[2], [1.0, 2.0])?;
    assert_eq!(t.dtype(), DType::F64, "what Rust takes literals for");
    let error = t.as_slice::<f32>().unwrap_err();
    assert_eq!(error.to_string(), "the tensor holds F64, but F32 was asked for; convert it or ask for F64");
    assert!(t.as_mut_slice::<i64>().is_err());
    assert!(t.to_vec::<u64>().is_err());
    assert_eq!(t.to_vec::<f64>()?, [1.0, 2.0]);
    Ok(())
}

// ---- equality ----

#[test]
fn tensors_are_equal_by_value() -> Result<()> {
    let inline = Tensor::new(&[2, 2], [1.0f32, -0.0, 3.0, 4.0])?;
    assert_eq!(inline, Tensor::new(&[2, 2], vec![1.0f32, 0.0, 3.0, 4.0])?);
    assert_ne!(inline, inline.reshape(&[4])?);
    assert_ne!(Tensor::new(&[1], [1i32])?, Tensor::new(&[1], [1u32])?);
    let nan = Tensor::new(&[1], [f32::NAN])?;
    assert_ne!(nan, nan.clone());
    assert_eq!(Tensor::new(&[20], vec![1u64; 20])?, Tensor::new(&[20], [1u64; 20])?, "adopted and pooled");
    Ok(())
}

#[test]
fn every_dtype_knows_its_rust_type_and_name() {
    fn is<T: Element>(dtype: DType, name: &str) {
        assert_eq!((T::DTYPE, size_of::<T>(), dtype.to_string().as_str()), (dtype, dtype.size_bytes(), name));
    }
    is::<bool>(DType::Bool, "BOOL");
    is::<u8>(DType::U8, "U8");
    is::<i8>(DType::I8, "I8");
    is::<u16>(DType::U16, "U16");
    is::<i16>(DType::I16, "I16");
    is::<u32>(DType::U32, "U32");
    is::<i32>(DType::I32, "I32");
    is::<u64>(DType::U64, "U64");
    is::<i64>(DType::I64, "I64");
    is::<f32>(DType::F32, "F32");
    is::<f64>(DType::F64, "F64");
    assert_eq!(DType::F8E4M3.name(), "F8_E4M3");
    assert_eq!(DType::BF16.size_bytes(), 2);
}

// ---- devices ----

#[test]
fn the_host_is_a_device_that_is_always_there() -> Result<()> {
    let host = Device::host();
    assert_eq!(host.id(), DeviceId::Host);
    assert_eq!(host.to_string(), "host");
    assert_eq!(Tensor::zeros(&[1])?.device(), &host);
    Ok(())
}

/// Whatever the machine has: this version keeps nothing on devices, and must say why in every case.
#[test]
fn a_cuda_device_that_cannot_be_used_says_why() {
    for ordinal in [0, 1, 4096, u32::MAX] {
        let error = Device::cuda(ordinal).unwrap_err();
        let DemoError::DeviceUnavailable { device, problem } = error else { panic!("{error}") };
        assert_eq!(device, DeviceId::Cuda(ordinal));
        if cfg!(feature = "cuda") {
            assert!(problem.contains("driver") || problem.contains("device"), "{problem}");
        } else {
            assert!(problem.contains("feature `cuda`"), "{problem}");
        }
    }
    let error = Device::cuda_all().unwrap_err();
    assert!(error.to_string().starts_with("cuda:0 cannot be used: "), "{error}");
}

proptest! {
    #[test]
    fn any_vector_comes_back_as_it_went_in(numbers: Vec<i64>, at: prop::sample::Index) {
        let mut t = Tensor::new(&[numbers.len()], numbers.clone()).unwrap();
        prop_assert_eq!(t.as_slice::<i64>().unwrap(), &numbers[..]);
        let copy = Tensor::new(&[numbers.len(), 1], &numbers[..]).unwrap();
        prop_assert_eq!(&copy.reshape(&[numbers.len()]).unwrap(), &t);
        if !numbers.is_empty() {
            let kept = t.clone();
            let at = at.index(numbers.len());
            t.as_mut_slice::<i64>().unwrap()[at] ^= 1;
            prop_assert_ne!(&t, &kept);
            prop_assert_eq!(kept.to_vec::<i64>().unwrap(), numbers);
        }
    }
}
