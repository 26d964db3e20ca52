//! Launches `kernels/sample`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};

use super::{OP, Sample};
use crate::Result;
use crate::device_args::count;

/// Threads of a block.
const THREADS: u32 = 1024;

params! {
    /// `SampleParams` of `params.h`.
    struct SampleParams: 56 {
        logits: Address = 0,
        temperatures: Address = 8,
        uniforms: Address = 16,
        tokens: Address = 24,
        logprobs: Address = 32,
        maxima: Address = 40,
        row_stride: u32 = 48,
        vocab_size: u32 = 52,
    }
}

/// The kernel of [`sample`](super::sample) on one GPU.
#[derive(Clone, Debug)]
pub struct SampleKernel(Kernel<SampleParams>);

impl SampleKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(SampleKernel(gpu.kernel("sample/sample", "sample")?))
    }

    pub(super) fn run(&self, stream: &Stream, args: Sample<'_>) -> Result<()> {
        let params = SampleParams {
            logits: args.logits.address(),
            temperatures: args.temperatures.address(),
            uniforms: args.uniforms.address(),
            tokens: args.tokens.address(),
            logprobs: args.logprobs.address(),
            maxima: args.maxima.address(),
            row_stride: count(OP, "stride of logits", args.logits.row_stride())?,
            vocab_size: count(OP, "vocab_size", args.logits.shape().row_len())?,
        };
        let num_seqs = count(OP, "num_seqs", args.logits.shape().num_rows())?;
        Ok(stream.launch(&self.0, Launch::new([num_seqs, 1, 1], [THREADS, 1, 1]), &params)?)
    }
}
