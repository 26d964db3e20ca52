//! What one of several GPUs takes.
//!
//! The routed experts are always shared out whole, so many to each rank. Attention is either split by heads, and then every
//! rank keeps the one latent of every token, because all heads need it; or each rank attends to sequences of its own, and then
//! every rank keeps the weights of attention.

use cachalot_tensor::DType;
use cachalot_weights::{Component, DeepseekV3Config, KvFormat, Stage, StoredTensor, TensorSpec};

use super::{StepLimits, num_layers, widest_mlp};
use crate::BLOCK_SIZE;

/// Memory for the indexer's logits, `[rows, context]` in f32: rows that do not fit are computed one after another. Without such
/// a bound a step of 8,192 tokens over 163,840 positions takes 5 GiB.
const INDEXER_WORKSPACE_BYTES: u64 = 512 << 20;

/// Positions whose keys and values are expanded at once for a prefill.
const EXPANDED_POSITIONS: usize = 8192;

/// Elements of an activation that share a scale when it is multiplied in FP8.
const SCALE_GROUP: usize = 128;

/// How the ranks share the work of attention, dense MLPs and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Tensor parallel: every rank has some of the heads, rows and columns, and computes all sequences.
    Tensor,
    /// Data parallel: every rank has all of the weights and computes its own sequences.
    Data,
}

/// One of `num_ranks` GPUs.
#[derive(Clone, Copy, Debug)]
pub struct Rank<'a> {
    /// The model.
    pub config: &'a DeepseekV3Config,
    /// How the work is shared.
    pub split: Split,
    /// GPUs.
    pub num_ranks: usize,
    /// Whether the MTP module is loaded.
    pub mtp: bool,
}

impl Rank<'_> {
    /// Whether the heads can be shared out evenly.
    pub fn is_possible(&self) -> bool {
        match self.split {
            Split::Tensor => self.config.num_attention_heads.is_multiple_of(self.num_ranks),
            Split::Data => true,
        }
    }

    /// Bytes of the weights of the fullest rank, as they are stored, block scales included.
    ///
    /// Of `E` routed experts a rank has `⌈E / ranks⌉`. Split by [`Split::Tensor`]: `q_b_proj`, `kv_b_proj` and `o_proj` by heads,
    /// dense and shared MLPs by their inner width in whole blocks of scales, embedding and head by the vocabulary. Everything
    /// else is on every rank: `q_a_proj` and `kv_a_proj_with_mqa`, the indexer, router, norms, `eh_proj`. The MTP module's copies
    /// of embedding and head are not loaded.
    pub fn weight_bytes(&self, tensors: &[StoredTensor]) -> u64 {
        let mut routed_bytes = 0;
        let mut other_bytes = 0;
        for tensor in tensors {
            let TensorSpec { component, stage, .. } = &tensor.spec;
            let is_copy = *stage == Stage::Mtp && matches!(component, Component::Embedding | Component::Head);
            if is_copy || (*stage == Stage::Mtp && !self.mtp) {
                continue;
            }
            match component {
                Component::RoutedExperts => routed_bytes += tensor.bytes(),
                _ => other_bytes += self.part_bytes(tensor),
            }
        }
        let num_experts = self.config.n_routed_experts;
        routed_bytes / num_experts as u64 * num_experts.div_ceil(self.num_ranks) as u64 + other_bytes
    }

    /// Bytes of this rank's part of a tensor that is no routed expert.
    fn part_bytes(&self, tensor: &StoredTensor) -> u64 {
        let config = self.config;
        let name = tensor.spec.name.as_str();
        let is = |projection: &str| name.ends_with(&format!(".{projection}.weight"));
        let block = config.quantization.as_ref().map_or([1, 1], |quantization| quantization.weight_block_size);
        // Which dimension is cut, and in pieces of how many.
        let cut = match tensor.spec.component {
            _ if self.split == Split::Data => None,
            Component::Attention if is("q_b_proj") => Some((0, config.qk_head_dim())),
            Component::Attention if is("kv_b_proj") => Some((0, config.qk_nope_head_dim + config.v_head_dim)),
            Component::Attention if is("o_proj") => Some((1, config.v_head_dim)),
            Component::DenseMlp | Component::SharedExperts if is("down_proj") => Some((1, block[1])),
            Component::DenseMlp | Component::SharedExperts => Some((0, block[0])),
            Component::Embedding | Component::Head => Some((0, 1)),
            _ => None,
        };
        let Some((dim, piece)) = cut else { return tensor.bytes() };
        let mut dims = [tensor.spec.shape.dims()[0], tensor.spec.shape.dims()[1]];
        dims[dim] = (dims[dim].div_ceil(piece).div_ceil(self.num_ranks) * piece).min(dims[dim]);
        let scales = tensor
            .scales
            .map_or(0, |(dtype, _)| dims[0].div_ceil(block[0]) * dims[1].div_ceil(block[1]) * dtype.size_bytes());
        (dims[0] * dims[1] * tensor.dtype.size_bytes() + scales) as u64
    }

    /// Bytes of one block of [`BLOCK_SIZE`] tokens in the caches of all layers: `layers · 64 · (latent + indexer key)`, the latent in
    /// `format`, the indexer's key always in FP8, which its kernels read.
    pub fn kv_block_bytes(&self, format: KvFormat) -> u64 {
        let per_token = format.latent_bytes(self.config) + KvFormat::Fp8.index_key_bytes(self.config);
        (num_layers(self.config, self.mtp) * BLOCK_SIZE * per_token) as u64
    }

    /// Bytes of a step's activations: the buffers of the Cpu in BF16, ids, choices and routing in four bytes, and beside them the
    /// queries and outputs of absorbed attention, `heads · (2 kv_lora_rank + rope)`. Heads and MLPs are this rank's.
    pub fn activation_bytes(&self, limits: StepLimits) -> u64 {
        let config = self.config;
        let heads = self.num_heads();
        let mlp = match self.split {
            Split::Tensor => widest_mlp(config).div_ceil(self.num_ranks),
            Split::Data => widest_mlp(config),
        };
        let indexer = config.indexer.as_ref();
        let wide = 4 * config.hidden_size
            + 2 * config.q_lora_rank
            + 2 * heads * config.qk_head_dim()
            + 2 * config.latent_dim()
            + heads * (2 * config.kv_lora_rank + config.qk_rope_head_dim)
            + heads * config.v_head_dim
            + 3 * mlp
            + indexer.map_or(0, |indexer| (2 * indexer.index_n_heads + 3) * indexer.index_head_dim)
            + if self.mtp { 2 * config.hidden_size } else { 0 };
        let of_four_bytes = config.n_routed_experts
            + 2 * config.num_experts_per_tok
            + indexer.map_or(0, |indexer| indexer.index_n_heads + indexer.index_topk.min(limits.max_model_len));
        let per_token = DType::BF16.size_bytes() * wide + 4 * of_four_bytes;
        let selected = DType::BF16.size_bytes() * limits.max_num_logits * config.hidden_size;
        (limits.max_num_batched_tokens * per_token + selected) as u64
    }

    /// Bytes that attention and experts work in: keys and values of 8,192 positions expanded for a prefill, in BF16; and for each
    /// pair of a token and an expert that falls to this rank on average, input and activation in FP8 with a scale per 128,
    /// gate, up and output in BF16. Pairs beyond the average, where routing is uneven, are worked off in a second round.
    pub fn workspace_bytes(&self, limits: StepLimits) -> u64 {
        let config = self.config;
        let expanded = 2
            * EXPANDED_POSITIONS.min(limits.max_model_len)
            * self.num_heads()
            * (config.qk_head_dim() + config.v_head_dim);
        let fp8 = |len: usize| len + 4 * len.div_ceil(SCALE_GROUP);
        let (hidden, inner) = (config.hidden_size, config.moe_intermediate_size);
        let per_pair = fp8(hidden) + 2 * 2 * inner + fp8(inner) + 2 * hidden;
        let num_pairs = limits.max_num_batched_tokens * config.num_experts_per_tok;
        // Each rank computes a share of the pairs of one step; with data parallel attention every rank brings a step.
        let num_pairs = match self.split {
            Split::Tensor => num_pairs.div_ceil(self.num_ranks),
            Split::Data => num_pairs,
        };
        (expanded + num_pairs * per_pair) as u64
    }

    /// Bytes of the indexer's logits, `[rows, context]` in f32: as many rows of the step as fit into 512 MiB, one at least. 0 without
    /// an indexer.
    pub fn indexer_workspace_bytes(&self, limits: StepLimits) -> u64 {
        if self.config.indexer.is_none() {
            return 0;
        }
        let row = 4 * limits.max_model_len as u64;
        row.max(INDEXER_WORKSPACE_BYTES.min(row * limits.max_num_batched_tokens as u64))
    }

    fn num_heads(&self) -> usize {
        match self.split {
            Split::Tensor => self.config.num_attention_heads.div_ceil(self.num_ranks),
            Split::Data => self.config.num_attention_heads,
        }
    }
}
