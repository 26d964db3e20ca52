//! [`layer_norm`](super::layer_norm) to bf16, as GPUs run it: launches `kernels/layer_norm`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::{DType, View, ViewMut};

use crate::Result;
use crate::device_args::{aligned, count, multiple};
use crate::dims::Dims;

const OP: &str = "layer_norm";
/// Threads of a block, and the rows that it does.
const THREADS: u32 = 128;
const ROWS: usize = 4;

params! {
    /// `LayerNormParams` of `params.h`.
    struct LayerNormParams: 64 {
        x: Address = 0,
        weight: Address = 8,
        bias: Address = 16,
        out: Address = 24,
        x_stride: i64 = 32,
        out_stride: i64 = 40,
        num_tokens: u32 = 48,
        dim: u32 = 52,
        eps: f32 = 56,
        unused: u32 = 60,
    }
}

/// Arguments of [`layer_norm`]. Rows may be strided, by a multiple of 8.
#[derive(Debug)]
pub struct LayerNorm<'a> {
    /// `[num_tokens, dim]`, bf16 or f32; `dim` is a multiple of 8 and at most 1024.
    pub x: View<'a>,
    /// `[dim]`, f32.
    pub weight: View<'a>,
    /// `[dim]`, f32.
    pub bias: View<'a>,
    /// Added to the variance; 1e-6.
    pub eps: f32,
    /// `[num_tokens, dim]`, bf16, overwritten.
    pub out: ViewMut<'a>,
}

/// The kernels of [`layer_norm`] on one GPU.
#[derive(Clone, Debug)]
pub struct LayerNormKernels {
    bf16: Kernel<LayerNormParams>,
    f32: Kernel<LayerNormParams>,
}

impl LayerNormKernels {
    /// Looks them up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let kernel = |name| gpu.kernel("layer_norm/layer_norm", name);
        Ok(LayerNormKernels { bf16: kernel("layer_norm_bf16")?, f32: kernel("layer_norm_f32")? })
    }
}

/// Normalises rows to mean 0 and variance 1, in f32: with `c[t,i] = x[t,i] - mean_i(x[t,i])`,
/// `out[t,i] = weight[i] * c[t,i] / sqrt(mean_i(c[t,i]^2) + eps) + bias[i]`, rounded to bf16 once.
///
/// The order of a row's sums depends on `dim` alone.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees, [`Error::Unsupported`](crate::Error::Unsupported)
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`](crate::Error::Cuda).
pub fn layer_norm(stream: &Stream, kernels: &LayerNormKernels, args: LayerNorm<'_>) -> Result<()> {
    let LayerNorm { x, weight, bias, eps, out } = args;
    let mut dims = Dims::new(OP);
    let [num_tokens, dim] = dims.bind_all("x", x.shape(), ["num_tokens", "dim"])?;
    dims.bind_all("out", out.shape(), ["num_tokens", "dim"])?;
    dims.dtype("x", x.dtype(), &[DType::BF16, DType::F32], "BF16, F32")?;
    dims.dtype("out", out.dtype(), &[DType::BF16], "BF16")?;
    for (arg, vector) in [("weight", weight), ("bias", bias)] {
        dims.bind_all(arg, vector.shape(), ["dim"])?;
        dims.f32(arg, vector.dtype())?;
        aligned(OP, arg, vector, 16)?;
    }
    multiple(OP, "dim", dim, 8, 1024, "multiples of 8 up to 1024")?;
    aligned(OP, "x", x, 16)?;
    aligned(OP, "out", out.as_view(), 16)?;
    if num_tokens == 0 || dim == 0 {
        return Ok(());
    }
    let params = LayerNormParams {
        x: x.address(),
        weight: weight.address(),
        bias: bias.address(),
        out: out.address(),
        x_stride: x.row_stride() as i64,
        out_stride: out.row_stride() as i64,
        num_tokens: count(OP, "num_tokens", num_tokens)?,
        dim: count(OP, "dim", dim)?,
        eps,
        unused: 0,
    };
    let kernel = if x.dtype() == DType::F32 { &kernels.f32 } else { &kernels.bf16 };
    let grid = [count(OP, "num_tokens", num_tokens.div_ceil(ROWS))?, 1, 1];
    Ok(stream.launch(kernel, Launch::new(grid, [THREADS, 1, 1]), &params)?)
}
