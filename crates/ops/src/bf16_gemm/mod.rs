//! Multiplication of bf16 activations with the bf16 weight of a linear layer, on tensor cores.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::{DeviceView, DeviceViewMut, Stream};
use cachalot_tensor::DType;

pub use cuda::Bf16GemmKernels;

use crate::dims::Dims;
use crate::{Error, Result};

/// Arguments of [`bf16_gemm`].
#[derive(Debug)]
pub struct Bf16Gemm<'a> {
    /// `[num_tokens, in_features]`, bf16. Rows start a multiple of 8 elements apart.
    pub x: DeviceView<'a>,
    /// `[out_features, in_features]`, bf16. Rows start a multiple of 8 elements apart.
    pub weight: DeviceView<'a>,
    /// `[num_tokens, out_features]`, bf16 or f32, overwritten; rows may be strided.
    pub out: DeviceViewMut<'a>,
}

/// A linear layer without bias: `out[t,o] = Σ_i x[t,i] * weight[o,i]`, summed in f32 in steps of 16 along `in_features`.
///
/// A token's result does not depend on the others. The kernel and what bounds it are in `kernels/bf16_gemm`.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Unsupported`] an `in_features` that is no multiple of 8, an
/// address or a distance of rows that is none of 16 bytes; [`Error::Cuda`].
pub fn bf16_gemm(stream: &Stream, kernels: &Bf16GemmKernels, args: Bf16Gemm<'_>) -> Result<()> {
    let mut dims = Dims::new("bf16_gemm");
    let [num_tokens, in_features] = dims.bind_all("x", args.x.shape(), ["num_tokens", "in_features"])?;
    let [out_features, _] = dims.bind_all("weight", args.weight.shape(), ["out_features", "in_features"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "out_features"])?;
    dims.dtype("x", args.x.dtype(), &[DType::BF16], "BF16")?;
    dims.dtype("weight", args.weight.dtype(), &[DType::BF16], "BF16")?;
    dims.dtype("out", args.out.dtype(), &[DType::BF16, DType::F32], "BF16, F32")?;
    let unsupported = |got: String, supported| Err(Error::Unsupported { op: "bf16_gemm", got, supported });
    if !in_features.is_multiple_of(8) {
        return unsupported(format!("`in_features` of {in_features}"), "multiples of 8, 16 bytes");
    }
    for (arg, view) in [("x", args.x), ("weight", args.weight)] {
        if !view.address().0.is_multiple_of(16) || !view.row_stride().is_multiple_of(8) {
            let (address, stride) = (view.address().0, view.row_stride());
            let got = format!("`{arg}` at {address:#x} with rows {stride} elements apart");
            return unsupported(got, "addresses and rows at multiples of 8 elements");
        }
    }
    if !args.out.address().0.is_multiple_of(8) {
        return unsupported(format!("`out` at {:#x}", args.out.address().0), "addresses that are multiples of 8 bytes");
    }
    if num_tokens == 0 || out_features == 0 {
        return Ok(());
    }
    kernels.run(stream, args, [num_tokens, out_features, in_features])
}
