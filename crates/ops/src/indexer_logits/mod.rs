//! Scores of the [`indexer`](crate::indexer()) from FP8 queries and keys, as GPUs run it: a stretch of positions at a time.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
pub(crate) mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::IndexerLogitsKernel;

use crate::device_args::{aligned, contiguous, multiple};
use crate::dims::Dims;
use crate::indexer_quant::{INDEX_HEAD_DIM, check_cache};
use crate::{Error, Result};

const OP: &str = "indexer_logits";

/// Positions that are scored at once: stretches begin at multiples of it.
pub const LOGITS_TILE: usize = 128;

/// The most heads.
const MAX_HEADS: usize = 64;

/// Arguments of [`indexer_logits`].
#[derive(Debug)]
pub struct IndexerLogits<'a> {
    /// `[num_tokens, index_n_heads, 128]`, e4m3, contiguous; up to 64 heads.
    pub q_codes: View<'a>,
    /// `[num_tokens, index_n_heads]`, f32, contiguous, the queries' scales in it.
    pub q_weights: View<'a>,
    /// `[num_blocks, 64, 132]`, bytes: the cache of [`indexer_quant`](crate::indexer_quant()).
    pub cache: View<'a>,
    /// `[num_seqs + 1]`, i32: as in [`PagedSeqs`](crate::PagedSeqs), like the next two. Tokens of no sequence are padding.
    pub query_start_loc: View<'a>,
    /// `[num_seqs]`, i32.
    pub seq_lens: View<'a>,
    /// `[num_seqs, max_blocks]`, i32; rows may be strided. Entries past a sequence are not read.
    pub block_table: View<'a>,
    /// The token of the first row of `logits`.
    pub first_row: usize,
    /// The position of its first column, a multiple of [`LOGITS_TILE`].
    pub first_position: usize,
    /// Rows of tokens that see fewer positions are left alone.
    pub min_visible: usize,
    /// `[num_rows, num_positions]`, f32; rows may be strided. Overwritten where a token sees the position.
    pub logits: ViewMut<'a>,
}

/// Scores positions of a stretch for tokens of a range:
/// `logits[t - first_row, s - first_position] = scale_s · Σ_h q_weights[t,h] · max(q_codes[t,h,:]·codes_s, 0)` for `s` up to
/// the position of `t`, which is `seq_lens[i] - (query_start_loc[i + 1] - t)` in sequence `i`. NaN stays NaN.
///
/// The order of a logit's additions depends on nothing but the number of heads.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Range`] rows past the last token, [`Error::Unsupported`] the
/// dtype, size or stride that the kernel does not take; [`Error::Cuda`]. What lies on the device is not checked.
///
/// # Source
/// DeepSeek-V3.2-Exp report, equation 1; `inference/kernel.py`, `fp8_index_kernel`.
pub fn indexer_logits(stream: &Stream, kernel: &IndexerLogitsKernel, args: IndexerLogits<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    dims.bind("supported", "index_head_dim", INDEX_HEAD_DIM)?;
    let q_dims = ["num_tokens", "index_n_heads", "index_head_dim"];
    let [num_tokens, num_heads, _] = dims.bind_all("q_codes", args.q_codes.shape(), q_dims)?;
    dims.bind_all("q_weights", args.q_weights.shape(), ["num_tokens", "index_n_heads"])?;
    check_cache(&mut dims, OP, args.cache)?;
    let [num_seqs] = dims.bind_all("seq_lens", args.seq_lens.shape(), ["num_seqs"])?;
    dims.bind("seq_lens", "num_seqs + 1", num_seqs + 1)?;
    dims.bind_all("query_start_loc", args.query_start_loc.shape(), ["num_seqs + 1"])?;
    dims.bind_all("block_table", args.block_table.shape(), ["num_seqs", "max_blocks"])?;
    let [num_rows, num_positions] = dims.bind_all("logits", args.logits.shape(), ["num_rows", "num_positions"])?;
    dims.dtype("q_codes", args.q_codes.dtype(), &[DType::F8E4M3], "F8_E4M3")?;
    dims.f32("q_weights", args.q_weights.dtype())?;
    dims.f32("logits", args.logits.dtype())?;
    for (arg, view) in
        [("query_start_loc", args.query_start_loc), ("seq_lens", args.seq_lens), ("block_table", args.block_table)]
    {
        dims.dtype(arg, view.dtype(), &[DType::I32], "I32")?;
    }
    multiple(OP, "index_n_heads", num_heads, 1, MAX_HEADS, "at most 64")?;
    multiple(OP, "first_position", args.first_position, LOGITS_TILE, i32::MAX as usize, "multiples of 128")?;
    contiguous(OP, "q_codes", args.q_codes)?;
    contiguous(OP, "q_weights", args.q_weights)?;
    aligned(OP, "q_codes", args.q_codes, 16)?;
    let (got, limit) = (args.first_row + num_rows, num_tokens + 1);
    if got >= limit {
        return Err(Error::Range { op: OP, arg: "first_row + num_rows", index: 0, got, limit });
    }
    if num_rows == 0 || num_positions == 0 || num_seqs == 0 {
        return Ok(());
    }
    kernel.run(stream, num_heads, args)
}
