//! What the tests of every operation share: the devices, and memory whose unused part is NaN.

use std::num::NonZeroUsize;

use cachalot_tensor::{Buffer, DType, View, ViewMut};

use crate::{Context, Device};

/// Every implementation; the Cpu alone and with more threads than there is work for some of them.
pub(crate) fn contexts() -> Vec<Context> {
    [(Device::Reference, 1), (Device::Cpu, 1), (Device::Cpu, 3)]
        .map(|(device, num_threads)| context(device, num_threads))
        .into()
}

/// A device with some threads.
pub(crate) fn context(device: Device, num_threads: usize) -> Context {
    Context::new(device, NonZeroUsize::new(num_threads)).expect("threads")
}

/// Elements before and after each row of a [`Strided`].
const GAP: usize = 3;

/// `[num_rows, num_cols]` of f32 in the middle of longer rows that are NaN elsewhere.
pub(crate) struct Strided {
    buffer: Buffer,
    num_cols: usize,
}

impl Strided {
    /// A matrix of the given values.
    pub(crate) fn new(values: &[f32], [num_rows, num_cols]: [usize; 2]) -> Self {
        let mut strided = Strided::nan([num_rows, num_cols]);
        for (row, values) in values.chunks_exact(num_cols.max(1)).enumerate() {
            strided.view_mut().row_mut(row).expect("f32").copy_from_slice(values);
        }
        strided
    }

    /// A matrix of NaN, to be overwritten.
    pub(crate) fn nan([num_rows, num_cols]: [usize; 2]) -> Self {
        let mut buffer = Buffer::zeros(DType::F32, [num_rows, GAP + num_cols + GAP]);
        buffer.view_mut().into_slice::<f32>().expect("f32").fill(f32::NAN);
        Strided { buffer, num_cols }
    }

    /// The matrix.
    pub(crate) fn view(&self) -> View<'_> {
        self.buffer.view().columns(GAP..GAP + self.num_cols)
    }

    /// The matrix, mutably.
    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        self.buffer.view_mut().columns(GAP..GAP + self.num_cols)
    }

    /// The values, after a check that nothing was written beside them.
    pub(crate) fn into_values(self) -> Vec<f32> {
        let mut values = Vec::new();
        for row in 0..self.buffer.shape().num_rows() {
            let row = self.buffer.view().row::<f32>(row).expect("f32");
            let (before, rest) = row.split_at(GAP);
            let (row, after) = rest.split_at(self.num_cols);
            assert!(before.iter().chain(after).all(|value| value.is_nan()), "written outside of the output's columns");
            values.extend(row);
        }
        values
    }
}

/// `x` as f64.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

/// `x` rounded to f32.
pub(crate) fn narrow(x: Vec<f64>) -> Vec<f32> {
    x.into_iter().map(|x| x as f32).collect()
}
