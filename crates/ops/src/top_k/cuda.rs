//! Launches `kernels/top_k`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};

use super::{OP, TopK};
use crate::Result;
use crate::device_args::count;

/// Threads of a block.
const THREADS: u32 = 1024;

params! {
    /// `TopKParams` of `params.h`.
    struct TopKParams: 32 {
        scores: Address = 0,
        lengths: Address = 8,
        out: Address = 16,
        row_stride: u32 = 24,
        k: u32 = 28,
    }
}

/// The kernel of [`top_k`](super::top_k) on one GPU.
#[derive(Clone, Debug)]
pub struct TopKKernel(Kernel<TopKParams>);

impl TopKKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(TopKKernel(gpu.kernel("top_k/top_k", "top_k")?))
    }

    pub(super) fn run(&self, stream: &Stream, args: TopK<'_>) -> Result<()> {
        let TopK { scores, lengths, out } = args;
        let params = TopKParams {
            scores: scores.address(),
            lengths: lengths.address(),
            out: out.address(),
            row_stride: count(OP, "stride of scores", scores.row_stride())?,
            k: count(OP, "k", out.shape().row_len())?,
        };
        let num_rows = count(OP, "num_rows", scores.shape().num_rows())?;
        Ok(stream.launch(&self.0, Launch::new([num_rows, 1, 1], [THREADS, 1, 1]), &params)?)
    }
}
