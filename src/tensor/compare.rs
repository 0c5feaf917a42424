//! Equality by value.

#![forbid(unsafe_code)]

use super::dtype::DType;
use super::element::Element;
use super::value::{PIECE_BYTES, Tensor};
use crate::device::Device;
use crate::error::Result;

/// Calls a function with the Rust type of a dtype as its first type argument: `with_type!(dtype, same(a, b))`.
macro_rules! with_type {
    ($dtype:expr, $run:ident($($argument:expr),*)) => {
        match $dtype {
            DType::Bool => $run::<bool>($($argument),*),
            DType::U8 => $run::<u8>($($argument),*),
            DType::I8 => $run::<i8>($($argument),*),
            DType::U16 => $run::<u16>($($argument),*),
            DType::I16 => $run::<i16>($($argument),*),
            DType::U32 => $run::<u32>($($argument),*),
            DType::I32 => $run::<i32>($($argument),*),
            DType::U64 => $run::<u64>($($argument),*),
            DType::I64 => $run::<i64>($($argument),*),
            DType::F16 => $run::<half::f16>($($argument),*),
            DType::BF16 => $run::<half::bf16>($($argument),*),
            DType::F32 => $run::<f32>($($argument),*),
            DType::F64 => $run::<f64>($($argument),*),
            DType::F8E4M3 => $run::<float8::F8E4M3>($($argument),*),
            DType::F8E5M2 => $run::<float8::F8E5M2>($($argument),*),
        }
    };
}
pub(super) use with_type;

/// Equal dtypes, shapes and elements, wherever the bytes are. Floats of every width compare as numbers do: zeros of
/// either sign are equal, a NaN is equal to nothing. What is in a damaged file is equal to nothing either.
///
/// What is on a device is copied to the host for it, by pieces where its elements lie together; what cannot be copied is equal to nothing.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype() == other.dtype()
            && self.shape() == other.shape()
            && match (self.is_on_host(), other.is_on_host()) {
                (true, true) => with_type!(self.dtype(), same(self, other)),
                _ => same_on_host(self, other).unwrap_or(false),
            }
    }
}

/// Whether two of one dtype and shape, not both of which are on the host, have the same elements.
fn same_on_host(a: &Tensor, b: &Tensor) -> Result<bool> {
    let host = Device::host();
    if a.in_one_piece().and(b.in_one_piece()).is_err() {
        return Ok(a.to_device(&host)? == b.to_device(&host)?);
    }
    let most = PIECE_BYTES / a.dtype().size_bytes();
    let (a, b) = (a.reshape(&[a.len()])?, b.reshape(&[b.len()])?);
    for start in (0..a.len()).step_by(most) {
        let piece = |of: &Tensor| of.narrow(0, start, most.min(of.len() - start))?.to_device(&host);
        if piece(&a)? != piece(&b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same<T: Element>(a: &Tensor, b: &Tensor) -> bool {
    if let (Ok(a), Ok(b)) = (a.as_slice::<T>(), b.as_slice::<T>()) {
        return a == b;
    }
    match (a.iter::<T>(), b.iter::<T>()) {
        (Ok(a), Ok(b)) => a.eq(b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{DType, Tensor};

    fn tensor(dtype: DType, bits: &[u16]) -> Tensor {
        Tensor::filled(&[bits.len()], dtype, |bytes| {
            for (to, bits) in bytes.chunks_exact_mut(dtype.size_bytes()).zip(bits) {
                if let [byte] = to { *byte = *bits as u8 } else { to.copy_from_slice(&bits.to_ne_bytes()) }
            }
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn narrow_floats_compare_as_numbers_do() {
        for (dtype, one, infinity, nan, sign) in [
            (DType::F16, 0x3c00, Some(0x7c00), 0x7e00, 0x8000),
            (DType::BF16, 0x3f80, Some(0x7f80), 0x7fc0, 0x8000),
            (DType::F8E4M3, 0x38, None, 0x7f, 0x80),
            (DType::F8E5M2, 0x3c, Some(0x7c), 0x7e, 0x80),
        ] {
            let t = |bits| tensor(dtype, &[bits]);
            assert_eq!(t(0), t(sign), "zeros of either sign, {dtype}");
            assert_eq!(t(one), t(one));
            assert_ne!(t(one), t(one | sign));
            assert_ne!(t(nan), t(nan));
            assert_ne!(t(nan | sign), t(nan | sign));
            if let Some(infinity) = infinity {
                assert_eq!(t(infinity), t(infinity));
                assert_ne!(t(infinity), t(infinity | sign));
            }
        }
    }
}
