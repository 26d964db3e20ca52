//! What a model writes to: the paged caches and the activations of one step. All of it is taken before the first step.

use cachalot_tensor::{Buffer, DType};
use cachalot_weights::DeepseekV3Config;

use crate::BLOCK_SIZE;

/// The paged caches of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache {
    /// `[num_blocks, BLOCK_SIZE, kv_lora_rank + qk_rope_head_dim]`: normed latent, then rotated rope key.
    pub(crate) kv: Buffer,
    /// `[num_blocks, BLOCK_SIZE, index_head_dim]`: the indexer's normed and rotated keys.
    pub(crate) index_k: Option<Buffer>,
}

impl LayerCache {
    pub(crate) fn new(config: &DeepseekV3Config, dtype: DType, num_blocks: usize) -> Self {
        let paged = |dim: usize| Buffer::zeros(dtype, [num_blocks, BLOCK_SIZE, dim]);
        LayerCache {
            kv: paged(config.latent_dim()),
            index_k: config.indexer.as_ref().map(|indexer| paged(indexer.index_head_dim)),
        }
    }

    /// Every buffer.
    pub(crate) fn buffers_mut(&mut self) -> impl Iterator<Item = &mut Buffer> {
        let LayerCache { kv, index_k } = self;
        std::iter::once(kv).chain(index_k)
    }
}

/// Buffers for the activations of a step, shared by all layers; `[max_num_batched_tokens, …]`, f32 unless said.
#[derive(Debug)]
pub(crate) struct Activations {
    /// The residual stream, `hidden_size`.
    pub(crate) residual: Buffer,
    /// Input of a sublayer: the normed residual, `hidden_size`.
    pub(crate) normed: Buffer,
    /// Output of a sublayer, `hidden_size`.
    pub(crate) delta: Buffer,
    /// Output of the final norm, `hidden_size`. Kept after the step, for the MTP module.
    pub(crate) hidden_states: Buffer,
    /// The rows of `hidden_states` whose logits are wanted, `[max_num_logits, hidden_size]`.
    pub(crate) selected: Buffer,
    pub(crate) q_a: Buffer,
    pub(crate) q_a_normed: Buffer,
    /// `num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)`.
    pub(crate) q: Buffer,
    pub(crate) q_rotated: Buffer,
    /// `kv_lora_rank + qk_rope_head_dim`.
    pub(crate) kv_a: Buffer,
    /// The row to cache, of the same length.
    pub(crate) kv: Buffer,
    /// `num_attention_heads * v_head_dim`.
    pub(crate) attn_out: Buffer,
    pub(crate) indexer: Option<IndexerActivations>,
    /// Of the widest MLP.
    pub(crate) gate: Buffer,
    pub(crate) up: Buffer,
    pub(crate) act: Buffer,
    /// `num_experts_per_tok`, i32.
    pub(crate) expert_ids: Buffer,
    /// `num_experts_per_tok`.
    pub(crate) expert_weights: Buffer,
    /// `[embedding of the next token ; hidden state]`, `2 * hidden_size`; only with an MTP module.
    pub(crate) eh: Option<Buffer>,
}

/// Buffers of the V3.2 indexer.
#[derive(Debug)]
pub(crate) struct IndexerActivations {
    /// `index_n_heads * index_head_dim`.
    pub(crate) q: Buffer,
    pub(crate) q_rotated: Buffer,
    /// `index_head_dim`.
    pub(crate) k: Buffer,
    pub(crate) k_normed: Buffer,
    pub(crate) k_rotated: Buffer,
    /// `index_n_heads`.
    pub(crate) weights: Buffer,
    /// `min(index_topk, max_model_len)`, i32.
    pub(crate) topk_indices: Buffer,
}

impl Activations {
    pub(crate) fn new(
        config: &DeepseekV3Config,
        max_model_len: usize,
        max_num_batched_tokens: usize,
        max_num_logits: usize,
        has_mtp: bool,
    ) -> Self {
        let rows = |dim: usize| Buffer::zeros(DType::F32, [max_num_batched_tokens, dim]);
        let ids = |dim: usize| Buffer::zeros(DType::I32, [max_num_batched_tokens, dim]);
        let hidden_size = config.hidden_size;
        let q_dim = config.num_attention_heads * config.qk_head_dim();
        let kv_dim = config.latent_dim();
        let shared_dim = config.moe_intermediate_size * config.n_shared_experts;
        let mlp_dim = config.intermediate_size.max(shared_dim);
        Activations {
            residual: rows(hidden_size),
            normed: rows(hidden_size),
            delta: rows(hidden_size),
            hidden_states: rows(hidden_size),
            selected: Buffer::zeros(DType::F32, [max_num_logits, hidden_size]),
            q_a: rows(config.q_lora_rank),
            q_a_normed: rows(config.q_lora_rank),
            q: rows(q_dim),
            q_rotated: rows(q_dim),
            kv_a: rows(kv_dim),
            kv: rows(kv_dim),
            attn_out: rows(config.num_attention_heads * config.v_head_dim),
            indexer: config.indexer.as_ref().map(|indexer| IndexerActivations {
                q: rows(indexer.index_n_heads * indexer.index_head_dim),
                q_rotated: rows(indexer.index_n_heads * indexer.index_head_dim),
                k: rows(indexer.index_head_dim),
                k_normed: rows(indexer.index_head_dim),
                k_rotated: rows(indexer.index_head_dim),
                weights: rows(indexer.index_n_heads),
                topk_indices: ids(indexer.index_topk.min(max_model_len)),
            }),
            gate: rows(mlp_dim),
            up: rows(mlp_dim),
            act: rows(mlp_dim),
            expert_ids: ids(config.num_experts_per_tok),
            expert_weights: rows(config.num_experts_per_tok),
            eh: has_mtp.then(|| rows(2 * hidden_size)),
        }
    }

    /// Every buffer.
    pub(crate) fn buffers_mut(&mut self) -> impl Iterator<Item = &mut Buffer> {
        // Without `..`: a buffer that is added is not forgotten here.
        let Activations {
            residual,
            normed,
            delta,
            hidden_states,
            selected,
            q_a,
            q_a_normed,
            q,
            q_rotated,
            kv_a,
            kv,
            attn_out,
            indexer,
            gate,
            up,
            act,
            expert_ids,
            expert_weights,
            eh,
        } = self;
        let always = [
            residual,
            normed,
            delta,
            hidden_states,
            selected,
            q_a,
            q_a_normed,
            q,
            q_rotated,
            kv_a,
            kv,
            attn_out,
            gate,
            up,
            act,
            expert_ids,
            expert_weights,
        ];
        let of_indexer = indexer.iter_mut().flat_map(|indexer| {
            let IndexerActivations { q, q_rotated, k, k_normed, k_rotated, weights, topk_indices } = indexer;
            [q, q_rotated, k, k_normed, k_rotated, weights, topk_indices]
        });
        always.into_iter().chain(of_indexer).chain(eh)
    }
}
