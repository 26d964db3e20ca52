//! How much memory a model takes, from its configuration and the sizes of its steps alone.
//!
//! Every figure that `cachalot plan` prints and that `serve` checks before it reads a weight comes from here; nothing else in the
//! program computes such a figure. All results are in bytes. What the Cpu takes is exact, and a test holds it against the
//! buffers; what a rank of several GPUs takes ([`Rank`]) is what such a device will be given, with workspaces of a fixed size.

mod rank;

use cachalot_ops::{StepDims, WorkingMemory};
use cachalot_weights::{DeepseekV3Config, KvFormat};

use crate::BLOCK_SIZE;

pub use rank::{Rank, Split};

/// Rows of logits that a step computes at most beside those that sampling needs: for prompt log-probabilities. 256 rows of the
/// 129,280-token vocabulary are 126 MiB.
pub const MAX_PROMPT_LOGPROB_ROWS: usize = 256;

/// What memory depends on besides the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// The most tokens of one sequence.
    pub max_model_len: usize,
    /// The most tokens of one step.
    pub max_num_batched_tokens: usize,
    /// The most rows of logits of one step.
    pub max_num_logits: usize,
}

/// Rows of logits of a step at most: `min(max_num_batched_tokens, max_num_seqs · (1 + num_speculative_tokens) + 256)`.
pub fn max_num_logits(max_num_batched_tokens: usize, max_num_seqs: usize, num_speculative_tokens: usize) -> usize {
    let for_sampling = max_num_seqs.saturating_mul(1 + num_speculative_tokens);
    max_num_batched_tokens.min(for_sampling.saturating_add(MAX_PROMPT_LOGPROB_ROWS))
}

/// Bytes of one block of [`BLOCK_SIZE`] tokens in the caches of all layers, the MTP module's included if there is `mtp`:
/// `layers · 64 · (latent + indexer key)`, both in `format`.
///
/// # Source
/// [`KvFormat`]; DeepSeek-V3 report, section 2.1.1: the latent and the rotated key are all that is cached.
pub fn kv_block_bytes(config: &DeepseekV3Config, format: KvFormat, mtp: bool) -> u64 {
    let per_token = format.latent_bytes(config) + format.index_key_bytes(config);
    (num_layers(config, mtp) * BLOCK_SIZE * per_token) as u64
}

fn num_layers(config: &DeepseekV3Config, mtp: bool) -> usize {
    config.num_hidden_layers + usize::from(mtp)
}

/// Bytes of a step's activations on the Cpu, shared by all layers; every element takes four bytes.
///
/// With `T` for `max_num_batched_tokens` and `R` for `max_num_logits`:
/// `4 · (R · hidden_size + T · (4 hidden_size + 2 q_lora_rank + 2 heads (nope + rope) + 2 latent + heads v
///   + 3 widest_mlp + 2 num_experts_per_tok + indexer + mtp))`, where the indexer has
/// `2 index_n_heads index_head_dim + 3 index_head_dim + index_n_heads + min(index_topk, max_model_len)` and the MTP module
/// `2 hidden_size`.
///
/// # Source
/// `Activations` of this crate.
pub fn activation_bytes(config: &DeepseekV3Config, limits: StepLimits, mtp: bool) -> u64 {
    let heads = config.num_attention_heads;
    let indexer = config.indexer.as_ref().map_or(0, |indexer| {
        (2 * indexer.index_n_heads + 3) * indexer.index_head_dim
            + indexer.index_n_heads
            + indexer.index_topk.min(limits.max_model_len)
    });
    let per_token = 4 * config.hidden_size
        + 2 * config.q_lora_rank
        + 2 * heads * config.qk_head_dim()
        + 2 * config.latent_dim()
        + heads * config.v_head_dim
        + 3 * widest_mlp(config)
        + 2 * config.num_experts_per_tok
        + indexer
        + if mtp { 2 * config.hidden_size } else { 0 };
    4 * (limits.max_num_logits * config.hidden_size + limits.max_num_batched_tokens * per_token) as u64
}

/// Inner width of the widest MLP that is computed as a whole: dense or shared.
fn widest_mlp(config: &DeepseekV3Config) -> usize {
    config.intermediate_size.max(config.moe_intermediate_size * config.n_shared_experts)
}

/// Bytes of the logits that the engine keeps: `4 · max_num_logits · vocab_size`.
///
/// # Source
/// `Runner` of `cachalot-engine`.
pub fn logits_bytes(vocab_size: usize, max_num_logits: usize) -> u64 {
    4 * max_num_logits as u64 * vocab_size as u64
}

/// The most working memory that the Cpu's kernels keep for steps within `limits`.
///
/// The indexer's logits are part of it: they are computed for as many rows at a time as fit into 4 MiB, one at least, so that
/// a long context takes `4 · max_model_len` bytes and not `4 · max_model_len · max_num_batched_tokens`.
///
/// # Source
/// [`WorkingMemory`].
pub fn working_memory(config: &DeepseekV3Config, limits: StepLimits, mtp: bool) -> WorkingMemory {
    let inputs = [
        config.hidden_size * if mtp { 2 } else { 1 },
        config.q_lora_rank,
        config.num_attention_heads * config.v_head_dim,
        widest_mlp(config),
        config.moe_intermediate_size,
    ];
    WorkingMemory::new(&StepDims {
        max_model_len: limits.max_model_len,
        max_num_batched_tokens: limits.max_num_batched_tokens,
        widest_input: inputs.into_iter().max().unwrap_or(0),
        num_attention_heads: config.num_attention_heads,
        qk_nope_head_dim: config.qk_nope_head_dim,
        qk_rope_head_dim: config.qk_rope_head_dim,
        v_head_dim: config.v_head_dim,
        kv_lora_rank: config.kv_lora_rank,
        n_routed_experts: config.n_routed_experts,
        n_group: config.n_group,
        num_experts_per_tok: config.num_experts_per_tok,
        moe_intermediate_size: config.moe_intermediate_size,
        index_head_dim: config.indexer.as_ref().map(|indexer| indexer.index_head_dim),
    })
}

#[cfg(test)]
mod tests;
