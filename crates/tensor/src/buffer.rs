//! Owned, mutable memory.

use bytemuck::{Pod, Zeroable};

use crate::{Address, DType, Shape, View, ViewMut};

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
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Host(AlignedBytes),
    Device(Address),
}

impl Buffer {
    /// A buffer of zeros in the host's memory. The operating system hands its pages out when they are first touched.
    pub fn zeros(dtype: DType, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        let bytes = AlignedBytes::zeroed(shape.num_elements() * dtype.size_bytes());
        Buffer { dtype, shape, storage: Storage::Host(bytes) }
    }

    /// A buffer in a device's memory, which whoever makes it has set aside: it is not freed here.
    pub fn on_device(dtype: DType, shape: impl Into<Shape>, address: Address) -> Self {
        Buffer { dtype, shape: shape.into(), storage: Storage::Device(address) }
    }

    /// Its bytes, for whoever wants the operating system to hand its pages out ahead of their use; none of a device's memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Host(bytes) => bytes.as_mut(),
            Storage::Device(_) => &mut [],
        }
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

    /// A view of the whole buffer.
    pub fn view(&self) -> View<'_> {
        match &self.storage {
            Storage::Host(bytes) => View::contiguous(self.dtype, self.shape, bytes.as_ref()),
            Storage::Device(address) => View::on_device(self.dtype, self.shape, *address),
        }
    }

    /// A mutable view of the whole buffer.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        self.workspace(self.dtype, self.shape)
    }

    /// The first elements, as another dtype and shape: one workspace serves several operations in turn.
    ///
    /// # Panics
    /// If they take more bytes than the buffer has.
    pub fn workspace(&mut self, dtype: DType, shape: impl Into<Shape>) -> ViewMut<'_> {
        let shape = shape.into();
        let wanted = shape.num_elements() * dtype.size_bytes();
        assert!(wanted <= self.num_bytes(), "{dtype} {shape} takes {wanted} of {} bytes", self.num_bytes());
        match &mut self.storage {
            Storage::Host(bytes) => ViewMut::contiguous(dtype, shape, &mut bytes.as_mut()[..wanted]),
            Storage::Device(address) => ViewMut::on_device(dtype, shape, *address),
        }
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

impl<'a> From<&'a Buffer> for View<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        buffer.view()
    }
}

impl<'a> From<&'a mut Buffer> for ViewMut<'a> {
    fn from(buffer: &'a mut Buffer) -> Self {
        buffer.view_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn windows_begin_where_their_first_element_lies() {
        let mut buffer = Buffer::on_device(DType::BF16, [4, 10], Address(1024));
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
    fn the_host_does_not_reach_into_a_device() {
        let mut buffer = Buffer::on_device(DType::F32, [4, 10], Address(1024));
        assert_eq!(buffer.view().row::<f32>(1), Err(Error::OnDevice));
        assert_eq!(buffer.view().as_slice::<f32>(), Err(Error::OnDevice));
        assert_eq!(buffer.view_mut().row_mut::<f32>(1), Err(Error::OnDevice));
        assert_eq!(buffer.view_mut().into_strided_slice::<f32>(), Err(Error::OnDevice));
        assert_eq!(buffer.bytes_mut(), [0u8; 0]);
    }

    #[test]
    #[should_panic(expected = "F32 [2] in the host's memory has no address on a device")]
    fn the_hosts_memory_has_no_address_on_a_device() {
        Buffer::zeros(DType::F32, [2]).view().address();
    }

    #[test]
    #[should_panic(expected = "F32 [3, 7] takes 84 of 80 bytes")]
    fn a_workspace_is_not_longer_than_its_buffer() {
        Buffer::zeros(DType::BF16, [4, 10]).workspace(DType::F32, [3, 7]);
    }
}
