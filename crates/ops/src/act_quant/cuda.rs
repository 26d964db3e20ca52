//! Launches `kernels/act_quant`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};

use super::{ActQuant, OP};
use crate::Result;
use crate::device_args::count;

/// Threads of a block, and the elements that one of them holds.
const THREADS: usize = 256;
const VECTOR: usize = 8;

params! {
    /// `ActQuantParams` of `params.h`.
    struct ActQuantParams: 48 {
        x: Address = 0,
        out: Address = 8,
        scales: Address = 16,
        x_stride: i64 = 24,
        out_stride: u32 = 32,
        k: u32 = 36,
        scale_stride: u32 = 40,
        scale_format: u32 = 44,
    }
}

/// The kernel of [`act_quant`](super::act_quant) on one GPU.
#[derive(Clone, Debug)]
pub struct ActQuantKernel(Kernel<ActQuantParams>);

impl ActQuantKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(ActQuantKernel(gpu.kernel("act_quant/act_quant", "act_quant")?))
    }

    pub(super) fn run(&self, stream: &Stream, args: ActQuant<'_>) -> Result<()> {
        let ActQuant { x, out } = args;
        let [num_tokens, k] = [x.shape().dims()[0], x.shape().dims()[1]];
        let params = ActQuantParams {
            x: x.address(),
            out: out.values.address(),
            scales: out.scales.address(),
            x_stride: x.row_stride() as i64,
            out_stride: count(OP, "stride of values", out.values.row_stride())?,
            k: count(OP, "k", k)?,
            scale_stride: count(OP, "stride of scales", out.scales.row_stride())?,
            scale_format: out.scale_format.code(),
        };
        let pieces = count(OP, "k", k.div_ceil(THREADS * VECTOR))?;
        let launch = Launch::new([count(OP, "num_tokens", num_tokens)?, pieces, 1], [THREADS as u32, 1, 1]);
        Ok(stream.launch(&self.0, launch, &params)?)
    }
}
