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
            .field("elements", &First(self))
            .finish()
    }
}

/// The first few elements; of floats that Rust has no type for, their bytes.
struct First<'a>(&'a Tensor);

impl fmt::Debug for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.dtype() {
            DType::Bool => self.list::<bool>(f),
            DType::U8 => self.list::<u8>(f),
            DType::I8 => self.list::<i8>(f),
            DType::U16 => self.list::<u16>(f),
            DType::I16 => self.list::<i16>(f),
            DType::U32 => self.list::<u32>(f),
            DType::I32 => self.list::<i32>(f),
            DType::U64 => self.list::<u64>(f),
            DType::I64 => self.list::<i64>(f),
            DType::F32 => self.list::<f32>(f),
            DType::F64 => self.list::<f64>(f),
            DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2 => first(self.0.as_bytes(), f),
        }
    }
}

impl First<'_> {
    fn list<T: Element>(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        first(self.0.as_slice::<T>().unwrap_or(&[]), f)
    }
}

fn first<T: fmt::Debug>(all: &[T], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SHOWN: usize = 8;
    let mut list = f.debug_list();
    list.entries(all.iter().take(SHOWN));
    if all.len() > SHOWN {
        list.entry(&format_args!(".."));
    }
    list.finish()
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
