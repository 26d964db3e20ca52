//! Owned, mutable memory.

use bytemuck::{Pod, Zeroable};

use crate::{DType, Shape, View, ViewMut};

/// A vector of these starts at an address that every dtype can be read from. Sixteen bytes are what the allocator gives of
/// itself: beyond that it clears memory by writing zeros, which would touch every page of a cache at start.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(16))]
struct Chunk([u8; 16]);

/// Bytes that start at a multiple of 16.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    chunks: Vec<Chunk>,
    len: usize,
}

impl AlignedBytes {
    fn zeroed(len: usize) -> Self {
        AlignedBytes { chunks: bytemuck::zeroed_vec(len.div_ceil(size_of::<Chunk>())), len }
    }

    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = AlignedBytes::zeroed(bytes.len());
        copy.as_mut().copy_from_slice(bytes);
        copy
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.chunks)[..self.len]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.chunks)[..self.len]
    }
}

/// Owned, mutable elements: activations and caches. Taken once, at start.
#[derive(Debug)]
pub struct Buffer {
    dtype: DType,
    shape: Shape,
    bytes: AlignedBytes,
}

impl Buffer {
    /// A buffer of zeros. The operating system hands its pages out when they are first touched.
    pub fn zeros(dtype: DType, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        Buffer { dtype, shape, bytes: AlignedBytes::zeroed(shape.num_elements() * dtype.size_bytes()) }
    }

    /// Its bytes, for whoever wants the operating system to hand its pages out ahead of their use.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// A view of the whole buffer.
    pub fn view(&self) -> View<'_> {
        View::contiguous(self.dtype, self.shape, self.bytes.as_ref())
    }

    /// A mutable view of the whole buffer.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::contiguous(self.dtype, self.shape, self.bytes.as_mut())
    }

    /// The first `num_rows` rows, for a step smaller than the largest one.
    pub fn rows(&self, num_rows: usize) -> View<'_> {
        self.view().rows(0..num_rows)
    }

    /// The first `num_rows` rows, mutably.
    pub fn rows_mut(&mut self, num_rows: usize) -> ViewMut<'_> {
        self.view_mut().rows(0..num_rows)
    }
}
