//! Queries and keys of the [`indexer`](crate::indexer()) in FP8, the keys in their paged cache, as GPUs have them.

mod cuda;
#[cfg(all(test, feature = "cuda"))]
pub(crate) mod reference;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use cachalot_cuda::Stream;
use cachalot_tensor::{DType, View, ViewMut};

pub use cuda::IndexerQuantKernel;

use crate::device_args::{aligned, contiguous};
use crate::dims::Dims;
use crate::{Result, ScaleFormat};

const OP: &str = "indexer_quant";

/// Elements of a query and a key.
pub const INDEX_HEAD_DIM: usize = 128;

/// Tokens of a block of the cache of keys.
pub const INDEX_BLOCK_SIZE: usize = 64;

/// Bytes of the cache per token. A block is planar: the codes of its 64 keys, then their 64 scales.
pub const INDEX_KEY_BYTES: usize = INDEX_HEAD_DIM + 4;

/// Half of the rotated elements.
const NUM_PAIRS: usize = 32;

/// Arguments of [`indexer_quant`].
#[derive(Debug)]
pub struct IndexerQuant<'a> {
    /// `[num_tokens, index_n_heads, 128]`, bf16: the output of `wq_b`; rows may be strided by a multiple of 8.
    pub q: View<'a>,
    /// `[num_tokens, 128]`, bf16: the output of `wk`; rows may be strided by a multiple of 8.
    pub key: View<'a>,
    /// `[128]`, f32: `k_norm.weight`.
    pub norm_weight: View<'a>,
    /// `[128]`, f32: `k_norm.bias`.
    pub norm_bias: View<'a>,
    /// Added to the variance; 1e-6.
    pub eps: f32,
    /// `[num_tokens, index_n_heads]`, f32: the output of `weights_proj`; may be negative; rows may be strided.
    pub weights: View<'a>,
    /// Factor on the weights: `index_n_heads^-0.5 * index_head_dim^-0.5`.
    pub weight_scale: f32,
    /// `[num_tokens]`, i32, position of each token in its sequence.
    pub positions: View<'a>,
    /// `[num_tokens]`, i32: `block * 64 + offset` of each token, no slot twice; a negative one is a padding token's, of which
    /// nothing else is read and nothing is written.
    pub slot_mapping: View<'a>,
    /// `[32]`, f32, radians per position; see [`yarn_inv_freq`](crate::rope::yarn_inv_freq).
    pub inv_freq: View<'a>,
    /// Factor on cos and sin.
    pub attention_factor: f32,
    /// Rounding of the scales.
    pub scale_format: ScaleFormat,
    /// `[num_tokens, index_n_heads, 128]`, e4m3, contiguous, overwritten.
    pub q_codes: ViewMut<'a>,
    /// `[num_tokens, index_n_heads]`, f32, contiguous, overwritten.
    pub q_weights: ViewMut<'a>,
    /// `[num_blocks, 64, 132]`, bytes, contiguous. Each block is planar: 64 keys of 128 e4m3, then 64 scales, f32. Other
    /// slots keep their content.
    pub cache: ViewMut<'a>,
}

/// Rotates and quantises queries and keys, and writes the keys into the cache.
///
/// The key is layer-normed, as [`layer_norm`](crate::layer_norm()) has it. Then of both the first 64 elements are rotated,
/// half-split, as [`rope`](crate::rope()) has it; `z` becomes `128^-0.5 · H z` with `H[i,j] = (-1)^popcount(i & j)`, which does
/// not change products of queries and keys; and the vector is quantised as one group of [`act_quant`](crate::act_quant()).
/// Values are rounded to bf16 after each step. `q_weights = weights · weight_scale · scale of the query`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees, [`Error::Unsupported`](crate::Error::Unsupported)
/// the dtype, size or stride that the kernel does not take; [`Error::Cuda`](crate::Error::Cuda). Slots and positions lie on
/// the device and are not checked.
///
/// # Source
/// DeepSeek-V3.2-Exp `inference/model.py`, class `Indexer`, with the half-split rotation of its later version; the cache:
/// DeepGEMM, `fp8_paged_mqa_logits`.
pub fn indexer_quant(stream: &Stream, kernel: &IndexerQuantKernel, args: IndexerQuant<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    dims.bind("supported", "index_head_dim", INDEX_HEAD_DIM)?;
    dims.bind("supported", "rotary_dim / 2", NUM_PAIRS)?;
    let q_dims = ["num_tokens", "index_n_heads", "index_head_dim"];
    let [num_tokens, num_heads, _] = dims.bind_all("q", args.q.shape(), q_dims)?;
    dims.bind_all("key", args.key.shape(), ["num_tokens", "index_head_dim"])?;
    dims.bind_all("norm_weight", args.norm_weight.shape(), ["index_head_dim"])?;
    dims.bind_all("norm_bias", args.norm_bias.shape(), ["index_head_dim"])?;
    dims.bind_all("weights", args.weights.shape(), ["num_tokens", "index_n_heads"])?;
    dims.bind_all("positions", args.positions.shape(), ["num_tokens"])?;
    dims.bind_all("slot_mapping", args.slot_mapping.shape(), ["num_tokens"])?;
    dims.bind_all("inv_freq", args.inv_freq.shape(), ["rotary_dim / 2"])?;
    dims.bind_all("q_codes", args.q_codes.shape(), q_dims)?;
    dims.bind_all("q_weights", args.q_weights.shape(), ["num_tokens", "index_n_heads"])?;
    check_cache(&mut dims, OP, args.cache.as_view())?;
    for (arg, view) in [("q", args.q), ("key", args.key)] {
        dims.dtype(arg, view.dtype(), &[DType::BF16], "BF16")?;
        aligned(OP, arg, view, 16)?;
    }
    for (arg, view) in [
        ("norm_weight", args.norm_weight),
        ("norm_bias", args.norm_bias),
        ("weights", args.weights),
        ("inv_freq", args.inv_freq),
        ("q_weights", args.q_weights.as_view()),
    ] {
        dims.f32(arg, view.dtype())?;
    }
    for (arg, view) in [("positions", args.positions), ("slot_mapping", args.slot_mapping)] {
        dims.dtype(arg, view.dtype(), &[DType::I32], "I32")?;
    }
    dims.dtype("q_codes", args.q_codes.dtype(), &[DType::F8E4M3], "F8_E4M3")?;
    contiguous(OP, "q_codes", args.q_codes.as_view())?;
    contiguous(OP, "q_weights", args.q_weights.as_view())?;
    aligned(OP, "q_codes", args.q_codes.as_view(), 16)?;
    if num_tokens == 0 {
        return Ok(());
    }
    kernel.run(stream, [num_tokens, num_heads], args)
}

/// Checks the cache of keys.
pub(crate) fn check_cache(dims: &mut Dims, op: &'static str, cache: View<'_>) -> Result<()> {
    dims.bind("supported", "block_size", INDEX_BLOCK_SIZE)?;
    dims.bind("supported", "key_bytes", INDEX_KEY_BYTES)?;
    dims.bind_all("cache", cache.shape(), ["num_blocks", "block_size", "key_bytes"])?;
    dims.dtype("cache", cache.dtype(), &[DType::U8], "U8")?;
    contiguous(op, "cache", cache)?;
    aligned(op, "cache", cache, 16)
}
