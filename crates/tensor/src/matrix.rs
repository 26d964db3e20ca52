//! Weights of linear layers.

use crate::{DType, Error, Result, Tensor};

/// The scales of an FP8 weight: the value of element `(r, c)` is `values[r][c] * scales[r / block[0]][c / block[1]]`.
///
/// Checkpoints call the tensor `weight_scale_inv`; it multiplies all the same.
#[derive(Clone, Debug)]
pub struct BlockScales {
    /// `[ceil(rows / block[0]), ceil(cols / block[1])]`, f32.
    pub scales: Tensor,
    /// Rows and columns of one block, `weight_block_size` in config.json.
    pub block: [usize; 2],
}

/// The weight of a linear layer, `[out_features, in_features]`, as the checkpoint stores it.
#[derive(Clone, Debug)]
pub struct Matrix {
    values: Tensor,
    scales: Option<BlockScales>,
}

impl Matrix {
    /// A matrix of values, with block scales if they are FP8.
    ///
    /// # Errors
    /// [`Error::NotAMatrix`], [`Error::Scales`] if the scales have the wrong shape, [`Error::DType`] if they are not f32.
    pub fn new(values: Tensor, scales: Option<BlockScales>) -> Result<Self> {
        let &[rows, cols] = values.shape().dims() else {
            return Err(Error::NotAMatrix(values.shape()));
        };
        if let Some(BlockScales { scales, block }) = &scales {
            let expected = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
            if scales.shape().dims() != expected {
                return Err(Error::Scales { weight: [rows, cols], block: *block, expected, got: scales.shape() });
            }
            if scales.dtype() != DType::F32 {
                return Err(Error::DType { expected: DType::F32, got: scales.dtype() });
            }
        }
        Ok(Matrix { values, scales })
    }

    /// Rows: `out_features`.
    pub fn num_rows(&self) -> usize {
        self.values.shape().dims()[0]
    }

    /// Columns: `in_features`.
    pub fn num_cols(&self) -> usize {
        self.values.shape().dims()[1]
    }

    /// The stored values.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The block scales of an FP8 matrix.
    pub fn scales(&self) -> Option<&BlockScales> {
        self.scales.as_ref()
    }
}
