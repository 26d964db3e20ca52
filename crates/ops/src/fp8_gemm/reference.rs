//! `out[t,o] = Σ_b x_scale[b,t] · w_scale[o/128,b] · Σ_(i in block b) x[t,i] · w[o,i]`, in f64.

use cachalot_tensor::{Matrix, View};

use super::SCALE_BLOCK;
use crate::numerics::e4m3_to_f32;
use crate::{Error, Result};

/// The definition of [`fp8_gemm`](mod@super) on host memory, exact up to one rounding of f64 sums.
///
/// # Shapes
/// - `x`: `[num_tokens, in_features]`, e4m3
/// - `x_scale`: `[in_features / 128, num_tokens or more]`, f32
/// - `weight`: `[out_features, in_features]`, e4m3 in blocks of 128 x 128
///
/// # Errors
/// [`Error::Unsupported`] for a weight of another kind, [`Error::Tensor`] for views of another dtype.
pub fn reference(x: View<'_>, x_scale: View<'_>, weight: &Matrix) -> Result<Vec<f64>> {
    let tensor_error = |source| Error::Tensor { op: "fp8_gemm", source };
    let Some(scales) = weight.scales().filter(|scales| scales.block == [SCALE_BLOCK; 2]) else {
        let got = "a weight without scales of 128 x 128".to_owned();
        return Err(Error::Unsupported { op: "fp8_gemm", got, supported: "FP8 in blocks of 128 x 128" });
    };
    let (w_scale, values) = (scales.scales.view(), weight.values().view());
    let decode = |view: View<'_>, row: usize| -> Result<Vec<f64>> {
        let codes = view.row(row).map_err(tensor_error)?;
        Ok(codes.iter().map(|&code| f64::from(e4m3_to_f32(code))).collect())
    };
    let num_tokens = x.shape().num_rows();
    let tokens = (0..num_tokens).map(|token| decode(x, token)).collect::<Result<Vec<_>>>()?;
    let mut out = vec![0.0; num_tokens * weight.num_rows()];
    for feature in 0..weight.num_rows() {
        let w = decode(values, feature)?;
        let w_scale = w_scale.row::<f32>(feature / SCALE_BLOCK).map_err(tensor_error)?;
        for (token, x) in tokens.iter().enumerate() {
            let mut sum = 0.0;
            for (block, (x, w)) in x.chunks(SCALE_BLOCK).zip(w.chunks(SCALE_BLOCK)).enumerate() {
                let x_scale = x_scale.row::<f32>(block).map_err(tensor_error)?[token];
                let product: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                sum += product * f64::from(x_scale) * f64::from(w_scale[block]);
            }
            out[token * weight.num_rows() + feature] = sum;
        }
    }
    Ok(out)
}
