//! The gated activation of the MLPs.

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

pub(crate) use cpu::silu;

/// Arguments of [`swiglu`].
#[derive(Debug)]
pub struct SwiGlu<'a> {
    /// `[num_tokens, intermediate_size]`, f32; rows may be strided.
    pub gate: View<'a>,
    /// `[num_tokens, intermediate_size]`, f32; rows may be strided.
    pub up: View<'a>,
    /// `[num_tokens, intermediate_size]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// Gates one projection with another: `out = silu(gate) * up`, `silu(g) = g / (1 + exp(-g))`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees,
/// [`Error::Unsupported`](crate::Error::Unsupported) the argument of another dtype.
///
/// # Source
/// DeepSeek-V3 `inference/model.py`, class `MLP`; the function is from arXiv 2002.05202.
pub fn swiglu(ctx: &Context, args: SwiGlu<'_>) -> Result<()> {
    let mut dims = Dims::new("swiglu");
    dims.bind_all("gate", args.gate.shape(), ["num_tokens", "intermediate_size"])?;
    dims.bind_all("up", args.up.shape(), ["num_tokens", "intermediate_size"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "intermediate_size"])?;
    dims.f32("gate", args.gate.dtype())?;
    dims.f32("up", args.up.dtype())?;
    dims.f32("out", args.out.dtype())?;
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}
