//! Launches `kernels/indexer_logits`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};

use super::{IndexerLogits, LOGITS_TILE, OP};
use crate::Result;
use crate::device_args::count;

/// Threads and rows of a block.
const THREADS: u32 = 128;
const ROWS: usize = 32;

params! {
    /// `IndexerLogitsParams` of `params.h`.
    struct IndexerLogitsParams: 96 {
        q: Address = 0,
        weights: Address = 8,
        cache: Address = 16,
        query_start_loc: Address = 24,
        seq_lens: Address = 32,
        block_table: Address = 40,
        logits: Address = 48,
        logits_stride: i64 = 56,
        block_table_stride: u32 = 64,
        num_seqs: u32 = 68,
        num_heads: u32 = 72,
        first_row: u32 = 76,
        num_rows: u32 = 80,
        first_position: u32 = 84,
        num_positions: u32 = 88,
        min_visible: u32 = 92,
    }
}

/// The kernel of [`indexer_logits`](super::indexer_logits) on one GPU.
#[derive(Clone, Debug)]
pub struct IndexerLogitsKernel(Kernel<IndexerLogitsParams>);

impl IndexerLogitsKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(IndexerLogitsKernel(gpu.kernel("indexer_logits/indexer_logits", "indexer_logits")?))
    }

    pub(super) fn run(&self, stream: &Stream, num_heads: usize, args: IndexerLogits<'_>) -> Result<()> {
        let [num_rows, num_positions] = [args.logits.shape().num_rows(), args.logits.shape().row_len()];
        let num_seqs = args.seq_lens.shape().num_rows();
        let params = IndexerLogitsParams {
            q: args.q_codes.address(),
            weights: args.q_weights.address(),
            cache: args.cache.address(),
            query_start_loc: args.query_start_loc.address(),
            seq_lens: args.seq_lens.address(),
            block_table: args.block_table.address(),
            logits: args.logits.address(),
            logits_stride: args.logits.row_stride() as i64,
            block_table_stride: count(OP, "stride of block_table", args.block_table.row_stride())?,
            num_seqs: count(OP, "num_seqs", num_seqs)?,
            num_heads: count(OP, "index_n_heads", num_heads)?,
            first_row: count(OP, "first_row", args.first_row)?,
            num_rows: count(OP, "num_rows", num_rows)?,
            first_position: count(OP, "first_position", args.first_position)?,
            num_positions: count(OP, "num_positions", num_positions)?,
            min_visible: count(OP, "min_visible", args.min_visible)?,
        };
        // Pairs of a sequence and some of the rows: at most one more for each sequence after the first.
        let pairs = num_rows.div_ceil(ROWS) + num_seqs - 1;
        let grid = [count(OP, "num_positions", num_positions.div_ceil(LOGITS_TILE))?, count(OP, "num_rows", pairs)?, 1];
        Ok(stream.launch(&self.0, Launch::new(grid, [THREADS, 1, 1]), &params)?)
    }
}
