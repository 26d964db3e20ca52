//! What the tests of launchers share: the GPU or its emulator, and matrices in the middle of wider ones.

use std::fmt::Debug;

use cachalot_cuda::{Gpu, Stream};
use cachalot_tensor::{Buffer, DType, Element, Shape, View, ViewMut};
use half::bf16;

/// The number of the GPU to test on, counted from 0; without it tests run on the emulator.
const VARIABLE: &str = "CACHALOT_TEST_GPU";
const ARENA_BYTES: u64 = 64 << 20;

/// The GPU that a test runs on, or the emulator.
pub(crate) struct TestGpu {
    pub(crate) gpu: Gpu,
    pub(crate) stream: Stream,
}

impl TestGpu {
    /// The GPU that `CACHALOT_TEST_GPU` names, or the emulator if it is not set.
    pub(crate) fn new() -> Self {
        match std::env::var_os(VARIABLE) {
            Some(_) => TestGpu::real(),
            None => TestGpu::emulated(),
        }
    }

    /// The GPU that `CACHALOT_TEST_GPU` names.
    pub(crate) fn real() -> Self {
        let number = std::env::var(VARIABLE).unwrap_or_else(|_| panic!("{VARIABLE} must be the number of a GPU"));
        let ordinal = number.parse().unwrap_or_else(|_| panic!("{VARIABLE}={number}: not the number of a GPU"));
        TestGpu::with(Gpu::open(ordinal, ARENA_BYTES).unwrap_or_else(|error| panic!("{VARIABLE}={number}: {error}")))
    }

    /// The emulator, whatever `CACHALOT_TEST_GPU` says.
    pub(crate) fn emulated() -> Self {
        TestGpu::with(Gpu::emulated(ARENA_BYTES).expect("the emulator"))
    }

    fn with(gpu: Gpu) -> Self {
        let stream = gpu.stream().expect("a stream");
        TestGpu { gpu, stream }
    }

    /// A buffer of the given values.
    pub(crate) fn filled<T: Element>(&self, shape: impl Into<Shape>, values: &[T]) -> Buffer {
        let mut buffer = self.unwritten(T::DTYPE, shape);
        self.stream.upload(&mut buffer, values).expect("one value per element");
        buffer
    }

    /// A buffer that must not be read before it is written.
    pub(crate) fn unwritten(&self, dtype: DType, shape: impl Into<Shape>) -> Buffer {
        self.gpu.alloc(dtype, shape).expect("room in the arena")
    }

    /// The values of a buffer.
    pub(crate) fn read<T: Element>(&self, buffer: &Buffer) -> Vec<T> {
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
    buffer: Buffer,
    num_cols: usize,
    mark: T,
}

impl<T> Strided<T> {
    pub(crate) fn view(&self) -> View<'_> {
        self.buffer.view().columns(0..self.num_cols)
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
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
