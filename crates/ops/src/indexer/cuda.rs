//! [`indexer`](super::indexer()) on FP8 queries and keys, as GPUs run it, in a workspace that does not grow with the context.

use cachalot_cuda::{Gpu, Stream};
use cachalot_tensor::{View, ViewMut};

use crate::dims::Dims;
use crate::indexer_logits::LOGITS_TILE;
use crate::{
    Error, IndexerLogits, IndexerLogitsKernel, Result, TopKMerge, TopKMergeKernel, indexer_logits, top_k_merge,
};

const OP: &str = "indexer";

/// Arguments of [`indexer`].
#[derive(Debug)]
pub struct Indexer<'a> {
    /// `[num_tokens, index_n_heads, 128]`, e4m3, from [`indexer_quant`](crate::indexer_quant()), like the next two.
    pub q_codes: View<'a>,
    /// `[num_tokens, index_n_heads]`, f32.
    pub q_weights: View<'a>,
    /// `[num_blocks, 64, 132]`, bytes.
    pub cache: View<'a>,
    /// `[num_seqs + 1]`, i32, from 0 on: as in [`PagedSeqs`](crate::PagedSeqs), like the next two. Tokens behind the last
    /// sequence are padding.
    pub query_start_loc: View<'a>,
    /// `[num_seqs]`, i32.
    pub seq_lens: View<'a>,
    /// `[num_seqs, max_blocks]`, i32; entries past a sequence are not read.
    pub block_table: View<'a>,
    /// `[num_tokens]`, i32: the position of each token, as the sequences have it.
    pub positions: View<'a>,
    /// No sequence is longer: so many positions are launched for.
    pub max_seq_len: usize,
    /// `[rows, columns]`, f32, rows at multiples of 16 bytes: so many tokens at once. Either a row has `max_seq_len` columns,
    /// or `index_topk` and at least [`LOGITS_TILE`] more; the more there are, the fewer launches it takes. What is in it
    /// does not matter.
    pub workspace: ViewMut<'a>,
    /// `[num_tokens, index_topk]`, i32, contiguous; rows of padding are left alone: the chosen positions ascending, then
    /// [`NO_POSITION`](crate::NO_POSITION).
    pub out: ViewMut<'a>,
}

/// The kernels of [`indexer`] on one GPU.
#[derive(Clone, Debug)]
pub struct IndexerKernels {
    logits: IndexerLogitsKernel,
    top_k: TopKMergeKernel,
}

impl IndexerKernels {
    /// Looks them up.
    ///
    /// # Errors
    /// [`Error::Cuda`] if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(IndexerKernels { logits: IndexerLogitsKernel::new(gpu)?, top_k: TopKMergeKernel::new(gpu)? })
    }
}

/// Scores each position that a query sees, as [`indexer_logits`](crate::indexer_logits()) does, and keeps the `index_topk`
/// best, as [`indexer`](super::indexer()) does. A token's choice does not depend on other tokens or on the workspace.
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees, [`Error::Unsupported`] the dtype, size or stride that a kernel does
/// not take, or a workspace that is too small; [`Error::Cuda`]. What lies on the device is not checked.
pub fn indexer(stream: &Stream, kernels: &IndexerKernels, args: Indexer<'_>) -> Result<()> {
    let Indexer { q_codes, q_weights, cache, query_start_loc, seq_lens, block_table, .. } = args;
    let Indexer { positions, max_seq_len, mut workspace, mut out, .. } = args;
    let (num_tokens, index_topk) = (out.shape().num_rows(), out.shape().row_len());
    let (rows_at_once, columns) = (workspace.shape().num_rows(), workspace.shape().row_len());
    let mut dims = Dims::new(OP);
    let [num_seqs] = dims.bind_all("seq_lens", seq_lens.shape(), ["num_seqs"])?;
    dims.bind("seq_lens", "num_seqs + 1", num_seqs + 1)?;
    dims.bind_all("query_start_loc", query_start_loc.shape(), ["num_seqs + 1"])?;
    // The longest stretch of positions whose scores fit beside those that are carried.
    let stretch = if columns >= max_seq_len {
        max_seq_len.max(1)
    } else {
        columns.saturating_sub(index_topk) / LOGITS_TILE * LOGITS_TILE
    };
    if rows_at_once == 0 || stretch == 0 {
        let got = format!("`workspace` of {rows_at_once} rows of {columns}");
        let supported = "rows of `max_seq_len`, or of `index_topk` and 128 or more";
        return Err(Error::Unsupported { op: OP, got, supported });
    }
    for first_row in (0..num_tokens).step_by(rows_at_once) {
        let num_rows = rows_at_once.min(num_tokens - first_row);
        for first_position in (0..max_seq_len.max(1)).step_by(stretch) {
            let num_carried = index_topk.min(first_position);
            let end = num_carried + stretch.min(max_seq_len - first_position);
            // Without a sequence that is longer than what is chosen, all is chosen and nothing scored.
            if max_seq_len > index_topk {
                let logits = workspace.reborrow().rows(0..num_rows).columns(num_carried..end);
                let min_visible = index_topk + 1;
                indexer_logits(
                    stream,
                    &kernels.logits,
                    IndexerLogits {
                        q_codes,
                        q_weights,
                        cache,
                        query_start_loc,
                        seq_lens,
                        block_table,
                        first_row,
                        first_position,
                        min_visible,
                        logits,
                    },
                )?;
            }
            top_k_merge(
                stream,
                &kernels.top_k,
                TopKMerge {
                    scores: workspace.reborrow().rows(0..num_rows).columns(0..end),
                    first_row,
                    first_position,
                    positions,
                    num_tokens: query_start_loc.rows(num_seqs..num_seqs + 1),
                    out: out.reborrow(),
                },
            )?;
        }
    }
    Ok(())
}
