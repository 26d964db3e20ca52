//! Logarithms of the softmax: the log-probabilities of tokens.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, Result};

/// Arguments of [`log_softmax`].
#[derive(Debug)]
pub struct LogSoftmax<'a> {
    /// `[num_rows, vocab_size]`, f32; rows may be strided.
    pub x: View<'a>,
    /// `[num_rows, vocab_size]`, f32, overwritten; rows may be strided.
    pub out: ViewMut<'a>,
}

/// Log-probabilities in nats: `out[r,i] = (x[r,i] - m) - ln Σ_j exp(x[r,j] - m)`, `m = max_j x[r,j]`.
///
/// A masked logit, `-inf`, stays `-inf`. A row with nothing else, or with NaN or `+inf`, is NaN throughout, for it has no
/// distribution.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees,
/// [`Error::Unsupported`](crate::Error::Unsupported) the argument of another dtype.
pub fn log_softmax(ctx: &Context, args: LogSoftmax<'_>) -> Result<()> {
    let mut dims = Dims::new("log_softmax");
    dims.bind_all("x", args.x.shape(), ["num_rows", "vocab_size"])?;
    dims.bind_all("out", args.out.shape(), ["num_rows", "vocab_size"])?;
    dims.f32("x", args.x.dtype())?;
    dims.f32("out", args.out.dtype())?;
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}
