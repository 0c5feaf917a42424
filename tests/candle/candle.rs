//! Tensors of this crate in candle, and candle's here, by way of DLPack.

use candle_core::{DType as CandleType, Device as Cpu, Tensor as Candle};
use democratising::fs::ModelCheckpoint;
use democratising::{DType, Device, Tensor};
use dlpark::allocation::dynamic::Initialized;
use dlpark::ffi::DLManagedTensorVersioned;
use dlpark::versioned::Dlpack;
use dlpark::{DlpackFlags, TryFromDlpack};
use std::error::Error;

type Done = Result<(), Box<dyn Error>>;

/// A tensor of candle's with the same numbers.
fn to_candle(tensor: &Tensor) -> Result<Candle, Box<dyn Error>> {
    // SAFETY: 1. It was made by `to_dlpack`, which describes memory that is there.
    Ok(unsafe { Candle::try_from_dlpack(&tensor.to_dlpack()?, ()) }?)
}

/// A tensor in candle's memory.
fn from_candle(tensor: Candle) -> Result<Tensor, Box<dyn Error>> {
    let mut handed: Initialized<DLManagedTensorVersioned> = Box::new(tensor).try_into()?;
    handed.set_flags(DlpackFlags::READ_ONLY)?;
    // SAFETY: 1. candle's storage lives in the box; nobody here writes to it.
    let handed: Dlpack = unsafe { handed.finish() };
    // SAFETY: 1. candle described it. 2. Nothing is written while it lives. 3. candle's storage may go to any thread.
    Ok(unsafe { Tensor::from_dlpack(handed) }?)
}

#[test]
fn a_checkpoint_is_multiplied_by_candle_and_the_product_is_shared_back() -> Done {
    let folder = democratising::tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let weight = Tensor::new(&[64, 32], (0..64 * 32).map(|n| n as f32 / 100.0).collect::<Vec<_>>())?;
    ModelCheckpoint::create(&path)?.add("weight", &weight)?.commit()?;
    let weight = ModelCheckpoint::load(&path)?.get("weight")?;

    let loaded = to_candle(&weight)?;
    assert_eq!((loaded.dims(), loaded.dtype()), (&[64, 32][..], CandleType::F32));
    let product = loaded.t()?.matmul(&Candle::ones((64, 8), CandleType::F32, &Cpu::Cpu)?)?;
    let back = from_candle(product.clone())?;
    assert_eq!((back.shape(), back.dtype()), (&[32, 8][..], DType::F32));
    let columns: Vec<f32> =
        (0..32).map(|c| (0..64).map(|r| weight.as_slice::<f32>().unwrap()[r * 32 + c]).sum()).collect();
    for (got, wanted) in back.iter::<f32>()?.zip(columns.iter().flat_map(|sum| [sum; 8])) {
        assert!((got - wanted).abs() < 1e-2, "{got} for {wanted}");
    }
    drop(product);
    assert!(format!("{back:?}").contains("of another library"), "{back:?}");
    Ok(())
}

#[test]
fn every_dtype_that_both_have_keeps_its_bits() -> Done {
    for dtype in [
        CandleType::U8,
        CandleType::U32,
        CandleType::I16,
        CandleType::I32,
        CandleType::I64,
        CandleType::F16,
        CandleType::BF16,
        CandleType::F32,
        CandleType::F64,
    ] {
        let bytes: Vec<u8> = (0..240 * dtype.size_in_bytes()).map(|n| (n * 7 % 120) as u8).collect();
        let tensor = from_candle(Candle::from_raw_buffer(&bytes, dtype, &[6, 40], &Cpu::Cpu)?)?;
        assert_eq!((tensor.shape(), tensor.as_bytes()?), (&[6, 40][..], &bytes[..]), "{dtype:?}");
        let back = to_candle(&tensor)?;
        assert_eq!((back.dims(), back.dtype()), (&[6, 40][..], dtype));
        assert_eq!(from_candle(back)?.as_bytes()?, bytes, "{dtype:?}");

        let view = tensor.transpose(0, 1)?.narrow(0, 3, 20)?;
        let back = from_candle(to_candle(&view)?)?;
        assert_eq!(back.shape(), [20, 6]);
        assert_eq!(back.as_bytes()?, view.contiguous()?.as_bytes()?, "{dtype:?}");
    }
    Ok(())
}

#[test]
fn a_view_of_candles_comes_without_a_copy() -> Done {
    let whole = Candle::arange(0i64, 6000, &Cpu::Cpu)?.reshape((60, 100))?;
    let view = from_candle(whole.t()?.narrow(0, 10, 50)?)?;
    assert_eq!(view.shape(), [50, 60]);
    assert!(format!("{view:?}").contains("of another library"), "{view:?}");
    assert_eq!(view.iter::<i64>()?.take(3).collect::<Vec<_>>(), [10, 110, 210]);
    Ok(())
}

#[test]
fn a_dtype_that_candle_lacks_is_its_error() -> Done {
    let wide = Tensor::zeros_with(&[3, 30], DType::U16, &Device::host())?;
    assert!(to_candle(&wide).unwrap_err().to_string().contains("dtype"));
    Ok(())
}
