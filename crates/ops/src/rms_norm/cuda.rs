//! [`rms_norm`](super::rms_norm) on bf16 activations, as GPUs run it: launches `kernels/rms_norm`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::{DType, View, ViewMut};

use crate::Result;
use crate::act_quant::Quantised;
use crate::device_args::{aligned, count, multiple};
use crate::dims::Dims;

const OP: &str = "rms_norm";
/// Elements that a thread loads at once, and the longest row.
const VECTOR: usize = 8;
const MAX_DIM: usize = 16_384;
const WARP: usize = 32;
const MAX_THREADS: usize = 1024;

params! {
    /// `RmsNormParams` of `params.h`.
    struct RmsNormParams: 96 {
        x: Address = 0,
        weight: Address = 8,
        residual: Address = 16,
        out: Address = 24,
        out_fp8: Address = 32,
        out_scales: Address = 40,
        x_stride: i64 = 48,
        residual_stride: i64 = 56,
        out_stride: i64 = 64,
        out_fp8_stride: i64 = 72,
        dim: u32 = 80,
        scale_stride: u32 = 84,
        eps: f32 = 88,
        scale_format: u32 = 92,
    }
}

/// Arguments of [`rms_norm`]. Rows may be strided, by a multiple of 8.
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// `[num_tokens, dim]`, bf16; `dim` is a multiple of 8 and at most 16384.
    pub x: View<'a>,
    /// `[dim]`, bf16 or f32.
    pub weight: View<'a>,
    /// Added to the mean square.
    pub eps: f32,
    /// `[num_tokens, dim]`, bf16: if given, it becomes `bf16(x + residual)`, which is normalised.
    pub residual: Option<ViewMut<'a>>,
    /// `[num_tokens, dim]`, bf16, overwritten.
    pub out: Option<ViewMut<'a>>,
    /// What [`act_quant`](crate::act_quant()) makes of `out`, to the bit; `dim` is a multiple of 128 then.
    pub quantised: Option<Quantised<'a>>,
}

/// The kernels of [`rms_norm`] on one GPU.
#[derive(Clone, Debug)]
pub struct RmsNormKernels {
    bf16_weight: Kernel<RmsNormParams>,
    f32_weight: Kernel<RmsNormParams>,
}

impl RmsNormKernels {
    /// Looks them up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let kernel = |name| gpu.kernel("rms_norm/rms_norm", name);
        Ok(RmsNormKernels { bf16_weight: kernel("rms_norm_bf16")?, f32_weight: kernel("rms_norm_f32")? })
    }
}

/// Normalises rows by their root mean square, in f32: `out[t,i] = weight[i] * r[t,i] / sqrt(mean_i(r[t,i]^2) + eps)`, rounded to
/// bf16 once. `r` is `x`, or the new residual.
///
/// The order of a row's sum depends on `dim` alone.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees, [`Error::Unsupported`](crate::Error::Unsupported)
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`](crate::Error::Cuda).
pub fn rms_norm(stream: &Stream, kernels: &RmsNormKernels, args: RmsNorm<'_>) -> Result<()> {
    let RmsNorm { x, weight, eps, residual, out, quantised } = args;
    let mut dims = Dims::new(OP);
    let [num_tokens, dim] = dims.bind_all("x", x.shape(), ["num_tokens", "dim"])?;
    dims.bind_all("weight", weight.shape(), ["dim"])?;
    dims.dtype("x", x.dtype(), &[DType::BF16], "BF16")?;
    dims.dtype("weight", weight.dtype(), &[DType::BF16, DType::F32], "BF16, F32")?;
    multiple(OP, "dim", dim, VECTOR, MAX_DIM, "multiples of 8 up to 16384")?;
    aligned(OP, "x", x, 16)?;
    aligned(OP, "weight", weight, 16)?;
    for (arg, view) in [("residual", &residual), ("out", &out)] {
        if let Some(view) = view {
            dims.bind_all(arg, view.shape(), ["num_tokens", "dim"])?;
            dims.dtype(arg, view.dtype(), &[DType::BF16], "BF16")?;
            aligned(OP, arg, view.as_view(), 16)?;
        }
    }
    if let Some(quantised) = &quantised {
        quantised.check(OP, &mut dims, "dim", dim)?;
    }
    if num_tokens == 0 || dim == 0 {
        return Ok(());
    }

    let address = |view: &Option<ViewMut<'_>>| view.as_ref().map_or(Address::NULL, ViewMut::address);
    let stride = |view: &Option<ViewMut<'_>>| view.as_ref().map_or(0, ViewMut::row_stride) as i64;
    let mut params = RmsNormParams {
        x: x.address(),
        weight: weight.address(),
        residual: address(&residual),
        out: address(&out),
        out_fp8: Address::NULL,
        out_scales: Address::NULL,
        x_stride: x.row_stride() as i64,
        residual_stride: stride(&residual),
        out_stride: stride(&out),
        out_fp8_stride: 0,
        dim: count(OP, "dim", dim)?,
        scale_stride: 0,
        eps,
        scale_format: 0,
    };
    if let Some(Quantised { values, scales, scale_format }) = quantised {
        params.out_fp8 = values.address();
        params.out_fp8_stride = values.row_stride() as i64;
        params.out_scales = scales.address();
        params.scale_stride = count(OP, "stride of scales", scales.row_stride())?;
        params.scale_format = scale_format.code();
    }
    let threads = dim.div_ceil(VECTOR).next_multiple_of(WARP).min(MAX_THREADS);
    let launch = Launch::new([count(OP, "num_tokens", num_tokens)?, 1, 1], [threads as u32, 1, 1]);
    let kernel = if weight.dtype() == DType::F32 { &kernels.f32_weight } else { &kernels.bf16_weight };
    Ok(stream.launch(kernel, launch, &params)?)
}
