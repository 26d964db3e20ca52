//! Multi-head latent attention over a paged latent cache, in two forms.
//!
//! The cache holds, per position, the normed latent `c` that all heads share and one rotated rope key `k_pe`. Head `h` owns
//! `qk_nope_head_dim + v_head_dim` rows of `kv_b_proj`: first `W_UK[h]`, then `W_UV[h]`. Its keys and values are
//! `k[j] = (W_UK[h] c[j], k_pe[j])` and `v[j] = W_UV[h] c[j]`, and it computes ordinary causal attention with them:
//!
//! `out[t,h,:] = Σ_j softmax_j(softmax_scale · q[t,h,:]·k[j]) · v[j]`, over the positions `j` that query `t` sees.
//!
//! - [`mla_expanded`] does just that. Expanding a key costs `(nope + v) · kv_lora_rank` multiplications per head, once for
//!   all queries; each query then pays `nope + rope + v` per key. It is the form for many queries of one sequence.
//! - [`mla_absorbed`] moves the two matrices to the query's side: `q_nope·(W_UK c) = (W_UKᵀ q_nope)·c` and
//!   `Σ_j p_j W_UV c[j] = W_UV Σ_j p_j c[j]`. Nothing is expanded, each query pays `2 · kv_lora_rank + rope` per key, and all
//!   heads read the same cache row. It is the form for one or few queries of a sequence.
//!
//! The two round differently; each is deterministic in itself. The result of a query row depends on its own query, its
//! position and its sequence's keys alone: not on the other rows of the step, on how a prompt was cut into chunks, on where
//! the blocks lie, or on the number of threads. Keys are visited in ascending order in tiles of a fixed size.
//!
//! On a GPU the absorbed form is three launches: [`cuda`] between two projections. It alone reads FP8 cache records.

pub(crate) mod cpu;
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;
mod tile;

use cachalot_tensor::{DType, Matrix, View, ViewMut};

use crate::dims::Dims;
use crate::numerics::Rows;
use crate::{Context, Device, Error, NO_POSITION, PagedSeqs, Result};

/// Arguments of [`mla_expanded`] and [`mla_absorbed`], which compute the same attention in two ways.
#[derive(Debug)]
pub struct Mla<'a> {
    /// `[num_tokens, num_heads, qk_nope_head_dim + qk_rope_head_dim]`, f32: the nope part first, the rope part last and
    /// rotated; rows may be strided.
    pub q: View<'a>,
    /// `[num_heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank]`: per head the rows that make `k_nope`, then those that
    /// make `v`.
    pub kv_b_proj: &'a Matrix,
    /// `[num_blocks, block_size, kv_lora_rank + qk_rope_head_dim]`, f32 or bf16: the normed latent, then the rotated rope
    /// key. Rows past a sequence's end are never read.
    pub kv_cache: View<'a>,
    /// The sequences of the step.
    pub seqs: PagedSeqs<'a>,
    /// `[num_tokens, index_topk]`, i32: the positions in the sequence that each query attends to, ascending, then
    /// [`NO_POSITION`]. Positions beyond the query's own are ignored. `None` attends to all positions up to the query's
    /// own, and so, bit for bit, does a row that lists them all.
    pub topk_indices: Option<View<'a>>,
    /// Factor on the logits, YaRN's `mscale²` included.
    pub softmax_scale: f32,
    /// Length of the part of a head's query and key that has no position.
    pub qk_nope_head_dim: usize,
    /// Length of the rotated part.
    pub qk_rope_head_dim: usize,
    /// Length of a head's value.
    pub v_head_dim: usize,
    /// `[num_tokens, num_heads, v_head_dim]`, f32; the rows of `seqs` are overwritten, the others left alone. A row that
    /// sees no position gets zeros.
    pub out: ViewMut<'a>,
}

/// Attention with keys and values expanded from the latent, per head: the form for prefill.
///
/// `out[t,h,:] = Σ_j softmax_j(softmax_scale · (q_nope[t,h]·W_UK[h] c[j] + q_pe[t,h]·k_pe[j])) · W_UV[h] c[j]`
///
/// # Errors
/// [`Error::Shape`] names the dimension that disagrees; [`Error::Range`] names the block, length or row offset that points
/// outside of the cache or the step; [`Error::Unsupported`] names a dtype, or the row of `topk_indices` that is not
/// ascending.
///
/// # Source
/// DeepSeek-V3 report, section 2.1.1; DeepSeek-V3.2-Exp `inference/model.py`, class `MLA`, its prefill branch.
pub fn mla_expanded(ctx: &Context, args: Mla<'_>) -> Result<()> {
    let dims = args.check("mla_expanded")?;
    match ctx.device() {
        Device::Reference => reference::expanded(args, dims),
        Device::Cpu => {
            cpu::expanded(ctx, args, dims);
            Ok(())
        }
    }
}

/// The same attention computed in the space of the latent: the form for decode.
///
/// `q_lat[t,h] = W_UK[h]ᵀ q_nope[t,h]`, `o_lat[t,h] = Σ_j softmax_j(softmax_scale · (q_lat[t,h]·c[j] + q_pe[t,h]·k_pe[j])) · c[j]`,
/// `out[t,h,:] = W_UV[h] o_lat[t,h]`
///
/// # Errors
/// As [`mla_expanded`].
///
/// # Source
/// DeepSeek-V2 report, section 2.1.2; DeepSeek-V3.2-Exp `inference/model.py`, class `MLA`, its decode branch.
pub fn mla_absorbed(ctx: &Context, args: Mla<'_>) -> Result<()> {
    let dims = args.check("mla_absorbed")?;
    match ctx.device() {
        Device::Reference => reference::absorbed(args, dims),
        Device::Cpu => {
            cpu::absorbed(ctx, args, dims);
            Ok(())
        }
    }
}

/// The dimensions that both devices need, checked.
#[derive(Clone, Copy, Debug)]
struct MlaDims {
    num_heads: usize,
    nope: usize,
    rope: usize,
    v: usize,
    rank: usize,
}

impl Mla<'_> {
    fn check(&self, op: &'static str) -> Result<MlaDims> {
        let (nope, rope, v) = (self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim);
        let mut dims = Dims::new(op);
        let [num_tokens, num_heads, _] =
            dims.bind_all("q", self.q.shape(), ["num_tokens", "num_heads", "qk_head_dim"])?;
        dims.bind("qk_nope_head_dim + qk_rope_head_dim", "qk_head_dim", nope + rope)?;
        dims.bind("num_heads, qk_nope_head_dim and v_head_dim", "kv_b_proj rows", num_heads * (nope + v))?;
        dims.bind("kv_b_proj", "kv_b_proj rows", self.kv_b_proj.num_rows())?;
        Rows::of_matrix(op, self.kv_b_proj)?;
        let rank = self.kv_b_proj.num_cols();
        dims.bind("kv_b_proj and qk_rope_head_dim", "kv_lora_rank + qk_rope_head_dim", rank + rope)?;
        let [num_blocks, block_size, _] = dims.bind_all(
            "kv_cache",
            self.kv_cache.shape(),
            ["num_blocks", "block_size", "kv_lora_rank + qk_rope_head_dim"],
        )?;
        dims.bind("v_head_dim", "v_head_dim", v)?;
        dims.bind_all("out", self.out.shape(), ["num_tokens", "num_heads", "v_head_dim"])?;
        self.seqs.check(op, &mut dims, num_tokens, num_blocks, block_size)?;
        dims.f32("q", self.q.dtype())?;
        dims.dtype("kv_cache", self.kv_cache.dtype(), &[DType::F32, DType::BF16], "F32, BF16")?;
        dims.f32("out", self.out.dtype())?;
        if let Some(topk_indices) = self.topk_indices {
            dims.bind_all("topk_indices", topk_indices.shape(), ["num_tokens", "index_topk"])?;
            for row in self.seqs.all_rows() {
                let positions = dims.tensor(topk_indices.row::<i32>(row))?;
                if !is_ascending_then_padding(positions) {
                    return Err(Error::Unsupported {
                        op,
                        got: format!("an unordered row {row} of `topk_indices`"),
                        supported: "strictly ascending positions, then -1",
                    });
                }
            }
        }
        Ok(MlaDims { num_heads, nope, rope, v, rank })
    }
}

/// The chosen positions that a query at `position` sees: the first ones, since they ascend.
fn visible(chosen: &[i32], position: usize) -> &[i32] {
    let sees = |&chosen: &i32| usize::try_from(chosen).is_ok_and(|chosen| chosen <= position);
    &chosen[..chosen.partition_point(sees)]
}

fn is_ascending_then_padding(positions: &[i32]) -> bool {
    let num_chosen = positions.iter().position(|&chosen| chosen == NO_POSITION).unwrap_or(positions.len());
    let (chosen, padding) = positions.split_at(num_chosen);
    chosen.first().is_none_or(|&first| first >= 0)
        && chosen.windows(2).all(|pair| pair[0] < pair[1])
        && padding.iter().all(|&entry| entry == NO_POSITION)
}
