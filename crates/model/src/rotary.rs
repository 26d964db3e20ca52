//! Rotation frequencies and the softmax scale that goes with them, fixed at load.

use cachalot_ops::rope::{Yarn, yarn_inv_freq};
use cachalot_weights::{DeepseekV3Config, YarnConfig};

/// Constants of rotary position embedding, shared by the main attention and the indexer.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    /// `[qk_rope_head_dim / 2]`, radians per position.
    pub(crate) inv_freq: Vec<f32>,
    /// Factor on cos and sin, 1 in every release.
    pub(crate) attention_factor: f32,
    /// Factor on the attention logits, YaRN's included.
    pub(crate) softmax_scale: f32,
}

impl Rotary {
    pub(crate) fn new(config: &DeepseekV3Config) -> Self {
        let yarn = config.rope.yarn.as_ref();
        let frequencies = yarn.map(|yarn| Yarn {
            factor: yarn.factor,
            original_max_position_embeddings: yarn.original_max_position_embeddings,
            beta_fast: yarn.beta_fast,
            beta_slow: yarn.beta_slow,
        });
        Rotary {
            inv_freq: yarn_inv_freq(config.qk_rope_head_dim, config.rope.rope_theta, frequencies.as_ref()),
            attention_factor: yarn.map_or(1.0, YarnConfig::attention_factor) as f32,
            softmax_scale: config.softmax_scale() as f32,
        }
    }
}
