//! What a tensor can be made from.

#![forbid(unsafe_code)]

use super::TensorBuf;
use super::element::Element;
use super::storage::Storage;
use crate::error::Result;
use std::vec::Vec;

/// Elements for [`Tensor::new`](super::Tensor::new): a `Vec` or [`TensorBuf`], whose memory is taken over, or an array
/// or slice, which is copied.
pub trait IntoElements: sealed::IntoStorage {}

impl<I: sealed::IntoStorage> IntoElements for I {}

pub(super) mod sealed {
    use super::{Element, Result, Storage};

    pub trait IntoStorage {
        type Element: Element;
        fn count(&self) -> usize;
        fn into_storage(self) -> Result<Storage>;
    }
}

use sealed::IntoStorage;

impl<T: Element> IntoStorage for Vec<T> {
    type Element = T;

    fn count(&self) -> usize {
        self.len()
    }

    fn into_storage(self) -> Result<Storage> {
        Storage::adopt(self)
    }
}

impl<T: Element> IntoStorage for TensorBuf<T> {
    type Element = T;

    fn count(&self) -> usize {
        self.len()
    }

    fn into_storage(self) -> Result<Storage> {
        Storage::take(self)
    }
}

macro_rules! copied {
    ($([$($parameters:tt)*] $from:ty,)*) => {$(
        impl<T: Element, $($parameters)*> IntoStorage for $from {
            type Element = T;

            fn count(&self) -> usize {
                self.len()
            }

            fn into_storage(self) -> Result<Storage> {
                Storage::copy::<T>(&self[..])
            }
        }
    )*};
}

copied! {
    [] &[T],
    [] &Vec<T>,
    [const N: usize] [T; N],
    [const N: usize] &[T; N],
}
