//! Layer normalisation: the norm of the indexer's keys.

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

/// Arguments of [`layer_norm`].
#[derive(Debug)]
pub struct LayerNorm<'a> {
    /// `[num_tokens, dim]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[dim]`, f32, f16 or bf16.
    pub weight: View<'a>,
    /// `[dim]`, f32, f16 or bf16.
    pub bias: View<'a>,
    /// Added to the variance; 1e-6.
    pub eps: f32,
    /// `[num_tokens, dim]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// Normalises rows to mean 0 and variance 1: with `c[t,i] = x[t,i] - mean_i(x[t,i])`,
/// `out[t,i] = weight[i] * c[t,i] / sqrt(mean_i(c[t,i]^2) + eps) + bias[i]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees,
/// [`Error::Unsupported`](crate::Error::Unsupported) the argument of another dtype.
///
/// # Source
/// DeepSeek-V3.2-Exp `inference/model.py`, class `LayerNorm`, used for `indexer.k_norm` alone.
pub fn layer_norm(ctx: &Context, args: LayerNorm<'_>) -> Result<()> {
    let mut dims = Dims::new("layer_norm");
    dims.bind_all("x", args.x.shape(), ["num_tokens", "dim"])?;
    dims.bind_all("weight", args.weight.shape(), ["dim"])?;
    dims.bind_all("bias", args.bias.shape(), ["dim"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "dim"])?;
    dims.f32("x", args.x.dtype())?;
    dims.float("weight", args.weight.dtype())?;
    dims.float("bias", args.bias.dtype())?;
    dims.f32("out", args.out.dtype())?;
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}
