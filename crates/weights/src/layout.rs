//! The tensors that a model is made of, in the published naming.

use cachalot_tensor::Shape;
use serde::Serialize;

use crate::config::{Config, DeepseekV3Config, IndexerConfig, Qwen3Config};

/// One tensor that config.json implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape, `[out_features, in_features]` for a linear layer.
    pub shape: Shape,
    /// How it is stored.
    pub kind: TensorKind,
    /// What it belongs to.
    pub component: Component,
    /// Whether it is part of the main model or of a layer that drafts tokens.
    pub stage: Stage,
    /// Tensors of the main model that stand in for this one where the files do not repeat it, best first: the embedding
    /// table for a tied head, embedding and head for an MTP layer's copies.
    pub stand_ins: &'static [&'static str],
}

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A linear layer's weight that FP8 checkpoints quantise: F8_E4M3 with block scales, or BF16, F16, F32.
    Linear,
    /// A table or linear weight that is never quantised: BF16, F16, F32.
    Table,
    /// A norm's weight or bias: BF16, F16, F32.
    Norm,
    /// `e_score_correction_bias`: F32. BF16 and F16 are accepted, because a model that was cast as a whole and saved has
    /// them, and are expanded to F32, in which the gate computes.
    CorrectionBias,
}

/// What a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// `embed_tokens`.
    Embedding,
    /// The projections of attention.
    Attention,
    /// The indexer of V3.2, its key norm included.
    Indexer,
    /// MLP of the layers without experts.
    DenseMlp,
    /// Router weights and correction bias.
    Gate,
    /// The experts that the gate chooses among.
    RoutedExperts,
    /// The expert that every token passes.
    SharedExperts,
    /// Every norm outside of the indexer.
    Norms,
    /// An MTP layer's `eh_proj`.
    MtpProjection,
    /// `lm_head`, `shared_head.head`.
    Head,
}

impl Component {
    /// The component in words.
    pub fn name(self) -> &'static str {
        match self {
            Component::Embedding => "embedding",
            Component::Attention => "attention",
            Component::Indexer => "indexer",
            Component::DenseMlp => "dense MLP",
            Component::Gate => "gate",
            Component::RoutedExperts => "routed experts",
            Component::SharedExperts => "shared experts",
            Component::Norms => "norms",
            Component::MtpProjection => "MTP projection",
            Component::Head => "head",
        }
    }
}

/// Whether a tensor computes the reply or drafts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The model proper.
    Main,
    /// A multi-token-prediction layer.
    Mtp,
}

/// Name of the embedding table.
const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// Name of the output head.
const LM_HEAD: &str = "lm_head.weight";

impl Config {
    /// Every tensor of the model, main layers first, then the MTP layers that config.json promises. Block scales are not
    /// listed: they follow from [`TensorKind::Linear`] and [`scale_name`].
    pub fn layout(&self) -> Vec<TensorSpec> {
        let mut layout = Layout { specs: Vec::new(), stage: Stage::Main };
        match self {
            Config::DeepseekV3(config) => layout.deepseek_v3(config),
            Config::Qwen3(config) => layout.qwen3(config),
        }
        layout.specs
    }
}

/// Name of the block scales of an FP8 weight. They multiply, whatever the name says.
pub fn scale_name(weight: &str) -> String {
    format!("{weight}_scale_inv")
}

struct Layout {
    specs: Vec<TensorSpec>,
    stage: Stage,
}

impl Layout {
    fn push(&mut self, component: Component, kind: TensorKind, name: String, shape: impl Into<Shape>) {
        self.specs.push(TensorSpec { name, shape: shape.into(), kind, component, stage: self.stage, stand_ins: &[] });
    }

    /// The tensor pushed last may be missing; the first of `stand_ins` that is there is used in its place.
    fn or(&mut self, stand_ins: &'static [&'static str]) {
        self.specs.last_mut().expect("called after a push").stand_ins = stand_ins;
    }

    fn linear(&mut self, component: Component, name: String, shape: [usize; 2]) {
        self.push(component, TensorKind::Linear, name, shape);
    }

    fn table(&mut self, component: Component, name: String, shape: [usize; 2]) {
        self.push(component, TensorKind::Table, name, shape);
    }

    fn norm(&mut self, name: String, len: usize) {
        self.push(Component::Norms, TensorKind::Norm, name, [len]);
    }

    fn mlp(&mut self, component: Component, prefix: &str, hidden_size: usize, intermediate_size: usize) {
        self.linear(component, format!("{prefix}.gate_proj.weight"), [intermediate_size, hidden_size]);
        self.linear(component, format!("{prefix}.up_proj.weight"), [intermediate_size, hidden_size]);
        self.linear(component, format!("{prefix}.down_proj.weight"), [hidden_size, intermediate_size]);
    }

    fn embedding_and_head(&mut self, vocab_size: usize, hidden_size: usize, tie_word_embeddings: bool) {
        self.table(Component::Embedding, EMBED_TOKENS.into(), [vocab_size, hidden_size]);
        self.norm("model.norm.weight".into(), hidden_size);
        self.table(Component::Head, LM_HEAD.into(), [vocab_size, hidden_size]);
        if tie_word_embeddings {
            self.or(&[EMBED_TOKENS]);
        }
    }

    fn deepseek_v3(&mut self, config: &DeepseekV3Config) {
        let &DeepseekV3Config { vocab_size, hidden_size, num_hidden_layers, .. } = config;
        self.embedding_and_head(vocab_size, hidden_size, config.tie_word_embeddings);
        for layer in 0..num_hidden_layers {
            self.deepseek_v3_layer(config, layer);
        }
        self.stage = Stage::Mtp;
        for layer in num_hidden_layers..num_hidden_layers + config.num_nextn_predict_layers {
            let prefix = format!("model.layers.{layer}");
            self.deepseek_v3_layer(config, layer);
            self.norm(format!("{prefix}.enorm.weight"), hidden_size);
            self.norm(format!("{prefix}.hnorm.weight"), hidden_size);
            let eh_proj = format!("{prefix}.eh_proj.weight");
            self.table(Component::MtpProjection, eh_proj, [hidden_size, 2 * hidden_size]);
            self.table(Component::Embedding, format!("{prefix}.embed_tokens.weight"), [vocab_size, hidden_size]);
            self.or(&[EMBED_TOKENS]);
            self.norm(format!("{prefix}.shared_head.norm.weight"), hidden_size);
            self.table(Component::Head, format!("{prefix}.shared_head.head.weight"), [vocab_size, hidden_size]);
            self.or(if config.tie_word_embeddings { &[LM_HEAD, EMBED_TOKENS] } else { &[LM_HEAD] });
        }
    }

    fn deepseek_v3_layer(&mut self, config: &DeepseekV3Config, layer: usize) {
        let &DeepseekV3Config { hidden_size, num_attention_heads, q_lora_rank, kv_lora_rank, .. } = config;
        let prefix = format!("model.layers.{layer}");
        self.norm(format!("{prefix}.input_layernorm.weight"), hidden_size);
        self.norm(format!("{prefix}.post_attention_layernorm.weight"), hidden_size);

        let attention = format!("{prefix}.self_attn");
        let projections = [
            ("q_a_proj", [q_lora_rank, hidden_size]),
            ("q_b_proj", [num_attention_heads * config.qk_head_dim(), q_lora_rank]),
            ("kv_a_proj_with_mqa", [config.latent_dim(), hidden_size]),
            ("kv_b_proj", [num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim), kv_lora_rank]),
            ("o_proj", [hidden_size, num_attention_heads * config.v_head_dim]),
        ];
        for (name, shape) in projections {
            self.linear(Component::Attention, format!("{attention}.{name}.weight"), shape);
        }
        self.norm(format!("{attention}.q_a_layernorm.weight"), q_lora_rank);
        self.norm(format!("{attention}.kv_a_layernorm.weight"), kv_lora_rank);
        if let Some(indexer) = &config.indexer {
            self.indexer(config, indexer, &format!("{attention}.indexer"));
        }

        let mlp = format!("{prefix}.mlp");
        if !config.is_moe_layer(layer) {
            self.mlp(Component::DenseMlp, &mlp, hidden_size, config.intermediate_size);
            return;
        }
        let num_experts = config.n_routed_experts;
        self.table(Component::Gate, format!("{mlp}.gate.weight"), [num_experts, hidden_size]);
        let bias = format!("{mlp}.gate.e_score_correction_bias");
        self.push(Component::Gate, TensorKind::CorrectionBias, bias, [num_experts]);
        for expert in 0..num_experts {
            let expert = format!("{mlp}.experts.{expert}");
            self.mlp(Component::RoutedExperts, &expert, hidden_size, config.moe_intermediate_size);
        }
        let shared_size = config.n_shared_experts * config.moe_intermediate_size;
        self.mlp(Component::SharedExperts, &format!("{mlp}.shared_experts"), hidden_size, shared_size);
    }

    fn indexer(&mut self, config: &DeepseekV3Config, indexer: &IndexerConfig, prefix: &str) {
        let &IndexerConfig { index_n_heads, index_head_dim, .. } = indexer;
        let wq_b = format!("{prefix}.wq_b.weight");
        self.linear(Component::Indexer, wq_b, [index_n_heads * index_head_dim, config.q_lora_rank]);
        self.linear(Component::Indexer, format!("{prefix}.wk.weight"), [index_head_dim, config.hidden_size]);
        for name in ["weight", "bias"] {
            let k_norm = format!("{prefix}.k_norm.{name}");
            self.push(Component::Indexer, TensorKind::Norm, k_norm, [index_head_dim]);
        }
        let weights_proj = format!("{prefix}.weights_proj.weight");
        self.table(Component::Indexer, weights_proj, [index_n_heads, config.hidden_size]);
    }

    fn qwen3(&mut self, config: &Qwen3Config) {
        let &Qwen3Config { hidden_size, head_dim, .. } = config;
        self.embedding_and_head(config.vocab_size, hidden_size, config.tie_word_embeddings);
        let query_size = config.num_attention_heads * head_dim;
        let key_size = config.num_key_value_heads * head_dim;
        for layer in 0..config.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            self.norm(format!("{prefix}.input_layernorm.weight"), hidden_size);
            self.norm(format!("{prefix}.post_attention_layernorm.weight"), hidden_size);
            let projections = [
                ("q_proj", [query_size, hidden_size]),
                ("k_proj", [key_size, hidden_size]),
                ("v_proj", [key_size, hidden_size]),
                ("o_proj", [hidden_size, query_size]),
            ];
            for (name, shape) in projections {
                self.linear(Component::Attention, format!("{prefix}.self_attn.{name}.weight"), shape);
            }
            self.norm(format!("{prefix}.self_attn.q_norm.weight"), head_dim);
            self.norm(format!("{prefix}.self_attn.k_norm.weight"), head_dim);
            self.mlp(Component::DenseMlp, &format!("{prefix}.mlp"), hidden_size, config.intermediate_size);
        }
    }
}
