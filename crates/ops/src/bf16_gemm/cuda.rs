//! Launches the kernels of `kernels/bf16_gemm`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::DType;

use super::{Bf16BatchedGemm, Bf16Gemm, WeightOrder};
use crate::{Error, Result};

params! {
    /// `Bf16GemmParams` of `params.h`.
    struct Bf16GemmParams: 72 {
        x: Address = 0,
        w: Address = 8,
        out: Address = 16,
        m: u32 = 24,
        n: u32 = 28,
        k: u32 = 32,
        x_stride: u32 = 36,
        w_stride: u32 = 40,
        out_stride: u32 = 44,
        x_batch: i64 = 48,
        w_batch: i64 = 56,
        out_batch: i64 = 64,
    }
}

/// Rows and columns of out that a block computes.
const BLOCK: u32 = 128;
/// The kernel asserts the same number.
const SHARED_BYTES: u32 = 98_304;

/// The kernels of one GPU.
#[derive(Debug)]
pub struct Bf16GemmKernels {
    bf16: Kernel<Bf16GemmParams>,
    f32: Kernel<Bf16GemmParams>,
    in_out: Kernel<Bf16GemmParams>,
}

impl Bf16GemmKernels {
    /// Looks the kernels up.
    ///
    /// # Errors
    /// [`Error::Cuda`] if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Bf16GemmKernels {
            bf16: gpu.kernel("bf16_gemm/bf16_gemm", "bf16_gemm_bf16")?,
            f32: gpu.kernel("bf16_gemm/bf16_gemm", "bf16_gemm_f32")?,
            in_out: gpu.kernel("bf16_gemm/bf16_gemm", "bf16_gemm_in_out_bf16")?,
        })
    }

    pub(super) fn run(&self, stream: &Stream, args: Bf16Gemm<'_>, [m, n, k]: [usize; 3]) -> Result<()> {
        let kernel = if args.out.dtype() == DType::F32 { &self.f32 } else { &self.bf16 };
        let params = Bf16GemmParams {
            x: args.x.address(),
            w: args.weight.address(),
            out: args.out.address(),
            m: narrow(m)?,
            n: narrow(n)?,
            k: narrow(k)?,
            x_stride: narrow(args.x.row_stride())?,
            w_stride: narrow(args.weight.row_stride())?,
            out_stride: narrow(args.out.row_stride())?,
            x_batch: 0,
            w_batch: 0,
            out_batch: 0,
        };
        launch(stream, kernel, 1, params)
    }

    pub(super) fn run_batched(&self, stream: &Stream, args: Bf16BatchedGemm<'_>, [m, n, k]: [usize; 3]) -> Result<()> {
        let Bf16BatchedGemm { x, weight, weight_order, out } = args;
        let kernel = match weight_order {
            WeightOrder::OutIn => &self.bf16,
            WeightOrder::InOut => &self.in_out,
        };
        let params = Bf16GemmParams {
            x: x.address(),
            w: weight.address(),
            out: out.address(),
            m: narrow(m)?,
            n: narrow(n)?,
            k: narrow(k)?,
            x_stride: narrow(x.row_stride())?,
            w_stride: narrow(weight.shape().dims()[2])?,
            out_stride: narrow(out.row_stride())?,
            x_batch: x.shape().dims()[2] as i64,
            w_batch: weight.row_stride() as i64,
            out_batch: n as i64,
        };
        launch(stream, kernel, narrow(x.shape().dims()[1])?, params)
    }
}

fn launch(stream: &Stream, kernel: &Kernel<Bf16GemmParams>, batch: u32, params: Bf16GemmParams) -> Result<()> {
    let grid = [params.m.div_ceil(BLOCK), params.n.div_ceil(BLOCK), batch];
    Ok(stream.launch(kernel, Launch::new(grid, [256, 1, 1]).shared_bytes(SHARED_BYTES), &params)?)
}

/// The kernels count in 32 bits, and bytes of a row too.
fn narrow(size: usize) -> Result<u32> {
    let fits = u32::try_from(size).ok().filter(|&size| size < 1 << 30);
    fits.ok_or_else(|| Error::Unsupported {
        op: "bf16_gemm",
        got: format!("a size of {size}"),
        supported: "below 2^30",
    })
}
