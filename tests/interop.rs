//! Tensors of other libraries: shared where they can be, and never changed under anybody.
#![cfg(all(feature = "ndarray", feature = "dlpack"))]

use democratising::{DType, DemoError, Device, Result, Tensor};
use dlpark::DlpackFlags;
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
