//! Immutable tensors over shared bytes.

use bytes::Bytes;

use crate::buffer::AlignedBytes;
use crate::{DType, Element, Error, Result, Shape, View};

/// Immutable elements in shared memory: a window of a mapped file, of the program itself, or of owned bytes.
///
/// Cloning shares the memory.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    bytes: Bytes,
}

impl Tensor {
    /// A tensor over `bytes`, which are shared, not copied, unless they start at an address that the dtype cannot be
    /// read from (safetensors aligns the whole data section to 8 bytes only); then they are copied once.
    ///
    /// # Errors
    /// [`Error::ByteCount`] if the number of bytes is not exactly that of the shape.
    pub fn new(dtype: DType, shape: impl Into<Shape>, bytes: Bytes) -> Result<Self> {
        let shape = shape.into();
        let expected = shape.num_elements() * dtype.size_bytes();
        if bytes.len() != expected {
            return Err(Error::ByteCount { dtype, shape, expected, got: bytes.len() });
        }
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(dtype.size_bytes());
        let bytes = if aligned { bytes } else { Bytes::from_owner(AlignedBytes::copy_of(&bytes)) };
        Ok(Tensor { dtype, shape, bytes })
    }

    /// A tensor that owns a copy of `values`.
    ///
    /// # Errors
    /// [`Error::ByteCount`] if their number is not that of the shape.
    pub fn from_slice<T: Element>(values: &[T], shape: impl Into<Shape>) -> Result<Self> {
        let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(values));
        Tensor::new(T::DTYPE, shape, Bytes::from_owner(bytes))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A contiguous view of the whole tensor.
    pub fn view(&self) -> View<'_> {
        View::contiguous(self.dtype, self.shape, &self.bytes)
    }

    /// The elements.
    ///
    /// # Errors
    /// [`Error::DType`] if they are of another dtype.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        if T::DTYPE != self.dtype {
            return Err(Error::DType { expected: T::DTYPE, got: self.dtype });
        }
        Ok(bytemuck::cast_slice(&self.bytes))
    }
}
