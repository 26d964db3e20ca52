//! Buffers in the arena, and windows of them.

use std::marker::PhantomData;
use std::ops::Range;

use cachalot_tensor::{DType, MAX_RANK, Shape};

use crate::Address;

/// Contiguous elements in the arena of a [`Gpu`](crate::Gpu). It stays where it is for as long as the GPU is open; there is
/// nothing to free.
#[derive(Debug)]
pub struct DeviceBuffer {
    address: Address,
    dtype: DType,
    shape: Shape,
}

impl DeviceBuffer {
    pub(crate) fn new(address: Address, dtype: DType, shape: Shape) -> DeviceBuffer {
        DeviceBuffer { address, dtype, shape }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of all elements.
    pub fn num_bytes(&self) -> usize {
        self.shape.num_elements() * self.dtype.size_bytes()
    }

    /// All of it, to read from.
    pub fn view(&self) -> DeviceView<'_> {
        DeviceView {
            address: self.address,
            dtype: self.dtype,
            shape: self.shape,
            row_stride: self.shape.row_len(),
            borrow: PhantomData,
        }
    }

    /// All of it, to write to.
    pub fn view_mut(&mut self) -> DeviceViewMut<'_> {
        DeviceViewMut { view: self.view(), borrow: PhantomData }
    }

    /// The first elements, as another dtype and shape: one workspace serves several ops in turn.
    ///
    /// # Panics
    /// If they take more bytes than the buffer has.
    pub fn workspace(&mut self, dtype: DType, shape: impl Into<Shape>) -> DeviceViewMut<'_> {
        let shape = shape.into();
        let wanted = shape.num_elements() * dtype.size_bytes();
        assert!(wanted <= self.num_bytes(), "{dtype} {shape} takes {wanted} of {} bytes", self.num_bytes());
        let row_stride = shape.row_len();
        let view = DeviceView { address: self.address, dtype, shape, row_stride, borrow: PhantomData };
        DeviceViewMut { view, borrow: PhantomData }
    }
}

/// A window to read from: `num_rows` rows (the first dimension) of contiguous elements, `row_stride` elements apart, like
/// [`cachalot_tensor::View`].
#[derive(Clone, Copy, Debug)]
pub struct DeviceView<'a> {
    address: Address,
    dtype: DType,
    shape: Shape,
    row_stride: usize,
    borrow: PhantomData<&'a DeviceBuffer>,
}

impl<'a> DeviceView<'a> {
    /// Where its first element lies.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Elements from the start of one row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Whether rows follow each other without a gap.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == self.shape.row_len() || self.shape.num_rows() <= 1
    }

    /// Bytes of its elements, gaps between rows not counted.
    pub fn num_bytes(&self) -> usize {
        self.shape.num_elements() * self.dtype.size_bytes()
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows(self, range: Range<usize>) -> DeviceView<'a> {
        let shape = self.shape;
        assert!(range.start <= range.end && range.end <= shape.num_rows(), "rows {range:?} of {shape}");
        let mut dims = [1; MAX_RANK];
        dims[..shape.rank()].copy_from_slice(shape.dims());
        dims[0] = range.len();
        let shape = Shape::new(&dims[..shape.rank().max(1)]);
        DeviceView { address: self.address_of(range.start * self.row_stride), shape, ..self }
    }

    /// A range of the columns of a two-dimensional view.
    ///
    /// # Panics
    /// If the view is not two-dimensional or the range reaches past the last column.
    pub fn columns(self, range: Range<usize>) -> DeviceView<'a> {
        let shape = self.shape;
        assert!(shape.rank() == 2, "columns of {shape}, which has not two dimensions");
        assert!(range.start <= range.end && range.end <= shape.dims()[1], "columns {range:?} of {shape}");
        let shape = Shape::new(&[shape.num_rows(), range.len()]);
        DeviceView { address: self.address_of(range.start), shape, ..self }
    }

    /// The same rows with another shape of each row.
    ///
    /// # Panics
    /// If the number of rows or the length of a row differs.
    pub fn reshape_rows(self, shape: impl Into<Shape>) -> DeviceView<'a> {
        let shape = shape.into();
        let same = self.shape.num_rows() == shape.num_rows() && self.shape.row_len() == shape.row_len();
        assert!(same, "cannot reshape {} to {shape}", self.shape);
        DeviceView { shape, ..self }
    }

    fn address_of(&self, element: usize) -> Address {
        Address(self.address.0 + (element * self.dtype.size_bytes()) as u64)
    }
}

/// A window to write to, laid out like [`DeviceView`].
#[derive(Debug)]
pub struct DeviceViewMut<'a> {
    view: DeviceView<'a>,
    borrow: PhantomData<&'a mut DeviceBuffer>,
}

impl<'a> DeviceViewMut<'a> {
    /// Where its first element lies.
    pub fn address(&self) -> Address {
        self.view.address
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.view.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.view.shape
    }

    /// Elements from the start of one row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.view.row_stride
    }

    /// A read-only view of the same window.
    pub fn as_view(&self) -> DeviceView<'_> {
        self.view
    }

    /// A shorter borrow of the same window.
    pub fn reborrow(&mut self) -> DeviceViewMut<'_> {
        DeviceViewMut { view: self.view, borrow: PhantomData }
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows(self, range: Range<usize>) -> DeviceViewMut<'a> {
        DeviceViewMut { view: self.view.rows(range), borrow: PhantomData }
    }

    /// A range of the columns of a two-dimensional view.
    ///
    /// # Panics
    /// If the view is not two-dimensional or the range reaches past the last column.
    pub fn columns(self, range: Range<usize>) -> DeviceViewMut<'a> {
        DeviceViewMut { view: self.view.columns(range), borrow: PhantomData }
    }

    /// The same rows with another shape of each row.
    ///
    /// # Panics
    /// If the number of rows or the length of a row differs.
    pub fn reshape_rows(self, shape: impl Into<Shape>) -> DeviceViewMut<'a> {
        DeviceViewMut { view: self.view.reshape_rows(shape), borrow: PhantomData }
    }
}

impl<'a> From<&'a DeviceBuffer> for DeviceView<'a> {
    fn from(buffer: &'a DeviceBuffer) -> Self {
        buffer.view()
    }
}

impl<'a> From<&'a mut DeviceBuffer> for DeviceViewMut<'a> {
    fn from(buffer: &'a mut DeviceBuffer) -> Self {
        buffer.view_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_begin_where_their_first_element_lies() {
        let mut buffer = DeviceBuffer::new(Address(1024), DType::BF16, Shape::new(&[4, 10]));
        let window = buffer.view().rows(1..3).columns(2..5);
        assert_eq!((window.address(), window.row_stride()), (Address(1024 + 2 * 12), 10));
        assert_eq!((window.shape().dims(), window.num_bytes()), (&[2, 3][..], 12));
        assert!(!window.is_contiguous() && window.rows(0..1).is_contiguous());
        let heads = buffer.view_mut().rows(2..4).reshape_rows([2, 5, 2]);
        assert_eq!((heads.address(), heads.shape().dims()), (Address(1024 + 40), &[2, 5, 2][..]));
        let workspace = buffer.workspace(DType::F32, [3, 6]);
        assert_eq!((workspace.dtype(), workspace.row_stride()), (DType::F32, 6));
    }

    #[test]
    #[should_panic(expected = "F32 [3, 7] takes 84 of 80 bytes")]
    fn a_workspace_is_not_longer_than_its_buffer() {
        DeviceBuffer::new(Address(0), DType::BF16, Shape::new(&[4, 10])).workspace(DType::F32, [3, 7]);
    }
}
