//! What can be wrong with bytes, dtypes and shapes.

use crate::{DType, Shape};

/// An error about the form of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes do not hold exactly the elements of the shape.
    #[error("{got} bytes for {dtype} {shape}, which takes {expected}")]
    ByteCount {
        /// Element type.
        dtype: DType,
        /// Shape asked for.
        shape: Shape,
        /// Bytes that the shape takes.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The tensor holds another dtype than the caller reads.
    #[error("dtype is {got}, expected {expected}")]
    DType {
        /// Dtype asked for.
        expected: DType,
        /// Dtype held.
        got: DType,
    },
    /// The host was to read or write what lies on a device.
    #[error("the elements lie on a device, where the host cannot reach them")]
    OnDevice,
    /// A matrix and its block scales do not fit together.
    #[error("block scales are {got}, expected {expected:?} for a weight of {weight:?} in blocks of {block:?}")]
    Scales {
        /// Rows and columns of the weight.
        weight: [usize; 2],
        /// Rows and columns of one block.
        block: [usize; 2],
        /// Rows and columns that the scales need.
        expected: [usize; 2],
        /// Shape that the scales have.
        got: Shape,
    },
    /// A matrix needs two dimensions.
    #[error("a matrix needs two dimensions, got {0}")]
    NotAMatrix(Shape),
}

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
