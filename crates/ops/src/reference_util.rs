//! Views and matrices as candle tensors, for the reference implementations. Formats are decoded here one element at a
//! time, so that the reference shares no kernel with what is held against it.

use cachalot_tensor::{DType, Element, Error as TensorError, F8E4M3, Matrix, View, ViewMut};
use candle_core::{Device, Tensor};
use half::{bf16, f16};

use crate::numerics::e4m3_to_f32;
use crate::{Error, Result};

/// A float view as an f32 tensor of the same shape.
pub(crate) fn tensor(op: &'static str, view: &View<'_>) -> Result<Tensor> {
    let values = match view.dtype() {
        DType::F32 => values(view, |value: f32| value),
        DType::F16 => values(view, f16::to_f32),
        DType::BF16 => values(view, bf16::to_f32),
        other => return Err(Error::Unsupported { op, got: other.to_string(), supported: "F32, F16, BF16" }),
    };
    let values = values.map_err(|source| Error::Tensor { op, source })?;
    Ok(Tensor::from_vec(values, view.shape().dims(), &Device::Cpu)?)
}

/// A matrix as an f32 tensor. For FP8: `w[r,c] = f8[r,c] * scale[r / block_rows, c / block_cols]`.
pub(crate) fn dequantise(op: &'static str, matrix: &Matrix) -> Result<Tensor> {
    let Some(scales) = matrix.scales() else {
        return tensor(op, &matrix.values().view());
    };
    let in_tensor = |source| Error::Tensor { op, source };
    let mut weights = values(&matrix.values().view(), |value: F8E4M3| e4m3_to_f32(value)).map_err(in_tensor)?;
    let scale = scales.scales.as_slice::<f32>().map_err(in_tensor)?;
    let [block_rows, block_cols] = scales.block;
    let num_cols = matrix.num_cols();
    for (index, weight) in weights.iter_mut().enumerate() {
        let (row, col) = (index / num_cols, index % num_cols);
        *weight *= scale[row / block_rows * num_cols.div_ceil(block_cols) + col / block_cols];
    }
    Ok(Tensor::from_vec(weights, (matrix.num_rows(), num_cols), &Device::Cpu)?)
}

/// Copies a tensor of f32 into a view of the same shape.
pub(crate) fn write(op: &'static str, from: &Tensor, mut to: ViewMut<'_>) -> Result<()> {
    let values = from.flatten_all()?.to_vec1::<f32>()?;
    for (row, values) in values.chunks_exact(to.shape().row_len().max(1)).enumerate() {
        to.row_mut(row).map_err(|source| Error::Tensor { op, source })?.copy_from_slice(values);
    }
    Ok(())
}

fn values<T: Element>(view: &View<'_>, decode: impl Fn(T) -> f32) -> Result<Vec<f32>, TensorError> {
    let mut values = Vec::with_capacity(view.shape().num_elements());
    for row in 0..view.shape().num_rows() {
        values.extend(view.row::<T>(row)?.iter().map(|&value| decode(value)));
    }
    Ok(values)
}
