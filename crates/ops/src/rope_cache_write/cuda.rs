//! Launches `kernels/rope_cache_write`.

use cachalot_cuda::{Address, Gpu, Kernel, Launch, Stream, params};
use cachalot_tensor::DType;

use super::{KeyPlace, OP, RopeCacheWrite};
use crate::device_args::count;
use crate::{Result, RopeLayout};

/// Threads of a block, and the pairs that one of them rotates.
const THREADS: usize = 128;
const PIECE: usize = 8;

params! {
    /// `RopeCacheWriteParams` of `params.h`.
    struct RopeCacheWriteParams: 112 {
        q: Address = 0,
        latent: Address = 8,
        key: Address = 16,
        cache: Address = 24,
        positions: Address = 32,
        slot_mapping: Address = 40,
        inv_freq: Address = 48,
        q_stride: i64 = 56,
        latent_stride: i64 = 64,
        key_stride: i64 = 72,
        num_heads: u32 = 80,
        q_head_stride: u32 = 84,
        num_pairs: u32 = 88,
        latent_dim: u32 = 92,
        latent_column: u32 = 96,
        key_column: u32 = 100,
        attention_factor: f32 = 104,
        scale_format: u32 = 108,
    }
}

/// The kernels of [`rope_cache_write`](super::rope_cache_write) on one GPU.
#[derive(Clone, Debug)]
pub struct RopeCacheWriteKernels {
    interleaved_bf16: Kernel<RopeCacheWriteParams>,
    interleaved_fp8: Kernel<RopeCacheWriteParams>,
    half_split_bf16: Kernel<RopeCacheWriteParams>,
}

impl RopeCacheWriteKernels {
    /// Looks them up.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if they were not compiled for this GPU.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let kernel = |name| gpu.kernel("rope_cache_write/rope_cache_write", name);
        Ok(RopeCacheWriteKernels {
            interleaved_bf16: kernel("rope_cache_write_interleaved_bf16")?,
            interleaved_fp8: kernel("rope_cache_write_interleaved_fp8")?,
            half_split_bf16: kernel("rope_cache_write_half_split_bf16")?,
        })
    }

    pub(super) fn run(&self, stream: &Stream, args: RopeCacheWrite<'_>) -> Result<()> {
        let RopeCacheWrite { latent, key, cache, .. } = &args;
        let [num_tokens, latent_dim] = [latent.shape().num_rows(), latent.shape().row_len()];
        let rotary_dim = key.shape().row_len();
        let num_pairs = rotary_dim / 2;
        let (latent_column, key_column) = match args.key_place {
            KeyPlace::AfterLatent => (0, latent_dim),
            KeyPlace::BeforeLatent => (rotary_dim, 0),
        };
        let (q, q_stride, num_heads, head_dim) = match &args.q {
            Some(q) => {
                let rotated = q.address().0 + (args.rotary_start * q.dtype().size_bytes()) as u64;
                (Address(rotated), q.row_stride(), q.shape().dims()[1], q.shape().dims()[2])
            }
            None => (Address::NULL, 0, 0, 0),
        };
        let params = RopeCacheWriteParams {
            q,
            latent: latent.address(),
            key: key.address(),
            cache: cache.address(),
            positions: args.positions.address(),
            slot_mapping: args.slot_mapping.address(),
            inv_freq: args.inv_freq.address(),
            q_stride: q_stride as i64,
            latent_stride: latent.row_stride() as i64,
            key_stride: key.row_stride() as i64,
            num_heads: count(OP, "num_heads", num_heads)?,
            q_head_stride: count(OP, "head_dim", head_dim)?,
            num_pairs: count(OP, "rotary_dim", num_pairs)?,
            latent_dim: count(OP, "latent_dim", latent_dim)?,
            latent_column: count(OP, "rotary_dim", latent_column)?,
            key_column: count(OP, "latent_dim", key_column)?,
            attention_factor: args.attention_factor,
            scale_format: args.scale_format.code(),
        };
        let kernel = match (args.layout, cache.dtype()) {
            (RopeLayout::HalfSplit, _) => &self.half_split_bf16,
            (RopeLayout::Interleaved, DType::U8) => &self.interleaved_fp8,
            (RopeLayout::Interleaved, _) => &self.interleaved_bf16,
        };
        let query_blocks = (num_heads * (num_pairs / PIECE)).div_ceil(THREADS);
        let grid = [count(OP, "num_tokens", num_tokens)?, count(OP, "num_heads", 1 + query_blocks)?, 1];
        Ok(stream.launch(kernel, Launch::new(grid, [THREADS as u32, 1, 1]), &params)?)
    }
}
