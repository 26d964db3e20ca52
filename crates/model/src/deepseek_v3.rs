//! DeepSeek V3 and V3.2: the forward pass as a list of calls to `cachalot-ops`.
//!
//! One code serves both: V3.2 is V3 with an indexer in every layer's attention. The order of the calls is that of
//! `DeepseekV3ForCausalLM` in transformers; where roundings differ between public implementations this one keeps f32
//! between operations and rounds only what it writes into a cache.

use cachalot_ops::{
    CacheWrite, Context, Embedding, Expert, Experts, Gate, Indexer, LayerNorm, Linear, Mla, PagedSeqs, RmsNorm, Rope,
    RopeLayout, SwiGlu, cache_write, embedding, experts, gate, indexer, layer_norm, linear, mla_absorbed, mla_expanded,
    rms_norm, rope, swiglu,
};
use cachalot_tensor::{Buffer, DType, Matrix, Tensor, View, ViewMut};
use cachalot_weights::{Checkpoint, Config, DeepseekV3Config, IndexerConfig, KvFormat, Shard};

use crate::footprint::{StepLimits, kv_block_bytes, working_memory};
use crate::layer::{Attention, IndexerWeights, Layer, Mlp, Moe};
use crate::memory::{Activations, IndexerActivations, LayerCache};
use crate::pages::{Pages, touch};
use crate::rotary::Rotary;
use crate::{Batch, Error, HiddenStates, LanguageModel, Result};

/// The norms inside attention (`q_a_layernorm`, `kv_a_layernorm`, the indexer's `k_norm`) do not take `rms_norm_eps`: the
/// published code and transformers construct them with their default.
const INNER_NORM_EPS: f32 = 1e-6;

/// How a [`DeepseekV3`] is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Element type of the caches: bf16, or f32 for exact comparison.
    pub kv_cache_dtype: DType,
    /// The most tokens of one sequence; `None` takes `max_position_embeddings`.
    pub max_model_len: Option<usize>,
    /// Whether to load the MTP module if the checkpoint has one.
    pub mtp: bool,
}

/// A DeepSeek V3 or V3.2 model on one device.
#[derive(Debug)]
pub struct DeepseekV3 {
    ctx: Context,
    config: DeepseekV3Config,
    kv_cache_dtype: DType,
    max_model_len: usize,
    rotary: Rotary,
    embed_tokens: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    lm_head: Matrix,
    mtp: Option<Mtp>,
    memory: Option<Memory>,
    pages: Pages,
}

/// The multi-token-prediction module: one decoder layer over the next token's embedding and the main model's output.
#[derive(Debug)]
struct Mtp {
    enorm: Tensor,
    hnorm: Tensor,
    eh_proj: Matrix,
    layer: Layer,
    norm: Tensor,
}

/// What [`LanguageModel::allocate`] takes.
#[derive(Debug)]
struct Memory {
    activations: Activations,
    /// One per layer, the MTP module's last.
    caches: Vec<LayerCache>,
}

impl DeepseekV3 {
    /// Builds the model from a checkpoint whose tensors have been checked. Weights stay views of the checkpoint.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the checkpoint is of another architecture, if `max_model_len` exceeds what the positions
    /// were trained for, or if caches of that dtype do not exist.
    pub fn load(ctx: Context, checkpoint: &Checkpoint, options: Options) -> Result<Self> {
        let Config::DeepseekV3(config) = checkpoint.config() else {
            return Err(Error::Invalid(format!(
                "the checkpoint is a {}; this model computes DeepseekV3ForCausalLM and DeepseekV32ForCausalLM",
                checkpoint.config().architecture()
            )));
        };
        if !matches!(options.kv_cache_dtype, DType::F32 | DType::BF16) {
            return Err(Error::Invalid(format!(
                "a KV cache of {} is not supported: use BF16 or F32",
                options.kv_cache_dtype
            )));
        }
        let max_model_len = options.max_model_len.unwrap_or(config.max_position_embeddings);
        if max_model_len == 0 || max_model_len > config.max_position_embeddings {
            return Err(Error::Invalid(format!(
                "max_model_len is {max_model_len}, but the checkpoint's positions end at max_position_embeddings = {}",
                config.max_position_embeddings
            )));
        }
        let tensor = |name: &str| checkpoint.tensor(name, Shard::Whole);
        let mtp = if options.mtp && checkpoint.has_mtp() {
            let prefix = format!("model.layers.{}", config.num_hidden_layers);
            Some(Mtp {
                enorm: tensor(&format!("{prefix}.enorm.weight"))?,
                hnorm: tensor(&format!("{prefix}.hnorm.weight"))?,
                eh_proj: checkpoint.matrix(&format!("{prefix}.eh_proj.weight"), Shard::Whole)?,
                layer: Layer::load(checkpoint, config, config.num_hidden_layers)?,
                norm: tensor(&format!("{prefix}.shared_head.norm.weight"))?,
            })
        } else {
            None
        };
        let lm_head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        Ok(DeepseekV3 {
            rotary: Rotary::new(config),
            embed_tokens: tensor("model.embed_tokens.weight")?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(checkpoint, config, index))
                .collect::<Result<_>>()?,
            norm: tensor("model.norm.weight")?,
            lm_head: checkpoint.matrix(lm_head, Shard::Whole)?,
            mtp,
            memory: None,
            pages: Pages::WhenUsed,
            ctx,
            config: config.clone(),
            kv_cache_dtype: options.kv_cache_dtype,
            max_model_len,
        })
    }

    /// When the operating system hands out the pages of what [`allocate`](LanguageModel::allocate) takes; when they are first
    /// used, unless this is called.
    pub fn set_pages(&mut self, pages: Pages) {
        self.pages = pages;
    }
}

impl LanguageModel for DeepseekV3 {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    fn kv_block_bytes(&self) -> usize {
        let format = if self.kv_cache_dtype == DType::F32 { KvFormat::F32 } else { KvFormat::Bf16 };
        kv_block_bytes(&self.config, format, self.mtp.is_some()) as usize
    }

    fn allocate(&mut self, num_blocks: usize, max_num_batched_tokens: usize, max_num_logits: usize) -> Result<()> {
        let num_layers = self.layers.len() + usize::from(self.mtp.is_some());
        let mut memory = Memory {
            activations: Activations::new(
                &self.config,
                self.max_model_len,
                max_num_batched_tokens,
                max_num_logits,
                self.mtp.is_some(),
            ),
            caches: (0..num_layers).map(|_| LayerCache::new(&self.config, self.kv_cache_dtype, num_blocks)).collect(),
        };
        if let Pages::AtStart(progress) = &mut self.pages {
            let limits = StepLimits { max_model_len: self.max_model_len, max_num_batched_tokens, max_num_logits };
            self.ctx.take_working_memory(&working_memory(&self.config, limits, self.mtp.is_some()));
            let buffers = memory.caches.iter_mut().flat_map(LayerCache::buffers_mut);
            touch(self.ctx.pool(), buffers.chain(memory.activations.buffers_mut()), progress);
        }
        self.memory = Some(memory);
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, logits: &mut [f32]) -> Result<()> {
        let (ctx, num_tokens) = (&self.ctx, batch.num_tokens());
        let Some(Memory { activations: act, caches }) = &mut self.memory else {
            return Err(Error::Invalid("`forward` before `allocate`".into()));
        };
        embedding(
            ctx,
            Embedding {
                ids: &batch.input_ids,
                table: self.embed_tokens.view(),
                out: act.residual.rows_mut(num_tokens),
            },
        )?;
        let step = Step { ctx, config: &self.config, rotary: &self.rotary, batch };
        // Each layer ends with the norm that comes next, so that adding to the residual and normalising are one call.
        step.first_norm(&self.layers[0].input_layernorm, act)?;
        for (index, layer) in self.layers.iter().enumerate() {
            step.layer(layer, &mut caches[index], act)?;
            if let Some(next) = self.layers.get(index + 1) {
                step.next_norm(&next.input_layernorm, act)?;
            }
        }
        rms_norm(
            ctx,
            RmsNorm {
                x: act.delta.rows(num_tokens),
                weight: self.norm.view(),
                eps: self.config.rms_norm_eps as f32,
                residual: Some(act.residual.rows_mut(num_tokens)),
                out: act.hidden_states.rows_mut(num_tokens),
            },
        )?;
        head(ctx, batch, &self.lm_head, act.hidden_states.rows(num_tokens), &mut act.selected, logits)
    }

    fn has_mtp(&self) -> bool {
        self.mtp.is_some()
    }

    /// `u_p = eh_proj [enorm(E(t_{p+1})) ; hnorm(h_p)]`, then one decoder layer, `shared_head.norm`, and the head. The embedding
    /// and the head are the main model's: the copies in the checkpoint's MTP layer are documented to be the same.
    ///
    /// # Source
    /// DeepSeek-V3 report, section 2.2; order of the concatenation and the normed hidden state as vLLM and SGLang have it.
    fn forward_mtp(&mut self, batch: &Batch, hidden_states: HiddenStates<'_>, logits: &mut [f32]) -> Result<()> {
        let (ctx, num_tokens) = (&self.ctx, batch.num_tokens());
        let (Some(mtp), Some(memory)) = (&self.mtp, &mut self.memory) else {
            return Err(Error::Invalid("the MTP module is not loaded or its memory is not allocated".into()));
        };
        let (hidden_size, eps) = (self.config.hidden_size, self.config.rms_norm_eps as f32);
        let Memory { activations: act, caches } = memory;
        let (Some(eh), Some(cache)) = (&mut act.eh, caches.last_mut()) else {
            return Err(Error::Invalid("the MTP module has no memory".into()));
        };
        let (h, rows) = match hidden_states {
            HiddenStates::Main(rows) => (&act.hidden_states, rows),
            HiddenStates::Mtp(rows) => (&act.selected, rows),
        };
        let table = h.view();
        embedding(ctx, Embedding { ids: rows, table, out: act.delta.rows_mut(num_tokens) })?;
        rms_norm(
            ctx,
            RmsNorm {
                x: act.delta.rows(num_tokens),
                weight: mtp.hnorm.view(),
                eps,
                residual: None,
                out: eh.rows_mut(num_tokens).columns(hidden_size..2 * hidden_size),
            },
        )?;
        let table = self.embed_tokens.view();
        embedding(ctx, Embedding { ids: &batch.input_ids, table, out: act.normed.rows_mut(num_tokens) })?;
        rms_norm(
            ctx,
            RmsNorm {
                x: act.normed.rows(num_tokens),
                weight: mtp.enorm.view(),
                eps,
                residual: None,
                out: eh.rows_mut(num_tokens).columns(0..hidden_size),
            },
        )?;
        linear(ctx, Linear { x: eh.rows(num_tokens), weight: &mtp.eh_proj, out: act.residual.rows_mut(num_tokens) })?;
        let step = Step { ctx, config: &self.config, rotary: &self.rotary, batch };
        step.first_norm(&mtp.layer.input_layernorm, act)?;
        step.layer(&mtp.layer, cache, act)?;
        step.next_norm(&mtp.norm, act)?;
        head(ctx, batch, &self.lm_head, act.normed.rows(num_tokens), &mut act.selected, logits)
    }
}

/// Logits of the batch's wanted rows: `logits[j] = hidden_states[logits_indices[j]] · lm_headᵀ`.
fn head(
    ctx: &Context,
    batch: &Batch,
    lm_head: &Matrix,
    hidden_states: View<'_>,
    selected: &mut Buffer,
    logits: &mut [f32],
) -> Result<()> {
    let num_logits = batch.logits_indices.len();
    let logits = ViewMut::from_slice(logits, [num_logits, lm_head.num_rows()])
        .map_err(|error| Error::Invalid(format!("logits: {error}")))?;
    embedding(ctx, Embedding { ids: &batch.logits_indices, table: hidden_states, out: selected.rows_mut(num_logits) })?;
    Ok(linear(ctx, Linear { x: selected.rows(num_logits), weight: lm_head, out: logits })?)
}

/// What every layer of one step needs.
struct Step<'a> {
    ctx: &'a Context,
    config: &'a DeepseekV3Config,
    rotary: &'a Rotary,
    batch: &'a Batch,
}

impl Step<'_> {
    /// `normed = RMSNorm(residual)`.
    fn first_norm(&self, weight: &Tensor, act: &mut Activations) -> Result<()> {
        let num_tokens = self.batch.num_tokens();
        Ok(rms_norm(
            self.ctx,
            RmsNorm {
                x: act.residual.rows(num_tokens),
                weight: weight.view(),
                eps: self.config.rms_norm_eps as f32,
                residual: None,
                out: act.normed.rows_mut(num_tokens),
            },
        )?)
    }

    /// `residual += delta; normed = RMSNorm(residual)`.
    fn next_norm(&self, weight: &Tensor, act: &mut Activations) -> Result<()> {
        let num_tokens = self.batch.num_tokens();
        Ok(rms_norm(
            self.ctx,
            RmsNorm {
                x: act.delta.rows(num_tokens),
                weight: weight.view(),
                eps: self.config.rms_norm_eps as f32,
                residual: Some(act.residual.rows_mut(num_tokens)),
                out: act.normed.rows_mut(num_tokens),
            },
        )?)
    }

    /// One decoder layer: reads `normed`, leaves its last sublayer's output in `delta`, not yet added to the residual.
    fn layer(&self, layer: &Layer, cache: &mut LayerCache, act: &mut Activations) -> Result<()> {
        self.attention(&layer.self_attn, cache, act)?;
        self.next_norm(&layer.post_attention_layernorm, act)?;
        match &layer.mlp {
            Mlp::Dense(mlp) => self.mlp(mlp, act),
            Mlp::Moe(moe) => self.moe(moe, act),
        }
    }

    /// Multi-head latent attention over the paged cache: `normed` to `delta`.
    fn attention(&self, attn: &Attention, cache: &mut LayerCache, act: &mut Activations) -> Result<()> {
        let (ctx, config, num_tokens) = (self.ctx, self.config, self.batch.num_tokens());
        let kv_lora_rank = config.kv_lora_rank;
        let kv_dim = config.latent_dim();
        let q_shape = [num_tokens, config.num_attention_heads, config.qk_head_dim()];

        self.linear(&act.normed, &attn.q_a_proj, &mut act.q_a)?;
        rms_norm(
            ctx,
            RmsNorm {
                x: act.q_a.rows(num_tokens),
                weight: attn.q_a_layernorm.view(),
                eps: INNER_NORM_EPS,
                residual: None,
                out: act.q_a_normed.rows_mut(num_tokens),
            },
        )?;
        self.linear(&act.q_a_normed, &attn.q_b_proj, &mut act.q)?;
        rope(
            ctx,
            Rope {
                x: act.q.rows(num_tokens).reshape_rows(q_shape),
                positions: &self.batch.positions,
                inv_freq: &self.rotary.inv_freq,
                attention_factor: self.rotary.attention_factor,
                layout: RopeLayout::Interleaved,
                rotary_start: config.qk_nope_head_dim,
                out: act.q_rotated.rows_mut(num_tokens).reshape_rows(q_shape),
            },
        )?;

        // The latent is normed; the rope key beside it is not.
        self.linear(&act.normed, &attn.kv_a_proj_with_mqa, &mut act.kv_a)?;
        rms_norm(
            ctx,
            RmsNorm {
                x: act.kv_a.rows(num_tokens).columns(0..kv_lora_rank),
                weight: attn.kv_a_layernorm.view(),
                eps: INNER_NORM_EPS,
                residual: None,
                out: act.kv.rows_mut(num_tokens).columns(0..kv_lora_rank),
            },
        )?;
        let k_pe_shape = [num_tokens, 1, config.qk_rope_head_dim];
        rope(
            ctx,
            Rope {
                x: act.kv_a.rows(num_tokens).columns(kv_lora_rank..kv_dim).reshape_rows(k_pe_shape),
                positions: &self.batch.positions,
                inv_freq: &self.rotary.inv_freq,
                attention_factor: self.rotary.attention_factor,
                layout: RopeLayout::Interleaved,
                rotary_start: 0,
                out: act.kv.rows_mut(num_tokens).columns(kv_lora_rank..kv_dim).reshape_rows(k_pe_shape),
            },
        )?;
        cache_write(
            ctx,
            CacheWrite {
                rows: act.kv.rows(num_tokens),
                slot_mapping: &self.batch.slot_mapping,
                cache: cache.kv.view_mut(),
            },
        )?;

        if let (Some(weights), Some(config), Some(index_act), Some(index_k)) =
            (&attn.indexer, &config.indexer, &mut act.indexer, &mut cache.index_k)
        {
            self.index(weights, config, &act.normed, &act.q_a_normed, index_k, index_act)?;
        }

        let topk_indices = act.indexer.as_ref().map(|indexer| indexer.topk_indices.rows(num_tokens));
        for (seqs, mla) in self.paths() {
            if seqs.seq_lens.is_empty() {
                continue;
            }
            mla(
                ctx,
                Mla {
                    q: act.q_rotated.rows(num_tokens).reshape_rows(q_shape),
                    kv_b_proj: &attn.kv_b_proj,
                    kv_cache: cache.kv.view(),
                    seqs,
                    topk_indices,
                    softmax_scale: self.rotary.softmax_scale,
                    qk_nope_head_dim: config.qk_nope_head_dim,
                    qk_rope_head_dim: config.qk_rope_head_dim,
                    v_head_dim: config.v_head_dim,
                    out: act.attn_out.rows_mut(num_tokens).reshape_rows([
                        num_tokens,
                        config.num_attention_heads,
                        config.v_head_dim,
                    ]),
                },
            )?;
        }
        self.linear(&act.attn_out, &attn.o_proj, &mut act.delta)
    }

    /// The batch's sequences by the way their attention is computed: absorbed first, expanded after.
    fn paths(&self) -> [(PagedSeqs<'_>, MlaFn); 2] {
        let absorbed = self.batch.num_absorbed_seqs;
        [
            (self.seqs(0..absorbed), mla_absorbed as MlaFn),
            (self.seqs(absorbed..self.batch.num_seqs()), mla_expanded as MlaFn),
        ]
    }

    /// A range of the batch's sequences.
    fn seqs(&self, range: std::ops::Range<usize>) -> PagedSeqs<'_> {
        let (batch, max_blocks) = (self.batch, self.batch.max_blocks);
        PagedSeqs {
            query_start_loc: &batch.query_start_loc[range.start..=range.end],
            seq_lens: &batch.seq_lens[range.clone()],
            block_table: &batch.block_table[range.start * max_blocks..range.end * max_blocks],
            max_blocks,
        }
    }

    /// The lightning indexer: writes its keys and chooses the positions that each token attends to.
    fn index(
        &self,
        weights: &IndexerWeights,
        config: &IndexerConfig,
        normed: &Buffer,
        q_a_normed: &Buffer,
        index_k: &mut Buffer,
        act: &mut IndexerActivations,
    ) -> Result<()> {
        let (ctx, num_tokens) = (self.ctx, self.batch.num_tokens());
        let q_shape = [num_tokens, config.index_n_heads, config.index_head_dim];
        let k_shape = [num_tokens, 1, config.index_head_dim];

        self.linear(q_a_normed, &weights.wq_b, &mut act.q)?;
        self.rope_index(
            act.q.rows(num_tokens).reshape_rows(q_shape),
            act.q_rotated.rows_mut(num_tokens).reshape_rows(q_shape),
        )?;

        self.linear(normed, &weights.wk, &mut act.k)?;
        layer_norm(
            ctx,
            LayerNorm {
                x: act.k.rows(num_tokens),
                weight: weights.k_norm_weight.view(),
                bias: weights.k_norm_bias.view(),
                eps: INNER_NORM_EPS,
                out: act.k_normed.rows_mut(num_tokens),
            },
        )?;
        self.rope_index(
            act.k_normed.rows(num_tokens).reshape_rows(k_shape),
            act.k_rotated.rows_mut(num_tokens).reshape_rows(k_shape),
        )?;
        cache_write(
            ctx,
            CacheWrite {
                rows: act.k_rotated.rows(num_tokens),
                slot_mapping: &self.batch.slot_mapping,
                cache: index_k.view_mut(),
            },
        )?;

        self.linear(normed, &weights.weights_proj, &mut act.weights)?;
        let scale = ((config.index_n_heads * config.index_head_dim) as f32).sqrt().recip();
        Ok(indexer(
            ctx,
            Indexer {
                q: act.q_rotated.rows(num_tokens).reshape_rows(q_shape),
                weights: act.weights.rows(num_tokens),
                key_cache: index_k.view(),
                seqs: self.seqs(0..self.batch.num_seqs()),
                scale,
                out: act.topk_indices.rows_mut(num_tokens),
            },
        )?)
    }

    /// The indexer rotates the first dimensions of its heads, half-split: the opposite of the main attention in both.
    fn rope_index(&self, x: View<'_>, out: ViewMut<'_>) -> Result<()> {
        Ok(rope(
            self.ctx,
            Rope {
                x,
                positions: &self.batch.positions,
                inv_freq: &self.rotary.inv_freq,
                attention_factor: self.rotary.attention_factor,
                layout: RopeLayout::HalfSplit,
                rotary_start: 0,
                out,
            },
        )?)
    }

    /// A SwiGLU MLP: `normed` to `delta`.
    fn mlp(&self, mlp: &Expert, act: &mut Activations) -> Result<()> {
        let (num_tokens, dim) = (self.batch.num_tokens(), mlp.gate_proj.num_rows());
        let x = act.normed.rows(num_tokens);
        // The buffers fit the widest MLP; a narrower one uses their first columns.
        linear(self.ctx, Linear { x, weight: &mlp.gate_proj, out: act.gate.rows_mut(num_tokens).columns(0..dim) })?;
        linear(self.ctx, Linear { x, weight: &mlp.up_proj, out: act.up.rows_mut(num_tokens).columns(0..dim) })?;
        swiglu(
            self.ctx,
            SwiGlu {
                gate: act.gate.rows(num_tokens).columns(0..dim),
                up: act.up.rows(num_tokens).columns(0..dim),
                out: act.act.rows_mut(num_tokens).columns(0..dim),
            },
        )?;
        Ok(linear(
            self.ctx,
            Linear {
                x: act.act.rows(num_tokens).columns(0..dim),
                weight: &mlp.down_proj,
                out: act.delta.rows_mut(num_tokens),
            },
        )?)
    }

    /// Shared expert plus routed experts: `normed` to `delta`.
    fn moe(&self, moe: &Moe, act: &mut Activations) -> Result<()> {
        let (config, num_tokens) = (self.config, self.batch.num_tokens());
        self.mlp(&moe.shared_experts, act)?;
        gate(
            self.ctx,
            Gate {
                x: act.normed.rows(num_tokens),
                weight: &moe.gate,
                bias: moe.e_score_correction_bias.view(),
                n_group: config.n_group,
                topk_group: config.topk_group,
                norm_topk_prob: config.norm_topk_prob,
                routed_scaling_factor: config.routed_scaling_factor as f32,
                expert_ids: act.expert_ids.rows_mut(num_tokens),
                expert_weights: act.expert_weights.rows_mut(num_tokens),
            },
        )?;
        Ok(experts(
            self.ctx,
            Experts {
                x: act.normed.rows(num_tokens),
                experts: &moe.experts,
                expert_ids: act.expert_ids.rows(num_tokens),
                expert_weights: act.expert_weights.rows(num_tokens),
                out: act.delta.rows_mut(num_tokens),
            },
        )?)
    }

    /// A linear layer over the step's rows.
    fn linear(&self, x: &Buffer, weight: &Matrix, out: &mut Buffer) -> Result<()> {
        let num_tokens = self.batch.num_tokens();
        Ok(linear(self.ctx, Linear { x: x.rows(num_tokens), weight, out: out.rows_mut(num_tokens) })?)
    }
}

/// [`mla_absorbed`] or [`mla_expanded`].
type MlaFn = fn(&Context, Mla<'_>) -> cachalot_ops::Result<()>;
