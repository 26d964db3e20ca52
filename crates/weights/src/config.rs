//! config.json of every release, typed and validated.
//!
//! Both spellings are read: the published files (`rope_theta` beside `rope_scaling`, `torch_dtype`) and what newer
//! versions of transformers write (`rope_parameters`, `dtype`, `mlp_layer_types`). Unknown keys are ignored. A key that
//! the engine needs and does not find, and a value that it cannot compute with, are errors; all of them are reported
//! together. Values that every release shares and no code path reads as a variable (`hidden_act`, `scoring_func`, …) are
//! not fields: a file that sets them otherwise is refused.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::keys::Keys;

/// What config.json says, by architecture.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// DeepSeek V3, R1, V3.1 and V3.2: latent attention and a mixture of experts.
    DeepseekV3(DeepseekV3Config),
    /// The distilled R1-0528-Qwen3-8B: grouped-query attention and a dense MLP.
    Qwen3(Qwen3Config),
}

/// `DeepseekV3ForCausalLM`, and `DeepseekV32ForCausalLM`, which is the same with an indexer in each layer.
///
/// Fields are named as in config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepseekV3Config {
    /// Token ids, and rows of `embed_tokens` and `lm_head`.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the dense MLPs.
    pub intermediate_size: usize,
    /// Inner width of one expert.
    pub moe_intermediate_size: usize,
    /// Layers of the main model, without the MTP layers.
    pub num_hidden_layers: usize,
    /// MTP layers that follow the main ones, `model.layers.{num_hidden_layers}` and on. The files may lack them: see
    /// [`Checkpoint::has_mtp`](crate::Checkpoint::has_mtp).
    pub num_nextn_predict_layers: usize,
    /// The first layers, this many, have a dense MLP; the others, and the MTP layers, have experts.
    pub first_k_dense_replace: usize,
    /// Query heads. Latent attention has one key for all of them.
    pub num_attention_heads: usize,
    /// Width of the compressed query.
    pub q_lora_rank: usize,
    /// Width of the compressed key and value.
    pub kv_lora_rank: usize,
    /// Elements of a head that are not rotated; they come first.
    pub qk_nope_head_dim: usize,
    /// Elements of a head that are rotated; they come last.
    pub qk_rope_head_dim: usize,
    /// Elements of a head's value.
    pub v_head_dim: usize,
    /// Experts that the gate chooses among.
    pub n_routed_experts: usize,
    /// Experts that every token passes, stored as one MLP of `n_shared_experts * moe_intermediate_size`.
    pub n_shared_experts: usize,
    /// Experts that the gate chooses per token.
    pub num_experts_per_tok: usize,
    /// Groups of `n_routed_experts / n_group` consecutive experts.
    pub n_group: usize,
    /// Groups that stay eligible for a token.
    pub topk_group: usize,
    /// Whether the chosen experts' scores are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the routed experts' weights; the shared expert is not scaled.
    pub routed_scaling_factor: f64,
    /// Sparse attention of V3.2.
    pub indexer: Option<IndexerConfig>,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary embedding of attention and indexer.
    pub rope: RopeConfig,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Whether `lm_head` is the embedding table.
    pub tie_word_embeddings: bool,
    /// Token that opens a prompt.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a reply; one or several.
    pub eos_token_ids: Vec<u32>,
    /// `torch_dtype` or `dtype`, as written; the files' own dtypes decide.
    pub dtype: Option<String>,
    /// FP8 weights with block scales.
    pub quantization: Option<QuantizationConfig>,
}

/// The lightning indexer of V3.2 (`index_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexerConfig {
    /// Query heads of the indexer.
    pub index_n_heads: usize,
    /// Elements of a head; the first `qk_rope_head_dim` of them are rotated.
    pub index_head_dim: usize,
    /// Positions that attention keeps per token.
    pub index_topk: usize,
}

/// `Qwen3ForCausalLM`.
#[derive(Clone, Debug, PartialEq)]
pub struct Qwen3Config {
    /// Token ids, and rows of `embed_tokens` and `lm_head`.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Elements of a head, all of them rotated, in halves.
    pub head_dim: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Whether `lm_head` is the embedding table.
    pub tie_word_embeddings: bool,
    /// Token that opens a prompt.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a reply; one or several.
    pub eos_token_ids: Vec<u32>,
    /// `torch_dtype` or `dtype`, as written; the files' own dtypes decide.
    pub dtype: Option<String>,
    /// FP8 weights with block scales.
    pub quantization: Option<QuantizationConfig>,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub rope_theta: f64,
    /// YaRN's stretching of the frequencies. It holds at every position, also in short prompts.
    pub yarn: Option<YarnConfig>,
}

/// YaRN: frequencies that turn fewer than `beta_slow` times within the original context are divided by `factor`, those
/// that turn more than `beta_fast` times are kept, and between the two is a linear ramp.
#[derive(Clone, Debug, PartialEq)]
pub struct YarnConfig {
    /// How many times longer the context is than the one trained on.
    pub factor: f64,
    /// Context trained on, in tokens.
    pub original_max_position_embeddings: usize,
    /// Turns from which a frequency is kept.
    pub beta_fast: f64,
    /// Turns up to which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Factor on cos and sin; see [`YarnConfig::attention_factor`].
    pub attention_factor: f64,
    /// Numerator of the two magnitude parameters, kept for reports.
    pub mscale: Option<f64>,
    /// Magnitude that goes to the softmax scale; see [`YarnConfig::softmax_factor`].
    pub mscale_all_dim: Option<f64>,
}

/// `quantization_config` of an FP8 checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// Rows and columns of the weight that share one scale.
    pub weight_block_size: [usize; 2],
    /// How scales were rounded when the model was trained, and must be for activations on FP8 tensor cores.
    pub scale_fmt: ScaleFormat,
}

/// Values that a block scale takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFormat {
    /// Any f32: V3, V3-0324, R1, R1-0528.
    F32,
    /// Powers of two: V3.1 and later.
    Ue8m0,
}

impl fmt::Display for ScaleFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ScaleFormat::F32 => "f32",
            ScaleFormat::Ue8m0 => "ue8m0",
        })
    }
}

/// `0.1 * mscale * ln(factor) + 1`: how much YaRN sharpens attention.
fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

impl YarnConfig {
    /// Factor on cos and sin.
    ///
    /// `attention_factor` where the file has it; else `m(mscale) / m(mscale_all_dim)`, which is 1 in every DeepSeek
    /// release, or `m(1)` where one of the two is missing, with `m(x) = 0.1 x ln(factor) + 1`; times `attn_factor`, with
    /// which R1-0528-Qwen3-8B comes back to 1.
    pub fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    /// Factor on the softmax scale of latent attention: `m(mscale_all_dim)²`, 1 where the key is missing or 0.
    pub fn softmax_factor(&self) -> f64 {
        let mscale = self.mscale_all_dim.unwrap_or(0.0);
        if mscale == 0.0 { 1.0 } else { yarn_magnitude(self.factor, mscale).powi(2) }
    }
}

impl DeepseekV3Config {
    /// Elements of a query or key head: the part that is not rotated, then the part that is.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Scale of the attention logits: `qk_head_dim^-0.5`, times YaRN's softmax factor.
    pub fn softmax_scale(&self) -> f64 {
        (self.qk_head_dim() as f64).powf(-0.5) * self.rope.yarn.as_ref().map_or(1.0, YarnConfig::softmax_factor)
    }

    /// Whether a layer has experts rather than a dense MLP. Holds for MTP layers too.
    pub fn is_moe_layer(&self, layer: usize) -> bool {
        layer >= self.first_k_dense_replace || layer >= self.num_hidden_layers
    }

    /// Elements of the latent cache per token and layer: the compressed key and value, then the rotated key.
    pub fn latent_dim(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }
}

/// Largest accepted sizes: far above every release, and small enough that the product of a tensor's dimensions, the
/// bytes of all tensors and the length of their list stay within their types whatever a file says.
const WIDTH: usize = 1 << 20;
const HEADS: usize = 1 << 14;
const HEAD_DIM: usize = 1 << 14;
const LAYERS: usize = 1 << 10;
const EXPERTS: usize = 1 << 12;
const SHARED_EXPERTS: usize = 1 << 8;
const TOKENS: usize = 1 << 30;

/// Architectures by their name in `architectures` and by their `model_type`.
const ARCHITECTURES: [(&str, &str, Architecture); 3] = [
    ("DeepseekV3ForCausalLM", "deepseek_v3", Architecture::DeepseekV3),
    ("DeepseekV32ForCausalLM", "deepseek_v32", Architecture::DeepseekV32),
    ("Qwen3ForCausalLM", "qwen3", Architecture::Qwen3),
];

#[derive(Clone, Copy)]
enum Architecture {
    DeepseekV3,
    DeepseekV32,
    Qwen3,
}

impl Config {
    /// Reads the bytes of a config.json.
    ///
    /// # Errors
    /// [`Error::ConfigSyntax`] if they are not a JSON object, [`Error::Architecture`] if the model is of another family,
    /// [`Error::Config`] with every missing key and every unusable value.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| Error::ConfigSyntax { reason: error.to_string() })?;
        let Value::Object(object) = value else {
            return Err(Error::ConfigSyntax { reason: "it holds no JSON object".into() });
        };
        let (name, architecture) = architecture(&object)?;
        let mut keys = Keys::new(&object);
        let config = match architecture {
            Architecture::DeepseekV3 => Config::DeepseekV3(deepseek_v3(&mut keys, false)),
            Architecture::DeepseekV32 => Config::DeepseekV3(deepseek_v3(&mut keys, true)),
            Architecture::Qwen3 => Config::Qwen3(qwen3(&mut keys)),
        };
        if !keys.has_problems() {
            config.check(&mut keys);
        }
        keys.finish(name)?;
        Ok(config)
    }

    /// Name of the architecture in config.json.
    pub fn architecture(&self) -> &'static str {
        match self {
            Config::DeepseekV3(config) if config.indexer.is_some() => "DeepseekV32ForCausalLM",
            Config::DeepseekV3(_) => "DeepseekV3ForCausalLM",
            Config::Qwen3(_) => "Qwen3ForCausalLM",
        }
    }

    /// Token ids, and rows of `embed_tokens` and `lm_head`.
    pub fn vocab_size(&self) -> usize {
        match self {
            Config::DeepseekV3(config) => config.vocab_size,
            Config::Qwen3(config) => config.vocab_size,
        }
    }

    /// Longest sequence, in tokens.
    pub fn max_position_embeddings(&self) -> usize {
        match self {
            Config::DeepseekV3(config) => config.max_position_embeddings,
            Config::Qwen3(config) => config.max_position_embeddings,
        }
    }

    /// Token that opens a prompt.
    pub fn bos_token_id(&self) -> Option<u32> {
        match self {
            Config::DeepseekV3(config) => config.bos_token_id,
            Config::Qwen3(config) => config.bos_token_id,
        }
    }

    /// Tokens that end a reply.
    pub fn eos_token_ids(&self) -> &[u32] {
        match self {
            Config::DeepseekV3(config) => &config.eos_token_ids,
            Config::Qwen3(config) => &config.eos_token_ids,
        }
    }

    /// Block scales of FP8 weights.
    pub fn quantization(&self) -> Option<&QuantizationConfig> {
        match self {
            Config::DeepseekV3(config) => config.quantization.as_ref(),
            Config::Qwen3(config) => config.quantization.as_ref(),
        }
    }

    /// `torch_dtype` or `dtype`, as written.
    pub fn dtype(&self) -> Option<&str> {
        match self {
            Config::DeepseekV3(config) => config.dtype.as_deref(),
            Config::Qwen3(config) => config.dtype.as_deref(),
        }
    }

    /// What no single key shows to be wrong. Reads only values that were all there and all of the right type.
    fn check(&self, keys: &mut Keys<'_>) {
        let vocab_size = self.vocab_size();
        for &id in self.eos_token_ids().iter().chain(&self.bos_token_id()) {
            keys.require((id as usize) < vocab_size, || {
                format!("token id {id} of `bos_token_id` or `eos_token_id` is not below `vocab_size`, {vocab_size}")
            });
        }
        match self {
            Config::DeepseekV3(config) => config.check(keys),
            Config::Qwen3(config) => config.check(keys),
        }
    }
}

impl DeepseekV3Config {
    fn check(&self, keys: &mut Keys<'_>) {
        let Self { n_routed_experts, n_group, topk_group, num_experts_per_tok, qk_rope_head_dim, .. } = *self;
        keys.require(n_routed_experts.is_multiple_of(n_group), || {
            format!("`n_routed_experts`, {n_routed_experts}, is not a multiple of `n_group`, {n_group}")
        });
        keys.require(topk_group <= n_group, || {
            format!("`topk_group`, {topk_group}, is more than `n_group`, {n_group}")
        });
        let selectable = n_routed_experts / n_group * topk_group.min(n_group);
        keys.require(num_experts_per_tok <= selectable, || {
            format!(
                "`num_experts_per_tok`, {num_experts_per_tok}, is more than the {selectable} experts in `topk_group` = \
                 {topk_group} groups"
            )
        });
        keys.require(qk_rope_head_dim.is_multiple_of(2), || {
            format!("`qk_rope_head_dim`, {qk_rope_head_dim}, is odd; rotation takes elements in pairs")
        });
        if let Some(IndexerConfig { index_head_dim, .. }) = self.indexer {
            keys.require(index_head_dim >= qk_rope_head_dim, || {
                format!("`index_head_dim`, {index_head_dim}, is less than `qk_rope_head_dim`, {qk_rope_head_dim}")
            });
        }
    }
}

impl Qwen3Config {
    fn check(&self, keys: &mut Keys<'_>) {
        let Self { num_attention_heads, num_key_value_heads, head_dim, .. } = *self;
        keys.require(num_attention_heads.is_multiple_of(num_key_value_heads), || {
            format!(
                "`num_attention_heads`, {num_attention_heads}, is not a multiple of `num_key_value_heads`, \
                 {num_key_value_heads}"
            )
        });
        keys.require(head_dim.is_multiple_of(2), || {
            format!("`head_dim`, {head_dim}, is odd; rotation takes elements in pairs")
        });
    }
}

/// The architecture by `architectures`, or by `model_type` where that list is missing.
fn architecture(object: &Map<String, Value>) -> Result<(&'static str, Architecture)> {
    let by_name = object.get("architectures").and_then(|value| value.get(0)).and_then(Value::as_str);
    let by_type = object.get("model_type").and_then(Value::as_str);
    let known = ARCHITECTURES
        .iter()
        .find(|(name, model_type, _)| by_name.map_or(by_type == Some(model_type), |by_name| by_name == *name));
    match known {
        Some(&(name, _, architecture)) => Ok((name, architecture)),
        None => Err(Error::Architecture {
            found: by_name.or(by_type).map(str::to_owned),
            known: ARCHITECTURES.map(|(name, _, _)| name).join(", "),
        }),
    }
}

fn deepseek_v3(keys: &mut Keys<'_>, has_indexer: bool) -> DeepseekV3Config {
    keys.only_str("hidden_act", "silu");
    keys.only_str("scoring_func", "sigmoid");
    keys.only_str("topk_method", "noaux_tc");
    keys.only_int("moe_layer_freq", 1);
    keys.only_bool("attention_bias", false);
    keys.only_bool("mlp_bias", false);
    keys.only_bool("rope_interleave", true);
    keys.only_bool("indexer_rope_interleave", false);
    let num_hidden_layers = keys.size("num_hidden_layers", LAYERS);
    DeepseekV3Config {
        vocab_size: keys.size("vocab_size", WIDTH),
        hidden_size: keys.size("hidden_size", WIDTH),
        intermediate_size: keys.size("intermediate_size", WIDTH),
        moe_intermediate_size: keys.size("moe_intermediate_size", WIDTH),
        num_hidden_layers,
        num_nextn_predict_layers: num_nextn_predict_layers(keys),
        first_k_dense_replace: first_k_dense_replace(keys, num_hidden_layers),
        num_attention_heads: keys.size("num_attention_heads", HEADS),
        q_lora_rank: keys.size("q_lora_rank", WIDTH),
        kv_lora_rank: keys.size("kv_lora_rank", WIDTH),
        qk_nope_head_dim: keys.size("qk_nope_head_dim", HEAD_DIM),
        qk_rope_head_dim: keys.size("qk_rope_head_dim", HEAD_DIM),
        v_head_dim: keys.size("v_head_dim", HEAD_DIM),
        n_routed_experts: keys.size("n_routed_experts", EXPERTS),
        n_shared_experts: keys.size("n_shared_experts", SHARED_EXPERTS),
        num_experts_per_tok: keys.size("num_experts_per_tok", EXPERTS),
        n_group: keys.size("n_group", EXPERTS),
        topk_group: keys.size("topk_group", EXPERTS),
        norm_topk_prob: keys.bool("norm_topk_prob").unwrap_or(true),
        routed_scaling_factor: keys.positive("routed_scaling_factor"),
        indexer: has_indexer.then(|| IndexerConfig {
            index_n_heads: keys.size("index_n_heads", HEADS),
            index_head_dim: keys.size("index_head_dim", HEAD_DIM),
            index_topk: keys.size("index_topk", TOKENS),
        }),
        rms_norm_eps: keys.positive("rms_norm_eps"),
        rope: rope(keys),
        max_position_embeddings: keys.size("max_position_embeddings", TOKENS),
        tie_word_embeddings: keys.bool("tie_word_embeddings").unwrap_or(false),
        bos_token_id: keys.token_ids("bos_token_id").first().copied(),
        eos_token_ids: keys.token_ids("eos_token_id"),
        dtype: dtype(keys),
        quantization: quantization(keys),
    }
}

fn qwen3(keys: &mut Keys<'_>) -> Qwen3Config {
    keys.only_str("hidden_act", "silu");
    keys.only_bool("attention_bias", false);
    keys.only_bool("use_sliding_window", false);
    Qwen3Config {
        vocab_size: keys.size("vocab_size", WIDTH),
        hidden_size: keys.size("hidden_size", WIDTH),
        intermediate_size: keys.size("intermediate_size", WIDTH),
        num_hidden_layers: keys.size("num_hidden_layers", LAYERS),
        num_attention_heads: keys.size("num_attention_heads", HEADS),
        num_key_value_heads: keys.size("num_key_value_heads", HEADS),
        head_dim: keys.size("head_dim", HEAD_DIM),
        rms_norm_eps: keys.positive("rms_norm_eps"),
        rope: rope(keys),
        max_position_embeddings: keys.size("max_position_embeddings", TOKENS),
        tie_word_embeddings: keys.bool("tie_word_embeddings").unwrap_or(false),
        bos_token_id: keys.token_ids("bos_token_id").first().copied(),
        eos_token_ids: keys.token_ids("eos_token_id"),
        dtype: dtype(keys),
        quantization: quantization(keys),
    }
}

fn dtype(keys: &mut Keys<'_>) -> Option<String> {
    keys.str("torch_dtype").or_else(|| keys.str("dtype")).map(str::to_owned)
}

/// The published key, or its alias in transformers.
fn num_nextn_predict_layers(keys: &mut Keys<'_>) -> usize {
    keys.count("num_nextn_predict_layers", LAYERS).or_else(|| keys.count("num_mtp_layers", LAYERS)).unwrap_or(0)
}

/// `first_k_dense_replace`, or the same fact as a list of "dense" and "sparse", which wins where both are given.
fn first_k_dense_replace(keys: &mut Keys<'_>, num_hidden_layers: usize) -> usize {
    let Some(types) = keys.get("mlp_layer_types") else {
        return keys.required_count("first_k_dense_replace", LAYERS);
    };
    let names: Option<Vec<&str>> = types.as_array().and_then(|types| types.iter().map(Value::as_str).collect());
    let num_dense = names.iter().flatten().take_while(|name| **name == "dense").count();
    match names {
        Some(names) if names.len() == num_hidden_layers && names[num_dense..].iter().all(|name| *name == "sparse") => {
            num_dense
        }
        _ => {
            keys.problem(format!(
                "`mlp_layer_types` is {types}, expected one entry for each of the {num_hidden_layers} layers, \
                 \"dense\" ones before \"sparse\" ones"
            ));
            num_dense
        }
    }
}

/// `rope_theta` beside `rope_scaling`, or both within `rope_parameters`.
fn rope(keys: &mut Keys<'_>) -> RopeConfig {
    let object = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| match keys.get(key) {
        None => None,
        Some(Value::Object(object)) if object.is_empty() => None,
        Some(Value::Object(object)) => Some((key, object)),
        Some(other) => {
            keys.problem(format!("`{key}` is {other}, expected an object or null"));
            None
        }
    });
    let Some((name, object)) = object else {
        return RopeConfig { rope_theta: keys.positive("rope_theta"), yarn: None };
    };
    let mut inner = Keys::within(name, object);
    let rope_theta = match inner.optional_positive("rope_theta") {
        Some(theta) => theta,
        None => keys.positive("rope_theta"),
    };
    if let Some(partial) = inner.optional_positive("partial_rotary_factor").filter(|&partial| partial != 1.0) {
        inner.problem(format!("`{name}.partial_rotary_factor` is {partial}, only 1 is supported"));
    }
    let yarn = match inner.str("rope_type").or_else(|| inner.str("type")) {
        Some("yarn") => Some(yarn(&mut inner)),
        Some("default") | None => None,
        Some(other) => {
            inner.problem(format!("`{name}.rope_type` is \"{other}\", supported are \"yarn\" and \"default\""));
            None
        }
    };
    keys.absorb(inner);
    RopeConfig { rope_theta, yarn }
}

fn yarn(keys: &mut Keys<'_>) -> YarnConfig {
    keys.only_bool("truncate", true);
    let factor = keys.positive("factor");
    let mscale = keys.float("mscale");
    let mscale_all_dim = keys.float("mscale_all_dim");
    // A factor of 0 means "none" in the files that have it, as it does in transformers.
    let ratio = match (mscale.filter(|&x| x != 0.0), mscale_all_dim.filter(|&x| x != 0.0)) {
        (Some(mscale), Some(all_dim)) => yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all_dim),
        _ => yarn_magnitude(factor, 1.0),
    };
    let attn_factor = keys.optional_positive("attn_factor").unwrap_or(1.0);
    YarnConfig {
        factor,
        original_max_position_embeddings: keys.size("original_max_position_embeddings", TOKENS),
        beta_fast: keys.optional_positive("beta_fast").unwrap_or(32.0),
        beta_slow: keys.optional_positive("beta_slow").unwrap_or(1.0),
        attention_factor: keys.optional_positive("attention_factor").unwrap_or(ratio * attn_factor),
        mscale,
        mscale_all_dim,
    }
}

fn quantization(keys: &mut Keys<'_>) -> Option<QuantizationConfig> {
    let object = keys.object("quantization_config")?;
    let mut inner = Keys::within("quantization_config", object);
    let method = inner.str("quant_method");
    if method != Some("fp8") {
        // Another method has other keys: reporting those as missing would mislead.
        let found = method.map_or("missing".to_owned(), |method| format!("\"{method}\""));
        keys.problem(format!("`quantization_config.quant_method` is {found}, only \"fp8\" is supported"));
        return None;
    }
    inner.only_str("fmt", "e4m3");
    inner.only_str("activation_scheme", "dynamic");
    let scale_fmt = match inner.str("scale_fmt") {
        None => ScaleFormat::F32,
        Some("ue8m0") => ScaleFormat::Ue8m0,
        Some(other) => {
            inner.problem(format!("`quantization_config.scale_fmt` is \"{other}\", only \"ue8m0\" is known"));
            ScaleFormat::F32
        }
    };
    let weight_block_size = inner.size_pair("weight_block_size", WIDTH);
    keys.absorb(inner);
    Some(QuantizationConfig { weight_block_size, scale_fmt })
}
