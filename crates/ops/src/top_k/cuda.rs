//! Launches `kernels/top_k`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};

use super::{MERGE_OP, OP, TopK, TopKMerge};
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

params! {
    /// `TopKMergeParams` of `params.h`.
    struct TopKMergeParams: 56 {
        scores: Address = 0,
        positions: Address = 8,
        num_tokens: Address = 16,
        out: Address = 24,
        row_stride: i64 = 32,
        k: u32 = 40,
        first_row: u32 = 44,
        first_position: u32 = 48,
        num_positions: u32 = 52,
    }
}

/// The kernel of [`top_k_merge`](super::top_k_merge) on one GPU.
#[derive(Clone, Debug)]
pub struct TopKMergeKernel(Kernel<TopKMergeParams>);

impl TopKMergeKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(TopKMergeKernel(gpu.kernel("top_k/top_k", "top_k_merge")?))
    }

    pub(super) fn run(&self, stream: &Stream, num_positions: usize, args: TopKMerge<'_>) -> Result<()> {
        let TopKMerge { scores, first_row, first_position, positions, num_tokens, out } = args;
        let params = TopKMergeParams {
            scores: scores.address(),
            positions: positions.address(),
            num_tokens: num_tokens.address(),
            out: out.address(),
            row_stride: scores.row_stride() as i64,
            k: count(MERGE_OP, "k", out.shape().row_len())?,
            first_row: count(MERGE_OP, "first_row", first_row)?,
            first_position: count(MERGE_OP, "first_position", first_position)?,
            num_positions: count(MERGE_OP, "num_positions", num_positions)?,
        };
        let num_rows = count(MERGE_OP, "num_rows", scores.shape().num_rows())?;
        Ok(stream.launch(&self.0, Launch::new([num_rows, 1, 1], [THREADS, 1, 1]), &params)?)
    }
}
