//! Multiplication of FP8 activations with the FP8 weight of a linear layer, on tensor cores.
//!
//! The kernels and what bounds them are in `kernels/fp8_gemm`. Only GPUs multiply FP8: on other devices
//! [`linear`](crate::linear()) decodes the weight and takes activations that are not quantised.

mod cuda;
mod plan;
mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::Fp8GemmKernels;
pub use plan::{Fp8GemmPlan, Fp8GemmShape, SCALE_BLOCK};
pub use reference::reference;

use crate::dims::Dims;
use crate::{Error, Result};

/// Arguments of [`fp8_gemm`].
#[derive(Debug)]
pub struct Fp8Gemm<'a> {
    /// `[num_tokens, in_features]`, e4m3, contiguous.
    pub x: View<'a>,
    /// `[in_features / 128, num_tokens]`, f32: one scale for 128 elements of a token. Rows start a multiple of 4 elements apart.
    pub x_scale: View<'a>,
    /// `[out_features, in_features]`, e4m3, contiguous: a checkpoint's `weight`.
    pub weight: View<'a>,
    /// `[ceil(out_features / 128), in_features / 128]`, f32, contiguous: its `weight_scale_inv`.
    pub weight_scale: View<'a>,
    /// `[num_tokens, out_features]`, bf16, overwritten. Rows start a multiple of 8 elements apart.
    pub out: ViewMut<'a>,
}

/// A linear layer without bias on FP8: `out[t,o] = Σ_b x_scale[b,t] · weight_scale[o/128,b] · Σ_(i in block b) x[t,i] · weight[o,i]`.
///
/// Each block of 128 along `in_features` is summed by the tensor cores from zero; its scaled value is added in f32. How the
/// blocks are added depends on `out_features` and `in_features`, and on whether there are few tokens (see
/// [`Fp8GemmPlan::new`]): among few, a token's result does not depend on the others.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Unsupported`] what no kernel takes: an `in_features` that is no
/// multiple of 128, an `out_features` that is no multiple of 8, rows with gaps or at other distances; [`Error::Cuda`].
///
/// # Source
/// DeepSeek-V3 report, section 3.3.2; DeepSeek-V3 `inference/kernel.py`, function `fp8_gemm`.
pub fn fp8_gemm(stream: &Stream, kernels: &mut Fp8GemmKernels, args: Fp8Gemm<'_>) -> Result<()> {
    let shape = checked_shape(&args)?;
    let plan = Fp8GemmPlan::new(shape, stream.gpu().info())?;
    if shape.num_tokens == 0 || shape.out_features == 0 {
        return Ok(());
    }
    kernels.run(stream, args, shape, plan)
}

/// Checks everything but what the plan refuses.
fn checked_shape(args: &Fp8Gemm<'_>) -> Result<Fp8GemmShape> {
    let mut dims = Dims::new("fp8_gemm");
    let [num_tokens, in_features] = dims.bind_all("x", args.x.shape(), ["num_tokens", "in_features"])?;
    let [out_features, _] = dims.bind_all("weight", args.weight.shape(), ["out_features", "in_features"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "out_features"])?;
    // The checks of scales come after this one, so that an odd `in_features` is not blamed on them.
    let shape = Fp8GemmShape { num_tokens, out_features, in_features };
    dims.bind("x", "in_features / 128", in_features.div_ceil(SCALE_BLOCK))?;
    dims.bind("weight", "out_features / 128", out_features.div_ceil(SCALE_BLOCK))?;
    dims.bind_all("x_scale", args.x_scale.shape(), ["in_features / 128", "num_tokens"])?;
    dims.bind_all("weight_scale", args.weight_scale.shape(), ["out_features / 128", "in_features / 128"])?;
    for (arg, dtype) in [("x", args.x.dtype()), ("weight", args.weight.dtype())] {
        dims.dtype(arg, dtype, &[DType::F8E4M3], "F8_E4M3")?;
    }
    dims.f32("x_scale", args.x_scale.dtype())?;
    dims.f32("weight_scale", args.weight_scale.dtype())?;
    dims.dtype("out", args.out.dtype(), &[DType::BF16], "BF16")?;
    let unsupported = |got: String, supported| Err(Error::Unsupported { op: "fp8_gemm", got, supported });
    for (arg, view) in [("x", args.x), ("weight", args.weight), ("weight_scale", args.weight_scale)] {
        if !view.is_contiguous() {
            return unsupported(format!("`{arg}` with rows {} elements apart", view.row_stride()), "rows without gaps");
        }
    }
    for (arg, view, elements, supported) in [
        ("x", args.x, 1, "addresses that are multiples of 16 bytes"),
        ("weight", args.weight, 1, "addresses that are multiples of 16 bytes"),
        ("x_scale", args.x_scale, 4, "addresses and rows at multiples of 4 elements"),
        ("out", args.out.as_view(), 8, "addresses and rows at multiples of 8 elements"),
    ] {
        if !view.address().0.is_multiple_of(16) || !view.row_stride().is_multiple_of(elements) {
            let (address, stride) = (view.address().0, view.row_stride());
            return unsupported(format!("`{arg}` at {address:#x} with rows {stride} elements apart"), supported);
        }
    }
    Ok(shape)
}
