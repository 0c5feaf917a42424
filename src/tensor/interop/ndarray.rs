//! Arrays of the `ndarray` crate: views of a tensor, and tensors made of an array's own memory.

#![forbid(unsafe_code)]

use crate::error::{DemoError, Result};
use crate::tensor::layout::Layout;
use crate::tensor::storage::Storage;
use crate::tensor::{Element, Extent, Tensor};
use ndarray::{Array, ArrayViewD, Dimension, IxDyn, ShapeBuilder};
use std::string::String;
use std::vec::Vec;

impl Tensor {
    /// The elements as an array of `ndarray`, where they are: views of a tensor become views with the same strides.
    ///
    /// ```
    /// use democratising::Tensor;
    ///
    /// let t = Tensor::new(&[2, 3], [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// assert_eq!(t.as_ndarray::<f32>()?.sum(), 21.0);
    /// assert_eq!(t.transpose(0, 1)?.as_ndarray::<f32>()?[[2, 1]], 6.0);
    /// # Ok::<(), democratising::DemoError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`iter`](Self::iter), and [`DemoError::NoView`] for a view that shows elements several times, which
    /// `ndarray` makes of no slice; [`contiguous`](Self::contiguous) makes one that it takes.
    pub fn as_ndarray<T: Element>(&self) -> Result<ArrayViewD<'_, T>> {
        let all = self.elements_of_storage::<T>()?;
        let no_view = |problem| DemoError::NoView {
            call: String::from("as_ndarray()"),
            shape: *self.layout.shape(),
            problem,
        };
        // An empty array lies nowhere, and has strides of its own.
        if self.is_empty() {
            let problem = "its lengths come to more than ndarray counts; reshape() it";
            return ArrayViewD::from_shape(IxDyn(self.shape()), &[]).map_err(|_| no_view(problem));
        }
        let shape = IxDyn(self.shape()).strides(IxDyn(self.strides()));
        let problem = "its elements overlap, or strides lead nowhere; call contiguous() first";
        ArrayViewD::from_shape(shape, &all[self.layout.offset()..]).map_err(|_| no_view(problem))
    }
}

/// The array's own memory, with its strides; one whose axes run backwards is copied.
impl<T: Element, D: Dimension> TryFrom<Array<T, D>> for Tensor {
    type Error = DemoError;

    fn try_from(array: Array<T, D>) -> Result<Tensor> {
        let extent = Extent::new(array.shape(), size_of::<T>())?;
        let strides: Option<Vec<usize>> =
            array.strides().iter().map(|&stride| stride.try_into().ok()).collect();
        let Some(strides) = strides.filter(|_| !array.is_empty()) else {
            let elements: Vec<T> = array.iter().copied().collect();
            return Tensor::new(&extent.shape, elements);
        };
        let (elements, offset) = array.into_raw_vec_and_offset();
        let layout = Layout::checked(extent.shape, &strides, offset.unwrap_or(0), elements.len());
        let storage = Storage::adopt(elements)?;
        match layout {
            Some(layout) => Ok(Tensor::view_of(storage, layout)),
            None => Err(DemoError::NoView {
                call: String::from("from an array"),
                shape: extent.shape,
                problem: "its strides lead out of its memory",
            }),
        }
    }
}
