//! The weights of one decoder layer, as views of the checkpoint.

use cachalot_ops::Expert;
use cachalot_tensor::{Matrix, Tensor};
use cachalot_weights::{Checkpoint, DeepseekV3Config, IndexerConfig, Shard};

use crate::Result;

/// One decoder layer. All layers of V3 and V3.2, and the MTP module's own layer, have this form.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_layernorm: Tensor,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_layernorm: Tensor,
    pub(crate) mlp: Mlp,
}

/// Multi-head latent attention.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) q_a_proj: Matrix,
    pub(crate) q_a_layernorm: Tensor,
    pub(crate) q_b_proj: Matrix,
    pub(crate) kv_a_proj_with_mqa: Matrix,
    pub(crate) kv_a_layernorm: Tensor,
    pub(crate) kv_b_proj: Matrix,
    pub(crate) o_proj: Matrix,
    /// DeepSeek Sparse Attention; `None` attends to every earlier token.
    pub(crate) indexer: Option<IndexerWeights>,
}

/// The lightning indexer of V3.2.
#[derive(Debug)]
pub(crate) struct IndexerWeights {
    pub(crate) wq_b: Matrix,
    pub(crate) wk: Matrix,
    pub(crate) k_norm_weight: Tensor,
    pub(crate) k_norm_bias: Tensor,
    pub(crate) weights_proj: Matrix,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per layer, and never moved after loading")]
pub(crate) enum Mlp {
    Dense(Expert),
    Moe(Moe),
}

/// Routed experts beside a shared one.
#[derive(Debug)]
pub(crate) struct Moe {
    pub(crate) gate: Matrix,
    pub(crate) e_score_correction_bias: Tensor,
    pub(crate) experts: Vec<Expert>,
    pub(crate) shared_experts: Expert,
}

impl Layer {
    pub(crate) fn load(checkpoint: &Checkpoint, config: &DeepseekV3Config, index: usize) -> Result<Self> {
        let prefix = format!("model.layers.{index}");
        let tensor = |name: &str| checkpoint.tensor(&format!("{prefix}.{name}"), Shard::Whole);
        let matrix = |name: &str| checkpoint.matrix(&format!("{prefix}.{name}"), Shard::Whole);
        let expert = |name: &str| -> Result<Expert> {
            Ok(Expert {
                gate_proj: matrix(&format!("{name}.gate_proj.weight"))?,
                up_proj: matrix(&format!("{name}.up_proj.weight"))?,
                down_proj: matrix(&format!("{name}.down_proj.weight"))?,
            })
        };
        let indexer = |_: &IndexerConfig| -> Result<IndexerWeights> {
            Ok(IndexerWeights {
                wq_b: matrix("self_attn.indexer.wq_b.weight")?,
                wk: matrix("self_attn.indexer.wk.weight")?,
                k_norm_weight: tensor("self_attn.indexer.k_norm.weight")?,
                k_norm_bias: tensor("self_attn.indexer.k_norm.bias")?,
                weights_proj: matrix("self_attn.indexer.weights_proj.weight")?,
            })
        };
        let mlp = if config.is_moe_layer(index) {
            Mlp::Moe(Moe {
                gate: matrix("mlp.gate.weight")?,
                e_score_correction_bias: tensor("mlp.gate.e_score_correction_bias")?,
                experts: (0..config.n_routed_experts)
                    .map(|id| expert(&format!("mlp.experts.{id}")))
                    .collect::<Result<_>>()?,
                shared_experts: expert("mlp.shared_experts")?,
            })
        } else {
            Mlp::Dense(expert("mlp")?)
        };
        Ok(Layer {
            input_layernorm: tensor("input_layernorm.weight")?,
            self_attn: Attention {
                q_a_proj: matrix("self_attn.q_a_proj.weight")?,
                q_a_layernorm: tensor("self_attn.q_a_layernorm.weight")?,
                q_b_proj: matrix("self_attn.q_b_proj.weight")?,
                kv_a_proj_with_mqa: matrix("self_attn.kv_a_proj_with_mqa.weight")?,
                kv_a_layernorm: tensor("self_attn.kv_a_layernorm.weight")?,
                kv_b_proj: matrix("self_attn.kv_b_proj.weight")?,
                o_proj: matrix("self_attn.o_proj.weight")?,
                indexer: config.indexer.as_ref().map(indexer).transpose()?,
            },
            post_attention_layernorm: tensor("post_attention_layernorm.weight")?,
            mlp,
        })
    }
}
