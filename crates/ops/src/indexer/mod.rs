//! The lightning indexer of DeepSeek Sparse Attention: which positions each query attends to.
//!
//! One set of positions per token, shared by all heads of the attention. A query that sees no more than `index_topk`
//! positions gets them all, without a score being computed, which is why V3.2 equals dense MLA on short sequences.
//!
//! Published implementations rotate `q` and `k` by a Hadamard matrix and then quantise both to FP8. The rotation is
//! orthogonal and cancels exactly in `q·k`; it only lowers the error of that quantisation. On the Cpu neither happens: scores are
//! f32 from the keys as cached, so selections differ from an FP8 indexer's only where scores lie within its noise. GPUs do both,
//! in [`indexer_quant`](crate::indexer_quant()), and choose in [`cuda`].

pub(crate) mod cpu;
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;

use cachalot_tensor::{DType, View, ViewMut};

use crate::dims::Dims;
use crate::{Context, Device, PagedSeqs, Result};

const OP: &str = "indexer";

/// Padding of [`Indexer::out`] and of `Mla::topk_indices`: no position.
pub const NO_POSITION: i32 = -1;

/// Arguments of [`indexer`].
#[derive(Debug)]
pub struct Indexer<'a> {
    /// `[num_tokens, index_n_heads, index_head_dim]`, f32, rotated; rows may be strided.
    pub q: View<'a>,
    /// `[num_tokens, index_n_heads]`, f32: the output of `weights_proj`, as it is; may be negative.
    pub weights: View<'a>,
    /// `[num_blocks, block_size, index_head_dim]`, f32 or bf16: normed and rotated keys. Rows past a sequence's end are
    /// never read.
    pub key_cache: View<'a>,
    /// The sequences of the step.
    pub seqs: PagedSeqs<'a>,
    /// Factor on the weights: `index_n_heads^-0.5 * index_head_dim^-0.5`.
    pub scale: f32,
    /// `[num_tokens, index_topk]`, i32; the rows of `seqs` are overwritten, the others left alone: the chosen positions
    /// ascending, then [`NO_POSITION`].
    pub out: ViewMut<'a>,
}

/// Scores each position that a query sees and keeps the `index_topk` best.
///
/// `I[t,s] = scale · Σ_h weights[t,h] · max(q[t,h,:]·key[s,:], 0)` for `s` up to the query's own position; the choice is the
/// `min(index_topk, visible)` positions of highest score. Equal scores prefer the lowest position; NaN is lower than any
/// score.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) names the dimension that disagrees; [`Error::Range`](crate::Error::Range) names
/// the block, length or row offset that points outside of the cache or the step;
/// [`Error::Unsupported`](crate::Error::Unsupported) names a dtype.
///
/// # Source
/// DeepSeek-V3.2-Exp report, equation 1; `inference/model.py`, class `Indexer`.
pub fn indexer(ctx: &Context, args: Indexer<'_>) -> Result<()> {
    let mut dims = Dims::new(OP);
    let [num_tokens, _, _] = dims.bind_all("q", args.q.shape(), ["num_tokens", "index_n_heads", "index_head_dim"])?;
    dims.bind_all("weights", args.weights.shape(), ["num_tokens", "index_n_heads"])?;
    let [num_blocks, block_size, _] =
        dims.bind_all("key_cache", args.key_cache.shape(), ["num_blocks", "block_size", "index_head_dim"])?;
    dims.bind_all("out", args.out.shape(), ["num_tokens", "index_topk"])?;
    args.seqs.check(OP, &mut dims, num_tokens, num_blocks, block_size)?;
    dims.f32("q", args.q.dtype())?;
    dims.f32("weights", args.weights.dtype())?;
    dims.dtype("key_cache", args.key_cache.dtype(), &[DType::F32, DType::BF16], "F32, BF16")?;
    dims.dtype("out", args.out.dtype(), &[DType::I32], "I32")?;
    match ctx.device() {
        Device::Reference => reference::run(args),
        Device::Cpu => {
            cpu::run(ctx, args);
            Ok(())
        }
    }
}

/// Writes `0..num_positions` and the padding: the choice of a query that sees no more than `index_topk` positions.
fn choose_all(num_positions: usize, out: &mut [i32]) {
    out.fill(NO_POSITION);
    out[..num_positions].iter_mut().zip(0..).for_each(|(slot, position)| *slot = position);
}
