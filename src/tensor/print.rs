//! What a tensor looks like: its numbers as NumPy and PyTorch print them, and in a debugger where its bytes are.

#![forbid(unsafe_code)]

use super::compare::with_type;
use super::dtype::DType;
use super::element::Element;
use super::value::Tensor;
use crate::error::Result;
use crate::size::MAX_RANK;
use core::fmt::{self, Write};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

/// A tensor with more elements is shown by the ends of its dimensions.
const MOST_SHOWN: usize = 1000;
/// How many of each end.
const EDGE: usize = 3;
/// How long lines may become.
const LINE: usize = 80;
/// Bytes between two elements on a device for which both are copied at once.
const NEAR_BYTES: usize = 4 << 10;
/// Digits behind the point, unless the caller asks for another number.
const DECIMALS: usize = 4;

/// An element as a number that can be written.
#[derive(Clone, Copy)]
enum Number {
    Bool(bool),
    Int(i128),
    Float(f64),
}

trait Printed: Element {
    fn number(self) -> Number;
}

macro_rules! printed {
    ($($rust:ty => |$x:ident| $number:expr,)*) => {$(
        impl Printed for $rust {
            fn number(self) -> Number {
                let $x = self;
                $number
            }
        }
    )*};
}

printed! {
    bool => |x| Number::Bool(x),
    u8 => |x| Number::Int(x.into()),
    i8 => |x| Number::Int(x.into()),
    u16 => |x| Number::Int(x.into()),
    i16 => |x| Number::Int(x.into()),
    u32 => |x| Number::Int(x.into()),
    i32 => |x| Number::Int(x.into()),
    u64 => |x| Number::Int(x.into()),
    i64 => |x| Number::Int(x.into()),
    half::f16 => |x| Number::Float(x.into()),
    half::bf16 => |x| Number::Float(x.into()),
    f32 => |x| Number::Float(x.into()),
    f64 => |x| Number::Float(x),
    float8::F8E4M3 => |x| Number::Float(x.to_f64()),
    float8::F8E5M2 => |x| Number::Float(x.to_f64()),
}

/// The elements in rows and columns, then shape and dtype. More than a thousand are shown by their ends; `{:.2}` asks for
/// two digits behind the point. Of a tensor on a device what is shown is copied to the host, and no more.
///
/// ```
/// use democratising::Tensor;
///
/// let t = Tensor::new(&[2, 2], vec![1.0f32, 2.5, -3.0, 0.125])?;
/// assert_eq!(t.to_string(), "[[ 1.0000,  2.5000],\n [-3.0000,  0.1250]]\nTensor[[2, 2], F32]");
/// # Ok::<(), democratising::DemoError>(())
/// ```
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_type!(self.dtype(), print(self, f))?;
        write!(f, "\nTensor[{:?}, {}", self.shape(), self.dtype())?;
        if !self.is_on_host() {
            write!(f, ", {}", self.device())?;
        }
        f.write_char(']')
    }
}

fn print<T: Printed>(tensor: &Tensor, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let edge = if tensor.len() > MOST_SHOWN { EDGE } else { usize::MAX };
    let mut places = Vec::new();
    shown(tensor.shape(), edge, &mut |index| {
        let steps = index.iter().zip(tensor.strides()).map(|(i, stride)| i * stride);
        places.push(tensor.layout.offset() + steps.sum::<usize>());
    });
    let numbers = match numbers::<T>(tensor, &places) {
        Ok(Some(numbers)) => numbers,
        Ok(None) => return f.write_str("(no elements of this dtype)"),
        Err(error) => return write!(f, "({error})"),
    };
    let style = Style::of(&numbers, f.precision().unwrap_or(DECIMALS));
    let cells: Vec<String> = numbers.into_iter().map(|number| style.cell(number)).collect();
    let width = cells.iter().map(String::len).max().unwrap_or(0);
    let mut cells = cells.iter();
    rows(f, tensor.shape(), 0, edge, width, &mut cells)
}

/// What is at those places of a tensor's storage. Of what is on a device nothing else is copied, but what lies between two of them that are near.
fn numbers<T: Printed>(tensor: &Tensor, places: &[usize]) -> Result<Option<Vec<Number>>> {
    if tensor.is_on_host() {
        let all = tensor.storage.as_slice::<T>()?;
        return Ok(all.map(|all| places.iter().map(|&place| all[place].number()).collect()));
    }
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    let mut parts = Vec::new();
    for near in sorted.chunk_by(|one, next| next - one <= NEAR_BYTES / size_of::<T>()) {
        let (first, last) = (near[0], near[near.len() - 1]);
        parts.push((first, tensor.storage.on_host(first..last + 1, first)?));
    }
    let number = |&place: &usize| {
        let behind = parts.partition_point(|(first, _)| *first <= place);
        let (first, part) = &parts[behind - 1];
        Ok(part.as_slice::<T>()?.map(|part| part[place - first].number()))
    };
    places.iter().map(number).collect()
}

/// The indices of a dimension that are shown, with a gap before those at its end.
fn ends(length: usize, edge: usize) -> (core::ops::Range<usize>, core::ops::Range<usize>) {
    match edge.checked_mul(2) {
        Some(both) if length > both => (0..edge, length - edge..length),
        _ => (0..length, length..length),
    }
}

/// Visits every index that is shown, in order.
fn shown(shape: &[usize], edge: usize, visit: &mut impl FnMut(&[usize])) {
    fn inner(
        shape: &[usize],
        edge: usize,
        axis: usize,
        index: &mut [usize; MAX_RANK],
        visit: &mut impl FnMut(&[usize]),
    ) {
        let Some(&length) = shape.get(axis) else { return visit(&index[..axis]) };
        let (first, last) = ends(length, edge);
        for i in first.chain(last) {
            index[axis] = i;
            inner(shape, edge, axis + 1, index, visit);
        }
    }
    if !shape.contains(&0) {
        inner(shape, edge, 0, &mut [0; MAX_RANK], visit);
    }
}

/// Writes one dimension with what is in it.
fn rows(
    f: &mut fmt::Formatter<'_>,
    shape: &[usize],
    depth: usize,
    edge: usize,
    width: usize,
    cells: &mut core::slice::Iter<'_, String>,
) -> fmt::Result {
    let [length, inner @ ..] = shape else {
        let cell = cells.next().map_or("", String::as_str);
        // By hand: a width within braces ends at 65,535, and that many digits can be asked for.
        (cell.len()..width).try_for_each(|_| f.write_char(' '))?;
        return f.write_str(cell);
    };
    f.write_char('[')?;
    let (first, last) = ends(*length, edge);
    // A row of a tensor without elements has none to show, in whatever dimension they are missing.
    let (first, gap, last) =
        if shape.contains(&0) { (0, false, 0) } else { (first.len(), !last.is_empty(), last.len()) };
    let in_line = (LINE.saturating_sub(depth + 1) / (width + 2)).max(1);
    let count = first + usize::from(gap) + last;
    for i in 0..count {
        if i > 0 {
            match inner.len() {
                0 if i % in_line != 0 => f.write_str(", ")?,
                0 => write!(f, ",\n{:indent$}", "", indent = depth + 1)?,
                blank => write!(f, ",{:\n<blank$}{:indent$}", "", "", indent = depth + 1)?,
            }
        }
        if gap && i == first {
            f.write_str("...")?;
        } else {
            rows(f, inner, depth + 1, edge, width, cells)?;
        }
    }
    f.write_char(']')
}

/// How all numbers of a tensor are written, so that they stand in columns.
enum Style {
    Whole,
    Fixed(usize),
    Scientific(usize),
}

impl Style {
    /// As PyTorch chooses: whole numbers by their digits, others with the same decimals, very large and very small
    /// ones, or both together, with an exponent.
    fn of(numbers: &[Number], decimals: usize) -> Style {
        let finite = numbers.iter().filter_map(|number| match number {
            Number::Float(x) if x.is_finite() => Some(x.abs()),
            _ => None,
        });
        let (mut smallest, mut largest, mut whole) = (f64::INFINITY, 0.0f64, true);
        for x in finite {
            if x > 0.0 {
                smallest = smallest.min(x);
            }
            largest = largest.max(x);
            whole &= x.fract() == 0.0;
        }
        if largest == 0.0 {
            return Style::Whole;
        }
        match whole {
            true if largest < 1e8 => Style::Whole,
            false if largest < 1e8 && smallest >= 1e-4 && largest / smallest <= 1e3 => Style::Fixed(decimals),
            _ => Style::Scientific(decimals),
        }
    }

    fn cell(&self, number: Number) -> String {
        match (number, self) {
            (Number::Bool(x), _) => x.to_string(),
            (Number::Int(x), _) => x.to_string(),
            (Number::Float(x), _) if !x.is_finite() => format!("{x}").to_ascii_lowercase(),
            (Number::Float(x), Style::Whole) => format!("{x:.0}."),
            (Number::Float(x), Style::Fixed(decimals)) => format!("{x:.decimals$}"),
            (Number::Float(x), Style::Scientific(decimals)) => scientific(x, *decimals),
        }
    }
}

/// With a sign and two digits of exponent, as C writes it.
fn scientific(x: f64, decimals: usize) -> String {
    // The standard library panics where 65,535 are asked for. Behind these no number has any but zeros.
    const MOST_DIGITS: usize = 767;
    let text = format!("{x:.digits$e}", digits = decimals.min(MOST_DIGITS));
    let zeros = "0".repeat(decimals.saturating_sub(MOST_DIGITS));
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}{zeros}e-{exponent:0>2}"),
            None => format!("{digits}{zeros}e+{exponent:0>2}"),
        },
        None => text,
    }
}

/// Dtype, shape, device, where the bytes are, and the first few elements.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Tensor");
        fields.field("dtype", &format_args!("{}", self.dtype())).field("shape", &self.shape());
        if !self.is_contiguous() {
            fields.field("strides", &self.strides());
        }
        if self.layout.offset() > 0 || self.len() != self.storage.elements() {
            let (offset, of) = (self.layout.offset(), self.storage.elements());
            fields.field("view", &format_args!("from element {offset} of {of}"));
        }
        fields
            .field("device", &format_args!("{}", self.device()))
            .field("bytes", &format_args!("{} {}", self.byte_len(), self.place()))
            .field("elements", &First(self))
            .finish()
    }
}

/// The first few elements.
struct First<'a>(&'a Tensor);

impl fmt::Debug for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_type!(self.0.dtype(), first(self.0, f))
    }
}

fn first<T: Element>(tensor: &Tensor, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SHOWN: usize = 8;
    let elements = match tensor.iter::<T>() {
        Ok(elements) => elements,
        Err(error) => return write!(f, "({error})"),
    };
    let mut list = f.debug_list();
    // As the type itself shows them: an `f32` by the digits that tell it from its neighbours, not by those of an `f64`.
    list.entries(elements.clone().take(SHOWN));
    if elements.len() > SHOWN {
        list.entry(&format_args!(".."));
    }
    list.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_in_columns() {
        let t = Tensor::new(&[2, 3], [1i32, -20, 300, 4, 5, 6]).unwrap();
        assert_eq!(t.to_string(), "[[  1, -20, 300],\n [  4,   5,   6]]\nTensor[[2, 3], I32]");
        let t = Tensor::new(&[3], [1.0f64, 2.0, -3.0]).unwrap();
        assert_eq!(t.to_string(), "[ 1.,  2., -3.]\nTensor[[3], F64]");
        let t = Tensor::new(&[2], [1e-7f64, 1.0]).unwrap();
        assert_eq!(t.to_string(), "[1.0000e-07, 1.0000e+00]\nTensor[[2], F64]");
        let t = Tensor::new(&[3], [f32::NAN, f32::NEG_INFINITY, 0.5]).unwrap();
        assert_eq!(format!("{t:.1}"), "[ nan, -inf,  0.5]\nTensor[[3], F32]");
        assert_eq!(Tensor::new(&[], [true]).unwrap().to_string(), "true\nTensor[[], BOOL]");
        assert_eq!(Tensor::zeros(&[2, 0]).unwrap().to_string(), "[]\nTensor[[2, 0], F32]");
    }

    #[test]
    fn a_debugger_shows_the_numbers_that_were_written() {
        let t = Tensor::new(&[3], [0.1f32, -1e-45, f32::NAN]).unwrap();
        assert!(format!("{t:?}").ends_with("elements: [0.1, -1e-45, NaN] }"), "{t:?}");
        let t = Tensor::new(&[2], [half::bf16::from_f32(0.1), half::bf16::INFINITY]).unwrap();
        assert!(format!("{t:?}").ends_with("elements: [0.100097656, inf] }"), "{t:?}");
    }

    #[test]
    fn any_number_of_digits_that_can_be_asked_for_is_written() {
        let t = Tensor::new(&[2], [1.5f64, -20.25]).unwrap();
        let text = format!("{t:.65535}");
        let zeros = "0".repeat(65533);
        assert_eq!(text, format!("[  1.50{zeros},\n -20.25{zeros}]\nTensor[[2], F64]"));
        let t = Tensor::new(&[2], [1e-9f64, -1.0]).unwrap();
        assert!(format!("{t:.65535}").ends_with(&format!("-1.{}e+00]\nTensor[[2], F64]", "0".repeat(65535))));
    }

    #[test]
    fn a_large_tensor_is_shown_by_its_ends_and_a_view_by_its_own_elements() {
        let t = Tensor::new(&[1000, 1000], (0..1_000_000u32).collect::<Vec<_>>()).unwrap();
        let text = t.transpose(0, 1).unwrap().to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 8, "{text}");
        assert_eq!(lines[0], "[[     0,   1000,   2000, ..., 997000, 998000, 999000],");
        assert_eq!(lines[3], " ...,");
        assert_eq!(lines[6], " [   999,   1999,   2999, ..., 997999, 998999, 999999]]");
        let long = Tensor::new(&[200], [7u8; 200]).unwrap().to_string();
        assert!(long.lines().count() > 3 && long.lines().all(|line| line.len() <= LINE), "{long}");
        let three = Tensor::zeros(&[2, 1, 1]).unwrap().to_string();
        assert_eq!(three, "[[[0.]],\n\n [[0.]]]\nTensor[[2, 1, 1], F32]");
    }
}
