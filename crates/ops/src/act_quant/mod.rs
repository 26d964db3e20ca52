//! Quantising activations for the FP8 matrix products.
//!
//! Only GPUs multiply FP8: on other devices [`linear`](crate::linear) takes activations as they are.

mod cuda;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::ActQuantKernel;

use crate::Result;
use crate::device_args::{aligned, multiple};
use crate::dims::Dims;

const OP: &str = "act_quant";

/// Elements that share a scale.
pub const SCALE_GROUP: usize = 128;

/// How scales are rounded. What a checkpoint was trained with is `quantization_config.scale_fmt` in its config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// `max|x| / 448` as it is: V3 and R1.
    F32,
    /// The next power of two from there up: V3.1 and V3.2.
    Ue8m0,
}

impl ScaleFormat {
    /// `scale_format` in the kernels' parameters.
    pub(crate) fn code(self) -> u32 {
        match self {
            ScaleFormat::F32 => 0,
            ScaleFormat::Ue8m0 => 1,
        }
    }
}

/// Where FP8 activations go.
#[derive(Debug)]
pub struct Quantised<'a> {
    /// `[num_tokens, k]`, e4m3, overwritten; rows may be strided by a multiple of 8.
    pub values: ViewMut<'a>,
    /// `[k / 128, num_tokens]`, f32, overwritten; rows may be strided.
    pub scales: ViewMut<'a>,
    /// Rounding of the scales.
    pub scale_format: ScaleFormat,
}

impl Quantised<'_> {
    /// Checks everything against the other arguments of an operation whose last dimension is `k`, and `k` itself.
    pub(crate) fn check(&self, op: &'static str, dims: &mut Dims, k_name: &'static str, k: usize) -> Result<()> {
        dims.bind_all("values", self.values.shape(), ["num_tokens", k_name])?;
        multiple(op, k_name, k, SCALE_GROUP, u32::MAX as usize, "multiples of 128")?;
        dims.bind("values", "k / 128", k / SCALE_GROUP)?;
        dims.bind_all("scales", self.scales.shape(), ["k / 128", "num_tokens"])?;
        dims.dtype("values", self.values.dtype(), &[DType::F8E4M3], "F8_E4M3")?;
        dims.f32("scales", self.scales.dtype())?;
        aligned(op, "values", self.values.as_view(), 8)
    }
}

/// Arguments of [`act_quant`].
#[derive(Debug)]
pub struct ActQuant<'a> {
    /// `[num_tokens, k]`, bf16; rows may be strided by a multiple of 8.
    pub x: View<'a>,
    /// The result.
    pub out: Quantised<'a>,
}

/// Quantises activations to e4m3 with one scale per token and 128 channels.
///
/// For each group: `s = max(max|x|, 1e-4) / 448`, rounded as [`ScaleFormat`] says, and `values = e4m3(x / s)`, to nearest, ties
/// to even. A group of zeros has codes 0. NaN becomes the code NaN and does not count for the scale; an infinity becomes NaN,
/// and its group's finite values 0.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees, [`Error::Unsupported`](crate::Error::Unsupported)
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`](crate::Error::Cuda).
///
/// # Source
/// DeepSeek-V3 report, section 3.3.2; DeepSeek-V3.2-Exp `inference/kernel.py`, `act_quant_kernel`.
pub fn act_quant(stream: &Stream, kernel: &ActQuantKernel, args: ActQuant<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    let [num_tokens, k] = dims.bind_all("x", args.x.shape(), ["num_tokens", "k"])?;
    dims.dtype("x", args.x.dtype(), &[DType::BF16], "BF16")?;
    args.out.check(OP, &mut dims, "k", k)?;
    aligned(OP, "x", args.x, 16)?;
    if num_tokens == 0 || k == 0 {
        return Ok(());
    }
    kernel.run(stream, args)
}
