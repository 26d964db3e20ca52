//! What the tests of launchers share: the emulator, and matrices in the middle of wider ones.

use std::fmt::Debug;

use cachalot_cuda::{DeviceBuffer, DeviceView, DeviceViewMut, Gpu, Stream};
use cachalot_tensor::{DType, Element, Shape};
use half::bf16;

/// An emulated GPU.
pub(crate) struct Emulated {
    pub(crate) gpu: Gpu,
    pub(crate) stream: Stream,
}

impl Emulated {
    pub(crate) fn new() -> Self {
        let gpu = Gpu::emulated(64 << 20).expect("the emulator");
        let stream = gpu.stream().expect("a stream");
        Emulated { gpu, stream }
    }

    /// A buffer of the given values.
    pub(crate) fn filled<T: Element>(&self, shape: impl Into<Shape>, values: &[T]) -> DeviceBuffer {
        let mut buffer = self.unwritten(T::DTYPE, shape);
        self.stream.upload(&mut buffer, values).expect("one value per element");
        buffer
    }

    /// A buffer that must not be read before it is written.
    pub(crate) fn unwritten(&self, dtype: DType, shape: impl Into<Shape>) -> DeviceBuffer {
        self.gpu.alloc(dtype, shape).expect("room in the arena")
    }

    /// The values of a buffer.
    pub(crate) fn read<T: Element>(&self, buffer: &DeviceBuffer) -> Vec<T> {
        self.stream.to_vec(buffer).expect("values that were written")
    }

    /// A matrix with `gap` columns of `mark` on its right.
    pub(crate) fn strided<T: Element>(
        &self,
        [num_rows, num_cols]: [usize; 2],
        gap: usize,
        values: &[T],
        mark: T,
    ) -> Strided<T> {
        assert_eq!(values.len(), num_rows * num_cols);
        let mut wide = vec![mark; num_rows * (num_cols + gap)];
        for (row, wide) in wide.chunks_mut(num_cols + gap).enumerate() {
            wide[..num_cols].copy_from_slice(&values[row * num_cols..][..num_cols]);
        }
        Strided { buffer: self.filled([num_rows, num_cols + gap], &wide), num_cols, mark }
    }

    /// The values of a matrix, after a check that nothing was written beside them.
    #[track_caller]
    pub(crate) fn read_strided<T: Element + PartialEq + Debug>(&self, strided: &Strided<T>) -> Vec<T> {
        let mut values = Vec::new();
        for row in self.read::<T>(&strided.buffer).chunks(strided.buffer.shape().row_len().max(1)) {
            let (row, gap) = row.split_at(strided.num_cols);
            // By bits: the mark may be NaN.
            assert!(gap.iter().all(|value| same_bits(value, &strided.mark)), "written beside the columns: {gap:?}");
            values.extend(row);
        }
        values
    }
}

fn same_bits<T: Element>(a: &T, b: &T) -> bool {
    bytemuck::bytes_of(a) == bytemuck::bytes_of(b)
}

/// A matrix in the left part of a wider one.
pub(crate) struct Strided<T> {
    buffer: DeviceBuffer,
    num_cols: usize,
    mark: T,
}

impl<T> Strided<T> {
    pub(crate) fn view(&self) -> DeviceView<'_> {
        self.buffer.view().columns(0..self.num_cols)
    }

    pub(crate) fn view_mut(&mut self) -> DeviceViewMut<'_> {
        self.buffer.view_mut().columns(0..self.num_cols)
    }
}

/// Rounds to bf16.
pub(crate) fn bf16s(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

/// The values of bf16.
pub(crate) fn f32s(values: &[bf16]) -> Vec<f32> {
    values.iter().copied().map(bf16::to_f32).collect()
}
