//! Shapes of up to four dimensions, without allocation.

use std::fmt;

/// The most dimensions a [`Shape`] can have.
pub const MAX_RANK: usize = 4;

/// The sizes of a tensor's dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape of the given dimensions.
    ///
    /// # Panics
    /// With more than [`MAX_RANK`] dimensions; readers of files check before.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= MAX_RANK, "{} dimensions, at most {MAX_RANK}", dims.len());
        let mut shape = Shape { dims: [1; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements; 1 for a scalar.
    pub fn num_elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// Number of rows: the first dimension, 1 for a scalar.
    pub fn num_rows(&self) -> usize {
        self.dims().first().copied().unwrap_or(1)
    }

    /// Elements in one row: the product of all dimensions but the first.
    pub fn row_len(&self) -> usize {
        self.dims().iter().skip(1).product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape::new(dims)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::new(&dims)
    }
}

impl<const N: usize> From<&[usize; N]> for Shape {
    fn from(dims: &[usize; N]) -> Self {
        Shape::new(dims)
    }
}
