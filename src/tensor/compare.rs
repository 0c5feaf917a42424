//! Equality by value, and what a tensor looks like in a debugger.

#![forbid(unsafe_code)]

use super::dtype::DType;
use super::element::Element;
use super::value::Tensor;
use core::fmt;

/// Equal dtypes, shapes and elements, wherever the bytes are. Floats of every width compare as numbers do: zeros of
/// either sign are equal, a NaN is equal to nothing.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        if self.dtype() != other.dtype() || self.shape() != other.shape() {
            return false;
        }
        match self.dtype() {
            DType::F32 => same::<f32>(self, other),
            DType::F64 => same::<f64>(self, other),
            DType::F16 => same_floats::<2>(self, other, |bits| bits & 0x7fff > 0x7c00),
            DType::BF16 => same_floats::<2>(self, other, |bits| bits & 0x7fff > 0x7f80),
            DType::F8E4M3 => same_floats::<1>(self, other, |bits| bits & 0x7f == 0x7f),
            DType::F8E5M2 => same_floats::<1>(self, other, |bits| bits & 0x7f > 0x7c),
            DType::Bool
            | DType::U8
            | DType::I8
            | DType::U16
            | DType::I16
            | DType::U32
            | DType::I32
            | DType::U64
            | DType::I64 => self.as_bytes() == other.as_bytes(),
        }
    }
}

fn same<T: Element>(a: &Tensor, b: &Tensor) -> bool {
    matches!((a.as_slice::<T>(), b.as_slice::<T>()), (Ok(a), Ok(b)) if a == b)
}

/// Compares floats of `N` bytes that Rust has no type for: sign in the highest bit, and `is_nan` by their bits.
fn same_floats<const N: usize>(a: &Tensor, b: &Tensor, is_nan: fn(u16) -> bool) -> bool {
    fn bits<const N: usize>(bytes: &[u8]) -> u16 {
        match *bytes {
            [byte] => byte.into(),
            [first, second] => u16::from_ne_bytes([first, second]),
            _ => unreachable!("chunks of one or two bytes"),
        }
    }

    let magnitude = if N == 1 { 0x7f } else { 0x7fff };
    let pairs = a.as_bytes().chunks_exact(N).zip(b.as_bytes().chunks_exact(N));
    pairs.map(|(a, b)| (bits::<N>(a), bits::<N>(b))).all(|(a, b)| {
        let zeros = (a | b) & magnitude == 0;
        zeros || (a == b && !is_nan(a))
    })
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("dtype", &format_args!("{}", self.dtype()))
            .field("shape", &self.shape())
            .field("device", &format_args!("{}", self.device()))
            .field("bytes", &format_args!("{} {}", self.byte_len(), self.place()))
            .finish()
    }
}
