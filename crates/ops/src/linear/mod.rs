//! Multiplication with the weight of a linear layer.

pub(crate) mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{Matrix, View, ViewMut};

use crate::dims::Dims;
use crate::numerics::Rows;
use crate::{Context, Device, Result};

/// Arguments of [`linear`].
#[derive(Debug)]
pub struct Linear<'a> {
    /// `[num_tokens, in_features]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[out_features, in_features]`: f32, f16, bf16, or FP8 with block scales.
    pub weight: &'a Matrix,
    /// `[num_tokens, out_features]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// A linear layer without bias: `out[t,o] = Σ_i x[t,i] * w[o,i]`.
///
/// For FP8 `w[o,i] = f8[o,i] * scale[o / block_rows, i / block_cols]`. Activations are not quantised and sums are f32. The
/// order of a sum depends on `in_features` and the width of the weight's blocks, so a token's result does not depend on
/// the other tokens or on the number of threads.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees,
/// [`Error::Unsupported`](crate::Error::Unsupported) the argument of another dtype.
pub fn linear(ctx: &Context, args: Linear<'_>) -> Result<()> {
    let mut dims = Dims::new("linear");
    dims.bind_all("x", args.x.shape(), ["num_tokens", "in_features"])?;
    dims.bind_all("weight", args.weight.values().shape(), ["out_features", "in_features"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "out_features"])?;
    dims.f32("x", args.x.dtype())?;
    dims.f32("out", args.out.dtype())?;
    let weight = Rows::of_matrix("linear", args.weight)?;
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args.x, weight, args.out);
            Ok(())
        }
    }
}
