//! Launches `kernels/indexer_quant`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};

use super::{INDEX_HEAD_DIM, IndexerQuant, OP};
use crate::Result;
use crate::device_args::count;

/// Threads of a block, and the elements that one of them holds.
const THREADS: usize = 128;
const VECTOR: usize = 8;

params! {
    /// `IndexerQuantParams` of `params.h`.
    struct IndexerQuantParams: 128 {
        q: Address = 0,
        key: Address = 8,
        norm_weight: Address = 16,
        norm_bias: Address = 24,
        weights: Address = 32,
        inv_freq: Address = 40,
        positions: Address = 48,
        slot_mapping: Address = 56,
        q_codes: Address = 64,
        q_weights: Address = 72,
        cache: Address = 80,
        q_stride: i64 = 88,
        key_stride: i64 = 96,
        weights_stride: u32 = 104,
        num_heads: u32 = 108,
        weight_scale: f32 = 112,
        attention_factor: f32 = 116,
        eps: f32 = 120,
        scale_format: u32 = 124,
    }
}

/// The kernel of [`indexer_quant`](super::indexer_quant) on one GPU.
#[derive(Clone, Debug)]
pub struct IndexerQuantKernel(Kernel<IndexerQuantParams>);

impl IndexerQuantKernel {
    /// Looks it up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it was not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(IndexerQuantKernel(gpu.kernel("indexer_quant/indexer_quant", "indexer_quant")?))
    }

    pub(super) fn run(
        &self,
        stream: &Stream,
        [num_tokens, num_heads]: [usize; 2],
        args: IndexerQuant<'_>,
    ) -> Result<()> {
        let params = IndexerQuantParams {
            q: args.q.address(),
            key: args.key.address(),
            norm_weight: args.norm_weight.address(),
            norm_bias: args.norm_bias.address(),
            weights: args.weights.address(),
            inv_freq: args.inv_freq.address(),
            positions: args.positions.address(),
            slot_mapping: args.slot_mapping.address(),
            q_codes: args.q_codes.address(),
            q_weights: args.q_weights.address(),
            cache: args.cache.address(),
            q_stride: args.q.row_stride() as i64,
            key_stride: args.key.row_stride() as i64,
            weights_stride: count(OP, "stride of weights", args.weights.row_stride())?,
            num_heads: count(OP, "index_n_heads", num_heads)?,
            weight_scale: args.weight_scale,
            attention_factor: args.attention_factor,
            eps: args.eps,
            scale_format: args.scale_format.code(),
        };
        let query_blocks = (num_heads * INDEX_HEAD_DIM).div_ceil(THREADS * VECTOR);
        let grid = [count(OP, "num_tokens", num_tokens)?, count(OP, "index_n_heads", 1 + query_blocks)?, 1];
        Ok(stream.launch(&self.0, Launch::new(grid, [THREADS as u32, 1, 1]), &params)?)
    }
}
