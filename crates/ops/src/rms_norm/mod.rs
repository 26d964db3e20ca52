//! Root-mean-square normalisation, with the residual addition before it.

mod cpu;
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, Result};

/// Arguments of [`rms_norm`].
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// `[num_tokens, dim]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[dim]`, f32, f16 or bf16.
    pub weight: View<'a>,
    /// Added to the mean square; `rms_norm_eps`, 1e-6 in every release.
    pub eps: f32,
    /// `[num_tokens, dim]`, f32: if given, `x` is added to it first and the sum is normalised.
    pub residual: Option<ViewMut<'a>>,
    /// `[num_tokens, dim]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// Normalises rows by their root mean square: `out[t,i] = weight[i] * r[t,i] / sqrt(mean_i(r[t,i]^2) + eps)`.
///
/// `r` is `x`, or the new `residual += x`. Nothing is rounded between the sum and the norm.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees,
/// [`Error::Unsupported`](crate::Error::Unsupported) the argument of another dtype.
///
/// # Source
/// DeepSeek-V3.2-Exp `inference/model.py`, class `RMSNorm`.
pub fn rms_norm(ctx: &Context, args: RmsNorm<'_>) -> Result<()> {
    let mut dims = Dims::new("rms_norm");
    dims.bind_all("x", args.x.shape(), ["num_tokens", "dim"])?;
    dims.bind_all("weight", args.weight.shape(), ["dim"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "dim"])?;
    dims.f32("x", args.x.dtype())?;
    dims.float("weight", args.weight.dtype())?;
    dims.f32("out", args.out.dtype())?;
    if let Some(residual) = &args.residual {
        dims.bind_all("residual", residual.shape(), ["num_tokens", "dim"])?;
        dims.f32("residual", residual.dtype())?;
    }
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}
