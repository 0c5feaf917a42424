//! Views: what they show, whose memory it is, and what is no view.
#![cfg(feature = "std")]

use democratising::{DType, DemoError, Device, Result, Tensor};

fn numbers(shape: &[usize]) -> Tensor {
    let n = shape.iter().product::<usize>();
    Tensor::new(shape, (0..n as i32).collect::<Vec<_>>()).unwrap()
}

#[test]
fn views_share_the_memory_of_what_they_show() -> Result<()> {
    let t = numbers(&[4, 6, 5]);
    let at = t.as_slice::<i32>()?.as_ptr();
    assert_eq!(t.narrow(0, 1, 2)?.as_slice::<i32>()?.as_ptr(), at.wrapping_add(30));
    let twice = t.transpose(0, 2)?.transpose(0, 2)?;
    assert_eq!((twice.as_slice::<i32>()?.as_ptr(), twice.strides()), (at, &[30, 5, 1][..]));
    let reshaped = t.narrow(0, 1, 2)?.reshape(&[12, 5])?.unsqueeze(1)?.squeeze(1)?;
    assert_eq!((reshaped.shape(), reshaped.as_slice::<i32>()?.as_ptr()), (&[12, 5][..], at.wrapping_add(30)));
    assert_eq!(t.contiguous()?.as_slice::<i32>()?.as_ptr(), at, "it lies so already");
    assert_eq!(t.squeeze(0)?.shape(), [4, 6, 5], "not of length 1, so it stays");
    // A column has no shape of its own memory, so it is copied.
    let column = t.narrow(2, 1, 2)?.transpose(0, 1)?.reshape(&[6, 8])?;
    assert!(column.is_contiguous() && column.as_slice::<i32>()?.as_ptr() != at);
    assert_eq!(column.as_slice::<i32>()?[..4], [1, 2, 31, 32]);
    Ok(())
}

#[test]
fn a_view_of_nothing_lies_within_what_it_is_a_view_of() -> Result<()> {
    let turned = numbers(&[2, 3]).transpose(0, 1)?;
    let nothing = turned.narrow(0, 2, 1)?.narrow(1, 2, 0)?;
    let of_nothing = numbers(&[0, 5]).narrow(1, 3, 2)?;
    for (view, shape) in [(nothing, [1, 0]), (of_nothing, [0, 2])] {
        assert_eq!((view.shape(), view.as_slice::<i32>()?, view.as_bytes()?.len()), (&shape[..], &[][..], 0));
    }
    Ok(())
}

#[test]
fn elements_that_lie_apart_are_no_slice_and_say_so() -> Result<()> {
    let view = numbers(&[2, 3]).transpose(0, 1)?;
    assert!(!view.is_contiguous());
    let error = view.as_slice::<i32>().unwrap_err().to_string();
    assert!(error.contains("I32 view of shape [3, 2]") && error.contains("contiguous()"), "{error}");
    assert!(view.as_bytes().is_err());
    assert_eq!(view.to_vec::<i32>()?, [0, 3, 1, 4, 2, 5]);
    assert_eq!(view.contiguous()?.as_slice::<i32>()?, [0, 3, 1, 4, 2, 5]);
    assert_eq!(view.iter::<i32>()?.len(), 6);
    assert!(matches!(view.iter::<u32>(), Err(DemoError::DTypeMismatch { .. })), "the dtype is said first");
    Ok(())
}

#[test]
fn what_is_changed_in_a_view_is_a_copy_of_the_view_alone() -> Result<()> {
    let t = numbers(&[100, 100]);
    let mut row = t.narrow(0, 7, 1)?;
    row.as_mut_slice::<i32>()?.fill(-1);
    assert_eq!(t, numbers(&[100, 100]));
    let shown = format!("{row:?}");
    assert!(!shown.contains("view"), "its own hundred elements, not a view of ten thousand: {shown}");
    let mut turned = t.transpose(0, 1)?;
    turned.as_mut_slice::<i32>()?[1] = -1;
    assert_eq!((turned.as_slice::<i32>()?[..3].to_vec(), turned.is_contiguous()), (vec![0, -1, 200], true));

    let mut last = t.narrow(0, 99, 1)?;
    drop((t, row, turned));
    let at = last.as_slice::<i32>()?.as_ptr();
    last.as_mut_slice::<i32>()?[0] = 5;
    assert_eq!(last.as_slice::<i32>()?.as_ptr(), at, "nobody else sees it any more");
    assert_eq!(last.as_slice::<i32>()?[..2], [5, 9901]);
    Ok(())
}

#[test]
fn small_tensors_have_views_too() -> Result<()> {
    let t = Tensor::new(&[2, 2], [1u8, 2, 3, 4])?;
    assert_eq!(t.transpose(0, 1)?.to_vec::<u8>()?, [1, 3, 2, 4]);
    let mut last = t.narrow(0, 1, 1)?;
    last.as_mut_slice::<u8>()?[0] = 9;
    assert_eq!((last.as_slice::<u8>()?, t.as_slice::<u8>()?), (&[9, 4][..], &[1, 2, 3, 4][..]));
    Ok(())
}

#[test]
fn views_without_elements_are_views() -> Result<()> {
    let t = numbers(&[3, 4]);
    for empty in [t.narrow(0, 3, 0)?, t.narrow(1, 4, 0)?, Tensor::zeros(&[0, 5])?.transpose(0, 1)?] {
        assert!(empty.is_empty() && empty.is_contiguous());
        assert_eq!(empty.byte_len(), 0);
        assert!(empty.as_bytes()?.is_empty());
        assert_eq!(empty.contiguous()?.shape(), empty.shape());
        assert!(empty.reshape(&[0, 7, 2])?.is_empty());
        assert_eq!(empty, empty.clone());
    }
    assert_eq!(t.narrow(1, 4, 0)?.to_vec::<i32>()?, [0; 0]);
    Ok(())
}

#[test]
fn what_is_no_view_is_refused_with_the_call_and_the_shape() {
    let t = numbers(&[2, 3]);
    for (refused, message) in [
        (
            t.narrow(2, 0, 1),
            "narrow(2, 0, 1) is no view of a tensor of shape [2, 3]: it has no such dimension",
        ),
        (
            t.narrow(1, 2, 2),
            "narrow(1, 2, 2) is no view of a tensor of shape [2, 3]: start and length reach beyond",
        ),
        (t.narrow(1, usize::MAX, 2), "reach beyond"),
        (t.transpose(0, 2), "transpose(0, 2)"),
        (t.permute(&[0, 0]), "permute([0, 0])"),
        (t.permute(&[0]), "has to name each dimension once"),
        (t.squeeze(2), "squeeze(2)"),
        (t.unsqueeze(3), "unsqueeze(3)"),
        (numbers(&[1; 8]).unsqueeze(0), "as many dimensions as a tensor can have"),
        (t.reshape(&[4]), "a tensor of shape [4] needs 4 elements, but 6 were given"),
        (t.transpose(0, 1).and_then(|t| t.reshape(&[5])), "needs 5 elements, but 6 were given"),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn views_are_equal_and_printed_by_what_they_show() -> Result<()> {
    let t = numbers(&[3, 3]);
    assert_eq!(t.transpose(0, 1)?.transpose(0, 1)?, t);
    assert_ne!(t.transpose(0, 1)?, t);
    assert_eq!(t.narrow(0, 1, 1)?, Tensor::new(&[1, 3], [3, 4, 5])?);
    let view = t.transpose(0, 1)?.narrow(0, 1, 1)?;
    assert_eq!(view.to_string(), "[[1, 4, 7]]\nTensor[[1, 3], I32]");
    let debug = format!("{view:?}");
    for part in ["strides: [1, 3]", "view: from element 1 of 9", "12 inline", "[1, 4, 7]"] {
        assert!(debug.contains(part), "{debug}");
    }
    Ok(())
}

#[test]
fn narrow_floats_are_rust_types() -> Result<()> {
    let half = [half::f16::from_f32(1.5), half::f16::from_f32(-2.0)];
    let t = Tensor::new(&[2], half)?;
    assert_eq!((t.dtype(), t.as_slice::<half::f16>()?), (DType::F16, &half[..]));
    assert_eq!(t.to_string(), "[ 1.5000, -2.0000]\nTensor[[2], F16]");
    let t = Tensor::new(&[3], vec![half::bf16::ONE; 3])?;
    assert_eq!((t.dtype(), t.as_bytes()?), (DType::BF16, &half::bf16::ONE.to_ne_bytes().repeat(3)[..]));
    let t = Tensor::new(&[2], [float8::F8E4M3::from_f32(0.5), float8::F8E4M3::from_f32(448.0)])?;
    assert_eq!((t.dtype(), t.as_bytes()?), (DType::F8E4M3, &[0x30, 0x7e][..]));
    let t = Tensor::zeros_with(&[100], DType::F8E5M2, &Device::host())?;
    assert_eq!(t.iter::<float8::F8E5M2>()?.map(|x| x.to_f32()).sum::<f32>(), 0.0);
    Ok(())
}
