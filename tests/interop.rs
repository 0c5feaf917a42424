//! Tensors of other libraries: shared where they can be, and never changed under anybody.
#![cfg(all(feature = "ndarray", feature = "dlpack"))]

use democratising::fs::ModelCheckpoint;
use democratising::{DType, DemoError, Device, Result, Tensor};
use dlpark::DlpackFlags;
use dlpark::Managed;
use dlpark::ffi::{DLDataType, DLDevice, DLDeviceType, DLManagedTensor, DLTensor};
use dlpark::versioned::Dlpack;
use ndarray::{Array2, Array3, ArrayD, Axis, s};

fn numbers() -> Tensor {
    Tensor::new(&[4, 6, 5], (0..120i32).collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_tensor_is_an_array_where_it_is() -> Result<()> {
    let t = numbers();
    let array = t.as_ndarray::<i32>()?;
    assert_eq!(array.as_ptr(), t.as_slice::<i32>()?.as_ptr());
    assert_eq!((array.shape(), array[[3, 5, 4]]), (&[4, 6, 5][..], 119));
    let view = t.transpose(0, 2)?.narrow(1, 2, 3)?;
    let array = view.as_ndarray::<i32>()?;
    assert_eq!(array.iter().copied().collect::<Vec<_>>(), view.to_vec::<i32>()?);
    assert_eq!(array[[4, 0, 3]], 3 * 30 + 2 * 5 + 4);
    assert_eq!(Tensor::new(&[], [7u8])?.as_ndarray::<u8>()?.first(), Some(&7));
    assert!(matches!(t.as_ndarray::<f32>(), Err(DemoError::DTypeMismatch { .. })));
    Ok(())
}

#[test]
fn a_tensor_without_elements_is_an_array_without_elements() -> Result<()> {
    for shape in [&[0][..], &[3, 0], &[0, 3], &[2, 0, 4], &[0, 0, 5]] {
        let t = Tensor::zeros(shape)?;
        for t in [&t, &t.contiguous()?, &t.transpose(0, shape.len() - 1)?.transpose(0, shape.len() - 1)?] {
            assert_eq!(t.as_ndarray::<f32>()?.shape(), shape);
        }
        assert!(matches!(t.as_ndarray::<u8>(), Err(DemoError::DTypeMismatch { .. })));
    }
    assert_eq!(numbers().narrow(1, 6, 0)?.transpose(0, 2)?.as_ndarray::<i32>()?.shape(), [5, 0, 4]);
    let why = Tensor::zeros(&[usize::MAX, 0])?.as_ndarray::<f32>().unwrap_err().to_string();
    assert!(why.contains("more than ndarray counts"), "{why}");
    Ok(())
}

#[test]
fn an_array_becomes_a_tensor_in_its_own_memory() -> Result<()> {
    let array = Array2::from_shape_fn((20, 30), |(i, j)| (i * 100 + j) as f64);
    let at = array.as_ptr();
    let t = Tensor::try_from(array)?;
    assert_eq!((t.as_slice::<f64>()?.as_ptr(), t.as_slice::<f64>()?[31]), (at, 101.0));

    let array = Array3::from_shape_fn((3, 20, 4), |(i, j, k)| (i * 1000 + j * 10 + k) as u32);
    let wanted = ArrayD::from(array.clone().into_dyn());
    let mut cut = array.reversed_axes();
    cut.slice_collapse(s![1.., 3..15;2, ..]);
    let wanted_cut: Vec<_> = cut.iter().copied().collect();
    let t = Tensor::try_from(cut)?;
    assert_eq!((t.shape(), t.to_vec::<u32>()?), (&[3, 6, 3][..], wanted_cut));
    let mut backwards = wanted;
    backwards.invert_axis(Axis(1));
    let copied: Vec<_> = backwards.iter().copied().collect();
    assert_eq!(Tensor::try_from(backwards)?.as_slice::<u32>()?, copied);
    Ok(())
}

fn taken(from: Dlpack) -> Result<Tensor> {
    // SAFETY: 1. It was made by `to_dlpack`, from memory that nobody writes to.
    unsafe { Tensor::from_dlpack(from) }
}

#[test]
fn every_dtype_and_view_goes_through_dlpack_without_a_copy() -> Result<()> {
    for dtype in DType::ALL {
        let t = Tensor::zeros_with(&[9, 40], dtype, &Device::host())?;
        let handed = t.to_dlpack()?;
        assert!(handed.flags().contains(DlpackFlags::READ_ONLY));
        let back = taken(handed)?;
        assert_eq!((back.dtype(), &back), (dtype, &t));
        let shared = back.as_bytes()?.as_ptr() == t.as_bytes()?.as_ptr();
        assert_eq!(shared, dtype != DType::Bool, "{dtype}: bools are checked, so they are copied");
    }
    let t = numbers();
    let view = t.permute(&[2, 0, 1])?.narrow(2, 1, 4)?;
    let handed = view.to_dlpack()?;
    let described = handed.validate().unwrap();
    assert_eq!((described.shape(), described.strides()), (&[5, 4, 4][..], Some(&[1, 30, 5][..])));
    let mut back = taken(handed)?;
    drop((view, t.clone()));
    assert!(format!("{back:?}").contains("of another library"), "{back:?}");
    assert_eq!(back, numbers().permute(&[2, 0, 1])?.narrow(2, 1, 4)?);
    back.as_mut_slice::<i32>()?.fill(0);
    assert_eq!(t, numbers(), "what is changed is a copy");
    for small in [Tensor::new(&[], [1.5f32])?, Tensor::new(&[3], [1u8, 2, 3])?, Tensor::zeros(&[2, 0, 3])?] {
        assert_eq!(taken(small.to_dlpack()?)?, small);
    }
    Ok(())
}

#[test]
fn the_memory_lives_as_long_as_whoever_took_it() -> Result<()> {
    let back = {
        let t = Tensor::new(&[1000], vec![7i64; 1000])?;
        taken(t.to_dlpack()?)?
    };
    assert_eq!(back.as_slice::<i64>()?, [7; 1000]);
    let clone = back.clone();
    let sum = std::thread::spawn(move || clone.iter::<i64>().unwrap().sum::<i64>()).join().unwrap();
    assert_eq!(sum, 7000);
    Ok(())
}

/// A description of `shape` numbers in static memory, whose deleter counts. Without strides where there are none.
fn described(shape: &[i64], strides: &[i64], byte_offset: u64, device: DLDevice) -> Result<Tensor> {
    described_as(DLDataType::of::<u32>(), shape, strides, byte_offset, device)
}

fn described_as(
    dtype: DLDataType,
    shape: &[i64],
    strides: &[i64],
    byte_offset: u64,
    device: DLDevice,
) -> Result<Tensor> {
    use std::cell::Cell;

    struct Described {
        tensor: DLManagedTensor,
        shape: Vec<i64>,
        strides: Vec<i64>,
    }
    static NUMBERS: [u32; 100] = [7; 100];
    std::thread_local! {
        static LIVE: Cell<usize> = const { Cell::new(0) };
    }

    unsafe extern "C" fn delete(tensor: *mut DLManagedTensor) {
        // SAFETY: 1. The context is the box that was made below, and the deleter is called once.
        drop(unsafe { Box::from_raw((*tensor).manager_ctx.cast::<Described>()) });
        assert_eq!(LIVE.replace(0), 1, "each is deleted once");
    }

    let tensor = DLManagedTensor {
        dl_tensor: DLTensor {
            data: NUMBERS.as_ptr().cast_mut().cast(),
            device,
            ndim: shape.len() as i32,
            dtype,
            byte_offset,
            ..DLTensor::default()
        },
        manager_ctx: std::ptr::null_mut(),
        deleter: Some(delete),
    };
    let kept = Box::new(Described { tensor, shape: shape.to_vec(), strides: strides.to_vec() });
    let kept = Box::into_raw(kept);
    // SAFETY: 1. The box is live, and nobody else's: its deleter is called by whoever takes it.
    let kept_mut = unsafe { &mut *kept };
    kept_mut.tensor.manager_ctx = kept.cast();
    kept_mut.tensor.dl_tensor.shape = kept_mut.shape.as_mut_ptr();
    if !strides.is_empty() {
        kept_mut.tensor.dl_tensor.strides = kept_mut.strides.as_mut_ptr();
    }
    let tensor = &raw mut kept_mut.tensor;
    LIVE.set(1);
    // SAFETY: 1. A description with a deleter, of numbers that nobody writes to. 2. Where it is of others, it is refused.
    let taken = unsafe { Tensor::from_dlpack(Managed::from_raw(tensor).unwrap()) };
    assert!(taken.is_ok() || LIVE.get() == 0, "what is refused is given back");
    taken
}

#[test]
fn a_stride_that_is_never_used_may_be_anything() -> Result<()> {
    for stride in [-20, 0, i64::MIN, i64::MAX] {
        let taken = described(&[1, 20], &[stride, 1], 0, DLDevice::CPU)?;
        assert_eq!((taken.shape(), taken.as_slice::<u32>()?), (&[1, 20][..], &[7; 20][..]), "{stride}");
    }
    Ok(())
}

#[test]
fn what_another_library_has_no_type_here_can_show_is_copied_or_refused() -> Result<()> {
    let between = described(&[20], &[], 2, DLDevice::CPU)?;
    assert_eq!(between.as_slice::<u32>()?, [7u32.rotate_left(16); 20], "not aligned for its type");
    let refused = described_as(DLDataType::BOOL, &[100], &[], 0, DLDevice::CPU).unwrap_err().to_string();
    assert!(refused.contains("a bool is stored as 0 or 1, not 7"), "{refused}");
    Ok(())
}

#[test]
fn views_that_come_to_more_than_can_be_counted_are_no_checkpoint() -> Result<()> {
    let repeated = described(&[1 << 54, 20], &[0, 1], 0, DLDevice::CPU)?;
    let directory = democratising::tempfile::tempdir()?;
    let mut checkpoint = ModelCheckpoint::create(directory.path().join("model.safetensors"))?;
    for i in 0..20 {
        checkpoint = checkpoint.add(format!("{i}"), &repeated)?;
    }
    let refused = checkpoint.commit().unwrap_err().to_string();
    assert!(refused.contains("file too large"), "{refused}");
    Ok(())
}

#[test]
fn what_dlpack_describes_and_no_tensor_can_be_is_refused_with_what_it_is() {
    let refused = |shape: &[i64], strides: &[i64], byte_offset, device| {
        described(shape, strides, byte_offset, device).unwrap_err().to_string()
    };
    let backwards = refused(&[20], &[-1], 0, DLDevice::CPU);
    assert!(backwards.contains("[-1]") && backwards.contains("negative"), "{backwards}");
    let far = refused(&[2, 20], &[i64::MAX, 1], 0, DLDevice::CPU);
    assert!(far.contains("9223372036854775807"), "{far}");
    let nowhere = refused(&[20], &[], u64::MAX, DLDevice::CPU);
    assert!(nowhere.contains("18446744073709551615 bytes in"), "{nowhere}");
    let on = |device_type, device_id| refused(&[20], &[1], 0, DLDevice { device_type, device_id });
    assert!(on(DLDeviceType::CUDA, 3).starts_with("cuda:3 "));
    let metal = on(DLDeviceType(8), 3);
    assert!(metal.contains("device 3 of DLPack's kind 8") && !metal.contains("cuda"), "{metal}");
}
