//! Borrowed windows of tensors and buffers.

use std::ops::Range;

use crate::{Address, DType, Element, Error, Result, Shape};

/// A read-only window: `num_rows` rows (the first dimension) of contiguous elements, `row_stride` elements apart, in the memory of the
/// host or of a device.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    dtype: DType,
    shape: Shape,
    row_stride: usize,
    data: Data<'a>,
}

/// Where the elements of a view lie: the bytes from the first element of the first row to the last element of the last row, gaps
/// included, or the address of the first element.
#[derive(Clone, Copy, Debug)]
enum Data<'a> {
    Host(&'a [u8]),
    Device(Address),
}

impl<'a> Data<'a> {
    fn slice(self, bytes: Range<usize>) -> Self {
        match self {
            Data::Host(all) => Data::Host(&all[bytes]),
            Data::Device(address) => Data::Device(address.offset(bytes.start)),
        }
    }
}

impl<'a> View<'a> {
    pub(crate) fn contiguous(dtype: DType, shape: Shape, bytes: &'a [u8]) -> Self {
        View { dtype, shape, row_stride: shape.row_len(), data: Data::Host(bytes) }
    }

    /// A contiguous view of device memory. Nothing is known of that memory here: whoever makes the view answers for it.
    pub fn on_device(dtype: DType, shape: impl Into<Shape>, address: Address) -> Self {
        let shape = shape.into();
        View { dtype, shape, row_stride: shape.row_len(), data: Data::Device(address) }
    }

    /// A contiguous view of a slice.
    ///
    /// # Errors
    /// [`Error::ByteCount`] if the slice does not hold exactly the elements of the shape.
    pub fn from_slice<T: Element>(values: &'a [T], shape: impl Into<Shape>) -> Result<Self> {
        let (shape, bytes) = (shape.into(), bytemuck::cast_slice::<T, u8>(values));
        check_byte_count(T::DTYPE, shape, bytes.len())?;
        Ok(View::contiguous(T::DTYPE, shape, bytes))
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

    /// Some of the rows.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows(self, range: Range<usize>) -> View<'a> {
        let bytes = row_bytes(self.dtype, self.shape, self.row_stride, &range);
        View { shape: with_num_rows(self.shape, range.len()), data: self.data.slice(bytes), ..self }
    }

    /// A range of the columns of a two-dimensional view.
    ///
    /// # Panics
    /// If the view is not two-dimensional or the range reaches past the last column.
    pub fn columns(self, range: Range<usize>) -> View<'a> {
        let (shape, bytes) = column_bytes(self.dtype, self.shape, self.row_stride, &range);
        View { shape, data: self.data.slice(bytes), ..self }
    }

    /// The same rows with another shape of each row, such as `[num_tokens, num_heads, head_dim]` for `[num_tokens, hidden]`.
    ///
    /// # Panics
    /// If the number of rows or the length of a row differs.
    pub fn reshape_rows(self, shape: impl Into<Shape>) -> View<'a> {
        let shape = shape.into();
        check_same_rows(self.shape, shape);
        View { shape, ..self }
    }

    /// One row.
    ///
    /// # Errors
    /// [`Error::DType`] if the elements are of another dtype, [`Error::OnDevice`] if the host cannot read them.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row<T: Element>(&self, row: usize) -> Result<&'a [T]> {
        check_dtype::<T>(self.dtype)?;
        let bytes = row_bytes(self.dtype, self.shape, self.row_stride, &(row..row + 1));
        Ok(bytemuck::cast_slice(&self.bytes()?[bytes]))
    }

    /// All elements of a contiguous view.
    ///
    /// # Errors
    /// [`Error::DType`] if they are of another dtype, [`Error::OnDevice`] if the host cannot read them.
    ///
    /// # Panics
    /// If rows are further apart than their length.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        check_dtype::<T>(self.dtype)?;
        assert!(self.is_contiguous(), "rows of {} are {} elements apart", self.shape, self.row_stride);
        Ok(bytemuck::cast_slice(self.bytes()?))
    }

    /// Whether rows follow each other without a gap.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == self.shape.row_len() || self.shape.num_rows() <= 1
    }

    /// The bytes from the first element of the first row to the last element of the last row, gaps included.
    ///
    /// # Errors
    /// [`Error::OnDevice`] if the host cannot read them.
    pub fn bytes(&self) -> Result<&'a [u8]> {
        match self.data {
            Data::Host(bytes) => Ok(bytes),
            Data::Device(_) => Err(Error::OnDevice),
        }
    }

    /// Where the first element lies on the device.
    ///
    /// # Panics
    /// If the view is of the host's memory.
    pub fn address(&self) -> Address {
        match self.data {
            Data::Device(address) => address,
            Data::Host(_) => panic!("{} {} in the host's memory has no address on a device", self.dtype, self.shape),
        }
    }

    /// Bytes of the elements, gaps between rows not counted.
    pub fn num_bytes(&self) -> usize {
        self.shape.num_elements() * self.dtype.size_bytes()
    }
}

/// A mutable window, laid out like [`View`].
#[derive(Debug)]
pub struct ViewMut<'a> {
    dtype: DType,
    shape: Shape,
    row_stride: usize,
    data: DataMut<'a>,
}

#[derive(Debug)]
enum DataMut<'a> {
    Host(&'a mut [u8]),
    Device(Address),
}

impl<'a> DataMut<'a> {
    fn slice(self, bytes: Range<usize>) -> Self {
        match self {
            DataMut::Host(all) => DataMut::Host(&mut all[bytes]),
            DataMut::Device(address) => DataMut::Device(address.offset(bytes.start)),
        }
    }
}

impl<'a> ViewMut<'a> {
    pub(crate) fn contiguous(dtype: DType, shape: Shape, bytes: &'a mut [u8]) -> Self {
        ViewMut { dtype, shape, row_stride: shape.row_len(), data: DataMut::Host(bytes) }
    }

    /// A contiguous mutable view of device memory, as [`View::on_device`].
    pub fn on_device(dtype: DType, shape: impl Into<Shape>, address: Address) -> Self {
        let shape = shape.into();
        ViewMut { dtype, shape, row_stride: shape.row_len(), data: DataMut::Device(address) }
    }

    /// A contiguous mutable view of a slice.
    ///
    /// # Errors
    /// [`Error::ByteCount`] if the slice does not hold exactly the elements of the shape.
    pub fn from_slice<T: Element>(values: &'a mut [T], shape: impl Into<Shape>) -> Result<Self> {
        let (shape, bytes) = (shape.into(), bytemuck::cast_slice_mut::<T, u8>(values));
        check_byte_count(T::DTYPE, shape, bytes.len())?;
        Ok(ViewMut::contiguous(T::DTYPE, shape, bytes))
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

    /// A shorter borrow of the same window.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        let ViewMut { dtype, shape, row_stride, ref mut data } = *self;
        let data = match data {
            DataMut::Host(bytes) => DataMut::Host(bytes),
            DataMut::Device(address) => DataMut::Device(*address),
        };
        ViewMut { dtype, shape, row_stride, data }
    }

    /// A read-only view of the same window.
    pub fn as_view(&self) -> View<'_> {
        let ViewMut { dtype, shape, row_stride, ref data } = *self;
        let data = match data {
            DataMut::Host(bytes) => Data::Host(bytes),
            DataMut::Device(address) => Data::Device(*address),
        };
        View { dtype, shape, row_stride, data }
    }

    /// Where the first element lies on the device.
    ///
    /// # Panics
    /// If the view is of the host's memory.
    pub fn address(&self) -> Address {
        self.as_view().address()
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows(self, range: Range<usize>) -> ViewMut<'a> {
        let bytes = row_bytes(self.dtype, self.shape, self.row_stride, &range);
        ViewMut { shape: with_num_rows(self.shape, range.len()), data: self.data.slice(bytes), ..self }
    }

    /// A range of the columns of a two-dimensional view.
    ///
    /// # Panics
    /// If the view is not two-dimensional or the range reaches past the last column.
    pub fn columns(self, range: Range<usize>) -> ViewMut<'a> {
        let (shape, bytes) = column_bytes(self.dtype, self.shape, self.row_stride, &range);
        ViewMut { shape, data: self.data.slice(bytes), ..self }
    }

    /// The same rows with another shape of each row.
    ///
    /// # Panics
    /// If the number of rows or the length of a row differs.
    pub fn reshape_rows(self, shape: impl Into<Shape>) -> ViewMut<'a> {
        let shape = shape.into();
        check_same_rows(self.shape, shape);
        ViewMut { shape, ..self }
    }

    /// One row, mutably.
    ///
    /// # Errors
    /// [`Error::DType`] if the elements are of another dtype, [`Error::OnDevice`] if the host cannot write them.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut<T: Element>(&mut self, row: usize) -> Result<&mut [T]> {
        check_dtype::<T>(self.dtype)?;
        let bytes = row_bytes(self.dtype, self.shape, self.row_stride, &(row..row + 1));
        Ok(bytemuck::cast_slice_mut(&mut self.reborrow().into_bytes()?[bytes]))
    }

    /// All elements of a contiguous view, mutably, for as long as the view's own borrow.
    ///
    /// # Errors
    /// [`Error::DType`] if they are of another dtype, [`Error::OnDevice`] if the host cannot write them.
    ///
    /// # Panics
    /// If rows are further apart than their length.
    pub fn into_slice<T: Element>(self) -> Result<&'a mut [T]> {
        check_dtype::<T>(self.dtype)?;
        assert!(self.as_view().is_contiguous(), "rows of {} are {} elements apart", self.shape, self.row_stride);
        Ok(bytemuck::cast_slice_mut(self.into_bytes()?))
    }

    /// All elements from the first of the first row to the last of the last row, gaps between rows included, for
    /// kernels that split the rows among threads by [`row_stride`](Self::row_stride).
    ///
    /// # Errors
    /// [`Error::DType`] if they are of another dtype, [`Error::OnDevice`] if the host cannot write them.
    pub fn into_strided_slice<T: Element>(self) -> Result<&'a mut [T]> {
        check_dtype::<T>(self.dtype)?;
        Ok(bytemuck::cast_slice_mut(self.into_bytes()?))
    }

    fn into_bytes(self) -> Result<&'a mut [u8]> {
        match self.data {
            DataMut::Host(bytes) => Ok(bytes),
            DataMut::Device(_) => Err(Error::OnDevice),
        }
    }
}

fn with_num_rows(shape: Shape, num_rows: usize) -> Shape {
    let mut dims = [1; crate::MAX_RANK];
    let rank = shape.rank().max(1);
    dims[..shape.rank()].copy_from_slice(shape.dims());
    dims[0] = num_rows;
    Shape::new(&dims[..rank])
}

/// The bytes that the rows of `range` span.
fn row_bytes(dtype: DType, shape: Shape, row_stride: usize, range: &Range<usize>) -> Range<usize> {
    assert!(range.start <= range.end && range.end <= shape.num_rows(), "rows {range:?} of {shape}");
    if range.is_empty() || shape.row_len() == 0 {
        return 0..0;
    }
    let start = range.start * row_stride;
    let end = (range.end - 1) * row_stride + shape.row_len();
    start * dtype.size_bytes()..end * dtype.size_bytes()
}

/// The shape of the columns of `range` and the bytes that they span.
fn column_bytes(dtype: DType, shape: Shape, row_stride: usize, range: &Range<usize>) -> (Shape, Range<usize>) {
    assert!(shape.rank() == 2, "columns of {shape}, which has not two dimensions");
    assert!(range.start <= range.end && range.end <= shape.dims()[1], "columns {range:?} of {shape}");
    let narrowed = Shape::new(&[shape.num_rows(), range.len()]);
    if narrowed.num_elements() == 0 {
        return (narrowed, 0..0);
    }
    let end = (shape.num_rows() - 1) * row_stride + range.end;
    (narrowed, range.start * dtype.size_bytes()..end * dtype.size_bytes())
}

fn check_same_rows(from: Shape, to: Shape) {
    assert!(from.num_rows() == to.num_rows() && from.row_len() == to.row_len(), "cannot reshape {from} to {to}");
}

fn check_dtype<T: Element>(got: DType) -> Result<()> {
    if T::DTYPE == got { Ok(()) } else { Err(Error::DType { expected: T::DTYPE, got }) }
}

fn check_byte_count(dtype: DType, shape: Shape, got: usize) -> Result<()> {
    let expected = shape.num_elements() * dtype.size_bytes();
    if got == expected { Ok(()) } else { Err(Error::ByteCount { dtype, shape, expected, got }) }
}
