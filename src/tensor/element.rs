//! The Rust types an element can have.

use super::dtype::DType;
use core::fmt::Debug;

/// A Rust type that a tensor can hold.
///
/// # Safety
/// 1. The type is as large as `DTYPE` says and aligned to at most its size, without padding.
/// 2. All zero bytes are a value.
/// 3. Every bit pattern is a value, or `DTYPE` is [`DType::Bool`], whose bytes are checked to be 0 or 1.
pub unsafe trait Element: sealed::Sealed + Copy + PartialEq + Debug + Send + Sync + 'static {
    /// The same type as a value.
    const DTYPE: DType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident,)*) => {$(
        const _: () = assert!(size_of::<$rust>() == DType::$dtype.size_bytes());
        const _: () = assert!(align_of::<$rust>() <= DType::$dtype.size_bytes());

        impl sealed::Sealed for $rust {}

        // SAFETY: 1. Both assertions above; a primitive has no padding. 2. Zero and `false` are all zero bytes.
        // 3. Integers and floats take every pattern; `bool` is the one that goes by `DType::Bool`.
        unsafe impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! {
    bool => Bool,
    u8 => U8,
    i8 => I8,
    u16 => U16,
    i16 => I16,
    u32 => U32,
    i32 => I32,
    u64 => U64,
    i64 => I64,
    f32 => F32,
    f64 => F64,
}

// The four below are one integer each (`repr(transparent)` of their crates), and every pattern of it is a float or a NaN.
#[cfg(feature = "half")]
elements! {
    half::f16 => F16,
    half::bf16 => BF16,
    float8::F8E4M3 => F8E4M3,
    float8::F8E5M2 => F8E5M2,
}
